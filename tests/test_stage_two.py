"""Stage 2 on images: its guard, its settings, and what micro-batches and bfloat16 must not change."""

import copy
import json
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn

import small

import vaebm
from vaebm import nvae
from vaebm.variants import DecoderStage
from vaebm.checkpoints import load_checkpoint, save_checkpoint, write_json
from vaebm.config import configure
from vaebm.data import embedded_digits
from vaebm.energy_nets import EnergyResNet
from vaebm.fast import fold
from vaebm.images import Images
from vaebm.layers import Cells, data_dependent_init
from vaebm.likelihood import log_z_importance
from vaebm.model import VAEBM
from vaebm.nvae import NVAE
from vaebm.stage_one import ImageStageOne, ImageStageOneConfig, Monitor
from vaebm.image_chains import likelihood_gain
from vaebm.stage_two import TABLE_8, ImageStageTwo, ImageStageTwoConfig, VAEBMConfig, build_vaebm, provenance
from vaebm.loop import FitResult, fit
from vaebm.training import StageTwoConfig

PUBLISHED_CHAIN = {'kernel': 'langevin', 'kernel_options': {'step_size': 8e-5}, 'chain_steps': 2}


def small_digits():
    digits, _ = embedded_digits()
    return torch.nn.functional.avg_pool2d(torch.nn.functional.pad(digits, [2] * 4), 2).expand(-1, 3, -1, -1)


@pytest.mark.slow
@pytest.mark.parametrize('seed', range(10))
def test_twenty_times_the_rate_ends_with_the_guard_and_good_weights(tmp_path, seed):
    torch.set_num_threads(1)  # other tests run beside this one
    digits, g = small_digits(), torch.Generator().manual_seed(seed)
    data = Images((255 * digits[::2]).round().byte())
    held_out = digits[1::20] + 0.03 * torch.randn(250, 3, 16, 16, generator=g)
    trained = vaebm.load_pretrained('nvae_digits')
    config = configure(
        VAEBMConfig(nvae=trained.config),
        {
            'seed': seed,
            'energy': {'width': 8, 'blocks': 'd1 d2'},
            'stage2': (
                PUBLISHED_CHAIN | {
                    'n_steps': 2000,
                    'batch_size': 16,
                    'lr': 20e-3,
                    'noise': 0.03,
                    'clip': False,
                    'spectral': 0.0,
                    'max_gap': 50.0,
                }
            ),
        },
    )
    model = build_vaebm(config, trained, data.sample(64, g))

    def gain(energy):
        return likelihood_gain(
            m := VAEBM(vae, fold(energy)),
            held_out,
            log_z_importance(m, 500, torch.Generator().manual_seed(1), 250),
        )

    stage = ImageStageTwo(model, data, config.stage2, seed)
    vae = stage.vae
    result = fit(
        stage,
        tmp_path / 'stage2.safetensors',
        5,
        progress=False,
        watch=Monitor(tmp_path, evaluator=lambda s: gain(s.energy)),
    )
    assert result.outcome == 'stopped' and result.reason.startswith('energy gap') and result.step == stage.done
    assert load_checkpoint(tmp_path / 'stage2.safetensors')['done'] == stage.done
    best = max(
        (row for row in json.loads((tmp_path / 'evaluations.json').read_text()) if row['score'] is not None),
        key=lambda row: row['score'],
    )
    model.energy.load_state_dict(load_checkpoint(tmp_path / 'best.safetensors'))
    assert abs(gain(model.energy)['score'] - best['score']) < 1e-3 and best['score'] > -0.1


def test_table_8():
    "Learning rate, batch size, persistence, number of steps and step size as printed."
    rows = {name: configure(ImageStageTwoConfig(), changes) for name, changes in TABLE_8.items()}
    printed = {
        'cifar10': (4e-5, 32, False, 10, 8e-5),
        'cifar10_persistent': (4e-5, 32, True, 6, 6e-5),
        'celeba64': (5e-5, 32, False, 10, 5e-6),
        'lsun64': (4e-5, 32, True, 10, 4e-6),
        'celebahq256': (4e-5, 16, True, 6, 3e-6),
    }
    assert {
        name: (c.lr, c.batch_size, c.replay > 0, c.chain_steps, c.kernel_options['step_size'])
        for name, c in rows.items()
    } == printed


SIZES = replace(small.SIZES, cells_enc=2, cells_dec=2, flows=1)


def blobs():
    return nn.functional.interpolate(
        torch.rand(64, 3, 2, 2, generator=torch.Generator().manual_seed(0)), size=8, mode='bilinear'
    )


def stage_one(**options):
    torch.manual_seed(0)
    return ImageStageOne(
        NVAE(SIZES),
        blobs(),
        ImageStageOneConfig(
            **{'n_steps': 40, 'batch_size': 8, 'warmup': 5, 'flip': True, 'noise': 0.03, 'kl_warmup': 0.0}
            | options
        ),
    )


def stage_two(make=ImageStageTwo, **options):
    torch.manual_seed(0)
    vae = NVAE(SIZES)
    energy = EnergyResNet(4, 'd1 2')
    data = blobs()
    with torch.no_grad():
        vae.reconstruct(data)  # fills the running statistics
    data_dependent_init(energy, data)
    config = ImageStageTwoConfig(
        **{
            'n_steps': 40,
            'batch_size': 8,
            'buffer_size': 16,
            'replay': 0.5,
            'half_buffer': False,
            'kernel_options': {'step_size': 1e-2},
            'chain_steps': 3,
            'lr': 1e-3,
            'noise': 0.03,
            'energy_penalty': 0.01,
            'gradient_penalty': 0.01,
        }
        | options
    )
    return make(VAEBM(vae.eval().requires_grad_(False), energy), data, config)


def stage_with_decoder(**options):
    return stage_two(partial(DecoderStage, decoder_lr=1e-3), **options)


def same_noise_for_micro_batches(monkeypatch, stage, calls):
    """Noise that is drawn for a part of a batch, `calls` times for each part, is the part's share
    of what is drawn for the whole.
    """
    n = stage.config.batch_size
    k = stage.config.accumulate
    count = iter(range(10**6))

    def normal(like, generator=None):
        if len(like) != n // k:
            return torch.randn(like.shape, generator=generator)
        update = (c := next(count)) // (k * calls)
        part = c // calls % k
        call = c % calls
        return torch.randn(
            n, *like.shape[1:], generator=torch.Generator().manual_seed(1000 * update + call)
        ).chunk(k)[part]

    monkeypatch.setattr(nvae, 'normal_like', normal)
    for module in ('langevin', 'samplers'):
        monkeypatch.setattr(
            f'vaebm.{module}.normal_like',
            lambda like, generator=None: (
                torch.randn(like.shape, generator=generator) if like.ndim > 2 else normal(like)
            ),
        )


def steps(stage, n=4):
    start = copy.deepcopy(stage.module.state_dict())
    rows = []
    for stage.done in range(n):
        rows.append(stage.step())
    moved = {k: v - start[k] for k, v in stage.module.state_dict().items()}
    if hasattr(stage, 'decoder'):
        moved |= {
            f'gradient of decoder {i}': w.grad for i, w in enumerate(stage.decoder)
        }  # Adam does not see its scale
    return rows, moved


def difference(a, b):
    return max((a[k] - b[k]).abs().max().item() for k in a)


@pytest.mark.parametrize('make, calls', [(stage_one, 2), (stage_two, 3), (stage_with_decoder, 3)])
@pytest.mark.parametrize('k', [2, pytest.param(4, marks=pytest.mark.slow)])
def test_micro_batches_are_the_whole(make, calls, k, double, monkeypatch):
    "Without batch statistics and balanced terms, stage 1 is exact; stage 2 always is."
    found = []
    for parts in (1, k):
        with monkeypatch.context() as m:
            stage = make(accumulate=parts)
            stage.module.eval()
            same_noise_for_micro_batches(m, stage, calls)
            found.append(steps(stage))
    (rows, moved), (rows_k, moved_k) = found
    assert difference(moved, moved_k) < 1e-9 and max(v.abs().max().item() for v in moved.values()) > 1e-3
    assert all(abs(a[key] - b[key]) < 1e-6 for a, b in zip(rows, rows_k) for key in a)


def test_micro_batches_have_batch_statistics_of_their_own(double, monkeypatch):
    """With batch norm in training mode k micro-batches are another model: each is normalised by its own
    mean, and running statistics move k times.
    """
    moved = []
    for k in (1, 2):
        with monkeypatch.context() as m:
            stage = stage_one(accumulate=k)
            same_noise_for_micro_batches(m, stage, 2)
            moved.append(steps(stage, 1)[1])
    assert difference(*moved) > 1e-4
    assert {v.item() for name, v in moved[1].items() if name.endswith('num_batches_tracked')} == {2}


@pytest.mark.parametrize('config', [ImageStageOneConfig, ImageStageTwoConfig, StageTwoConfig])
@pytest.mark.parametrize('k', [0, 3])
def test_micro_batches_must_be_equal(config, k):
    allowed = 'be a whole number >= 1' if k < 1 else 'divide batch_size, 32'
    with pytest.raises(ValueError, match=f'accumulate must {allowed}, got {k}'):
        config(batch_size=32, accumulate=k)


@pytest.mark.parametrize('bf16', [False, True])
def test_cells_computed_twice_train_alike(bf16):
    "Gradients and running statistics of three updates, bit for bit."
    plain, again = (stage_one(checkpoint_activations=r, bf16=bf16) for r in (False, True))
    assert all(m.checkpoint_activations for m in again.module.modules() if isinstance(m, Cells)) and not any(
        m.checkpoint_activations for m in plain.module.modules() if isinstance(m, Cells)
    )
    steps(plain, 3), steps(again, 3)
    for (name, a), b in zip(plain.module.named_parameters(), again.module.parameters()):
        assert torch.equal(a.grad, b.grad), name
    a, b = plain.module.state_dict(), again.module.state_dict()
    assert (
        all(torch.equal(v, b[k]) for k, v in a.items()) and a['groups.1.cells.0.norm1.num_batches_tracked'] == 3
    )
    assert {m.momentum for m in again.module.modules() if isinstance(m, nn.BatchNorm2d)} == {0.05}


def test_cells_computed_twice_keep_less():
    def kept(stage):
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.nbytes) or t, lambda t: t):
            loss = stage.elbo(blobs()[:8])
        loss.backward()
        return sum(sizes)

    assert kept(stage_one(checkpoint_activations=True)) < 0.5 * kept(stage_one())


def test_a_training_in_bfloat16_resumes_with_float32_weights(tmp_path):
    stage = stage_two(bf16=True, accumulate=2)
    assert fit(stage, tmp_path / 'a.safetensors', 4, progress=False, until=6) == FitResult('paused', 6)
    other = stage_two(bf16=True, accumulate=2)
    assert fit(other, tmp_path / 'a.safetensors', 4, progress=False, until=9) == fit(
        stage, None, 4, progress=False, until=9
    )
    assert all(
        torch.equal(v, other.module.state_dict()[k]) and v.dtype == torch.float32
        for k, v in stage.module.state_dict().items()
    )
    assert stage.vae.groups[1].cells[0].expand.weight.dtype == torch.bfloat16
    assert (
        stage.module(blobs()[:2]).dtype == torch.float32
        and stage.sample(2, torch.Generator().manual_seed(0)).dtype == torch.float32
    )


def test_an_update_in_bfloat16_is_near_that_in_float32():
    grads = []
    for bf16 in (False, True):
        stage = stage_two(bf16=bf16, chain_steps=0, gradient_penalty=0.0, energy_penalty=0.0)
        stage.step()
        grads.append(torch.cat([p.grad.flatten() for p in stage.module.parameters()]))
    assert 0 < (grads[0] - grads[1]).norm() / grads[0].norm() < 0.03


@pytest.mark.parametrize('make', [stage_one, stage_with_decoder])
def test_moments_keep_the_layout_of_their_weights_when_a_run_resumes(make, tmp_path):
    def strides(stage):
        "Of every weight and of its moments."
        optimizers = [
            getattr(stage, name) for name in ('optimizer', 'decoder_optimizer') if hasattr(stage, name)
        ]
        states = [item for optimizer in optimizers for item in optimizer.state.items()]
        return [(p.stride(), v.stride()) for p, state in states for name, v in state.items() if name != 'step']

    def started():
        stage = make()
        for module in (stage.module, getattr(stage, 'vae', stage.module)):
            module.to(memory_format=torch.channels_last)
        return stage

    fit(started(), tmp_path / 'a.safetensors', 4, progress=False, until=2)
    stage = started()
    fit(stage, tmp_path / 'a.safetensors', 4, progress=False, until=2)
    pairs = strides(stage)
    assert any(len(p) == 4 and p[1] == 1 for p, _ in pairs) and all(p == v for p, v in pairs)


def test_stage_two_goes_on_from_the_energy_weights_of_a_run(tmp_path):
    "A file of weights, also of half precision; another network's, or another file, is named in the error."
    vae = vaebm.load_pretrained('nvae_digits')
    file, other = tmp_path / 'weights.safetensors', tmp_path / 'other.safetensors'
    config = configure(
        VAEBMConfig(nvae=vae.config), {'start_energy': str(file), 'energy': {'width': 8, 'blocks': 'd1 d2'}}
    )
    x, energy = torch.rand(4, 3, 16, 16), EnergyResNet(8, 'd1 d2')
    for precision in (torch.float32, torch.float16):
        state = {k: v.to(precision) for k, v in energy.state_dict().items()}
        save_checkpoint(file, state)
        got = build_vaebm(config, vae, x).energy.state_dict()
        assert all(torch.equal(v.float(), got[k]) and got[k].dtype == torch.float32 for k, v in state.items())
    with pytest.raises(ValueError, match='start_energy must be a file of energy weights for .*width=4'):
        build_vaebm(configure(config, {'energy': {'width': 4}}), vae, x)
    save_checkpoint(other, {'done': 3, 'module': energy.state_dict()})
    with pytest.raises(ValueError, match='start_energy must be a file of energy weights .*other.safetensors'):
        build_vaebm(configure(config, {'start_energy': str(other)}), vae, x)
    lineage, its_vae = provenance(config, 'mine', 'f00')
    assert lineage == [{'command': 'energy weights of weights.safetensors'}]
    assert its_vae == {'name': 'mine', 'digest': 'f00'}
    earlier = {'command': 'before', 'digest': 'aaa'}
    write_json(tmp_path / 'metrics.json', {'command': 'vaebm-run', 'digest': 'bbb', 'lineage': [earlier], 'run': 3})
    assert provenance(config, 'mine', 'f00')[0] == [earlier, {'command': 'vaebm-run', 'digest': 'bbb'}]
