"""Every network of convolutions has a spectral penalty."""

import torch

from small import seed

from vaebm.variants import PlainEnergy
from vaebm.config import error_message
from vaebm.energy import spectral_penalty
from vaebm.energy_nets import EnergyResNet
from vaebm.layers import conv_matrices, data_dependent_init


def test_every_network_of_convolutions_has_a_spectral_penalty():
    torch.manual_seed(0)
    plain = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(4 * 36, 1))
    expected = torch.linalg.matrix_norm(plain[0].weight.flatten(1), 2) + torch.linalg.matrix_norm(
        plain[2].weight, 2
    )
    assert torch.allclose(spectral_penalty(plain), expected)
    for net in (
        PlainEnergy(8, 'd1 2', 'none', 'leaky', 3),
        PlainEnergy(8, 'd1 2', 'weight', 'leaky', 3),
        EnergyResNet(8, 'd1 2'),
    ):
        data_dependent_init(net, torch.rand(8, 3, 16, 16, generator=seed(1)))
        exact = sum(torch.linalg.matrix_norm(w, 2) for w in conv_matrices(net))
        assert len(conv_matrices(net)) == 7 and abs(spectral_penalty(net) / exact - 1) < 0.02
    assert 'got Tanh' in error_message(ValueError, spectral_penalty, torch.nn.Tanh())
