"""A VAE of a contributor, in one module: probabilistic PCA (Tipping & Bishop 1999), whose posterior and likelihood
are exact. It keeps the promises of `NoiseVAE`, and the library knows nothing of it.
"""

import math
from collections.abc import Sequence

import torch
from torch import nn
from torch.distributions import MultivariateNormal, Normal

from vaebm import NoiseVAE
from vaebm.samplers import normal_like
from vaebm.vae import Layout


class LinearVAE(nn.Module):
    "p(z) = N(0, I), p(x|z) = N(W z + b, s^2)."

    def __init__(self, dim: int = 2, latent: int = 1):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim, latent))
        self.bias = nn.Parameter(torch.zeros(dim))
        self.log_scale = nn.Parameter(torch.zeros(()))
        self.layout = Layout((dim,), [(latent,)])

    def posterior(self, x: torch.Tensor) -> MultivariateNormal:
        noise = (2 * self.log_scale).exp()
        precision = torch.eye(self.weight.shape[1]).to(x) + self.weight.T @ self.weight / noise
        mean = torch.linalg.solve(precision, self.weight.T @ (x - self.bias).T / noise).T
        return MultivariateNormal(mean, precision_matrix=precision, validate_args=False)

    def decode(self, eps_z: Sequence[torch.Tensor]) -> Normal:
        mean = eps_z[0] @ self.weight.T + self.bias
        return Normal(mean, self.log_scale.exp().expand_as(mean), validate_args=False)

    def transform(self, eps: torch.Tensor) -> torch.Tensor:
        eps_x, eps_z = self.layout.split(eps)
        p = self.decode(eps_z)
        return p.loc + p.scale * eps_x

    def infer(self, x: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
        q = self.posterior(x)
        z = q.loc + (q.scale_tril @ normal_like(q.loc, generator)[..., None])[..., 0]
        p = self.decode([z])
        return self.layout.join((x - p.loc) / p.scale, [z])

    def elbo(self, x: torch.Tensor, beta: float = 1.0, generator: torch.Generator | None = None) -> torch.Tensor:
        q = self.posterior(x)
        eps_x, (z,) = self.layout.split(self.infer(x, generator))
        prior = -0.5 * (z.square() + math.log(2 * math.pi)).sum(-1)
        return self.decode([z]).log_prob(x).sum(-1) + beta * (prior - q.log_prob(z))

    def iwae(self, x: torch.Tensor, k: int, generator: torch.Generator | None = None) -> torch.Tensor:
        covariance = self.weight @ self.weight.T + (2 * self.log_scale).exp() * torch.eye(x.shape[1]).to(x)
        return MultivariateNormal(self.bias, covariance, validate_args=False).log_prob(x)


promised: type[NoiseVAE] = LinearVAE  # the type checker of `make lint` compares the two
