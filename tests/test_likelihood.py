"""Likelihoods: in double precision those in single, and bounds that can take part in gradients."""

import pytest
import torch

import fork
from small import seed

import vaebm
from vaebm.data import gaussian_grid
from vaebm.energy import Grid
from vaebm.likelihood import log_z_importance, log_z_quadrature, mean_log_likelihood, vae_log_density


def test_double_chains_give_the_density_of_single_ones():
    truth = gaussian_grid()
    single = vaebm.load_pretrained()
    double = vaebm.load_pretrained().double()
    z = [log_z_importance(m, 20_000, seed(0)) for m in (single, double)]
    assert abs(z[0]['log_z'] - z[1]['log_z']) < 4 * (z[0]['se'] + z[1]['se'])
    values = [mean_log_likelihood(m, truth, 2000, 100, 100, 2000, seed(1)) for m in (single, double)]
    assert abs(values[0]['vaebm_minus_truth'] - values[1]['vaebm_minus_truth']) < 0.5
    assert vae_log_density(double.vae, truth.sample(5, seed(2)).double(), 1000).dtype == torch.float64
    assert (
        abs(
            log_z_quadrature(double, Grid(5.0, 40), (500, 500), seed(3))
            - log_z_quadrature(single, Grid(5.0, 40), (500, 500), seed(3))
        )
        < 1
    )
    assert double.log_h(truth.sample(5, seed(2)).double(), 10).dtype == torch.float64


def test_importance_weighted_bounds_are_ordinary_tensors():
    model = vaebm.load_pretrained()
    x = gaussian_grid().sample(3, seed(0))
    for value in (model.vae.iwae(x, 5), model.log_h(x, 5), vae_log_density(model.vae, x, 50)):
        scale = torch.ones((), dtype=value.dtype, requires_grad=True)
        (scale * value).sum().backward()  # tensors of inference mode cannot take part in this
        assert torch.allclose(scale.grad, value.sum())


QUADRATURE = '''
import resource
import sys

import torch

import vaebm
from vaebm.energy import Grid
from vaebm.fast import keep_memory
from vaebm.likelihood import log_z_quadrature

def largest():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6

torch.set_num_threads(1)
if not keep_memory():
    print('no glibc')
    sys.exit()
model, before = vaebm.load_pretrained('25_gaussians'), largest()
log_z_quadrature(model, Grid(5.5, 221), (400, 20_000), torch.Generator().manual_seed(0))
print(largest() - before)
'''


@pytest.mark.slow
def test_the_quadrature_of_the_main_job_fits_a_laptop(tmp_path):
    """Freed memory is kept, as `vaebm-run` starts its kernels. A list of small results between large blocks
    once left holes that grew to 20 GB.
    """
    process = fork.start(QUADRATURE, log=tmp_path / 'log')
    assert fork.finish(process, 200) == 0, (tmp_path / 'log').read_text()
    said = (tmp_path / 'log').read_text().split('\n')[-2]
    assert said == 'no glibc' or float(said) < 0.8, f'{said} GB'
