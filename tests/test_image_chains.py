"""Chains on images: what an energy gains, annealing against a closed form, and what chains are seen to do."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

import small

from vaebm.energy_nets import EnergyResNet
from vaebm.image_chains import (
    Snapshot,
    along_chains,
    annealed_weights,
    cold_start,
    likelihood_gain,
    log_z_ais,
    project,
)
from vaebm.images import Images
from vaebm.likelihood import log_z_importance
from vaebm.model import VAEBM
from vaebm.nvae import NVAE
from vaebm.samplers import pcn_langevin
from vaebm.vae import Layout


def seed(k):
    return torch.Generator().manual_seed(k)


class Gaussian(nn.Module):
    layout = Layout((2,), [])

    def transform(self, eps):
        return eps


class Quadratic(nn.Module):
    "Has Z = 1/4 under a standard normal in the plane; `shift` adds to log Z what it takes from the energy."

    def __init__(self, shift=0.0):
        super().__init__()
        self.shift = shift

    def forward(self, x):
        return 1.5 * x.square().sum(-1) + self.shift


@pytest.fixture(scope='module')
def product():
    torch.manual_seed(0)
    vae = NVAE(replace(small.SIZES, cells_enc=2, cells_dec=2, flows=1))
    with torch.no_grad():
        vae.reconstruct(torch.rand(16, 3, 8, 8))  # fills the running statistics
    return VAEBM(vae.eval().requires_grad_(False), EnergyResNet(4, 'd1 2').requires_grad_(False), pcn_langevin(0.1))


@pytest.mark.parametrize('n_steps', [1, 10])
def test_annealing_finds_a_known_constant(n_steps):
    z = log_z_ais(VAEBM(Gaussian(), Quadratic()), pcn_langevin(0.5, adjust=True), 2000, n_steps, seed(0))
    assert abs(z['log_z'] + math.log(4)) < 4 * z['se'] < 0.5 and z['n'] == 2000


def test_a_constant_moves_log_z_by_itself():
    moves = pcn_langevin(0.5, adjust=True)
    a, b = (log_z_ais(VAEBM(Gaussian(), Quadratic(c)), moves, 100, 5, seed(1))['log_z'] for c in (0.0, 3.0))
    assert abs(a - b - 3) < 1e-4


def test_annealing_in_one_step_is_importance_sampling():
    model, eps = VAEBM(Gaussian(), Quadratic()), torch.randn(5, 2, generator=seed(2))
    log_w = annealed_weights(model, pcn_langevin(0.5, adjust=True), eps, torch.tensor([0.0, 1.0]), seed(3))
    assert log_w.dtype == torch.float64 and torch.allclose(log_w.float(), -model.energy_at(eps), atol=1e-5)


def test_a_gain_does_not_know_constants_and_minds_its_draws(product):
    class Shifted(nn.Module):
        def forward(self, x):
            return product.energy(x) + 100

    x, gains = torch.rand(6, 3, 8, 8, generator=seed(4)), []
    for model in (product, VAEBM(product.vae, Shifted())):
        gains.append(likelihood_gain(model, x, log_z_importance(model, 60, seed(5), 20), 1.0, 4))
    assert abs(gains[0]['gain'] - gains[1]['gain']) < 1e-3 and gains[0]['score'] == gains[0]['gain']
    few = likelihood_gain(product, x, log_z_importance(product, 40, seed(5), 20))
    assert few['score'] == -math.inf and math.isfinite(few['gain'])


def test_what_is_seen_on_the_way_does_not_change_the_way(product):
    path = along_chains(product, 5, (0, 2, 4), generator=seed(6), chunk=3)
    end = along_chains(product, 5, [4], generator=seed(6), chunk=3)
    assert [*path] == [0, 2, 4] and all(isinstance(s, Snapshot) for s in path.values())
    assert torch.equal(path[4].images[:], end[4].images[:]) and torch.equal(path[4].energy, end[4].energy)
    assert path[0].images[:].shape == (5, 3, 8, 8) and not torch.equal(path[0].energy, path[4].energy)


@pytest.mark.parametrize('snapshots', [(), (2, 1), (1, 1), (-1, 2)])
def test_snapshots_must_increase(product, snapshots):
    with pytest.raises(ValueError, match='snapshots must increase'):
        along_chains(product, 2, snapshots)


def test_a_cold_start_leaves_the_vae_as_it_was(product):
    vae = product.vae
    before = {k: v.clone() for k, v in vae.state_dict().items()}
    eps = cold_start(vae, 4, 0.7, seed(7), n_batches=2, batch_size=4)
    assert eps.shape == (4, vae.layout.size) and eps.isfinite().all()
    assert all(torch.equal(v, before[k]) for k, v in vae.state_dict().items())


def test_projected_data_follow_the_seed_alone(product):
    data = Images((255 * torch.rand(12, 3, 8, 8, generator=seed(8))).byte())
    a, b, c = (project(product.vae, data, 6, seed(k), 4) for k in (9, 9, 10))
    assert a.pixels.dtype == torch.uint8 and a[:].shape == (6, 3, 8, 8)
    assert torch.equal(a.pixels, b.pixels) and not torch.equal(a.pixels, c.pixels)
