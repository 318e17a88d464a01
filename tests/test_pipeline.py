"""The pipeline of the small image runs: configurations, evaluators, controls, and weights stored as a
change of others.
"""

from dataclasses import asdict, replace
import copy
import json
import math
from pathlib import Path

import pytest
import torch

import small

from vaebm.images import Images
from vaebm.energy_nets import EnergyResNet
from vaebm.fast import fold
from vaebm.model import VAEBM
from vaebm.nvae import NVAE
from vaebm.pipeline import (
    EVALUATORS,
    RUNS,
    Evaluator,
    ZeroEnergy,
    bound_of,
    changed,
    image_run,
    images_for,
    method,
    Run,
    energy_images,
    evaluations_of,
    fair_bases,
    kept_evaluation,
    record_run,
    sample_product,
    sample_vae,
    stretched,
    train_energy,
    train_vae,
    write_report,
)
from vaebm.checkpoints import CheckpointError, read_weights, save_checkpoint, write_json
from vaebm.config import configure, error_message
from vaebm.presets import override, preset
from vaebm.runs import RunFolderError, publish, run_folder
from vaebm.training import make_kernel

ROOT = Path(__file__).parents[1]
TINY = replace(small.SIZES, image_size=32, blocks_pre=3, blocks_post=3, flows=0, channels=1)


def seeded(k):
    return torch.Generator().manual_seed(k)


def small_judge():
    return Evaluator('digit_classifier', 'stacked_mnist', images_for('stacked_mnist', 'train', download=False), 50)


def tiny(seed=0):
    torch.manual_seed(seed)
    return NVAE(TINY).eval().requires_grad_(False)


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


def test_stretching_keeps_the_mean_and_multiplies_the_contrast():
    x = 0.5 + 0.1 * torch.rand(3, 1, 8, 8, generator=seeded(0))
    y = stretched(x, 2.0)
    assert torch.allclose(y.mean((1, 2, 3)), x.mean((1, 2, 3))) and torch.allclose(
        y.std((1, 2, 3)), 2 * x.std((1, 2, 3))
    )
    assert stretched(torch.tensor([[[[0.0, 1.0]]]]), 3.0).tolist() == [[[[0.0, 1.0]]]]


def test_an_energy_of_zero_leaves_the_prior():
    vae, config = tiny().noiseless(), image_run('fashion_mnist', 'smoke', {})
    images = sample_product(config, VAEBM(vae, ZeroEnergy()), 200, seeded(1))
    assert all(x.shape == (200, 1, 32, 32) for x in images.values())
    assert torch.allclose(images['start'][:5], sample_vae(vae, 200, seeded(1))[:5], atol=1 / 255)
    assert not torch.equal(images['start'], images['picked']) and not torch.equal(
        images['picked'], images['end']
    )
    assert max(abs(images[name].mean() - images['start'].mean()) for name in ('picked', 'end')) < 0.01


def test_the_parts_of_the_kernel_are_the_kernel():
    config, vae = image_run('fashion_mnist', 'smoke', {}), tiny().noiseless()
    torch.manual_seed(5)
    model = VAEBM(vae, EnergyResNet(4, 'd1 d1', 1).requires_grad_(False), make_kernel(config.model.stage2), 1)
    parts = sample_product(config, model, 8, seeded(6))['end']
    whole = model.sample(8, seeded(6), mean=True)
    assert torch.allclose(parts, whole, atol=1 / 255)


def test_bounds_of_equal_models_differ_by_nothing():
    vae, x = tiny(), torch.rand(20, 1, 32, 32, generator=seeded(2))
    found = bound_of({'a': vae, 'b': copy.deepcopy(vae)}, x, 0.1, 0)
    assert found['b']['difference'] == found['b']['difference_se'] == 0
    assert abs(found['a']['bits_pixel'] - found['a']['bits_density'] - 6.9944) < 1e-3  # log2(255 / 2)
    assert (
        abs(found['a']['elbo'] + found['a']['bits_density'] * 1024 * torch.log(torch.tensor(2.0)).item()) < 1e-2
    )


def test_an_evaluator_finds_no_distance_between_a_set_and_itself():
    train = images_for('fashion_mnist', 'train', download=False)
    few = Images(train.pixels[:600], train.labels[:600])
    evaluator = Evaluator('fashion_classifier', 'fashion_mnist', few, 600)
    same, other = evaluator.report(few.sample(600, seeded(3))), evaluator.report(1 - few.sample(600, seeded(3)))
    assert same['frechet'] < 0.2 * other['frechet'] and same['share_kl'] < 0.05
    assert 0 < same['saturated'] < 1 and same['n'] == 600


def test_weights_can_be_a_change_of_others(tmp_path, monkeypatch):
    monkeypatch.setattr('vaebm.checkpoints.checkpoint_folder', lambda: tmp_path)
    state = tiny().state_dict()
    new = {name: t + 1 if name.endswith('running_mean') else t for name, t in state.items()}
    assert set(changed(new, state)) == {name for name in state if name.endswith('running_mean')}

    def put(name, tensors, **more):
        folder = tmp_path / f'run-{name}'
        folder.mkdir()
        save_checkpoint(folder / 'weights.safetensors', tensors)
        from vaebm.runs import write_record

        write_record(folder, 'fashion_mnist', {}, 'nvae', TINY, {}, **more)
        return publish(folder, name, tmp_path)['digest']

    digest = put('plain', state)
    put('moved', changed(new, state), base={'name': 'plain', 'digest': digest})
    found = read_weights('moved')[1]
    assert found.keys() == state.keys() and all(torch.equal(found[name], new[name]) for name in new)
    manifest = json.loads((tmp_path / 'manifest.json').read_text())
    manifest['moved']['base']['digest'] = 'f00'
    write_json(tmp_path / 'manifest.json', manifest)
    assert 'is a change of plain' in error_message(CheckpointError, read_weights, 'moved')


def test_one_channel_is_folded_like_three():
    vae, eps = tiny(1), torch.randn(3, 1024 + 2 * 2 * 16, generator=seeded(4))
    with torch.no_grad():
        assert torch.allclose(fold(vae).transform(eps), vae.transform(eps), atol=1e-5)


@pytest.mark.slow
def test_a_published_product_is_trained_on(tmp_path):
    """Its VAE is taken as it was published, on a machine whose batch norms would come out otherwise,
    too, and the record has the updates of both runs.
    """
    overrides = {'start': 'stacked_mnist_nvae_readjusted', 'start_energy': 'stacked_mnist'}
    few = {'n_steps': 1, 'batch_size': 2}
    overrides |= {'stage1': {'n_steps': 0}, 'stage2': few, 'ratio': few}
    sizes = {
        'data': {'n_projected': 10},
        'evaluation': {'eval_every': 1, 'eval_samples': 4, 'n_samples': 4},
    }
    config = configure(image_run('stacked_mnist', 'cpu', overrides), sizes)
    train, evaluator = images_for('stacked_mnist', 'train', download=False), small_judge()
    run = Run(config, tmp_path, 'stacked_mnist', overrides, 'again')
    vae = train_vae(run, train)
    bases = fair_bases(run, vae, train)
    published, state = read_weights('stacked_mnist_nvae_readjusted')
    assert all(torch.equal(v, state[k]) for k, v in bases['re-adjusted'].state_dict().items())
    assert read_weights('stacked_mnist_nvae')[0]['digest'] == published['base']['digest']
    model, result = train_energy(run, bases['re-adjusted'], energy_images(run, vae, train), evaluator)
    assert result.outcome == 'finished'
    assert method(config) == 'regression, then Eq. 7 on means'
    bound = bound_of(bases, train.sample(2, seeded(0)), 0.15, 0)
    found = record_run(run, result, {'bound': bound, 'rows': {}})
    assert [r['step'] for r in found['evaluations']] == [0, 1] and found['updates']['stage2'] == 1
    assert write_report(run, found).startswith('# stacked_mnist, tier cpu')
    record = json.loads((tmp_path / 'metrics.json').read_text())
    assert record['vae'] == {'name': 'stacked_mnist_nvae_readjusted', 'digest': published['digest']}
    before = read_weights('stacked_mnist')[0]['lineage']
    assert record['lineage'][:-1] == before and len(record['lineage']) == len(before) + 1
    assert not (tmp_path / 'vae' / 'metrics.json').exists()


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


def test_evaluations_that_are_not_finite_or_were_written_before_are_read(tmp_path):
    written = [{'step': 0, 'distance': 5.0, 'score': -5.0}, {'step': 2, 'frechet': None, 'score': None}]
    write_json(tmp_path / 'evaluations.json', [*written, {'step': 4, 'score': None}, {'step': 6, 'frechet': 3.0}])
    run = Run(image_run('fashion_mnist', 'smoke', {}), tmp_path)
    assert [r['frechet'] for r in evaluations_of(run)] == [5.0, math.inf, math.inf, 3.0]
    assert kept_evaluation(run)['step'] == 6


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
