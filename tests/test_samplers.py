"""Samplers: kernels come back from a pickle and from their names, and the replay buffer draws its rows."""

import pickle

import pytest
import torch

from small import KERNELS, seed

from vaebm import samplers
from vaebm.energy import MLPEnergy
from vaebm.model import VAEBM
from vaebm.samplers import ReplayBuffer
from vaebm.vae import MLPVAE


def test_a_buffer_gives_the_rows_that_it_gave():
    for p, pushed in ((0.0, 5), (0.5, 5), (1.0, 3), (0.7, 0)):
        buffer = ReplayBuffer(8, 4, fresh=1)
        buffer.push(torch.arange(pushed * 4.0).view(-1, 4))
        found = buffer.draw(6, p, torch.Generator().manual_seed(2))
        g = torch.Generator().manual_seed(2)
        expected = torch.randn(6, 4, generator=g)
        k = min(int((torch.rand(6, generator=g) < p).sum()), len(buffer))
        rows = torch.randperm(len(buffer), generator=g)[:k]
        expected[:k, 1:] = buffer.noise[rows]
        assert torch.equal(found, expected)


@pytest.mark.parametrize('name', KERNELS)
def test_kernels_come_back_from_a_pickle_and_from_their_names(name):
    kernel = KERNELS[name]
    potential = VAEBM(MLPVAE(2, 3, 8), MLPEnergy(2, 8))
    start = torch.randn(4, 5, generator=seed(1))
    ends = [
        samplers.run(k, potential, start, 4, seed(2)).eps
        for k in (kernel, pickle.loads(pickle.dumps(kernel)), samplers.named_kernel(*kernel.made))
    ]
    assert (
        kernel.made[0] == name
        and torch.equal(ends[0], ends[1])
        and torch.equal(ends[0], ends[2])
        and not torch.equal(ends[0], start)
    )
