"""Layers: gradients of a depthwise convolution, and sums of spectral norms."""

import pytest
import torch
from torch import nn

from vaebm import layers


@pytest.mark.parametrize('size', [(4, 4), (5, 3), (32, 32), (33, 32)])
def test_gradients_of_a_depthwise_convolution(size):
    conv = layers.DepthwiseConv2d(3).double()
    x = torch.randn(2, 3, *size, dtype=torch.float64, requires_grad=True)
    g = torch.randn(2, 3, *size, dtype=torch.float64)
    ours = torch.autograd.grad(conv(x), (x, conv.weight), g)
    theirs = torch.autograd.grad(nn.Conv2d.forward(conv, x), (x, conv.weight), g)
    for a, b in zip(ours, theirs):
        assert torch.allclose(a, b)
    assert torch.autograd.gradgradcheck(
        layers._Depthwise.apply, (x[:1, :, :3, :3].detach().requires_grad_(), conv.weight)
    )

def test_spectral_sum_is_the_same_however_its_vectors_lie_in_memory():
    "A resumed training continues bit for bit: what is read from a file has other strides than what was computed."
    torch.manual_seed(0)
    sizes = [(3, 4, 3)] + 5 * [(8, 8, 3)] + 2 * [(8, 4, 3), (8, 48, 1)]
    net = nn.Sequential(*(layers.WNConv2d(*size) for size in sizes))
    whole, resumed = layers.SpectralSum(net), layers.SpectralSum(net)
    whole()
    state = whole.state_dict()
    state['u'] = {k: torch.as_strided(u.clone(), u.shape, (u.shape[1], 1, 1)) for k, u in state['u'].items()}
    resumed.load_state_dict(state)
    assert torch.equal(whole(), resumed())
    assert all(torch.equal(u, resumed.u[k]) for k, u in whole.u.items())
