"""Better chains: the no-U-turn sampler and parallel tempering against closed forms, the Stein discrepancy against
automatic differentiation, and the two-sample test against scikit-learn.
"""

import math

import pytest
import torch
from sklearn.model_selection import LeaveOneOut, cross_val_predict
from sklearn.neighbors import KNeighborsClassifier

from small import seed

from vaebm.chains import nuts, stein_discrepancy, tempering, two_sample_accuracy
from vaebm.samplers import ess, mala, pcn_langevin, run

A = torch.tensor([[2.0, 0.6], [0.6, 1.0]])
SHIFT = torch.tensor([0.5, -0.3])


def correlated(eps):
    return 0.5 * ((eps - SHIFT) @ A * (eps - SHIFT)).sum(-1)


def modes(eps):
    "A quarter of N(3, 1/4) and three quarters of N(-3, 1/4)."
    right, left = (-2 * (eps - m).square().sum(-1) for m in (3, -3))
    return -torch.logaddexp(right, left + math.log(3))


def draws(kernel, potential, start, n_steps, k):
    rows = []
    run(kernel, potential, start, n_steps, seed(k), lambda d: rows.append(d['state'].eps))
    return torch.stack(rows, 1)


def close(x, mean, cov):
    "Mean and covariance of the draws x, shape (chains, draws, D), within 4.5 standard errors."
    flat = x.flatten(0, 1)
    assert ((flat.mean(0) - mean).abs() < 4.5 * (cov.diagonal() / ess(x)).sqrt()).all()
    pairs = (x - mean)[..., :, None] * (x - mean)[..., None, :]
    assert ((pairs.mean((0, 1)) - cov).abs() < 4.5 * (pairs.flatten(0, 1).std(0) / ess(pairs).sqrt())).all()


@pytest.mark.parametrize('step_size, max_depth', [(0.9, 5), (0.5, 1)])
def test_nuts_keeps_a_gaussian(step_size, max_depth):
    "Started from exact draws, so that any error is one of the kernel."
    root = torch.linalg.cholesky(A.inverse())
    start = SHIFT + torch.randn(150, 2, generator=seed(0)) @ root.T
    close(draws(nuts(step_size, max_depth), correlated, start, 12, 1), SHIFT, A.inverse())


def test_nuts_arrives_and_goes_further_than_mala():
    start = torch.full((30, 2), 3.0)
    x, y = draws(nuts(0.5), correlated, start, 40, 2), draws(mala(0.25), correlated, start, 40, 2)
    close(x[:, 10:], SHIFT, A.inverse())
    assert ess(x[:, 10:]).min() > 3 * ess(y[:, 10:]).min()


def test_a_path_of_nuts_ends_where_the_potential_breaks():
    def wall(eps):
        return correlated(eps) + torch.where(eps[:, 0] > 0.7, torch.inf, 0.0)

    x = draws(nuts(0.5), wall, torch.zeros(20, 2), 10, 3)
    assert x.isfinite().all() and (x[..., 0] <= 0.7).all() and len(x.flatten(0, 1).unique(dim=0)) > 100


def test_chains_of_nuts_do_not_depend_on_their_neighbours():
    "Their momenta given, and nothing else drawn at random: one doubling, always accepted."
    start = torch.randn(5, 2, generator=seed(4))
    alone = draws(nuts(0.4), correlated, start[:1], 1, 5)
    again = draws(nuts(0.4), correlated, start[:1], 1, 5)
    assert torch.equal(alone, again) and not torch.equal(alone, start[:1, None])


def test_tempering_finds_the_weights_of_two_modes():
    start = torch.full((200, 1), 3.0)
    x = draws(tempering(mala(0.1), (1, 0.5, 0.2, 0.1, 0)), modes, start, 200, 6)[:, 50:]
    assert (draws(mala(0.1), modes, start, 200, 7) > 0).all()
    right = (x > 0).double()
    assert abs(right.mean() - 0.25) < 4.5 * (0.1875 / ess(right).item()) ** 0.5
    assert abs(x[x < 0].var() - 0.25) < 0.02


def test_tempering_keeps_a_gaussian_and_its_bookkeeping():
    start = SHIFT + torch.randn(400, 2, generator=seed(8)) @ torch.linalg.cholesky(A.inverse()).T
    kernel = tempering(pcn_langevin(0.5, adjust=True), (1, 0.4, 0))
    close(draws(kernel, correlated, start, 30, 9), SHIFT, A.inverse())
    state = run(kernel, correlated, start, 3, seed(10))
    flat = state.every.eps.flatten(0, 1)
    assert torch.equal(state.eps, state.every.eps[0]) and state.rounds == 3
    assert torch.allclose(state.every.potential.flatten(), correlated(flat), atol=1e-5)
    assert torch.allclose(state.every.grad.flatten(0, 1), (flat - SHIFT) @ A, atol=1e-5)


@pytest.mark.parametrize('betas', [(1,), (1, 0.5), (0.9, 0), (1, 0.2, 0.5, 0), (1, 0.5, 0.5, 0), ()])
def test_betas_must_fall_from_one_to_zero(betas):
    with pytest.raises(ValueError, match='betas must fall from 1 to 0'):
        tempering(mala(0.1), betas)


def test_the_stein_discrepancy_is_that_of_automatic_differentiation():
    x, d = torch.randn(6, 3, generator=seed(11), dtype=torch.float64), 3
    score = torch.autograd.functional.jacobian(lambda e: -modes(e).sum(), x)

    def kernel(a, b):
        return (1 + (a - b).square().sum() / d) ** -0.5

    def stein(a, b, s, t):
        da, db = torch.autograd.functional.jacobian(kernel, (a, b))
        mixed = torch.autograd.functional.hessian(kernel, (a, b))[0][1].trace()
        return kernel(a, b) * (s @ t) + s @ db + t @ da + mixed

    pairs = [stein(x[i], x[j], score[i], score[j]) for i in range(6) for j in range(6) if i != j]
    assert stein_discrepancy(x, score) == pytest.approx(sum(pairs).item() / 30, rel=1e-9)


def test_the_stein_discrepancy_is_zero_for_its_own_density_alone():
    x = torch.randn(40, 200, 4, generator=seed(12))
    own = torch.tensor([stein_discrepancy(part, -part) for part in x])
    wrong = torch.tensor([stein_discrepancy(part + 0.3, -part - 0.3) for part in x])
    assert abs(own.mean()) < 4 * own.std() / 40**0.5 and wrong.mean() > 5 * own.std()


@pytest.mark.parametrize('shape', [(1, 3), (5, 2), (5,)])
def test_samples_and_scores_must_fit(shape):
    with pytest.raises(ValueError, match='x and score must have one shape'):
        stein_discrepancy(torch.zeros(shape), torch.zeros(1, 3) if shape == (1, 3) else torch.zeros(5, 3))


@pytest.mark.parametrize('k', [1, 5])
def test_the_two_sample_test_is_that_of_scikit_learn(k):
    a, b = torch.randn(20, 3, generator=seed(13)), torch.randn(15, 3, generator=seed(14)) + 0.5
    labels = [0] * 20 + [1] * 15
    theirs = cross_val_predict(KNeighborsClassifier(k), torch.cat([a, b]).numpy(), labels, cv=LeaveOneOut())
    assert two_sample_accuracy(a, b, k) == pytest.approx((theirs == labels).mean(), abs=1e-6)


def test_the_two_sample_test_knows_equal_sets_and_distant_ones():
    a, b = torch.randn(2, 1000, 1, generator=seed(15))
    assert abs(two_sample_accuracy(a, b) - 0.5) < 0.06
    best = 0.5 * (1 + math.erf(1 / math.sqrt(2)))  # of N(0, 1) and N(2, 1)
    assert best - 0.04 < two_sample_accuracy(a, b + 2) < best + 0.03
    with pytest.raises(ValueError, match='rows of the same features'):
        two_sample_accuracy(a, b.expand(-1, 2))
    with pytest.raises(ValueError, match='k must be a whole number from 1 to 2'):
        two_sample_accuracy(a, b[:3])
