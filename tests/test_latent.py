"""An energy of the latent: known priors, both energies together, the gradient of Eq. 7 on latents, bad input."""

import json
import math
import pickle
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.distributions import Normal

from small import seed

import vaebm.fast  # noqa: F401 (rules of `fold`)
from vaebm.after import BothEnergies, Codes, Prior, StageBoth
from vaebm.config import error_message
from vaebm.data import GaussianGrid
from vaebm.energy import MLPEnergy
from vaebm.likelihood import log_z_importance, mean_log_likelihood, weight_report
from vaebm.loop import fit
from vaebm.model import VAEBM, fold
from vaebm.ratio import DensityRatio
from vaebm.samplers import independence, mala, run
from vaebm.stage_two import RatioConfig
from vaebm.training import StageTwo, StageTwoConfig
from vaebm.vae import MLPVAE, Layout
from vaebm.variants import Pixels


def zero(x):
    return x.new_zeros(len(x))


class Linear(nn.Module):
    "E(z) = a z: under N(0, 1) the density is N(-a, 1) and log Z is a² / 2."

    def __init__(self, a):
        super().__init__()
        self.a = nn.Parameter(torch.tensor(a))

    def forward(self, z):
        return self.a * z[:, 0]


class Known:
    "A VAE on the line: x = 2 z + 0.5 eps_x, and every point is encoded as N(1, 0.5²)."

    layout = Layout((1,), [(1,)])

    def transform(self, eps):
        eps_x, (z,) = self.layout.split(eps)
        return 2 * z + 0.5 * eps_x

    def infer(self, x, generator=None):
        z = 1 + 0.5 * torch.randn(len(x), 1, generator=generator)
        return torch.cat([(x - 2 * z) / 0.5, z], 1)


@pytest.fixture
def vae():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return MLPVAE(2, 3, 16, 2).requires_grad_(False)


def test_zero_energies_give_the_vae(vae):
    model, x, eps = BothEnergies(vae, zero, zero), torch.randn(40, 2, generator=seed(1)), torch.randn(8, 5)
    assert torch.equal(model.potential(eps), 0.5 * eps.square().sum(1))
    assert torch.allclose(model.log_h(x, 50, seed(2)), vae.iwae(x, 50, seed(2)), atol=1e-5)
    found = log_z_importance(model, 999, seed(3))
    assert abs(found['log_z']) < 1e-9 and found['se'] < 1e-6
    assert torch.equal(model.sample(9, seed(4), independence(1), 0), VAEBM(vae, zero).sample(9, seed(4), n_steps=0))


@pytest.mark.parametrize('n', [3, 7, 999, 200_000])
def test_equal_weights_have_no_error(n):
    found = weight_report(torch.full((n,), -0.3))
    assert abs(found['log_z'] + 0.3) < 1e-6 and found['se'] < 1e-6


def test_a_linear_energy_shifts_the_prior():
    product = VAEBM(Prior(Known()), Linear(0.8), independence(4), 30)
    z = product.sample(20_000, seed(0))
    assert abs(z.mean() + 0.8) < 0.04 and abs(z.std() - 1) < 0.03
    assert abs(log_z_importance(product, 100_000, seed(1))['log_z'] - 0.32) < 0.02


def test_the_model_of_x_is_the_decoder_under_the_new_prior():
    "z is N(-a, 1) instead of N(0, 1), so x = 2 z + eps_x / 2 is N(-2a, 4.25): by exact posteriors of the old prior."

    class Exact(Known):
        def posterior(self, x):
            return Normal(8 * x / 17, 17**-0.5)

        def decode(self, z):
            return Normal(2 * z[0], 0.5)

    for a in (0.0, 0.6):
        model, x = BothEnergies(Exact(), zero, lambda z, a=a: a * z[:, 0]), torch.linspace(-4, 4, 9)[:, None]
        found = model.log_h(x, 20_000, seed(3)) - a**2 / 2
        assert torch.allclose(found, Normal(-2 * a, 4.25**0.5).log_prob(x)[:, 0], atol=0.02)


def test_both_energies_add(vae):
    energy, latent = MLPEnergy(2, 8), MLPEnergy(3, 8)
    both, eps, x = BothEnergies(vae, energy, latent), torch.randn(6, 5), torch.randn(6, 2)
    half = 0.5 * eps.square().sum(1)
    parts = [energy(vae.transform(eps)), latent(eps[:, 2:]), half]
    assert torch.allclose(both.potential(eps), sum(parts), atol=1e-6)
    value, grad = both.value_and_grad(eps)
    leaf = eps.clone().requires_grad_()
    (expected,) = torch.autograd.grad(both.potential(leaf).sum(), leaf)
    assert torch.allclose(value, both.potential(eps), atol=1e-6) and torch.allclose(grad, expected, atol=1e-5)
    tilted = BothEnergies(vae, zero, latent).log_h(x, 20, seed(1))
    assert torch.allclose(both.log_h(x, 20, seed(1)), tilted - energy(x), atol=1e-5)


def test_chains_of_both_energies_sample_their_product():
    "x = 2 z + eps_x / 2 with E_x = x / 4 and E_z = z / 2: z is N(-1, 1) and eps_x is N(-1/8, 1)."
    both = BothEnergies(Known(), lambda x: 0.25 * x[:, 0], lambda z: 0.5 * z[:, 0])
    for kernel, steps in ((independence(4), 40), (mala(0.5), 80)):
        eps = run(kernel, both, torch.randn(8000, 2, generator=seed(1)), steps, seed(2)).eps
        assert (eps.mean(0) - torch.tensor([-0.125, -1.0])).abs().max() < 0.06
    assert abs(log_z_importance(both, 100_000, seed(3))['log_z'] - (1 + 0.125**2) / 2) < 0.03


def test_the_gradient_of_eq_7_on_latents_in_closed_form():
    "d/da of the loss is the mean code minus the mean negative: 1 - (-a) at equilibrium, and 0 at a = -1."
    for a in (0.0, 0.4, -1.0):
        product = VAEBM(Prior(Known()), Linear(a))
        stage = StageTwo(product, Codes(Known(), torch.zeros(5, 1)), StageTwoConfig(batch_size=50_000))
        z = stage.batch()
        negatives = torch.randn(50_000, 1, generator=seed(1)) - a
        ((loss, _),) = stage.losses(z, negatives)
        loss.backward()
        grad = product.energy.a.grad.item()
        assert abs(grad - (z.mean() - negatives.mean()).item()) < 1e-5 and abs(grad - (1 + a)) < 0.02


def test_eq_7_and_regression_find_the_shift_of_the_codes():
    "Codes N(1, 0.5²): the best linear energy by Eq. 7 has the mean of the codes, a = -1."
    product = VAEBM(Prior(Known()), Linear(0.0))
    config = StageTwoConfig(n_steps=120, lr=0.05, batch_size=512)
    assert fit(StageTwo(product, Codes(Known(), torch.zeros(5, 1)), config), progress=False).outcome == 'finished'
    assert abs(product.energy.a.item() + 1) < 0.1

    class Shifted(Known):
        "Every point is encoded as N(1, 1): log p(z) - log q(z) = 1/2 - z."

        def infer(self, x, generator=None):
            return torch.cat([x, 1 + torch.randn(len(x), 1, generator=generator)], 1)

    class Affine(Linear):
        def __init__(self):
            super().__init__(0.0)
            self.b = nn.Parameter(torch.tensor(0.0))

        def forward(self, z):
            return super().forward(z) + self.b

    product = VAEBM(Prior(Shifted()), Affine())
    config = RatioConfig(n_steps=150, batch_size=1024, lr=0.05)
    fit(DensityRatio(product, Codes(Shifted(), torch.zeros(5, 1)), config), progress=False)
    assert abs(product.energy.a.item() + 1) < 0.1 and abs(product.energy.b.item() - 0.5) < 0.1


def test_the_stage_of_both_samples_both_and_trains_one(vae):
    torch.manual_seed(1)
    energy, latent = MLPEnergy(2, 8), MLPEnergy(3, 8)
    before = [p.clone() for p in latent.parameters()]
    model = BothEnergies(vae, energy, latent)
    stage = StageBoth(model, torch.randn(200, 2, generator=seed(2)), StageTwoConfig(n_steps=5, batch_size=32))
    product, eps = stage.product(energy), torch.randn(4, 5)
    assert torch.equal(product.potential(eps), model.potential(eps))
    first = [p.clone() for p in energy.parameters()]
    assert fit(stage, progress=False).outcome == 'finished'
    assert all(torch.equal(p, q) for p, q in zip(before, latent.parameters()))
    assert not all(torch.equal(p, q) for p, q in zip(first, energy.parameters()))


def test_a_folded_product_keeps_its_latent_energy(vae):
    model = BothEnergies(vae, MLPEnergy(2, 8), MLPEnergy(3, 8), independence(2), 3)
    for again in (fold(model), pickle.loads(pickle.dumps(model))):
        assert isinstance(again, BothEnergies) and torch.equal(again.sample(5, seed(1)), model.sample(5, seed(1)))


def test_the_measure_of_the_likelihood_chapter_agrees(vae):
    "With an energy of x alone `log_h` and `mean_log_likelihood` are two ways to one number."
    truth, energy = GaussianGrid(2), MLPEnergy(2, 8)
    found = mean_log_likelihood(VAEBM(vae, energy), truth, 400, 400, 200, 20_000, seed(5))
    x, both = truth.sample(400, seed(5)), BothEnergies(vae, energy, zero)
    gap = both.log_h(x, 200, seed(6)).mean() - log_z_importance(both, 20_000, seed(7))['log_z']
    assert abs(gap - truth.log_prob(x).mean() - found['vaebm_minus_truth']) < 0.1


def test_codes_come_from_tensors_and_from_sets():
    class Set:
        def sample(self, n, generator=None):
            return torch.full((n, 1), 3.0)

    for x in (torch.full((4, 1), 3.0), Set()):
        z = Codes(Known(), x).sample(5000, seed(1))
        assert z.shape == (5000, 1) and abs(z.mean() - 1) < 0.03 and abs(z.std() - 0.5) < 0.02
        assert torch.equal(z, Codes(Known(), x).sample(5000, seed(1)))


def test_bad_input_is_refused_by_name(vae, tmp_path):
    def told(function, *args):
        return error_message(ValueError, function, *args)

    codes = Codes(Known(), torch.zeros(5, 1))
    assert told(Prior, Pixels((3, 8, 8))) == 'vae must have latents, got one whose noise is eps_x alone'
    assert 'layout' in told(Prior, zero) and 'infer' in told(Codes, Prior(Known()), torch.zeros(5, 1))
    assert 'eps must have shape (B, 1), got (4, 2)' == told(Prior(Known()).transform, torch.zeros(4, 2))
    assert 'x must be finite' in told(Codes, Known(), torch.tensor([[math.nan]]))
    assert 'sample' in told(Codes, Known(), [1.0]) and 'n must be a whole number >= 1' in told(codes.sample, 0)
    assert 'latent' in told(BothEnergies, vae, zero, 3)
    both = BothEnergies(vae, zero, zero)
    assert 'eps must have shape (B, 5), got (2, 4)' == told(both.potential, torch.zeros(2, 4))
    assert 'k must be a whole number >= 1' in told(both.log_h, torch.zeros(2, 2), 0)
    assert 'posterior' in told(BothEnergies(Known(), zero, zero).log_h, torch.zeros(2, 1))
    assert 'latent' in told(StageBoth, VAEBM(vae, MLPEnergy(2, 8)), torch.zeros(5, 2), StageTwoConfig())
    assert 'cannot be saved' in told(both.save, tmp_path / 'both.safetensors')
    assert not list(tmp_path.iterdir())


ROOT = Path(__file__).parents[1]
RECORD = json.loads((ROOT / 'data' / 'results' / 'latent.json').read_text())
PAGE = json.loads((ROOT / 'nbs' / '38_after.ipynb').read_text(encoding='utf-8'))['cells']


def page_cell(name):
    (cell,) = [c for c in PAGE if c['id'] == name]
    return cell


def test_the_record_is_that_of_the_page():
    "Three seeds, the updates of the page's cell, about the same seconds for every training."
    source = ''.join(page_cell('after105')['source'])
    for name, n in RECORD['config']['updates'].items():
        assert f"'{name}': {tuple(n) if isinstance(n, list) else n}" in source
    assert [s['seed'] for s in RECORD['seeds']] == [s['seed'] for s in RECORD['control']['seeds']] == [0, 1, 2]
    for found in RECORD['seeds']:
        rows, marks = found['rows'], found['marks']
        seconds = [r['train_s'] for name, r in rows.items() if name != 'VAE']
        assert len(seconds) == 4 and max(seconds) < 1.6 * min(seconds)
        assert rows['VAE']['gap'] < marks['aggregate'] < marks['unseen'] < marks['seen'] < 0
        assert all(rows['VAE']['gap'] < rows[name]['gap'] < marks['aggregate'] for name in rows if 'latent' in name)
        assert rows['VAEBM']['gap'] > marks['aggregate'] and all(r['ess'] > 0.02 for r in rows.values())


def test_the_page_shows_the_record():
    text = ''.join(page_cell('after106')['outputs'][0]['data']['text/markdown'])
    for name in RECORD['seeds'][0]['rows']:
        gaps = torch.tensor([s['rows'][name]['gap'] for s in RECORD['seeds']], dtype=torch.double)
        assert f'| {name} | {gaps.mean():.3f} ± {gaps.std():.3f} |' in text
