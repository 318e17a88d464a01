"""Energy networks: the numbers of the published reference implementation on tiny random models."""

import json

import pytest
import torch

from reference import DTYPES, EBMS, FIXTURES, arrays, close, energy, part, recorded_names, same_magnitude

from vaebm.energy import clip_by_second_moment, ebm_loss
from vaebm.energy_nets import ENERGY_NETWORKS, EnergyResNet
from vaebm.layers import SpectralSum, conv_matrices, data_dependent_init
from vaebm.released import load_released_energy


@pytest.mark.parametrize('dtype', DTYPES, ids=str)
@pytest.mark.parametrize('name', EBMS)
def test_energy_and_its_gradient(name, dtype):
    net, t = energy(name, dtype=dtype)
    x = t['in/x'].requires_grad_()
    e = net(x)
    close(e.detach(), t['out/energy'])
    close(torch.autograd.grad(e.sum(), x)[0], t['out/grad_x'])
    same_magnitude(
        sum(torch.linalg.matrix_norm(w, 2) for w in conv_matrices(net)).detach(),
        t['sr/svd_sum'],
        tolerance=1e-5,
    )


@pytest.mark.slow
@pytest.mark.parametrize('name', EBMS)
def test_power_iteration_converges_to_the_recorded_sum(name):
    net, t = energy(name)
    spectral = SpectralSum(net, n_first=2040)
    same_magnitude(spectral().detach(), t['sr/power_iter_after_2040'], tolerance=1e-5)


@pytest.mark.parametrize('name', EBMS)
@torch.no_grad()
def test_data_dependent_initialisation(name):
    net, t = energy(name, 'sd0')
    close(data_dependent_init(net, t['init/x']), t['init/energy'])
    ours = net.state_dict()
    for key, value in recorded_names(part(t, 'sd1')).items():
        close(ours[key], value)
    close(net(t['init/x']), t['init/energy'])  # the second pass initialises nothing


@pytest.mark.parametrize('dtype', DTYPES, ids=str)
def test_energy_training_step_by_step(dtype):
    t = arrays('ebm_train_CIFAR32', dtype)
    net, _ = energy('ebm_CIFAR32', dtype=dtype)
    net.forward = net.unclamped  # some recorded batches leave [0, 1]
    net.spectral_penalty = lambda: sum(torch.linalg.matrix_norm(w, 2) for w in conv_matrices(net))
    s = json.loads((FIXTURES / 'ebm_train_CIFAR32.json').read_text())
    optimizer = torch.optim.Adam(net.parameters(), s['lr'], s['betas'], s['eps'], s['wd'])
    tolerance = (
        1e-5 if dtype == torch.float64 else 2e-5
    )  # of a gradient's norm; the recorded ones are float32 themselves
    for k in range(s['steps']):
        loss, e_pos, e_neg = ebm_loss(net, t[f's{k}/pos'], t[f's{k}/neg'], spectral=s['alpha_s'])
        close(e_pos - e_neg, t[f's{k}/loss'], 1e-5)
        same_magnitude(net.spectral_penalty().detach(), t[f's{k}/norm_loss'], tolerance=1e-5)
        optimizer.zero_grad()
        loss.backward()
        for state in ('raw', 'clipped'):
            if state == 'clipped':
                clip_by_second_moment(optimizer)
            for key, grad in recorded_names(part(t, f's{k}/grad_{state}')).items():
                assert (net.get_parameter(key).grad - grad).norm() <= tolerance * grad.norm()
        optimizer.step()
    for key, value in recorded_names(part(t, 'sd_after4')).items():
        close(net.state_dict()[key], value, 1e-5)


def test_presets_read_their_own_weights():
    for name, preset in ENERGY_NETWORKS.items():
        net = EnergyResNet(**preset | {'width': 8})
        state = {
            k.replace('skip.', 'skip.0.').replace('log_norm', 'log_weight_norm'): v
            for k, v in net.state_dict().items()
        }
        x = torch.rand(1, 3, 64, 64)
        assert torch.equal(load_released_energy({'state_dict': state}, name)(x), net(x))
