"""What a contributor writes, and where: a sampler is one function, a VAE one module, an energy one class, a data set
and a preset one entry each; another device needs none. Nothing of the library is edited.
"""

import math
import os
import pickle
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from own_vae import LinearVAE
from torch.nn import functional as F

from vaebm import MLPEnergy, MLPVAE, VAEBM, samplers
from vaebm.config import error_message
from vaebm.images import IMAGE_SETS, ImageSet, load_images
from vaebm.image_chains import log_z_ais
from vaebm.likelihood import log_z_importance, vae_log_density
from vaebm.presets import OWN, PAPER, preset
from vaebm.samplers import check_step_size, init_with_grad, metropolis, normal_like, with_grad
from vaebm.loop import fit
from vaebm.training import StageOne, StageOneConfig, StageTwo, StageTwoConfig

HERE = Path(__file__).parent


def seed(k):
    return torch.Generator().manual_seed(k)


def points(n=256):
    return torch.randn(n, 2, generator=seed(0)) @ torch.tensor([[2.0, 1.0], [0.0, 0.3]])


# A sampler: one function, and the step that it makes.


def barker_step(state, potential, generator=None, *, h):
    state = with_grad(state, potential)
    move = h * normal_like(state.eps, generator)
    u = torch.rand(move.shape, generator=generator, dtype=move.dtype, device=move.device)
    move = torch.where(u < torch.sigmoid(-move * state.grad), move, -move)
    new = init_with_grad(state.eps + move, potential)
    log_q = (F.softplus(move * state.grad) - F.softplus(-move * new.grad)).sum(-1)
    return metropolis(state, new, state.potential - new.potential + log_q, generator)


def barker(step_size: float) -> samplers.Kernel:
    h = check_step_size(step_size)
    return samplers.Kernel(init_with_grad, partial(barker_step, h=h), ('barker', {'step_size': h}))


@pytest.fixture
def named(monkeypatch):
    monkeypatch.setitem(samplers.KERNELS, 'barker', barker)  # taken out again after the test
    return samplers.register_kernel(barker)


def test_a_sampler_is_one_function(named, tmp_path):
    def target(eps):
        return 2 * (eps[:, 0] - 0.5).square() + 0.5 * eps[:, 1].square()

    x = samplers.run(named(0.8), target, torch.randn(4000, 2, generator=seed(1)), 100, seed(2)).eps
    assert (x.mean(0) - torch.tensor([0.5, 0])).abs().max() < 0.06
    assert (x.std(0) - torch.tensor([0.5, 1])).abs().max() < 0.06

    config = StageTwoConfig(n_steps=2, batch_size=8, buffer_size=8, kernel='barker', kernel_options={'step_size': 0.5})
    assert 'kernel must be cycle or one of' in error_message(ValueError, StageTwoConfig, kernel='gibbs')
    model = VAEBM(MLPVAE(2, 3, 8), MLPEnergy(2, 8), samplers.named_kernel('barker', {'step_size': 0.5}), 3)
    assert fit(StageTwo(model, points(), config), progress=False).outcome == 'finished'
    model.save(tmp_path / 'model.safetensors')
    for again in (VAEBM.load(tmp_path / 'model.safetensors'), pickle.loads(pickle.dumps(model))):
        assert torch.equal(again.sample(4, seed(3)), model.sample(4, seed(3)))


# A VAE: one module, tests/own_vae.py.


def test_a_vae_is_one_module():
    torch.manual_seed(0)
    vae, x = LinearVAE(), points()
    before = vae.elbo(x, generator=seed(4)).mean().item()
    one = StageOne(vae, x, StageOneConfig(n_steps=200, batch_size=128, lr=0.05))
    assert fit(one, progress=False).outcome == 'finished'
    assert vae.elbo(x, generator=seed(4)).mean() > before + 0.3
    eps = vae.infer(x, seed(5))
    assert torch.allclose(vae.transform(eps), x, atol=1e-5)
    assert torch.allclose(vae.elbo(x, generator=seed(6)), vae.iwae(x, 1), atol=1e-4)  # its posterior is exact
    density = vae_log_density(vae, x[:5], 200_000, seed(7))
    assert (density - vae.iwae(x[:5], 1)).abs().max() < 0.1

    model = VAEBM(vae.requires_grad_(False), MLPEnergy(2, 8), samplers.mala(0.1), 4)
    two = StageTwo(model, x, StageTwoConfig(n_steps=1, batch_size=16, buffer_size=16))
    weights = [p.clone() for p in model.energy.parameters()]
    row = two.step()
    assert all(math.isfinite(value) for value in row.values()) and set(row) >= {'e_pos', 'e_neg'}
    assert any(not torch.equal(p, w) for p, w in zip(model.energy.parameters(), weights))
    assert model.sample(5, seed(8)).shape == (5, 2) and model.log_h(x, 1).shape == (256,)
    z = [log_z_importance(model, 20_000, seed(9)), log_z_ais(model, samplers.mala(0.1), 500, 20, seed(10))]
    assert abs(z[0]['log_z'] - z[1]['log_z']) < 5 * (z[0]['se'] + z[1]['se'])


def test_what_is_no_vae_is_refused_by_name():
    assert error_message(ValueError, VAEBM, torch.nn.Linear(2, 2), MLPEnergy()) == (
        'vae must have layout, transform, got Linear without layout'
    )
    assert 'energy must have __call__' in error_message(ValueError, VAEBM, LinearVAE(), 3.0)
    found = error_message(ValueError, StageOne, torch.nn.Linear(2, 2), points(), None)
    assert 'vae must have parameters, elbo, got' in found


# An energy: one class.


class RingEnergy(torch.nn.Module):
    "Low on a circle, whose radius is learned."

    def __init__(self):
        super().__init__()
        self.radius = torch.nn.Parameter(torch.tensor(1.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x.norm(dim=-1) - self.radius).square()


def test_an_energy_is_one_class():
    torch.manual_seed(0)
    model = VAEBM(MLPVAE(2, 3, 8).requires_grad_(False), RingEnergy(), samplers.langevin(0.01), 4)
    config = StageTwoConfig(n_steps=100, batch_size=64, buffer_size=64, lr=0.05)
    angle = 2 * math.pi * torch.rand(500, generator=seed(11))
    ring = 3 * torch.stack([angle.cos(), angle.sin()], 1)
    assert fit(StageTwo(model, ring, config), progress=False).outcome == 'finished'
    assert model.energy.radius > 1.2  # on its way to 3
    assert model.sample(6, seed(12)).shape == (6, 2) and model.log_h(ring[:4], 2, seed(13)).isfinite().all()


def test_an_energy_may_be_a_function():
    model = VAEBM(MLPVAE(2, 3, 8), lambda x: x.square().sum(-1))
    assert model.sample(3, seed(14)).shape == (3, 2)


# A data set and a preset: one entry each.


def test_a_data_set_is_one_entry(tmp_path, monkeypatch):
    monkeypatch.setenv('VAEBM_DATA', str(tmp_path))
    monkeypatch.setitem(IMAGE_SETS, 'stripes', ImageSet((1, 8, 8), {'train': 6}, where='a test'))
    assert 'a test' in error_message(FileNotFoundError, load_images, 'stripes')
    pixels = np.zeros((6, 8, 8), np.uint8)
    pixels[:, ::2] = 255
    np.savez(tmp_path / 'stripes_train.npz', images=pixels, labels=np.zeros(6, int))
    x = load_images('stripes').sample(3, seed(15))
    assert x.shape == (3, 1, 8, 8) and x.unique().tolist() == [0, 1]


def test_a_preset_is_one_entry(monkeypatch):
    narrower = {'model': {'energy': {'width': 64}}}
    monkeypatch.setitem(PAPER, 'cifar10_narrow', [*PAPER['cifar10'], (OWN, narrower)])
    narrow, usual = preset('cifar10_narrow'), preset('cifar10')
    assert narrow.name == 'cifar10_narrow' and narrow.model.energy.width == 64 < usual.model.energy.width
    assert narrow.model.stage2 == usual.model.stage2 and narrow.data == usual.data
    assert preset('cifar10_narrow', 'smoke').tier == 'smoke'
    assert 'cifar10_narrow' in error_message(ValueError, preset, 'cifar100')


# Another device: nothing.

ON_A_DEVICE = """
import sim, torch
from own_vae import LinearVAE
from test_contributor import RingEnergy, barker, points, seed
from vaebm import VAEBM
from vaebm.training import StageOne, StageOneConfig, StageTwo, StageTwoConfig

def numbers(where):
    torch.manual_seed(0)
    model = VAEBM(LinearVAE(), RingEnergy(), barker(0.5), 3).to(where)
    x = points(32).to(where)
    rows = [StageOne(model.vae, x, StageOneConfig(n_steps=4, batch_size=8)).step()]
    rows.append(StageTwo(model, x, StageTwoConfig(n_steps=4, batch_size=8, buffer_size=8)).step())
    tensors = [model.sample(5, torch.Generator(where).manual_seed(1)), model.log_h(x, 2), model.vae.infer(x, seed(2))]
    assert {t.device.type for t in tensors} == {torch.device(where).type}
    values = torch.tensor([value for row in rows for value in row.values()])
    return torch.cat([values, *(t.detach().cpu().flatten() for t in tensors)])

here = numbers('cpu')
with sim.device() as device:
    there = numbers(device)
assert here.isfinite().all() and torch.allclose(here, there, rtol=1e-4, atol=1e-5)
print(len(here))
"""


def test_another_device_needs_no_edit():
    pytest.importorskip('torch.utils.backend_registration')
    environment = os.environ | {'PYTHONPATH': os.pathsep.join([str(HERE), os.environ.get('PYTHONPATH', '')])}
    done = subprocess.run([sys.executable, '-c', ON_A_DEVICE], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout) > 100
