"""Presets hold the paper's numbers, and every value has a source."""

from dataclasses import asdict

import pytest

from vaebm.energy_nets import ENERGY_NETWORKS
from vaebm.images import IMAGE_SETS
from vaebm.experiment import EvaluationConfig
from vaebm.presets import describe, override, preset, tiers
from vaebm.stage_two import RELEASED, TABLE_8


def test_presets_of_every_tier_are_within_their_ranges():
    config = override(preset('cifar10', 'smoke'), {'evaluation': {'n_samples': 2}})
    assert (
        config.evaluation.n_samples == 2
        and EvaluationConfig().temperature == 1.0
        and config.data.name == 'cifar10'
    )


@pytest.mark.parametrize(
    'name, groups, steps, reference, n',
    [
        ('cifar10', 30, 16, 'train', 50_000),
        ('ablation', 20, 15, 'train', 50_000),
        ('celeba64', 15, 20, 'train', 50_000),
        ('lsun64', 15, 20, 'train', 50_000),
        ('celebahq256', 20, 24, 'train+test', 30_000),
    ],
)
def test_a_preset_is_what_appendix_e_says(name, groups, steps, reference, n):
    config = preset(name)
    m, e = config.model, config.evaluation
    assert (
        len(m.nvae.scale_of_groups()) == groups
        and m.sample_steps == steps
        and (e.reference, e.n_samples) == (reference, n)
    )
    assert (
        config.data.n_train == IMAGE_SETS[config.data.name].counts['train']
        and m.nvae.image_size == IMAGE_SETS[config.data.name].shape[1]
    )
    assert (m.stage2.constant, m.stage2.clip, m.stage2.weight_decay, m.stage2.kernel) == (
        True,
        True,
        3e-5,
        'langevin',
    )


def test_presets_take_table_8_and_released_commands_as_they_are():
    for name, row in TABLE_8.items():
        theirs = asdict(preset(name).model.stage2)
        assert {k: theirs[k] for k in row} == row
    for name, row in RELEASED.items():
        theirs = asdict(preset(name, source='released').model.stage2)
        assert {k: theirs[k] for k in row} == row
    for name in ('lsun64', 'celebahq256'):
        assert [asdict(preset(name, source=s).model.energy) for s in ('paper', 'released')] == [
            ENERGY_NETWORKS[f'{name}_{s}'] for s in ('paper', 'released')
        ]


@pytest.mark.parametrize('name', tiers())
def test_every_value_has_a_source(name, capsys):
    for tier in tiers()[name]:
        rows = describe(preset(name, tier))
        assert [r.field for r in rows if r.source == 'the choice of preset'] == [
            'name',
            'tier',
            'source',
        ] and not any(r.source == 'given' for r in rows)
        assert capsys.readouterr().out.count('\n') == len(rows)


def test_sources_say_what_is_ours_and_what_is_not_used(capsys):
    def of(*a):
        return {r.field.removeprefix('model.'): r.source for r in describe(preset(*a))}

    cifar, hq = of('cifar10'), of('celebahq256')
    assert [cifar[f'stage2.{k}'] for k in ('buffer_size', 'replay_anneal')] == ['not used'] * 2
    assert (
        'not used' not in hq.values()
        and hq['nvae.groups'] == 'App. E: 20 in all'
        and of('celeba64')['nvae.groups'] == 'App. E: 15 in all'
    )
    assert (
        cifar['evaluation.extractor'] == "the course's own"
        and of('stacked_mnist', 'cpu')['evaluation.n_samples'] == "the course's own"
    )


def test_what_is_not_there_is_refused():
    for arguments, text in (
        (('celeba',), 'name must be one of cifar10, '),
        (('lsun64', 'cpu'), "tier of lsun64 must be one of smoke, paper, got 'cpu'"),
        (('celeba64', 'paper', 'code'), "must be one of paper, released, got 'code'"),
    ):
        with pytest.raises(ValueError, match=text):
            preset(*arguments)
    for overrides, text in (
        ({'stage9': {}}, "unknown parameter 'stage9'"),
        ({'stage2': {'steps': 3}}, "unknown parameter 'steps' of ImageStageTwoConfig"),
        ({'evaluation': {'n_samples': '9'}}, "n_samples must be int, got '9'"),
        ({'data': {'bits': 5.0}}, 'bits must be int'),
    ):
        with pytest.raises(ValueError, match=text):
            override(preset('celeba64'), overrides)


def test_stage_one_is_that_of_the_commands_of_vaebm():
    "Epochs, images of an update, rate, warm-up epochs and weight of the penalties, by the README of VAEBM's code."
    for name, epochs, batch, lr, warmup, weights in (
        ('cifar10', 400, 256, 1e-2, 5, (0.0, 0.1)),
        ('celeba64', 50, 256, 1e-2, 1, (0.0, 0.1)),
        ('lsun64', 60, 256, 1e-2, 1, (0.0, 0.1)),
        ('celebahq256', 200, 64, 6e-3, 5, (10.0, 0.01)),
    ):
        config = preset(name)
        stage, updates = config.model.stage1, config.data.n_train // batch
        assert (stage.n_steps, stage.batch_size, stage.lr) == (epochs * updates, batch, lr), name
        assert (stage.warmup, stage.regularize_start, stage.regularize) == (warmup * updates, *weights), name
        assert config.evaluation.batch_size == (10 if name == 'celebahq256' else 40)
