"""Explorers on points: chains stepped by hand find their density, and two spaces hold the same chains."""

import pytest
import torch

from vaebm.config import error_message
from vaebm.explore_points import SAMPLERS, ChainByHand, Chains, TwoSpaces, chains_in, to_data
from vaebm.widgets import Explorer


def test_stepping_moves_the_chains_and_reset_brings_them_back():
    chain = Explorer(ChainByHand())
    start = chain.png
    chain.buttons['step'].click()
    one = chain.png
    chain.buttons['10 steps'].click()
    assert len({start, one, chain.png}) == 3 and 'after 11 steps' in chain.text
    chain.buttons['reset'].click()
    assert chain.png == start and 'after 0 steps' in chain.text
    chain.buttons['step'].click()
    assert chain.png == one
    chain.controls['energy'].value = 'ring'
    assert 'after 0 steps' in chain.text


@pytest.mark.parametrize('sampler', SAMPLERS)
def test_every_sampler_finds_the_density_at_every_temperature(sampler):
    chain = ChainByHand(n=1000)
    for temperature in (0.5, 2.0):
        values = {'energy': 'two wells', 'sampler': sampler, 'step_size': 0.1, 'temperature': temperature}
        chain.reset(**values)
        chain.chains.eps[500:, 0] = 2.0  # half of them in each well, as the density has it
        chain.step(**values, n=150)
        chain.move(**values)
        assert chain.distance < 0.09, (temperature, chain.distance)


def test_momentum_lives_as_long_as_the_settings():
    chain, values = ChainByHand(), {
        'energy': 'two wells',
        'sampler': 'underdamped',
        'step_size': 0.1,
        'temperature': 1.0,
    }
    chain.step(**values)
    first = chain.chains.state.momentum
    other = ChainByHand()
    other.step(**values, n=2)
    chain.step(**values)
    assert first is not None and torch.equal(chain.chains.eps, other.chains.eps)
    chain.step(**values | {'sampler': 'Langevin'})
    assert chain.chains.state.momentum is None


def test_exploded_chains_are_counted():
    chain, values = ChainByHand(), {
        'energy': 'narrow valley',
        'sampler': 'Langevin',
        'step_size': 3.0,
        'temperature': 1.0,
    }
    for n in (5, 100):  # far away, then not finite
        chain.step(**values, n=n)
        assert '256 chains outside the figure' in chain.move(**values) and chain.distance == pytest.approx(1)
    assert not chain.chains.eps.isfinite().all() and len(chain.canvas.png())


def test_both_spaces_hold_the_same_chains():
    for space in TwoSpaces.controls['chain_in']:
        noise, data, accepted = chains_in(space, 0.3)
        assert noise.shape == data.shape == (61, 200, 2) and len(accepted) == 61
        assert torch.allclose(to_data(noise[40], 0.3), data[40], atol=1e-5)


def test_unknown_names_are_refused():
    assert (
        error_message(ValueError, chains_in, 'space', 0.3)
        == "space must be one of noise space, data space, got 'space'"
    )
    assert error_message(ValueError, Chains('ring', 1).step, 'NUTS', 0.1, 1.0).startswith(
        'sampler must be one of Langevin, MALA,'
    )
    assert error_message(ValueError, Chains, 'well', 1).startswith('energy must be one of two wells,')
