"""Training updates of image models: as exact as the plain ones that they replace, and resumed from their files."""

import copy
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import small

import vaebm
from vaebm import energy_nets, layers, stage_one as stages_one, stage_two as stages_two
from vaebm.energy_nets import EnergyResNet
from vaebm.images import Images
from vaebm.model import VAEBM
from vaebm.nvae import NVAE
from vaebm.checkpoints import CheckpointError, digest, load_checkpoint, save_checkpoint
from vaebm.stage_one import ImageConfig, ImageStageOne, ImageStageOneConfig, build_nvae, lineage_of
from vaebm.stage_two import ImageStageTwo, ImageStageTwoConfig
from vaebm.loop import fit

SIZES = replace(small.SIZES, image_size=16, scales=2)


class Doubles:
    "Images in double precision."

    def __init__(self):
        self.images = pixels(16)

    def sample(self, n, generator):
        return self.images.sample(n, generator).double()


def pixels(size) -> Images:
    return Images(
        torch.randint(256, (40, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    )


class PlainSpectralSum:
    "One kernel after the other, matrices times columns."

    def __init__(self, module, n_iter=4, n_first=40, seed=0):
        self.module = module
        self.n_iter = n_iter
        self.rounds = n_first
        self.seed = seed
        self.u = {}

    def __call__(self, stacks=None):
        alike, total = {}, 0.0
        for w in layers.conv_matrices(self.module):
            alike.setdefault('{}x{}'.format(*w.shape), []).append(w)
        for size, ws in alike.items():
            w = torch.stack(ws)
            u = self.u.get(size)
            if u is None:
                u = torch.randn(*w.shape[:2], 1, generator=torch.Generator().manual_seed(self.seed)).to(w)
            for _ in range(self.rounds):
                v = F.normalize(w.detach().mT @ u, dim=1, eps=1e-3)
                u = F.normalize(w.detach() @ v, dim=1, eps=1e-3)
            self.u[size] = u
            total = total + (u.mT @ w @ v).sum()
        self.rounds = self.n_iter
        return total

    state_dict, load_state_dict = layers.SpectralSum.state_dict, layers.SpectralSum.load_state_dict


def plain_penalty(module):
    return sum(m.weight.abs().max() for m in module.modules() if isinstance(m, nn.BatchNorm2d))


PLAIN = {
    'shared_kernels': lambda module: nullcontext(None),
    'SpectralSum': PlainSpectralSum,
    'batch_norm_penalty': plain_penalty,
}


def plainly(patch):
    "Updates as they were: nothing shared or stacked, each operation on its own."
    for module in (stages_one, stages_two, energy_nets):
        for name, plain in PLAIN.items():
            patch.setattr(module, name, plain, raising=False)
    patch.setattr(layers, 'add_tenth', lambda skip, h, se: skip + 0.1 * se(h))
    patch.setattr(layers.DepthwiseConv2d, 'forward', nn.Conv2d.forward)


def stage_one(**changes):
    torch.manual_seed(0)
    return ImageStageOne(NVAE(SIZES).double(), Doubles(), ImageStageOneConfig(20, 4, warmup=2, **changes))


def stage_two(**changes):
    torch.manual_seed(0)
    model = VAEBM(NVAE(SIZES).double().eval().requires_grad_(False), EnergyResNet(4, 'd1 1').double())
    options = {
        'kernel': 'langevin',
        'kernel_options': {'step_size': 1e-3},
        'chain_steps': 2,
        'buffer_size': 8,
        'replay': 0.6,
    }
    return ImageStageTwo(
        model,
        Doubles(),
        ImageStageTwoConfig(**{'n_steps': 20, 'batch_size': 4, 'clip': False} | options | changes),
    )


def train(stage, n=20):
    rows = []
    for _ in range(n):
        rows.append(stage.step())
        stage.done += 1
    return rows


@pytest.mark.parametrize(
    'make, changes',
    [
        (stage_one, {}),
        pytest.param(stage_one, {'accumulate': 2, 'checkpoint_activations': True}, marks=pytest.mark.slow),
        pytest.param(stage_two, {}, marks=pytest.mark.slow),
    ],
)
def test_twenty_updates_are_those_of_the_plain_ones(make, changes, monkeypatch):
    with monkeypatch.context() as patch:
        plainly(patch)
        plain = make(**changes)
        expected = train(plain)
    stage = make(**changes)
    found = train(stage)
    for a, b in zip(found, expected):
        assert a.keys() == b.keys()
        for key in a:
            assert a[key] == pytest.approx(b[key], rel=1e-5, abs=1e-8), key
    ours, theirs = stage.weights(), plain.weights()
    assert list(ours) == list(theirs)
    for name, w in ours.items():
        assert torch.allclose(w, theirs[name], rtol=1e-5, atol=1e-5), name


def test_a_plain_training_is_taken_up_from_its_state(monkeypatch):
    """What a checkpoint of former updates holds serves the present ones, vectors of spectral norms
    included.
    """
    with monkeypatch.context() as patch:
        plainly(patch)
        plain = stage_one()
        train(plain, 3)
        state = copy.deepcopy(plain.state_dict())
        expected = train(plain, 2)
    stage = stage_one()
    stage.load_state_dict(state)
    for a, b in zip(train(stage, 2), expected):
        assert a == pytest.approx(b, rel=1e-6)


def test_kernels_are_lent_until_an_update_ends_however_it_ends():
    stage = stage_one()

    def lent():
        return [m for m in stage.module.modules() if getattr(m, 'lent', None) is not None]

    stage.step()
    assert not lent()
    stage.optimizer.register_step_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        stage.step()
    assert not lent()
    with layers.shared_kernels(stage.module) as stacks:
        masked = [m for m in stage.module.modules() if hasattr(m, 'mask')]
        assert (
            masked
            and {m.lent is not None for m in masked} == {True}
            and sum(len(convs) for convs, _ in stacks) == len(layers.conv_matrices(stage.module))
        )
        for m in lent():
            kernel, m.lent = m.lent, None
            assert torch.allclose(kernel, m.effective_weight())


def test_stage_one_serves_any_vae_that_can_sample():
    vae = vaebm.load_pretrained('pairs_vae').requires_grad_(True)
    stage = ImageStageOne(vae, torch.rand(16, 2, 16, 16), ImageStageOneConfig(n_steps=2, batch_size=4))
    assert fit(stage, progress=False).outcome == 'finished' and stage.sample(
        2, torch.Generator().manual_seed(0)
    ).shape == (2, 2, 16, 16)


def test_the_weight_of_the_penalties_falls_while_that_of_the_divergence_rises():
    "Log-linearly from 10 to 0.01, as the released CelebA-HQ command has it; without a start it stays."
    config = ImageStageOneConfig(1000, 4, regularize=0.01, regularize_start=10.0)
    stage = ImageStageOne(NVAE(small.SIZES), pixels(8), config)
    found = {}
    for stage.done in (0, 149, 299, 999):
        found[stage.done] = stage.regularization()
    assert found == pytest.approx({0: 10 ** (1 - 3 / 300), 149: 10**-0.5, 299: 0.01, 999: 0.01})
    stage.config = ImageStageOneConfig(1000, 4, regularize=0.3)
    assert stage.regularization() == 0.3
    with pytest.raises(ValueError, match='regularize must be above 0 if regularize_start is, 10.0, got 0.0'):
        ImageStageOneConfig(regularize=0.0, regularize_start=10.0)


def test_after_a_diverged_training_another_rate_goes_on_from_the_last_good_checkpoint(tmp_path):
    "As a new entry of the history; a file that is none of a stage 1, and other networks, are refused."
    file = tmp_path / 'stage1.safetensors'

    def begun(**changes):
        config = ImageConfig(nvae=small.SIZES, stage1=ImageStageOneConfig(6, 4, warmup=1), **changes)
        return config, ImageStageOne(build_nvae(config), pixels(8), config.stage1)

    _, stage = begun()
    assert fit(stage, file, 1, progress=False, until=2).outcome == 'paused'
    stage.module.head[1].weight.register_hook(lambda g: g * float('inf'))
    assert fit(stage, file, 1, progress=False).outcome == 'stopped'
    config, again = begun(start=str(file))
    kept = load_checkpoint(file)
    assert kept['done'] == 2 and all(torch.equal(v, again.module.state_dict()[k]) for k, v in kept['module'].items())
    assert fit(again, tmp_path / 'again.safetensors', progress=False).outcome == 'finished'
    (past,) = lineage_of(config.start)
    assert past['command'] == f'update 2 of {file}' and past['digest'] == digest(kept['module'])
    with pytest.raises(ValueError, match='nvae must be the architecture of'):
        build_nvae(ImageConfig(nvae=replace(small.SIZES, latent=3), start=str(file)))
    save_checkpoint(tmp_path / 'weights.safetensors', kept['module'])
    with pytest.raises(CheckpointError, match='start must be a checkpoint of a stage 1'):
        build_nvae(ImageConfig(nvae=small.SIZES, start=str(tmp_path / 'weights.safetensors')))
