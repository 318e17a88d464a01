"""NVAE: the numbers of the published reference implementation on tiny random models, and images of one channel."""

import json

import numpy as np
import pytest
import torch
from torch.distributions import Normal
from torch.nn import functional as F

from reference import DTYPES, FIXTURES, arrays, close, nvae, part, same_magnitude, series
from small import images_of, model_of, seed

from vaebm.layers import SpectralSum, batch_norm_penalty, conv_matrices
from vaebm.nvae import balanced


@pytest.mark.parametrize('dtype', DTYPES, ids=str)
@pytest.mark.parametrize('name', ['nvae_A', 'nvae_B', 'nvae_C'])
@torch.no_grad()
def test_nvae_encodes_and_reconstructs(name, dtype):
    model, t = nvae(name, dtype)
    latents, p = model.reconstruct(t['in/x'], series(t, 'in/eps_q'))
    close(p.loc, t['fwd/mu'])
    close(p.scale, t['fwd/sigma'])
    log_q, log_p = sum(l.log_q for l in latents), sum(l.log_p for l in latents)
    same_magnitude(log_q, t['fwd/log_q'])
    same_magnitude(log_p, t['fwd/log_p'])
    x = 2 * t['in/x'] - 1
    same_magnitude(p.log_prob(x).sum((1, 2, 3)), t['fwd/log_px_nvae'])
    clamped = Normal(p.loc, (p.scale - 0.01).clamp_min(np.exp(-2)) + 0.01)
    close(clamped.scale, t['fwd/sigma_clamped'])
    same_magnitude(clamped.log_prob(x).sum((1, 2, 3)), t['fwd/log_px_clamped'])
    for l, kl in zip(latents, series(t, 'fwd/kl_all'), strict=True):
        same_magnitude(
            l.kl, kl, scale=max(kl.abs().max(), l.log_q.abs().max()) if len(model.groups[0].flows) else None
        )
    if name != 'nvae_C':
        for l, z in zip(latents, series(t, 'fwd/z_q'), strict=True):
            close(l.z, z)


@pytest.mark.parametrize('dtype', DTYPES, ids=str)
@pytest.mark.parametrize('temperature', [1.0, 0.7])
@pytest.mark.parametrize('name', ['nvae_A', 'nvae_B', 'nvae_C'])
@torch.no_grad()
def test_nvae_generates(name, temperature, dtype):
    model, t = nvae(name, dtype)
    raw = []
    model.head.register_forward_hook(lambda module, args, out: raw.append(out))
    latents, p = model.generate(series(t, 'in/eps_p'), temperature)
    out = part(t, f'sample_t{temperature}')
    close(raw[0], out['logits'])
    close(p.loc, out['mu'])
    close(p.scale, out['sigma'])
    for l, z in zip(latents, series(out, 'z'), strict=True):
        close(l.z, z)
    log_p = sum(Normal(l.prior.loc, temperature * l.prior.scale).log_prob(l.z).sum((1, 2, 3)) for l in latents)
    same_magnitude(log_p, out['log_p_total'])
    if temperature == 1:
        x = model.transform(model.layout.join(t['in/eps_x'], series(t, 'in/eps_p'))).clamp(0, 1)
        close(x, out['x'])
        clamped = Normal(p.loc, (p.scale - 0.01).clamp_min(np.exp(-2)) + 0.01)
        same_magnitude(clamped.log_prob(2 * x - 1).sum((1, 2, 3)), out['log_px'])


@pytest.mark.slow
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
    close(gamma, t['s0/kl_coeffs'])
    same_magnitude(kl.mean(1), t['s0/kl_vals'])
    recon, weighted = -p.log_prob(2 * t['in/x'] - 1).sum((1, 2, 3)), settings['kl_coeff'] * (
        gamma[:, None] * kl
    ).sum(0)
    same_magnitude(recon, t['s0/recon'])
    same_magnitude(weighted, t['s0/balanced_kl'])
    norms, scales = sum(torch.linalg.matrix_norm(w, 2) for w in conv_matrices(model)), batch_norm_penalty(model)
    same_magnitude(norms, t['s0/norm_loss'], tolerance=1e-5)
    same_magnitude(scales, t['s0/bn_loss'])
    loss = (recon + weighted).mean() + settings['lambda_'] * (norms + scales)
    same_magnitude(loss, t['s0/loss'])


@torch.no_grad()
def test_split_and_fused_combiner_agree_in_float64():
    model, t = nvae('nvae_A', torch.float64)
    group = model.groups[1]
    s, z = torch.randn(2, 32, 8, 8, dtype=torch.float64), torch.randn(2, 4, 8, 8, dtype=torch.float64)
    fused = F.conv2d(torch.cat([s, z], 1), group.combine.conv.effective_weight(), group.combine.conv.bias)
    close(group.combine(s, z), fused, 1e-12)


def test_images_of_one_channel():
    model, x = model_of(1), images_of(1)[:4]
    assert model.layout.shapes[0] == (1, 8, 8) and model.sample(2, seed(5)).shape == (2, 1, 8, 8)
    elbo = model.elbo(x, generator=seed(6))
    assert elbo.shape == (4,) and elbo.isfinite().all()
    eps = model.infer(x, seed(7))
    assert torch.allclose(model.transform(eps), x, atol=1e-4)  # noise and image determine each other
