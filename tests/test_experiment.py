"""Configurations of runs on images, the networks that evaluate them, and run folders of former versions."""

from dataclasses import asdict
import json
from pathlib import Path

import pytest
import torch

from vaebm.checkpoints import write_json
from vaebm.config import configure, error_message
from vaebm.experiment import (
    EVALUATORS,
    RUNS,
    Evaluator,
    Run,
    image_chunks,
    image_run,
    images_for,
    saturated,
)
from vaebm.images import Images
from vaebm.presets import override, preset
from vaebm.rows import method
from vaebm.runs import Paused, RunFolderError, run_folder

ROOT = Path(__file__).parents[1]


def seeded(k):
    return torch.Generator().manual_seed(k)


@pytest.mark.parametrize('name', RUNS)
def test_every_tier_of_every_run_is_a_configuration(name):
    cpu, smoke = (image_run(name, tier, {'seed': 4}) for tier in ('cpu', 'smoke'))
    assert cpu.model.tier == 'cpu' and cpu.model.seed == 4 and cpu.data.name == name and name in EVALUATORS
    assert (cpu.evaluation.chooser, cpu.evaluation.extractor) == EVALUATORS[name]
    assert cpu == override(preset(name, 'cpu'), {'seed': 4}) and (cpu.tier, smoke.tier) == ('cpu', 'smoke')
    assert smoke.model.stage1.n_steps == 10 and smoke.model.stage2.n_steps == 4
    assert cpu.model.nvae.channels == (1 if name == 'fashion_mnist' else 3)
    assert not cpu.model.pixel_noise  # Eq. 7 on means
    assert cpu.model.ratio.n_steps == 0 and method(cpu) == 'Eq. 7 on means'  # from a fresh energy


def test_unknown_names_are_refused_with_those_that_exist():
    assert 'fashion_mnist, stacked_mnist, cifar10' in error_message(ValueError, image_run, 'mnist', 'cpu', {})
    assert 'smoke, quick, cpu' in error_message(ValueError, image_run, 'fashion_mnist', 'paper', {})
    assert "unknown parameter 'stage3'" in error_message(
        ValueError, image_run, 'fashion_mnist', 'cpu', {'stage3': {}}
    )


def test_the_network_that_reports_is_not_the_one_that_chooses():
    assert {data for data, (chooses, reports) in EVALUATORS.items() if chooses == reports} == {
        'cifar10'
    }  # which keeps its last weights
    assert {name for name in RUNS if image_run(name, 'cpu', {}).evaluation.keep == 'last'} == {'cifar10'}


def test_an_evaluator_finds_no_distance_between_a_set_and_itself():
    train = images_for('fashion_mnist', 'train', download=False)
    few = Images(train.pixels[:600], train.labels[:600])
    evaluator = Evaluator('fashion_classifier', 'fashion_mnist', few, 600)
    same, other = evaluator.report(few.sample(600, seeded(3))), evaluator.report(1 - few.sample(600, seeded(3)))
    assert same['frechet'] < 0.2 * other['frechet'] and same['share_kl'] < 0.05
    assert 0 < same['saturated'] < 1 and same['n'] == 600


def test_images_come_in_chunks_as_bytes_and_as_tensors():
    x = torch.rand(5, 1, 4, 4, generator=seeded(0))
    images = Images((255 * x).byte())
    for shown in (x, images):
        assert [len(part) for part in image_chunks(shown, 2)] == [2, 2, 1]
    assert torch.equal(torch.cat([*image_chunks(images, 2)]), images[:])
    assert saturated(torch.tensor([[[[0.0, 1.0, 0.5, 0.5]]]])) == 0.5


def test_a_run_that_is_asked_to_end_says_how_to_go_on(tmp_path):
    config = image_run('fashion_mnist', 'smoke', {})
    Run(config, tmp_path).unless_stopped('the table')
    run = Run(config, tmp_path, resume_command='the same', stop=lambda: True)
    assert error_message(Paused, run.unless_stopped, 'the table') == 'paused before the table; go on with\nthe same'


def former_config(config):
    "config.json of a small run as `ImageRun` wrote it."
    e = config.evaluation
    sizes = {'n_choose': e.eval_samples, 'every': e.eval_every, 'n_samples': e.n_samples, 'n_seeds': e.n_seeds}
    own = {'data': config.data.name, 'n_projected': config.data.n_projected, 'model': asdict(config.model)}
    return own | sizes | {'data_sets': {'train': {'set': config.data.name, 'count': 5, 'digest': 'f00'}}}


def test_a_folder_of_a_former_small_run_is_reopened(tmp_path):
    "With its data, and with defaults for fields that its model lacked; of another configuration it is refused."
    config = image_run('fashion_mnist', 'quick', {'seed': 2})
    saved = former_config(config)
    del saved['model']['stage2']['bf16']
    write_json(tmp_path / 'config.json', saved)
    for other in (
        image_run('fashion_mnist', 'quick', {'seed': 3}),
        configure(config, {'evaluation': {'eval_every': 7}}),
        image_run('stacked_mnist', 'quick', {'seed': 2}),
    ):
        assert 'another configuration' in error_message(RunFolderError, run_folder, tmp_path, other)
    run_folder(tmp_path, config)
    now = json.loads((tmp_path / 'config.json').read_text())
    assert now.pop('data_sets') == saved['data_sets'] and now == json.loads(json.dumps(asdict(config)))
    run_folder(tmp_path, config)


def experiment_cells(name):
    "Sources of an experiment's code cells from the imports to the report, but for the parameters."
    page = json.loads((ROOT / 'nbs' / 'experiments' / f'{name}.ipynb').read_text(encoding='utf-8'))
    cells = [c for c in page['cells'] if c['cell_type'] == 'code']
    sources = [''.join(c['source']) for c in cells if 'parameters' not in c['metadata'].get('tags', [])]
    last = next(i for i, s in enumerate(sources) if 'write_report(' in s)
    own = [s for s in sources[: last + 1] if 'read_record(' not in s]  # comments on the published runs
    return [s.replace(f"open_run('{name}'", "open_run('NAME'") for s in own]


EXPERIMENTS = 'fashion_mnist', 'stacked_mnist', 'cifar10', 'lsun64', 'celebahq256'


@pytest.mark.parametrize('name', EXPERIMENTS)
def test_experiments_on_images_differ_in_the_name_of_the_preset(name):
    assert experiment_cells(name) == experiment_cells('celeba64')
