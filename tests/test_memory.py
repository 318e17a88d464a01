"""Batches in parts, cells computed twice, and energies in bfloat16: what must not change, does not."""
import copy
from functools import partial

import pytest
import torch
from torch import nn

from vaebm import nvae
from vaebm.baselines import DecoderStage
from vaebm.energy import EnergyResNet
from vaebm.layers import Cells, data_dependent_init
from vaebm.model import VAEBM
from vaebm.nvae import NVAE, NVAEConfig
from vaebm.training import FitResult, ImageStageOne, ImageStageOneConfig, ImageStageTwo, ImageStageTwoConfig, StageTwoConfig, fit

SIZES = NVAEConfig(image_size=8, groups=2, latent=2, channels_enc=4, channels_dec=4, cells_pre=1, cells_post=1, cells_enc=2, cells_dec=2, flows=1)


@pytest.fixture
def double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def blobs(): return nn.functional.interpolate(torch.rand(64, 3, 2, 2, generator=torch.Generator().manual_seed(0)), size=8, mode='bilinear')


def stage_one(**options):
    torch.manual_seed(0)
    return ImageStageOne(NVAE(SIZES), blobs(), ImageStageOneConfig(**{'n_steps': 40, 'batch_size': 8, 'warmup': 5, 'flip': True, 'noise': .03, 'kl_warmup': 0.} | options))


def stage_two(make=ImageStageTwo, **options):
    torch.manual_seed(0)
    vae, energy, data = NVAE(SIZES), EnergyResNet(4, 'd1 2'), blobs()
    with torch.no_grad(): vae.reconstruct(data)   # fills the running statistics
    data_dependent_init(energy, data)
    config = ImageStageTwoConfig(**{'n_steps': 40, 'batch_size': 8, 'buffer_size': 16, 'replay': .5, 'half_buffer': False, 'kernel_options': {'step_size': 1e-2}, 'chain_steps': 3, 'lr': 1e-3, 'noise': .03,
                                    'energy_penalty': .01, 'gradient_penalty': .01} | options)
    return make(VAEBM(vae.eval().requires_grad_(False), energy), data, config)


def stage_with_decoder(**options): return stage_two(partial(DecoderStage, decoder_lr=1e-3), **options)


def same_noise_for_parts(monkeypatch, stage, calls):
    "Noise that is drawn for a part of a batch, `calls` times for each part, is the part's share of what is drawn for the whole."
    n, k, count = stage.config.batch_size, stage.config.accumulate, iter(range(10 ** 6))
    def normal(like, generator=None):
        if len(like) != n // k: return torch.randn(like.shape, generator=generator)
        update, part, call = (c := next(count)) // (k * calls), c // calls % k, c % calls
        return torch.randn(n, *like.shape[1:], generator=torch.Generator().manual_seed(1000 * update + call)).chunk(k)[part]
    monkeypatch.setattr(nvae, 'normal_like', normal)
    monkeypatch.setattr('vaebm.samplers.normal_like', lambda like, generator=None: torch.randn(like.shape, generator=generator) if like.ndim > 2 else normal(like))


def steps(stage, n=4):
    start = copy.deepcopy(stage.module.state_dict())
    rows = []
    for stage.done in range(n): rows.append(stage.step())
    moved = {k: v - start[k] for k, v in stage.module.state_dict().items()}
    if hasattr(stage, 'decoder'): moved |= {f'gradient of decoder {i}': w.grad for i, w in enumerate(stage.decoder)}   # Adam does not see its scale
    return rows, moved


def difference(a, b): return max((a[k] - b[k]).abs().max().item() for k in a)


@pytest.mark.parametrize('make, calls', [(stage_one, 2), (stage_two, 3), (stage_with_decoder, 3)])
@pytest.mark.parametrize('k', [2, 4])
def test_parts_of_a_batch_are_the_whole(make, calls, k, double, monkeypatch):
    "Without batch statistics and balanced terms, stage 1 is exact; stage 2 always is."
    found = []
    for parts in (1, k):
        with monkeypatch.context() as m:
            stage = make(accumulate=parts)
            stage.module.eval()
            same_noise_for_parts(m, stage, calls)
            found.append(steps(stage))
    (rows, moved), (rows_k, moved_k) = found
    assert difference(moved, moved_k) < 1e-9 and max(v.abs().max().item() for v in moved.values()) > 1e-3
    assert all(abs(a[key] - b[key]) < 1e-6 for a, b in zip(rows, rows_k) for key in a)


def test_parts_have_batch_statistics_of_their_own(double, monkeypatch):
    "With batch norm in training mode k parts are another model: each is normalised by its own mean, and running statistics move k times."
    moved = []
    for k in (1, 2):
        with monkeypatch.context() as m:
            stage = stage_one(accumulate=k)
            same_noise_for_parts(m, stage, 2)
            moved.append(steps(stage, 1)[1])
    assert difference(*moved) > 1e-4
    assert {v.item() for name, v in moved[1].items() if name.endswith('num_batches_tracked')} == {2}


@pytest.mark.parametrize('config', [ImageStageOneConfig, ImageStageTwoConfig, StageTwoConfig])
@pytest.mark.parametrize('k', [0, 3])
def test_parts_must_be_equal(config, k):
    allowed = 'be a whole number >= 1' if k < 1 else 'divide batch_size, 32'
    with pytest.raises(ValueError, match=f'accumulate must {allowed}, got {k}'): config(batch_size=32, accumulate=k)


@pytest.mark.parametrize('bf16', [False, True])
def test_cells_computed_twice_train_alike(bf16):
    "Gradients and running statistics of three updates, bit for bit."
    plain, again = (stage_one(recompute=r, bf16=bf16) for r in (False, True))
    assert all(m.recompute for m in again.module.modules() if isinstance(m, Cells)) and not any(m.recompute for m in plain.module.modules() if isinstance(m, Cells))
    steps(plain, 3), steps(again, 3)
    for (name, a), b in zip(plain.module.named_parameters(), again.module.parameters()): assert torch.equal(a.grad, b.grad), name
    a, b = plain.module.state_dict(), again.module.state_dict()
    assert all(torch.equal(v, b[k]) for k, v in a.items()) and a['groups.1.cells.0.norm1.num_batches_tracked'] == 3
    assert {m.momentum for m in again.module.modules() if isinstance(m, nn.BatchNorm2d)} == {.05}


def test_cells_computed_twice_keep_less():
    def kept(stage):
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.nbytes) or t, lambda t: t): loss = stage.elbo(blobs()[:8])
        loss.backward()
        return sum(sizes)
    assert kept(stage_one(recompute=True)) < .5 * kept(stage_one())


def test_a_training_in_bfloat16_resumes_with_float32_weights(tmp_path):
    stage = stage_two(bf16=True, accumulate=2)
    assert fit(stage, tmp_path / 'a.safetensors', 4, progress=False, until=6) == FitResult('paused', 6)
    other = stage_two(bf16=True, accumulate=2)
    assert fit(other, tmp_path / 'a.safetensors', 4, progress=False, until=9) == fit(stage, None, 4, progress=False, until=9)
    assert all(torch.equal(v, other.module.state_dict()[k]) and v.dtype == torch.float32 for k, v in stage.module.state_dict().items())
    assert stage.vae.groups[1].cells[0].expand.weight.dtype == torch.bfloat16
    assert stage.module(blobs()[:2]).dtype == torch.float32 and stage.sample(2, torch.Generator().manual_seed(0)).dtype == torch.float32


def test_an_update_in_bfloat16_is_near_that_in_float32():
    grads = []
    for bf16 in (False, True):
        stage = stage_two(bf16=bf16, chain_steps=0, gradient_penalty=0., energy_penalty=0.)
        stage.step()
        grads.append(torch.cat([p.grad.flatten() for p in stage.module.parameters()]))
    assert 0 < (grads[0] - grads[1]).norm() / grads[0].norm() < .03
