"""The public API on a device that is not the CPU's: the same numbers, model, data and generator
there, or the generator on the CPU; `test_device` runs this.
"""

import copy
from functools import partial

import pytest
import torch
from torch import nn

from small import KERNELS, SIZES

from vaebm import runs, samplers
from vaebm.variants import DecoderStage, DigitPairs, PairVAE
from vaebm.data import GaussianGrid, coverage
from vaebm.images import Images, StackedDigits
from vaebm.energy import Grid, MLPEnergy
from vaebm.energy_nets import EnergyResNet
from vaebm.explore import scores, strange_images
from vaebm.fast import calibrate, fold, published_step
from vaebm.layers import data_dependent_init
from vaebm.image_chains import along_chains, cold_start, likelihood_gain, log_z_ais, project
from vaebm.likelihood import log_z_importance, log_z_quadrature, mean_log_likelihood, vae_log_density
from vaebm.chains import log_z_reverse_ais, nuts, stein_discrepancy, tempering, two_sample_accuracy
from vaebm.classifier import ARCHITECTURES, class_report, mode_interval, mode_report
from vaebm.frechet import feature_distance, inception_score, statistics
from vaebm.metrics import cached_statistics, frechet_limit, kernel_distance, precision_recall
from vaebm.ood import auroc
from vaebm.model import VAEBM
from vaebm.batch_norm import readjust_batch_norm, update_batch_norm
from vaebm.nvae import NVAE
from vaebm.experiment import Run, image_run, images_for
from vaebm.pipeline import bound_of, energy_images, evaluators, fair_bases, train_energy, train_vae
from vaebm.rows import rows, sample_figure, strips
from vaebm.report import energy_histogram, neighbours
from vaebm.plot import axes, curve, density, pictures, scatter
from vaebm.ratio import DensityRatio
from vaebm.config import configure
from vaebm.runs import environment
from vaebm.stage_one import ImageStageOne, ImageStageOneConfig, Monitor
from vaebm.stage_two import (
    EnergyConfig,
    ImageStageTwo,
    ImageStageTwoConfig,
    RatioConfig,
    VAEBMConfig,
    build_vaebm,
)
from vaebm.loop import fit
from vaebm.training import StageOne, StageOneConfig, StageTwo, StageTwoConfig
from vaebm.vae import MLPVAE

sim = pytest.importorskip(
    'sim', reason='needs a PyTorch in which Python can make a device', exc_type=ImportError
)


def points(where) -> VAEBM:
    torch.manual_seed(0)
    return VAEBM(MLPVAE(2, 3, 8), MLPEnergy(2, 8)).requires_grad_(False).to(where)


def images(where) -> VAEBM:
    torch.manual_seed(0)
    vae, energy = NVAE(SIZES), EnergyResNet(4, 'd1')
    with torch.no_grad():
        vae.reconstruct(pixels()[:] + 0)  # fills the running statistics
    data_dependent_init(energy, pixels()[:])
    return VAEBM(vae.eval(), energy, samplers.langevin(1e-3), 2).requires_grad_(False).to(where)


def pixels() -> Images:
    return Images(
        torch.randint(256, (24, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    )


def values(tree) -> list:
    "Tensors and numbers of a result, on the CPU."
    if isinstance(tree, Images):
        tree = tree.pixels
    if isinstance(tree, dict):
        tree = list(tree.values())
    if isinstance(tree, (list, tuple)):
        return [v for node in tree for v in values(node)]
    if isinstance(tree, torch.Tensor):
        return [tree.detach().cpu()]
    return [torch.tensor(float(tree))] if isinstance(tree, (int, float)) else []


def both(call):
    """`call(device, generator)` on the CPU, then on the device with a generator of either.

    The same numbers each time.
    """
    expected = values(call(torch.device('cpu'), torch.Generator().manual_seed(1)))
    assert expected
    with sim.device() as device:
        for where in (device, 'cpu'):
            found = values(call(device, torch.Generator(where).manual_seed(1)))
            assert len(found) == len(expected)
            for a, b in zip(found, expected):
                assert torch.allclose(a, b, rtol=1e-5, atol=1e-5, equal_nan=True), where


def test_the_device_refuses_what_a_gpu_refuses():
    with sim.device() as device:
        x = torch.randn(3, 2, device=device)
        refused = {
            'add': lambda: x + torch.zeros(3, 2),
            'index': lambda: torch.zeros(3)[torch.tensor([1], device=device)],
            'randn': lambda: torch.randn(3, generator=torch.Generator(device)),
            'rand': lambda: torch.rand(3, device=device, generator=torch.Generator()),
        }
        for name, call in refused.items():
            with pytest.raises(RuntimeError, match=f'in {name}'):
                call()
        with pytest.raises((RuntimeError, TypeError)):
            x.numpy()
        assert (x + 1).device == x[torch.tensor([0])].device == device and (
            x.cpu() + torch.zeros(3, 2)
        ).device.type == 'cpu'




@pytest.mark.parametrize('name', KERNELS)
def test_chains(name):
    def call(device, generator):
        seen = []
        x = points(device).sample(
            6, generator, KERNELS[name], 3, callback=lambda d: seen.append(d['state'].eps)
        )
        draws = torch.stack(seen + seen, 1)
        return x, samplers.split_rhat(draws), samplers.ess(draws)

    both(call)


def points_in_use(device, generator):
    model, truth = points(device), GaussianGrid(2)
    x = truth.sample(20, generator).to(device)
    yield truth.log_prob(x), list(coverage(truth, x).values())[:3]
    yield (
        model.vae.infer(x, generator),
        model.vae.elbo(x, generator=generator),
        model.vae.iwae(x, 5, generator),
        model.log_h(x, 5, generator),
    )
    yield model.vae.posterior(x).scale, model.value_and_grad(model.vae.infer(x, generator))
    yield vae_log_density(model.vae, x, 50, generator), log_z_importance(model, 50, generator, 20)
    yield log_z_quadrature(model, Grid(3.0, 10), (20, 30), generator), mean_log_likelihood(
        model, truth, 20, 5, 5, 40, generator
    )
    log_f = -Grid(3.0, 10).points.square().sum(1).to(device)
    yield Grid(3.0, 10).sample(log_f, 7, generator), Grid(3.0, 10).log_integral(log_f)
    kernel, start = samplers.mala(0.01), torch.randn(6, 5, generator=torch.Generator().manual_seed(3)).to(
        device
    )
    yield log_z_ais(model, kernel, 6, 3, generator, 4), log_z_reverse_ais(model, kernel, start, 3, generator, 4)


def test_points():
    both(lambda *where: list(points_in_use(*where)))


def images_in_use(device, generator):
    model, data = images(device), pixels()
    x = data[:5].to(device)
    eps = model.vae.infer(x, generator)
    yield (
        eps,
        model.vae.elbo(x, 0.5, generator),
        model.vae.iwae(x, 2, generator),
        model.log_h(x, 2, generator),
        model.vae.sample(3, generator, 0.7),
    )
    yield model.vae.elbo(data[:5], generator=generator)  # images come to the model
    yield (
        model.sample(3, generator, mean=True),
        fold(model).value_and_grad(eps),
        published_step(model, eps),
        model.energy.spectral_penalty(),
    )
    yield cold_start(model.vae, 3, 0.7, generator), project(model.vae, data, 5, generator, 3)
    yield likelihood_gain(model, x, log_z_importance(model, 20, generator, 10))
    path = along_chains(model, 4, (0, 2), generator=generator, chunk=3)
    yield [path[k] for k in path]
    yield log_z_ais(model, samplers.pcn_langevin(0.1, adjust=True), 4, 2, generator)
    for fill in (
        partial(readjust_batch_norm, model.vae, 0.9),
        partial(update_batch_norm, model.vae, data, noise=0.1),
    ):
        fill(n_batches=2, batch_size=4, generator=generator)
    yield list(model.vae.state_dict().values())
    vae = PairVAE(3, 8).requires_grad_(False)
    for w in vae.parameters():
        w.fill_(0.01)
    pairs = DigitPairs(Images(pixels().pixels[:, :1].repeat(1, 1, 4, 4), torch.arange(24)))
    vae, y = vae.to(device), pairs.sample(4, generator).to(device)
    yield vae.elbo(y, generator=generator), vae.sample(2, generator)


def images_kept_on_the_cpu(device, generator):
    "What data-independent functions take from the CPU, and what they give there."
    model, data = images(device), pixels()
    yield likelihood_gain(model, data[:5], log_z_importance(model, 20, generator, 10))
    for kept in (
        project(model.vae, data, 5, generator, 3),
        along_chains(model, 4, (0, 2), generator=generator)[2].images,
    ):
        assert kept.pixels.device.type == 'cpu'
        yield kept
    config = VAEBMConfig(nvae=SIZES, energy=EnergyConfig(4, 'd1'))
    for start in (data[:], data[:].to(device)):
        yield build_vaebm(config, model.vae, start).value_and_grad(model.vae.infer(data[:2], generator))
    yield auroc(*torch.randn(2, 20, generator=torch.Generator().manual_seed(5)).to(device), 10, generator)


def test_images_from_the_cpu():
    both(lambda *where: list(images_kept_on_the_cpu(*where)))


def test_what_the_explorers_compute():
    def call(device, generator):
        sets = strange_images(
            StackedDigits(Images(pixels().pixels[:, :1].repeat(1, 1, 4, 4), torch.arange(24) % 10)),
            4,
            generator,
        )
        return sets, scores(images(device), 0.1, pixels()[:4].to(device))

    both(call)


def test_better_chains_and_their_judges():
    def call(device, generator):
        model = points(device)
        start = torch.randn(6, 5, generator=torch.Generator().manual_seed(1)).to(device)
        kernels = (nuts(0.1, 2), tempering(samplers.mala(0.01), (1, 0.5, 0)))
        ends = [samplers.run(kernel, model, start, 2, generator).eps for kernel in kernels]
        score = -model.value_and_grad(ends[0])[1]
        return *ends, stein_discrepancy(ends[0], score), two_sample_accuracy(*ends, k=3)

    both(call)


@pytest.mark.slow
def test_images():
    both(lambda *where: list(images_in_use(*where)))


def test_timing_of_chain_steps():
    with sim.device() as device:
        rows = calibrate(fold(images(device)), (1, 2), (1,), rounds=1)
        assert (
            len(rows) == 2 and torch.accelerator.synchronize.call_count == 2 * 2 * 2
        )  # warm-up and round, before and after


def evaluated(device, generator):
    torch.manual_seed(0)
    net, x = ARCHITECTURES['plain'](4).eval().requires_grad_(False).to(device), torch.rand(
        30, 1, 32, 32, generator=torch.Generator().manual_seed(2)
    )
    f, other = net.features(x.to(device)), net.features(1 - x.to(device))
    reference = statistics(nn.Identity(), [f])
    assert reference.mean.device.type == reference.cov.device.type == 'cpu'
    yield (
        reference,
        feature_distance(reference, other),
        feature_distance(reference, other[:9]),
        frechet_limit(reference, other).values(),
    )
    yield kernel_distance(f, other), precision_recall(f, other), inception_score(net(x.to(device)))
    read = class_report(net, x.to(device))
    shares = torch.full((10,), 0.1)
    yield (
        read,
        mode_report(read['classes'], shares),
        mode_report(read['classes'], shares.to(device)),
        mode_interval(read['classes'], shares, 5, generator=generator),
    )


def test_metrics():
    both(lambda *where: list(evaluated(*where)))


def test_statistics_of_images_on_disk(tmp_path):
    data, net = Images(torch.randint(256, (12, 1, 32, 32), dtype=torch.uint8)), ARCHITECTURES['plain'](
        4
    ).eval().requires_grad_(False)
    expected = statistics(net, [data[:]])
    with sim.device() as device:
        found = cached_statistics(copy.deepcopy(net).to(device), data, tmp_path, 5)
    assert torch.allclose(found.cov, expected.cov, atol=1e-6)


def stages(device, folder):
    "One stage of each kind, by name; 'file' keeps its replay buffer on disk."
    moves = {
        'kernel': 'langevin',
        'kernel_options': {'step_size': 1e-3},
        'chain_steps': 2,
        'buffer_size': 8,
        'batch_size': 4,
        'n_steps': 6,
    }
    x, start = GaussianGrid(2).sample(30, torch.Generator().manual_seed(4)), images('cpu')
    two = ImageStageTwoConfig(**moves, replay=0.5, flip=True, noise=0.1)
    vae, energy = copy.deepcopy(start.vae), VAEBM(start.vae, start.energy.requires_grad_(True), start.kernel)
    trained = {'points': points('cpu').requires_grad_(True), 'images': energy}
    new = {name: lambda name=name: copy.deepcopy(trained[name]).to(device) for name in trained}
    return {
        'one': lambda: StageOne(new['points']().vae, x, StageOneConfig(6, 8)),
        'two': lambda: StageTwo(new['points'](), x, StageTwoConfig(**moves)),
        'file': lambda: StageTwo(
            new['points'](), x, StageTwoConfig(**moves, half_buffer=True), buffer_path=folder / 'buffer'
        ),
        'image one': lambda: ImageStageOne(
            copy.deepcopy(vae).requires_grad_(True).to(device),
            pixels(),
            ImageStageOneConfig(6, 4, warmup=2, flip=True, noise=0.1),
        ),
        'image two': lambda: ImageStageTwo(new['images'](), pixels(), two),
        'decoder': lambda: DecoderStage(new['images'](), pixels(), two),
        'ratio': lambda: DensityRatio(new['images'](), pixels(), RatioConfig(6, 4)),
    }


@pytest.mark.parametrize(
    'name',
    ['one', 'two', 'file', 'ratio']
    + [pytest.param(name, marks=pytest.mark.slow) for name in ('image one', 'image two', 'decoder')],
)
def test_trainings_and_their_resumption(name, tmp_path):
    def train(device, folder):
        folder.mkdir()
        watch = Monitor(folder, 2) if 'image' in name else None
        file = folder / 'stage.safetensors'
        fit(stages(device, folder)[name](), file, 2, progress=False, until=3)
        stage = stages(device, folder)[name]()
        assert fit(stage, file, 2, progress=False, watch=watch).outcome == 'finished'
        return list(stage.module.parameters())

    expected = values(train(torch.device('cpu'), tmp_path / 'cpu'))
    with sim.device() as device:
        found = values(train(device, tmp_path / 'sim'))
    for a, b in zip(found, expected):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-5)


def test_pictures():
    with sim.device() as device:
        _, (a, b, c, d) = axes(['points', 'density', 'curve', 'images'])
        scatter(a, torch.randn(5, 2, device=device))
        density(b, torch.randn(4, 4, device=device), 1.0)
        curve(c, torch.randn(5, device=device))
        pictures(d, torch.rand(4, 3, 8, 8, device=device))


@pytest.mark.slow
def test_a_run_of_the_pipeline(tmp_path, monkeypatch):
    for module in ('experiment', 'pipeline', 'rows', 'report'):
        monkeypatch.setattr(f'vaebm.{module}.device', lambda: sim.SIM)
    monkeypatch.setattr('vaebm.pipeline.update_batch_norm', partial(update_batch_norm, n_batches=1))
    for module in ('pipeline', 'rows'):
        readjust = partial(readjust_batch_norm, n_batches=1)
        monkeypatch.setattr(f'vaebm.{module}.readjust_batch_norm', readjust)
    tiny = {'nvae': {'groups': 1}, 'stage1': {'n_steps': 2}, 'stage2': {'n_steps': 2, 'batch_size': 4}}
    sizes = {'eval_samples': 10, 'n_samples': 10, 'n_seeds': 1, 'n_reference': 100}
    config = configure(
        image_run('fashion_mnist', 'smoke', tiny), {'data': {'n_projected': 10}, 'evaluation': sizes}
    )
    splits = {}
    for split in ('train', 'test'):
        x = images_for('fashion_mnist', split, False)
        splits[split] = Images(x.pixels[:100], x.labels[:100])
    run = Run(config, tmp_path)
    with sim.device() as device:
        choose, report = evaluators(run, splits)
        vae = train_vae(run, splits['train'])
        bases = fair_bases(run, vae, splits['train'])
        assert all(base.top.device == device for base in bases.values())
        assert len(bound_of(bases, splits['test'][:8], 0.1, 0)) == 3
        seen = energy_images(run, bases['re-adjusted'], splits['train'])
        model, _ = train_energy(run, bases['re-adjusted'], seen, choose)
        assert model.like.device == device
        assert len(rows(run, bases, model, choose, report, splits, seen)) == 11
        sample_figure(run, model, splits['test'])
        strips(run, model, 2)
        near = neighbours(run, model, splits, choose, 3)
        energies = energy_histogram(model, seen[:9], splits['test'][:9], tmp_path / 'energies.png')
        assert all(torch.tensor(v).isfinite() for v in (*near.values(), *energies.values()))


def bounds_in_bfloat16(device):
    "What `reconstruct` gives under autocast, and the bound of the same images and noise."
    vae, x = images(device).vae, pixels()[:6].to(device)

    def generator():
        return torch.Generator().manual_seed(1)

    with torch.autocast(device.type, torch.bfloat16):
        return *vae.reconstruct(x, generator=generator()), vae.elbo(x, generator=generator())


def test_bfloat16_means_the_same_everywhere():
    "Convolutions are in bfloat16, and densities, their means and scales, and KL terms in float32."
    with torch.no_grad():
        latents, p, bound = bounds_in_bfloat16(torch.device('cpu'))
        for g in latents:
            assert {t.dtype for t in (g.z, g.prior.loc, g.prior.scale, g.log_q, g.kl, g.log_p)} == {
                torch.float32
            }
        assert p.loc.dtype == p.scale.dtype == bound.dtype == torch.float32
        exact = images('cpu').vae.elbo(pixels()[:6], generator=torch.Generator().manual_seed(1))
        assert 0 < (bound - exact).abs().max() < 0.02 * exact.abs().max()
        with sim.device() as device:
            there = bounds_in_bfloat16(device)[-1].cpu()
        assert torch.allclose(there, bound, rtol=1e-3)


@pytest.fixture
def gpu(monkeypatch):
    "A machine that says that it has a GPU; its settings are restored afterwards."
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.allow_tf32, matmul.allow_tf32, cudnn.benchmark
    monkeypatch.setattr('torch.cuda.is_available', lambda: True)
    monkeypatch.setattr('torch.cuda.get_device_name', lambda: 'H100')
    monkeypatch.setattr('torch.cuda.max_memory_allocated', lambda: 7)
    monkeypatch.setattr('torch.backends.cudnn.version', lambda: 92_000)
    monkeypatch.setattr(runs, '_driver', lambda: '580.1')
    monkeypatch.delenv('CUBLAS_WORKSPACE_CONFIG', raising=False)
    yield monkeypatch
    cudnn.allow_tf32, matmul.allow_tf32, cudnn.benchmark = before
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize('exact', [False, True])
def test_how_a_gpu_computes_is_chosen_in_one_place_and_recorded(gpu, exact):
    gpu.setenv('VAEBM_DETERMINISTIC', str(int(exact)))
    assert runs.device() == torch.device('cuda')
    found = environment()
    assert (found['device'], found['driver'], found['peak_memory'], found['tf32']) == (
        'H100',
        '580.1',
        7,
        False,
    )
    assert (
        found['deterministic'] is exact
        and found['cudnn_benchmark'] is not exact
        and {'cuda', 'cudnn'} <= found.keys()
    )


def test_without_a_gpu_nothing_is_set(monkeypatch):
    monkeypatch.setattr('torch.cuda.is_available', lambda: False)
    monkeypatch.setenv('VAEBM_DETERMINISTIC', '1')
    assert runs.device() == torch.device('cpu') and not torch.are_deterministic_algorithms_enabled()
    assert environment()['device'] == 'CPU' and 'driver' not in environment()
