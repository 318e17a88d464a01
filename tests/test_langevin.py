"""Langevin dynamics: its names can be imported from `samplers` as well, `metropolis` refuses what it must, and a chain
is a function of its generator.
"""

import math

import pytest
import torch

from small import seed

from vaebm import langevin, samplers


def quadratic(eps):
    return 0.5 * eps.square().sum(-1)


def test_samplers_has_every_name_of_langevin():
    assert set(langevin.__all__) <= set(samplers.__all__)
    for name in langevin.__all__:
        assert getattr(samplers, name) is getattr(langevin, name), name
    assert {'langevin', 'mala', 'pcn_langevin', 'hmc', 'split_hmc', 'clipped_descent'} <= samplers.KERNELS.keys()


@pytest.mark.parametrize('ratio, taken', [(math.inf, 1.0), (0.0, 1.0), (-math.inf, 0.0), (math.nan, 0.0)])
def test_metropolis_decides_by_the_ratio(ratio, taken):
    old, new = (langevin.State(torch.full((50, 2), v), torch.zeros(50)) for v in (0.0, 1.0))
    state, info = langevin.metropolis(old, new, torch.full((50,), ratio), seed(0))
    assert info.accepted.mean() == taken and state.eps.mean() == taken


@pytest.mark.parametrize('kernel', [langevin.langevin(0.1), langevin.mala(0.1), langevin.pcn_langevin(0.1)])
def test_a_chain_is_a_function_of_its_generator(kernel):
    start = torch.randn(5, 3, generator=seed(1))
    first, again, other = (langevin.run(kernel, quadratic, start, 4, seed(s)).eps for s in (2, 2, 3))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(langevin.run(kernel, quadratic, start, 0).eps, start)


def test_without_an_energy_pcn_langevin_keeps_the_normal_distribution():
    x = langevin.run(langevin.pcn_langevin(30.0), quadratic, torch.randn(20_000, 1, generator=seed(4)), 3, seed(5)).eps
    assert abs(x.var() - 1) < 4 * (2 / 20_000) ** 0.5


@pytest.mark.parametrize('eps', [torch.zeros(2), torch.zeros(2, 2, dtype=torch.int64)])
def test_positions_of_another_shape_or_type_are_refused(eps):
    with pytest.raises(ValueError, match='eps must'):
        langevin.run(langevin.langevin(0.1), quadratic, eps, 1)
