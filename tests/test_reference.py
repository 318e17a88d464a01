"""The numbers of the published reference implementation on tiny random models (tests/fixtures), reproduced."""
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.distributions import Normal
from torch.nn import functional as F

from vaebm.energy import ENERGY_NETWORKS, EnergyResNet, clip_by_second_moment, ebm_loss
from vaebm.layers import SpectralSum, batch_norm_penalty, conv_matrices, data_dependent_init
from vaebm.nvae import NVAE, balanced

FIXTURES = Path(__file__).parent / 'fixtures'
DTYPES = [torch.float32, torch.float64]
EBMS = {'ebm_CIFAR32': 'cifar10', 'ebm_CelebA64': 'celeba64', 'ebm_MNIST': 'mnist'}


def arrays(name, dtype=torch.float32):
    "All arrays of a fixture as tensors, floats in `dtype`."
    with np.load(FIXTURES / f'{name}.npz') as f: tensors = {k: torch.from_numpy(f[k]) for k in f.files}
    return {k: t.to(dtype) if t.is_floating_point() else t for k, t in tensors.items()}


def part(tensors, prefix): return {k[len(prefix) + 1:]: t for k, t in tensors.items() if k.startswith(prefix + '/')}


def series(tensors, prefix):
    "prefix/0, prefix/1, ... as a list."
    found = part(tensors, prefix)
    return [found[str(i)] for i in range(len(found))]


def nvae(name, dtype=torch.float32):
    t = arrays(name, dtype)
    args = json.loads((FIXTURES / f'{name}.json').read_text())['args']
    return NVAE.from_official({'state_dict': part(t, 'sd'), 'args': args}).to(dtype), t


def energy(name, state='sd', dtype=torch.float32):
    t = arrays(name, dtype)
    return EnergyResNet.from_official({'state_dict': part(t, state)}, EBMS[name]).to(dtype), t


def close(ours, theirs, tolerance=1e-4):
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().max() <= tolerance


def same_magnitude(ours, theirs, scale=None, tolerance=1e-6):
    "Equal up to `tolerance` of the magnitude, that of `theirs` unless given."
    close(ours, theirs, tolerance * (theirs.abs().max() if scale is None else scale))


def recorded_names(state):
    "Our parameter names for the state of an energy network."
    return {k.replace('skip.0', 'skip').replace('log_weight_norm', 'log_norm'): v for k, v in state.items()}


@pytest.mark.parametrize('dtype', DTYPES, ids=str)
@pytest.mark.parametrize('name', ['nvae_A', 'nvae_B', 'nvae_C'])
@torch.no_grad()
def test_nvae_encodes_and_reconstructs(name, dtype):
    model, t = nvae(name, dtype)
    latents, p = model.reconstruct(t['in/x'], series(t, 'in/eps_q'))
    close(p.loc, t['fwd/mu']); close(p.scale, t['fwd/sigma'])
    log_q, log_p = sum(l.log_q for l in latents), sum(l.log_p for l in latents)
    same_magnitude(log_q, t['fwd/log_q']); same_magnitude(log_p, t['fwd/log_p'])
    x = 2 * t['in/x'] - 1
    same_magnitude(p.log_prob(x).sum((1, 2, 3)), t['fwd/log_px_nvae'])
    clamped = Normal(p.loc, (p.scale - .01).clamp_min(np.exp(-2)) + .01)
    close(clamped.scale, t['fwd/sigma_clamped']); same_magnitude(clamped.log_prob(x).sum((1, 2, 3)), t['fwd/log_px_clamped'])
    for l, kl in zip(latents, series(t, 'fwd/kl_all'), strict=True):
        same_magnitude(l.kl, kl, scale=max(kl.abs().max(), l.log_q.abs().max()) if len(model.groups[0].flows) else None)
    if name != 'nvae_C':
        for l, z in zip(latents, series(t, 'fwd/z_q'), strict=True): close(l.z, z)


@pytest.mark.parametrize('dtype', DTYPES, ids=str)
@pytest.mark.parametrize('temperature', [1.0, .7])
@pytest.mark.parametrize('name', ['nvae_A', 'nvae_B', 'nvae_C'])
@torch.no_grad()
def test_nvae_generates(name, temperature, dtype):
    model, t = nvae(name, dtype)
    raw = []
    model.head.register_forward_hook(lambda module, args, out: raw.append(out))
    latents, p = model.generate(series(t, 'in/eps_p'), temperature)
    out = part(t, f'sample_t{temperature}')
    close(raw[0], out['logits'])
    close(p.loc, out['mu']); close(p.scale, out['sigma'])
    for l, z in zip(latents, series(out, 'z'), strict=True): close(l.z, z)
    log_p = sum(Normal(l.prior.loc, temperature * l.prior.scale).log_prob(l.z).sum((1, 2, 3)) for l in latents)
    same_magnitude(log_p, out['log_p_total'])
    if temperature == 1:
        x = model.transform(model.layout.join(t['in/eps_x'], series(t, 'in/eps_p'))).clamp(0, 1)
        close(x, out['x'])
        clamped = Normal(p.loc, (p.scale - .01).clamp_min(np.exp(-2)) + .01)
        same_magnitude(clamped.log_prob(2 * x - 1).sum((1, 2, 3)), out['log_px'])


@pytest.mark.parametrize('name', ['nvae_A', 'nvae_B', 'nvae_C'])
@torch.no_grad()
def test_nvae_spectral_norms(name):
    model, t = nvae(name)
    ours = torch.tensor([torch.linalg.matrix_norm(w, 2) for w in conv_matrices(model)])
    close(ours.sort().values, t['sr/svd_top_per_conv'].sort().values)
    same_magnitude(SpectralSum(model, n_first=3000)(), t['sr/svd_sum'], tolerance=1e-5)
    same_magnitude(batch_norm_penalty(model), t['sr/batchnorm_loss'])


def test_nvae_first_training_forward():
    t = arrays('nvae_train_B')
    model, _ = nvae('nvae_B')
    model.train()
    settings = json.loads((FIXTURES / 'nvae_train_B.json').read_text())
    latents, p = model.reconstruct(t['in/x'], series(t, 's0/eps'))
    kl = torch.stack([l.kl for l in latents])
    gamma = balanced(kl, model.alpha)
    close(model.alpha, t['alpha_i'])
    close(gamma, t['s0/kl_coeffs']); same_magnitude(kl.mean(1), t['s0/kl_vals'])
    recon, weighted = -p.log_prob(2 * t['in/x'] - 1).sum((1, 2, 3)), settings['kl_coeff'] * (gamma[:, None] * kl).sum(0)
    same_magnitude(recon, t['s0/recon']); same_magnitude(weighted, t['s0/balanced_kl'])
    norms, scales = sum(torch.linalg.matrix_norm(w, 2) for w in conv_matrices(model)), batch_norm_penalty(model)
    same_magnitude(norms, t['s0/norm_loss'], tolerance=1e-5); same_magnitude(scales, t['s0/bn_loss'])
    loss = (recon + weighted).mean() + settings['lambda_'] * (norms + scales)
    same_magnitude(loss, t['s0/loss'])


@pytest.mark.parametrize('dtype', DTYPES, ids=str)
@pytest.mark.parametrize('name', EBMS)
def test_energy_and_its_gradient(name, dtype):
    net, t = energy(name, dtype=dtype)
    x = t['in/x'].requires_grad_()
    e = net(x)
    close(e.detach(), t['out/energy']); close(torch.autograd.grad(e.sum(), x)[0], t['out/grad_x'])
    same_magnitude(sum(torch.linalg.matrix_norm(w, 2) for w in conv_matrices(net)).detach(), t['sr/svd_sum'], tolerance=1e-5)


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
    for key, value in recorded_names(part(t, 'sd1')).items(): close(ours[key], value)
    close(net(t['init/x']), t['init/energy'])  # the second pass initialises nothing


@pytest.mark.parametrize('dtype', DTYPES, ids=str)
def test_energy_training_step_by_step(dtype):
    t = arrays('ebm_train_CIFAR32', dtype)
    net, _ = energy('ebm_CIFAR32', dtype=dtype)
    net.forward = net.unclamped  # some recorded batches leave [0, 1]
    net.spectral_penalty = lambda: sum(torch.linalg.matrix_norm(w, 2) for w in conv_matrices(net))
    s = json.loads((FIXTURES / 'ebm_train_CIFAR32.json').read_text())
    optimizer = torch.optim.Adam(net.parameters(), s['lr'], s['betas'], s['eps'], s['wd'])
    tolerance = 1e-5 if dtype == torch.float64 else 2e-5  # of a gradient's norm; the recorded ones are float32 themselves
    for k in range(s['steps']):
        loss, e_pos, e_neg = ebm_loss(net, t[f's{k}/pos'], t[f's{k}/neg'], spectral=s['alpha_s'])
        close(e_pos - e_neg, t[f's{k}/loss'], 1e-5); same_magnitude(net.spectral_penalty().detach(), t[f's{k}/norm_loss'], tolerance=1e-5)
        optimizer.zero_grad(); loss.backward()
        for state in ('raw', 'clipped'):
            if state == 'clipped': clip_by_second_moment(optimizer)
            for key, grad in recorded_names(part(t, f's{k}/grad_{state}')).items():
                assert (net.get_parameter(key).grad - grad).norm() <= tolerance * grad.norm()
        optimizer.step()
    for key, value in recorded_names(part(t, 'sd_after4')).items(): close(net.state_dict()[key], value, 1e-5)


def published_potential(model, net, eps):
    "The potential that the published code differentiates: densities of z and of the clamped image instead of the noise's; see chapter 06."
    eps_x, eps_z = model.layout.split(eps)
    latents, p = model.generate(eps_z)
    x = (p.loc + p.scale * eps_x).clamp(-1, 1)
    floor = Normal(p.loc, (p.scale - .01).clamp_min(np.exp(-2)) + .01)
    return net((x + 1) / 2) - sum(l.log_p for l in latents) - floor.log_prob(x).sum((1, 2, 3))


@pytest.mark.parametrize('name', ['langevin_A_step8e-5', 'langevin_A_step1e-2'])
def test_published_chain(name):
    model, _ = nvae('nvae_A'); net, _ = energy('ebm_CIFAR32'); t = arrays(name)
    s = json.loads((FIXTURES / f'{name}.json').read_text())
    join = lambda prefix, what: model.layout.join(t[f'{prefix}/{what}_x'], series(t, f'{prefix}/{what}_z'))
    eps = join('step0', 'eps')
    for k in range(s['num_steps']):
        eps = eps.requires_grad_()
        potential = published_potential(model, net, eps)
        same_magnitude(potential.detach(), t[f'step{k}/dvalue_per_sample'])
        grad, = torch.autograd.grad(potential.sum(), eps)
        recorded = join(f'step{k}', 'grad') * s['batch']
        assert (grad - recorded).norm() <= 1e-4 * recorded.norm()
        eps = eps.detach() - s['step_size'] / 2 * grad + s['step_size'] ** .5 * join(f'step{k}', 'noise')
    close(eps, join('final', 'eps'), 1e-5)


def test_presets_read_their_own_weights():
    for name, preset in ENERGY_NETWORKS.items():
        net = EnergyResNet(**preset | {'width': 8})
        state = {k.replace('skip.', 'skip.0.').replace('log_norm', 'log_weight_norm'): v for k, v in net.state_dict().items()}
        x = torch.rand(1, 3, 64, 64)
        assert torch.equal(EnergyResNet.from_official({'state_dict': state}, name)(x), net(x))


@torch.no_grad()
def test_split_and_fused_combiner_agree_in_float64():
    model, t = nvae('nvae_A', torch.float64)
    group = model.groups[1]
    s, z = torch.randn(2, 32, 8, 8, dtype=torch.float64), torch.randn(2, 4, 8, 8, dtype=torch.float64)
    fused = F.conv2d(torch.cat([s, z], 1), group.combine.conv.effective_weight(), group.combine.conv.bias)
    close(group.combine(s, z), fused, 1e-12)
