"""Samples of a product, and the controls beside them."""

import pytest
import torch

import small

from vaebm.energy_nets import EnergyResNet
from vaebm.experiment import image_run
from vaebm.fast import fold
from vaebm.model import VAEBM
from vaebm.rows import ZeroEnergy, row_cell, sample_product, sample_vae, stretched, tiles
from vaebm.training import make_kernel


def seeded(k):
    return torch.Generator().manual_seed(k)


def test_stretching_keeps_the_mean_and_multiplies_the_contrast():
    x = 0.5 + 0.1 * torch.rand(3, 1, 8, 8, generator=seeded(0))
    y = stretched(x, 2.0)
    assert torch.allclose(y.mean((1, 2, 3)), x.mean((1, 2, 3))) and torch.allclose(
        y.std((1, 2, 3)), 2 * x.std((1, 2, 3))
    )
    assert stretched(torch.tensor([[[[0.0, 1.0]]]]), 3.0).tolist() == [[[[0.0, 1.0]]]]


def test_an_energy_of_zero_leaves_the_prior():
    vae, config = small.tiny().noiseless(), image_run('fashion_mnist', 'smoke', {})
    images = sample_product(config, VAEBM(vae, ZeroEnergy()), 200, seeded(1))
    assert all(x.shape == (200, 1, 32, 32) for x in images.values())
    assert torch.allclose(images['start'][:5], sample_vae(vae, 200, seeded(1))[:5], atol=1 / 255)
    assert not torch.equal(images['start'], images['picked']) and not torch.equal(
        images['picked'], images['end']
    )
    assert max(abs(images[name].mean() - images['start'].mean()) for name in ('picked', 'end')) < 0.01


def test_the_parts_of_the_kernel_are_the_kernel():
    config, vae = image_run('fashion_mnist', 'smoke', {}), small.tiny().noiseless()
    torch.manual_seed(5)
    model = VAEBM(vae, EnergyResNet(4, 'd1 d1', 1).requires_grad_(False), make_kernel(config.model.stage2), 1)
    parts = sample_product(config, model, 8, seeded(6))['end']
    whole = model.sample(8, seeded(6), mean=True)
    assert torch.allclose(parts, whole, atol=1 / 255)


def test_one_channel_is_folded_like_three():
    vae, eps = small.tiny(1), torch.randn(3, 1024 + 2 * 2 * 16, generator=seeded(4))
    with torch.no_grad():
        assert torch.allclose(fold(vae).transform(eps), vae.transform(eps), atol=1e-5)


@pytest.mark.parametrize(
    'values, key, shown',
    [([5.0, 6.0], 'frechet', '5.50 ± 0.71'), ([5.0], 'frechet', '5.00'), ([9, 9], 'n', '9'), ([0.25], 'kl', '0.2500')],
)
def test_a_cell_of_the_table_has_its_spread_where_there_are_seeds(values, key, shown):
    assert row_cell([{key: v} for v in values], key) == shown


def test_digits_of_a_stack_stand_side_by_side():
    x = torch.rand(2, 3, 8, 8, generator=seeded(7))
    assert torch.equal(tiles(x, 'stacked_mnist'), torch.cat([x[:, :1], x[:, 1:2], x[:, 2:]], 3))
    assert tiles(x, 'cifar10') is x
