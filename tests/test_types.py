"""Types and devices: double precision stays double, chains and models travel between processes, noise is drawn where the weights are, NaN is counted."""
import multiprocessing
import pickle

import pytest
import torch

import vaebm
from vaebm import samplers
from vaebm.baselines import PairVAE, Pixels, PlainEnergy
from vaebm.data import NotFinite, gaussian_grid
from vaebm.energy import EnergyResNet, MLPEnergy, spectral_penalty
from vaebm.fast import fold
from vaebm.layers import conv_matrices, data_dependent_init
from vaebm.likelihood import log_z_ais, log_z_importance, log_z_quadrature, mean_log_likelihood, vae_log_density, weight_report
from vaebm.metrics import Statistics, along_chains, feature_distance, frechet_distance, frechet_limit, inception_score, kernel_distance, precision_recall, statistics
from vaebm.model import VAEBM
from vaebm.energy import Grid
from vaebm.nvae import readjust_batch_norm
from vaebm.runs import message
from vaebm.vae import MLPVAE

KERNELS = {'langevin': samplers.langevin(.01), 'mala': samplers.mala(.01), 'pcn_langevin': samplers.pcn_langevin(.1, adjust=True), 'underdamped': samplers.underdamped(.1, 2.), 'hmc': samplers.hmc(.1, 3), 'independence': samplers.independence(2),
           'split_hmc': samplers.split_hmc(.1, 2), 'clipped_descent': samplers.clipped_descent(1., .1, .01), 'cycle': samplers.cycle(samplers.mala(.01), samplers.independence(2))}


def seed(k): return torch.Generator().manual_seed(k)


@pytest.mark.parametrize('name', ['25_gaussians', 'nvae_digits', 'stacked_mnist_ratio_x10', 'pairs_vae'])
def test_double_models_sample_double(name):
    single, double = vaebm.load_pretrained(name), vaebm.load_pretrained(name).double()
    options = {'n_steps': 2} if isinstance(single, VAEBM) else {}
    draws = [m.sample(3, seed(0), **options) for m in (single, double)]
    assert draws[0].dtype == torch.float32 and draws[1].dtype == torch.float64 and draws[1].isfinite().all()
    if name == 'nvae_digits': assert torch.allclose(draws[0].double(), draws[1], atol=1e-4)   # chains of two precisions draw other noise


def test_double_chains_give_the_density_of_single_ones():
    truth, single, double = gaussian_grid(), vaebm.load_pretrained(), vaebm.load_pretrained().double()
    z = [log_z_importance(m, 20_000, seed(0)) for m in (single, double)]
    assert abs(z[0]['log_z'] - z[1]['log_z']) < 4 * (z[0]['se'] + z[1]['se'])
    values = [mean_log_likelihood(m, truth, 2000, 100, 100, 2000, seed(1)) for m in (single, double)]
    assert abs(values[0]['vaebm_minus_truth'] - values[1]['vaebm_minus_truth']) < .5
    assert vae_log_density(double.vae, truth.sample(5, seed(2)).double(), 1000).dtype == torch.float64
    assert abs(log_z_quadrature(double, Grid(5., 40), (500, 500), seed(3)) - log_z_quadrature(single, Grid(5., 40), (500, 500), seed(3))) < 1
    assert double.log_h(truth.sample(5, seed(2)).double(), 10).dtype == torch.float64


def test_double_images_pass_every_chain():
    torch.manual_seed(0)
    model = VAEBM(vaebm.load_pretrained('nvae_digits').double(), EnergyResNet(4, 'd1').double(), samplers.langevin(1e-4), 2)
    path = along_chains(model, 2, (0, 1), generator=seed(0))
    assert path[1].energy.dtype == torch.float64
    assert log_z_ais(model, samplers.pcn_langevin(.1, adjust=True), 2, 2, seed(1))['n'] == 2
    readjust_batch_norm(model.vae, 1., 1, 4, seed(2))
    x = torch.rand(2, 3, 16, 16)
    assert {t.dtype for t in (model.vae.infer(x), model.vae.elbo(x), model.vae.iwae(x, 1), model.vae.noiseless().sample(2))} == {torch.float64}
    assert fold(model).energy.weight.dtype == torch.float64 and fold(vaebm.load_pretrained('nvae_digits').half()).head[1].weight.dtype == torch.float32


def test_importance_weighted_bounds_are_ordinary_tensors():
    model = vaebm.load_pretrained()
    x = gaussian_grid().sample(3, seed(0))
    for value in (model.vae.iwae(x, 5), model.log_h(x, 5), vae_log_density(model.vae, x, 50)):
        scale = torch.ones((), dtype=value.dtype, requires_grad=True)
        (scale * value).sum().backward()   # tensors of inference mode cannot take part in this
        assert torch.allclose(scale.grad, value.sum())


@pytest.mark.parametrize('name', KERNELS)
def test_kernels_come_back_from_a_pickle_and_from_their_names(name):
    kernel, potential, start = KERNELS[name], VAEBM(MLPVAE(2, 3, 8), MLPEnergy(2, 8)), torch.randn(4, 5, generator=seed(1))
    ends = [samplers.run(k, potential, start, 4, seed(2)).eps for k in (kernel, pickle.loads(pickle.dumps(kernel)), samplers.named_kernel(*kernel.made))]
    assert kernel.made[0] == name and torch.equal(ends[0], ends[1]) and torch.equal(ends[0], ends[2]) and not torch.equal(ends[0], start)


@pytest.mark.parametrize('name', vaebm.list_pretrained())
def test_models_come_back_from_a_pickle(name):
    model = vaebm.load_pretrained(name)
    again, options = pickle.loads(pickle.dumps(model)), {'n_steps': 1} if isinstance(model, VAEBM) else {}
    assert torch.equal(again.sample(2, seed(0), **options), model.sample(2, seed(0), **options))


def draw_elsewhere(model, queue): queue.put(model.sample(3, torch.Generator().manual_seed(0)).tolist())


def test_a_model_samples_in_a_spawned_process():
    model, context = vaebm.load_pretrained(), multiprocessing.get_context('spawn')
    queue = context.Queue()
    process = context.Process(target=draw_elsewhere, args=(model, queue))
    process.start()
    drawn = queue.get(timeout=300)
    process.join()
    assert drawn == model.sample(3, seed(0)).tolist()


def test_noise_is_drawn_where_the_weights_are():
    vae = MLPVAE(2, 3, 8).to('meta')
    x = torch.empty(4, 2, device='meta')
    assert {t.device.type for t in (vae.infer(x), vae.elbo(x), vae.iwae(x, 3))} == {'meta'}
    model = VAEBM(vae, MLPEnergy(2, 8).to('meta'))
    assert model.like.device.type == 'meta' and next(vae.layout.noise(2, 2, None, model.like)).device.type == 'meta'
    assert samplers.normal_like(torch.empty(2, 3, device='meta'), seed(0)).device.type == 'meta'   # a generator of another device serves as well


def test_features_that_are_not_finite_are_counted():
    f, reference = torch.randn(20, 4, generator=seed(0)), statistics(torch.nn.Identity(), [torch.randn(30, 4, generator=seed(1))])
    f[[3, 7, 8], 1] = float('nan')
    said = {'statistics': lambda: statistics(torch.nn.Identity(), [f]), 'feature_distance': lambda: feature_distance(reference, f), 'frechet_limit': lambda: frechet_limit(reference, f), 'kernel_distance': lambda: kernel_distance(f, f),
            'precision_recall': lambda: precision_recall(f, f), 'inception_score': lambda: inception_score(f)}
    for name, call in said.items(): assert '3 of 20 rows hold NaN or infinity, the first at index 3' in message(NotFinite, call), name
    assert 'the moments b must be finite' in message(NotFinite, frechet_distance, reference, Statistics(9, torch.full((4,), float('inf')).double(), torch.eye(4).double()))
    log_w = torch.zeros(9); log_w[4] = float('nan'); log_w[5] = float('inf')
    assert message(NotFinite, weight_report, log_w) == 'log_w must be below infinity, but 2 of 9 are not, the first at index 4'
    assert weight_report(torch.tensor([0., -float('inf')]))['ess'] == .5


def test_every_network_of_convolutions_has_a_spectral_penalty():
    torch.manual_seed(0)
    plain = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(4 * 36, 1))
    expected = torch.linalg.matrix_norm(plain[0].weight.flatten(1), 2) + torch.linalg.matrix_norm(plain[2].weight, 2)
    assert torch.allclose(spectral_penalty(plain), expected)
    for net in (PlainEnergy(8, 'd1 2', 'none', 'leaky', 3), PlainEnergy(8, 'd1 2', 'weight', 'leaky', 3), EnergyResNet(8, 'd1 2')):
        data_dependent_init(net, torch.rand(8, 3, 16, 16, generator=seed(1)))
        exact = sum(torch.linalg.matrix_norm(w, 2) for w in conv_matrices(net))
        assert len(conv_matrices(net)) == 7 and abs(spectral_penalty(net) / exact - 1) < .02
    assert 'got Tanh' in message(ValueError, spectral_penalty, torch.nn.Tanh())


def test_images_without_a_decoder_can_be_pickled_and_saved(tmp_path):
    model = VAEBM(Pixels((3, 8, 8)), PlainEnergy(4, 'd1', 'none', 'swish', 3), samplers.langevin(.01), 2)
    model.save(tmp_path / 'pixels.safetensors')
    for again in (pickle.loads(pickle.dumps(model)), VAEBM.load(tmp_path / 'pixels.safetensors')): assert torch.equal(again.sample(2, seed(0)), model.sample(2, seed(0)))
    assert PairVAE(latent=3, width=8).arguments == {'latent': 3, 'width': 8, 'learned': False}
