"""Costs: operations, memory and parameters of the full-scale runs."""

import json
import re
from dataclasses import asdict

import numpy as np
import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from fork import join_ranks, ranks

from vaebm.checkpoints import write_json
from vaebm.config import configure
from vaebm.costs import GPUS, LAUNCH, PUBLISHED_RATE, costs, count_flops, gpu_hours, memory_advice, plan
from vaebm.distributed import SyncBatchNorm2d, rank, world_size
from vaebm.energy_nets import EnergyResNet
from vaebm.fast import fold, published_step
from vaebm.images import Images
from vaebm.layers import DepthwiseConv2d
from vaebm.model import VAEBM
from vaebm.nvae import NVAE
from vaebm.pipeline import per_rank_config
from vaebm.presets import override, preset
from vaebm.stage_one import ImageStageOne, build_nvae
from vaebm.stage_two import ImageStageTwo, build_vaebm


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
    needed = c['memory']['stage 1']
    assert [('TOO MUCH' in line) for line in lines] == [needed > 1e9 * gpu.memory for gpu in GPUS.values()]
    assert {True, False} == {'TOO MUCH' in line for line in lines}
    plan(preset('celeba64', 'smoke'))
    assert 'hours' not in capsys.readouterr().out


def test_hours_have_a_floor_and_follow_the_published_rate():
    "A V100 took 440 hours for stage 1 of CIFAR-10 in 16 bits; another GPU goes by its bandwidth."
    flops = PUBLISHED_RATE * 440 * 3600
    of = {'flops': flops, 'bytes': 0, 'launches': 0}
    assert gpu_hours(of, 'V100 SXM2').expected == pytest.approx(440)
    assert gpu_hours(of, 'V100 SXM2', 'float32').expected == pytest.approx(880)
    assert gpu_hours(of, 'H100 SXM').expected == pytest.approx(440 * 900 / 3350)
    assert gpu_hours(of, 'V100 SXM2').floor == pytest.approx(flops / 125e12 / 3600)
    for limit, hours in (('bytes', 900e9 * 3600 * 2), ('launches', 3600 / LAUNCH)):
        found = gpu_hours({'flops': 0, 'bytes': 0, 'launches': 0} | {limit: hours}, 'V100 SXM2')
        assert found == pytest.approx((1, 1)), limit


def test_bytes_and_launches_are_counted_and_views_are_free():
    a, b = torch.empty(10, 20, device='meta'), torch.empty(10, 20, device='meta')
    found = count_flops(lambda: (a + b).T.view(20, 10))
    assert (found.bytes, found.launches) == (3 * 4 * 200, 1)


def test_advice_makes_a_run_fit():
    config = small('celeba64', stage1={'batch_size': 64}, stage2={'batch_size': 8})
    needed = costs(config)['memory']['stage 1']
    size = 0.4 * needed
    (said,) = memory_advice(config, costs(config), size)
    ways = [json.loads(found) for found in re.findall(r'stage1=({.*?})', said)]
    assert [*map(set, ways)] == [{'accumulate'}, {'accumulate', 'checkpoint_activations'}, {'accumulate', 'bf16'}]
    for fields in ways:
        assert costs(override(config, {'stage1': fields}))['memory']['stage 1'] < size, said
    assert memory_advice(config, costs(config), 2 * needed) == []
    many = override(small('lsun64', stage1={'batch_size': 8}), {'evaluation': {'batch_size': 400}})
    need = costs(many)['memory']['stage 2']
    (said,) = memory_advice(many, costs(many), 0.7 * need)
    n = int(re.search(r'evaluation={"batch_size": (\d+)}', said)[1])
    assert costs(override(many, {'evaluation': {'batch_size': n}}))['memory']['stage 2'] < 0.7 * need, said


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


def allocator_peak(f):
    "Largest number of bytes that `f` holds at once, in requests to the allocator."
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as p:
        f()
    events = sorted(
        (e for e in p.profiler.kineto_results.events() if e.name() == '[memory]'), key=lambda e: e.start_ns()
    )
    return int(np.cumsum([e.nbytes() for e in events]).max())


def gradient_bytes(stage):
    "Those of the update before: they are there when the next one begins."
    return 4 * sum(w.numel() for w in stage.module.parameters())


PRESETS = pytest.mark.parametrize('name', ['cifar10', 'celeba64', 'lsun64', 'celebahq256'])
REDUCED = {  # activations are far more than weights
    'shallow': ({'groups': 1, 'channels_enc': 16, 'channels_dec': 16, 'image_size': 32}, 2, 32),
    'deeper': ({'groups': 2, 'channels_enc': 12, 'channels_dec': 12, 'image_size': 64}, 3, 16),
}


def reduced(name, size, **changes):
    "A preset with networks and batches of a `REDUCED` size; of its scales so many as fit."
    nvae, scales, batch = REDUCED[size]
    nvae = nvae | {'scales': min(scales, preset(name).model.nvae.scales)}
    config = override(preset(name), {'nvae': nvae, 'energy': {'width': 16}, 'evaluation': {'batch_size': batch}})
    stages = {stage: {'batch_size': batch, **changes} for stage in ('stage1', 'stage2')}
    stages['stage2'] |= {'chain_steps': 2, 'buffer_size': 64}
    return configure(config, {'model': stages})


def both_stages(m):
    images = Images(torch.randint(256, (64, 3, m.nvae.image_size, m.nvae.image_size), dtype=torch.uint8))
    one = ImageStageOne(build_nvae(m), images, m.stage1)
    return one, ImageStageTwo(build_vaebm(m, build_nvae(m).eval(), images[:16]), images, m.stage2)


@pytest.mark.slow
@pytest.mark.parametrize('size', REDUCED)
@PRESETS
def test_memory_of_every_preset_is_near_the_allocator(monkeypatch, name, size):
    monkeypatch.setattr(DepthwiseConv2d, 'forward', nn.Conv2d.forward)  # as on a GPU
    estimates = []
    for bf16 in (False, True):
        config = reduced(name, size, bf16=bf16)
        estimates.append(costs(config)['memory'])
        for key, stage in zip(('activations 1', 'activations 2'), both_stages(config.model)):
            stage.step()
            error = abs(estimates[-1][key] / (allocator_peak(stage.step) + gradient_bytes(stage)) - 1)
            assert error < (0.12 if name == 'celebahq256' else 0.1), key
    full, half = estimates
    assert all(0.5 < half[key] / full[key] < 0.6 for key in ('activations 1', 'activations 2'))


def peaks_of_a_rank(folder, config):
    "Both stages, with batch norms that keep what the fused ones of CUDA keep: their input."
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DepthwiseConv2d, 'forward', nn.Conv2d.forward)
        patch.setattr(SyncBatchNorm2d, 'forward', nn.BatchNorm2d.forward)
        found = []
        for stage in both_stages(per_rank_config(config.model, world_size())):
            for _ in range(2):  # after the first update DDP sorts its buckets
                stage.step()
            found.append(allocator_peak(stage.step) + gradient_bytes(stage))
    write_json(folder / f'{rank()}.json', found)


@pytest.mark.slow
@PRESETS
def test_memory_of_one_of_two_processes_is_near_the_allocator(tmp_path, name):
    config = reduced(name, 'shallow', batch_size=64)
    join_ranks(ranks(peaks_of_a_rank, tmp_path, config))
    estimate = costs(config, gpus=2)['memory']
    for r in (0, 1):
        for key, measured in zip(('activations 1', 'activations 2'), json.loads((tmp_path / f'{r}.json').read_text())):
            assert abs(estimate[key] / measured - 1) < 0.1, key


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
        build_nvae(config.model),
        Images(torch.randint(256, (16, 3, 64, 64), dtype=torch.uint8)),
        config.model.stage1,
    )
    stage.step()
    measured = allocator_peak(stage.step) + gradient_bytes(stage)
    assert abs(costs(config)['memory']['activations 1'] / measured - 1) < 0.08


def test_evaluations_need_the_memory_of_their_own_batch():
    few, many = (
        costs(override(small('celeba64'), {'evaluation': {'batch_size': n}}))['memory'] for n in (4, 128)
    )
    assert 31 < many['samples'] / few['samples'] < 33 and few['samples'] < few['activations 2']  # of 32 chains
    assert many['stage 2'] - few['stage 2'] == many['samples'] - few['activations 2'] > 0
    config = override(small('celeba64'), {'evaluation': {'batch_size': 8}})
    model = build_vaebm(config.model, build_nvae(config.model).eval(), torch.rand(8, 3, 32, 32))
    measured = allocator_peak(lambda: fold(model).sample(8, n_steps=1, mean=True))
    assert abs(costs(config)['memory']['samples'] / measured - 1) < 0.15
