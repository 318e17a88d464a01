"""Configurations: values in their ranges, and run folders, records and commands with former names of fields."""

import json
from dataclasses import fields, is_dataclass

import pytest
import torch

from small import SIZES, SMALL

from vaebm.checkpoints import (
    CheckpointError,
    as_json,
    checkpoint_folder,
    load_checkpoint,
    read_json,
    read_manifest,
    read_record,
    save_checkpoint,
    write_json,
)
from vaebm.config import (
    FORMER_FIELDS,
    FORMER_FILES,
    FORMER_PLACES,
    FORMER_TIERS,
    configure,
    error_message,
    present_names,
)
from vaebm.nvae import NVAE
from vaebm.experiment import ImageExperiment
from vaebm.presets import PointExperiment, override, preset
from vaebm.runs import RunFolderError, publish, run_folder, write_record
from vaebm.stage_one import ImageConfig, ImageStageOne, ImageStageOneConfig, Monitor, read_evaluations
from vaebm.loop import fit
from vaebm.training import Config, StageTwoConfig, make_kernel

RECORDED = {'lineage', 'evaluations'}  # fields of records; the others are of configurations


def field_names(config):
    found = set()
    for f in fields(config):
        value = getattr(config, f.name)
        found |= {f.name} | (field_names(value) if is_dataclass(value) else set())
    return found


def former(node):
    "A record as it was once written."
    names = {present: old for old, present in FORMER_FIELDS.items()}
    if isinstance(node, dict):
        return {names.get(name, name): former(value) for name, value in node.items()}
    return [former(value) for value in node] if isinstance(node, list) else node


def former_keys(node):
    if isinstance(node, dict):
        return FORMER_FIELDS.keys() & node.keys() | set().union(*map(former_keys, node.values()))
    return set().union(*map(former_keys, node)) if isinstance(node, list) else set()


def test_every_former_field_is_one_present_field():
    known = field_names(ImageExperiment()) | field_names(PointExperiment())
    assert not FORMER_FIELDS.keys() & (known | RECORDED | set(FORMER_FIELDS.values()))
    assert set(FORMER_FIELDS.values()) <= known | RECORDED
    assert {place.split('.')[1] for place in FORMER_PLACES.values()} <= known


def test_published_records_are_read_under_present_names_and_stay_as_they_are():
    written, read = read_json(checkpoint_folder() / 'manifest.json'), read_manifest()
    assert former_keys(written) and not former_keys(read)
    assert read == present_names(written) and all(read[k]['digest'] == v['digest'] for k, v in written.items())
    names = [name for name, entry in written.items() if 'legs' in entry]
    assert names and all(len(read[k]['lineage']) == len(written[k]['legs']) for k in names)


@pytest.mark.parametrize('name, value', [('recompute', True), ('judge_every', 7), ('judge_samples', 9)])
def test_a_command_may_use_a_former_field(name, value):
    part = 'stage1' if name == 'recompute' else 'evaluation'
    now = FORMER_FIELDS[name]
    config = override(preset('celeba64'), {part: {name: value}})
    assert config == override(preset('celeba64'), {part: {now: value}})
    text = error_message(ValueError, override, config, {part: {name: value, now: value}})
    assert text == f'{now} is set twice, once by its former name'


@pytest.mark.parametrize('name', ['recomputed', 'legs', 'looks'])
def test_an_unknown_field_is_still_refused(name):
    text = error_message(ValueError, configure, ImageStageOneConfig(), {name: True})
    assert text.startswith(f'unknown parameter {name!r} of ImageStageOneConfig')


def test_points_have_a_tier_long_that_was_called_paper():
    assert FORMER_TIERS == {'paper': 'long'} and preset('25_gaussians', 'paper') == preset('25_gaussians', 'long')
    assert Config(tier='paper') == Config(tier='long') and preset('25_gaussians').tier == 'long'
    assert preset('cifar10', 'paper').tier == 'paper'


def stage(config):
    torch.manual_seed(0)
    return ImageStageOne(NVAE(config.nvae), torch.rand(8, 3, 8, 8), config.stage1)


def train(folder, until=None):
    config = configure(ImageConfig(nvae=SIZES), {'stage1': {'n_steps': 4, 'batch_size': 4, 'warmup': 1}})
    folder = run_folder(folder, config)
    watch = Monitor(folder, 2, lambda s: {'score': -abs(s.done - 2.0)})
    result = fit(stage(config), folder / 'stage1.safetensors', 2, False, until, watch)
    return config, result


def make_former(folder):
    "Give the files of a run folder the names, and their fields those, that they once had."
    for old, new in FORMER_FILES.items():
        (folder / new).rename(folder / old)
    for file in [*folder.glob('*.json')]:
        write_json(file, former(json.loads(file.read_text())))


def test_a_former_run_folder_resumes(tmp_path):
    config, _ = train(tmp_path / 'whole')
    train(tmp_path / 'run', until=3)
    make_former(tmp_path / 'run')
    assert former_keys(json.loads((tmp_path / 'run' / 'config.json').read_text())) == {'recompute'}
    changed = configure(config, {'stage1': {'checkpoint_activations': True}})
    assert 'differs in stage1' in error_message(RunFolderError, run_folder, tmp_path / 'run', changed)
    assert [row['step'] for row in read_evaluations(tmp_path / 'run')] == [0, 2]
    assert train(tmp_path / 'run')[1].outcome == 'finished'
    assert read_evaluations(tmp_path / 'run') == read_evaluations(tmp_path / 'whole')
    assert json.loads((tmp_path / 'run' / 'config.json').read_text()) == as_json(config)
    for name in ('best', 'stage1'):
        a, b = (load_checkpoint(tmp_path / k / f'{name}.safetensors') for k in ('run', 'whole'))
        a, b = (x.get('module', x) for x in (a, b))
        assert all(torch.equal(v, b[k]) for k, v in a.items())


def test_a_former_record_is_published_beside_entries_that_stay(tmp_path):
    run, target = tmp_path / 'run', tmp_path / 'published'
    run.mkdir()
    target.mkdir()
    save_checkpoint(run / 'weights.safetensors', {'w': torch.ones(2)})
    write_record(run, 'digits', {'seed': 1}, 'nvae', ImageConfig(), {'evaluations': []}, [{'command': 'earlier'}])
    write_json(run / 'metrics.json', former(read_json(run / 'metrics.json')))
    assert former_keys(read_json(run / 'metrics.json')) >= {'legs', 'recompute'}
    entry = {'file': 'old.safetensors', 'legs': [{'metrics': {'judged': [1]}}]}
    write_json(target / 'manifest.json', {'old': entry})
    publish(run, 'mine', target)
    manifest = read_json(target / 'manifest.json')
    assert manifest['old'] == entry and not former_keys(manifest['mine']) and len(manifest['mine']['lineage']) == 2


def test_a_record_with_both_names_of_a_field_is_damaged(tmp_path):
    write_json(tmp_path / 'metrics.json', {'legs': [], 'lineage': []})
    assert 'lineage is set twice' in error_message(CheckpointError, read_record, tmp_path / 'metrics.json')


@pytest.mark.parametrize(
    'values, said',
    [
        ({'stage1': {'n_steps': -5}}, 'n_steps must be a whole number >= 0, got -5'),
        ({'stage1': {'batch_size': 0}}, 'batch_size must be a whole number >= 1, got 0'),
        ({'stage1': {'kl_warmup': -1.0}}, 'kl_warmup must be from 0 to 1, got -1.0'),
        ({'stage1': {'kl_warmup': float('nan')}}, 'kl_warmup must be from 0 to 1, got nan'),
        ({'stage1': {'lr': float('inf')}}, 'lr must be > 0 and finite, got inf'),
        ({'stage2': {'replay': 7.0}}, 'replay must be from 0 to 1, got 7.0'),
        ({'stage2': {'chain_steps': -1}}, 'chain_steps must be a whole number >= 0, got -1'),
        ({'stage2': {'burn_in': -3}}, 'burn_in must be a whole number >= 0, got -3'),
        ({'stage2': {'spectral': -1.0}}, 'spectral must be >= 0 and finite, got -1.0'),
        ({'stage2': {'replay_anneal': -5}}, 'replay_anneal must be a whole number >= 0, got -5'),
        ({'stage2': {'beta2': 1.0}}, 'beta2 must be from 0 to below 1, got 1.0'),
        ({'stage2': {'kernel_options': {'n_proposals': 0}}}, 'n_proposals must be a whole number >= 1, got 0'),
        ({'stage2': {'kernel': 'nuts'}}, 'kernel must be cycle or one of langevin'),
        ({'stage2': {'kernel': 'hmc'}}, 'kernel_options of hmc must be among step_size, n_leapfrog'),
        ({'network': {'latent': 0}}, 'latent must be a whole number >= 1, got 0'),
        ({'network': {'depth': -1}}, 'depth must be a whole number >= 1, got -1'),
        ({'seed': 10**22}, 'seed must be a whole number from 0 to 2147483647'),
        ({'tier': '../..'}, 'tier must be a word'),
    ],
)
def test_configurations_refuse_what_no_training_can_use(values, said):
    assert error_message(ValueError, configure, SMALL, values).startswith(said)


def test_the_edges_of_every_range_are_allowed():
    c = configure(
        Config(),
        {
            'stage1': {'n_steps': 0, 'kl_warmup': 0.0, 'batch_size': 1},
            'stage2': {'replay': 0.0, 'chain_steps': 0, 'beta1': 0.0, 'spectral': 0.0, 'buffer_size': 1},
            'network': {'latent': 1, 'depth': 1},
        },
    )
    assert (c.stage1.kl_warmup, c.stage2.chain_steps, c.network.depth) == (0.0, 0, 1) and StageTwoConfig(
        lr=1
    ).lr == 1
    cycle = {'kernel': 'cycle', 'kernel_options': {'mala': {'step_size': 0.1, 'times': 2}, 'independence': {}}}
    assert make_kernel(configure(StageTwoConfig(), cycle)).made == (
        'cycle',
        {'kernels': [('mala', {'step_size': 0.1})] * 2 + [('independence', {'n_proposals': 1})]},
    )
