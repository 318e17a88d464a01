"""Costs: operations, memory and parameters of the full-scale runs."""

from dataclasses import asdict

import numpy as np
import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from vaebm.costs import GPUS, costs, count_flops, plan
from vaebm.energy_nets import EnergyResNet
from vaebm.fast import fold, published_step
from vaebm.images import Images
from vaebm.model import VAEBM
from vaebm.nvae import NVAE
from vaebm.presets import override, preset
from vaebm.stage_one import ImageStageOne, build_nvae
from vaebm.stage_two import build_vaebm


def small(name, **changes):
    return override(
        preset(name),
        {
            'nvae': {
                'scales': 1,
                'groups': 1,
                'image_size': 32,
                'channels_enc': 8,
                'channels_dec': 8,
                'cells_pre': 1,
                'cells_post': 1,
                'cells_enc': 1,
                'cells_dec': 1,
            },
            'energy': {'width': 4},
            **changes,
        },
    )


def test_each_process_has_its_share_of_the_buffer():
    one, eight = (costs(small('lsun64'), gpus=n) for n in (1, 8))
    assert (
        one['memory']['buffer'] == 10_000 * 20 * 16 * 16 * 2 == 8 * eight['memory']['buffer']
        and 1 < eight['flops']['stage 1'] / one['flops']['stage 1'] < 1.01
    ), 'shared, but for the penalty'
    assert eight['disk']['checkpoints'] >= 2 * one['memory']['buffer'], 'eight buffers, and eight before them'


def test_micro_batches_and_recomputation_cost_operations_and_save_memory():
    def deep(s1, s2):
        return costs(
            override(
                small('celeba64', stage1={'batch_size': 16} | s1, stage2={'batch_size': 16} | s2),
                {'nvae': {'groups': 3, 'cells_enc': 4, 'cells_dec': 4}},
            )
        )

    plain, parts, again = (
        deep(*changes)
        for changes in (({}, {}), ({'accumulate': 4}, {'accumulate': 4}), ({'checkpoint_activations': True}, {}))
    )
    for key in ('activations 1', 'activations 2'):
        assert 0.2 < parts['memory'][key] / plain['memory'][key] < 0.45
    assert (
        abs(parts['flops']['stage 1'] / plain['flops']['stage 1'] - 1) < 0.01
        and abs(parts['flops']['stage 2'] / plain['flops']['stage 2'] - 1) < 0.01
    )
    assert (
        again['memory']['activations 1'] < 0.6 * plain['memory']['activations 1']
        and 1.1 < again['flops']['stage 1'] / plain['flops']['stage 1'] < 4 / 3
    )
    with pytest.raises(
        ValueError,
        match='gpus times micro-batches must divide the batch sizes 16 and 16, got 8 gpus and 4 and 1',
    ):
        costs(small('celeba64', stage1={'batch_size': 16, 'accumulate': 4}, stage2={'batch_size': 16}), gpus=8)


def test_plan_compares_with_the_memory_of_each_gpu(capsys):
    c = plan(small('celeba64', stage1={'batch_size': 15_000}))
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith(tuple(GPUS))]
    assert ['stage 1 fits, stage 2 fits' in line for line in lines] == [False, True, True, False] and all(
        'stage 2 fits' in line for line in lines
    ), c['memory']
    plan(preset('celeba64', 'smoke'))
    assert 'hours' not in capsys.readouterr().out


@pytest.mark.parametrize('groups', [1, 4, 8])
def test_operations_of_grouped_convolutions_by_hand(groups):
    conv, x = nn.Conv2d(8, 16, 3, stride=2, padding=1, groups=groups), torch.randn(
        3, 8, 10, 10, requires_grad=True
    )
    forward = 2 * 3 * 16 * 5 * 5 * (8 // groups) * 9
    assert count_flops(lambda: conv(x)).flops == forward
    assert count_flops(lambda: conv(x).sum().backward()).flops == 3 * forward
    conv.requires_grad_(False)
    assert count_flops(lambda: conv(x).sum().backward()).flops == 2 * forward, 'frozen weights cost nothing'


def test_peak_counts_storages_once_and_forgets_the_dead():
    def f():
        a = torch.empty(1000, device='meta')  # 4,000 bytes
        b = a.view(10, 100).T  # the same storage
        c = b * 2  # 8,000 now
        del a, b
        return c + 1  # 8,000 again

    assert count_flops(f).peak == 8000


@pytest.mark.slow
@pytest.mark.parametrize(
    'name, vae, energy, gflop',
    [
        ('cifar10', 130_744_004, 5_137_921, 56.6),
        ('celeba64', 65_005_372, 4_337_537, 22.5),
        ('lsun64', 65_005_372, 5_813_633, 23.1),
        ('celebahq256', 365_372_032, 14_207_105, None),
    ],
)
def test_networks_have_the_published_sizes(name, vae, energy, gflop):
    m = preset(name, source='released').model
    with torch.device('meta'):
        model = VAEBM(
            NVAE(m.nvae).eval().requires_grad_(False), EnergyResNet(**asdict(m.energy)).requires_grad_(False)
        )
    assert [sum(p.numel() for p in part.parameters()) for part in (model.vae, model.energy)] == [vae, energy]
    if gflop:
        assert (
            abs(
                count_flops(
                    lambda: published_step(
                        model, torch.empty(1, model.vae.layout.size, device='meta'), frozen=True
                    )
                ).flops
                / gflop
                / 1e9
                - 1
            )
            < 0.02
        )


@pytest.mark.slow
def test_memory_estimate_is_near_the_allocator():
    config = override(
        preset('celebahq256'),
        {
            'nvae': {'scales': 2, 'groups': 1, 'image_size': 64, 'channels_enc': 8, 'channels_dec': 8},
            'energy': {'width': 4},
            'stage1': {'batch_size': 6},
            'stage2': {'buffer_size': 16},
        },
    )
    stage = ImageStageOne(
        build_nvae(config.model)[0],
        Images(torch.randint(256, (16, 3, 64, 64), dtype=torch.uint8)),
        config.model.stage1,
    )
    stage.step()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as p:
        stage.step()
    events = sorted(
        (e for e in p.profiler.kineto_results.events() if e.name() == '[memory]'), key=lambda e: e.start_ns()
    )
    measured = np.cumsum([e.nbytes() for e in events]).max() + 4 * sum(
        w.numel() for w in stage.module.parameters()
    )
    assert abs(costs(config)['memory']['activations 1'] / measured - 1) < 0.08


def test_evaluations_need_the_memory_of_their_own_batch():
    few, many = (
        costs(override(small('celeba64'), {'evaluation': {'batch_size': n}}))['memory'] for n in (4, 128)
    )
    assert 31 < many['samples'] / few['samples'] < 33 and few['samples'] < few['activations 2']  # of 32 chains
    assert many['stage 2'] - few['stage 2'] == many['samples'] - few['activations 2'] > 0
    config = override(small('celeba64'), {'evaluation': {'batch_size': 8}})
    model = build_vaebm(config.model, build_nvae(config.model)[0].eval(), torch.rand(8, 3, 32, 32))
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as p:
        fold(model).sample(8, n_steps=1, mean=True)
    events = sorted(
        (e for e in p.profiler.kineto_results.events() if e.name() == '[memory]'), key=lambda e: e.start_ns()
    )
    assert abs(costs(config)['memory']['samples'] / np.cumsum([e.nbytes() for e in events]).max() - 1) < 0.15
