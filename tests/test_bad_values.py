"""Hundreds of generated bad values for fields, arguments, images and files: each is refused by its
name, and none is taken in silence.
"""

from dataclasses import replace
import dataclasses
import io
import math
import random
import re

import numpy as np
import pytest
import torch
from PIL import Image

import small

import vaebm
from vaebm import (
    ablations,
    batch_norm,
    chains,
    checkpoints,
    classifier,
    costs,
    data,
    energy,
    energy_nets,
    experiment,
    fast,
    files,
    full_scale,
    image_chains,
    images,
    layers,
    likelihood,
    loop,
    metrics,
    nvae,
    ood,
    pipeline,
    plot,
    presets,
    ratio,
    released,
    runs,
    samplers,
    stage_one,
    stage_two,
    training,
    vae,
    variants,
)

NAN = math.nan
CONFIGS = [
    training.StageOneConfig,
    training.StageTwoConfig,
    training.NetworkConfig,
    training.Config,
    stage_one.ImageStageOneConfig,
    stage_one.ImageConfig,
    stage_two.ImageStageTwoConfig,
    stage_two.EnergyConfig,
    stage_two.RatioConfig,
    stage_two.VAEBMConfig,
    nvae.NVAEConfig,
    classifier.ClassifierConfig,
    experiment.DataConfig,
    experiment.EvaluationConfig,
    experiment.ImageExperiment,
    presets.PointExperiment,
    ablations.AblationConfig,
]


def bad_field(kind: type, g: random.Random):
    "A value that no field of this type may have."
    if kind is int:
        return g.choice(
            [
                -g.randint(1, 10**6),
                float(g.randint(1, 9)),
                NAN,
                str(g.randint(1, 9)),
                None,
                True,
                [g.randint(1, 9)],
            ]
        )
    if kind is float:
        return g.choice([-g.uniform(1e-9, 1e6), NAN, math.inf, -math.inf, '0.1', None, [0.1]])
    if kind is str:
        return g.choice(
            [
                '../' * g.randint(1, 3) + 'etc',
                f'no {g.randint(1, 9)} such',
                '/absolute',
                'x' * g.randint(1, 3) + '!',
                None,
                g.randint(0, 9),
            ]
        )
    if kind is bool:
        return g.choice(['yes', g.randint(2, 9), None, 0.5])
    if kind is dict:
        return g.choice(
            [
                {f'option{g.randint(0, 9)}': 1},
                {'n_proposals': -g.randint(0, 9)},
                {'n_proposals': 2.5},
                'n_proposals=4',
                None,
            ]
        )
    return g.choice([{}, None, 'default', 3])  # in place of a configuration


@pytest.mark.slow
@pytest.mark.parametrize('config', CONFIGS, ids=lambda c: c.__name__)
def test_every_field_refuses_what_it_cannot_be(config):
    g, silent = random.Random(config.__name__), []
    for field in dataclasses.fields(config):
        for value in [bad_field(field.type, g) for _ in range(4)]:
            try:
                config(**{field.name: value})
            except ValueError as error:
                named = re.search(
                    rf'\b{field.name}\b|\b{"n_proposals" if field.type is dict else field.name}\b', str(error)
                )
            else:
                named = False
            if not named:
                silent.append((field.name, value))
    assert not silent


def numbers(g):
    "Values that are no number of images, steps, chains, ..."
    return [-g.randint(1, 10**4), g.uniform(1, 9), NAN, math.inf, str(g.randint(1, 9)), None]


def tiny_vaebm():
    return vaebm.VAEBM(vae.MLPVAE(2, 3, 8), energy.MLPEnergy(2, 8))


def tiny_images():
    return images.Images(torch.arange(2 * 3 * 8 * 8, dtype=torch.uint8).view(2, 3, 8, 8))


def tiny_nvae():
    return nvae.NVAE(replace(small.SIZES, groups=1)).eval()


def stage():
    return training.StageOne(
        vae.MLPVAE(2, 3, 8), torch.randn(9, 2), training.StageOneConfig(n_steps=2, batch_size=3)
    )


def counts():
    "(name of an argument that counts something, does 0 mean something?, call with a value for it)."
    m = tiny_vaebm()
    grid = data.gaussian_grid()
    x = torch.randn(4, 2)
    n_images = tiny_images()
    net = tiny_nvae()
    buffer = samplers.ReplayBuffer(4, 3)
    kernel = samplers.langevin(0.1)
    features, one = torch.randn(12, 3), lambda v: None
    return [
        ('n', True, grid.sample),
        ('n_side', False, data.GaussianGrid),
        ('n_modes', False, lambda v: data.sigma_from_log_likelihood(0.0, v)),
        ('n', True, n_images.sample),
        ('margin', True, n_images.padded),
        ('high', False, lambda v: data.draw_indices(v, (2,))),
        ('size', False, lambda v: files.center_square(Image.new('RGB', (8, 8)), v)),
        ('n', False, lambda v: energy.Grid(5.0, v)),
        ('width', False, lambda v: energy.mlp(2, 1, v)),
        ('depth', False, lambda v: energy.mlp(2, 1, 8, v)),
        ('dim', False, energy.MLPEnergy),
        ('width', False, lambda v: energy_nets.EnergyResNet(v, 'd1')),
        ('c_in', False, lambda v: energy_nets.EnergyResNet(4, 'd1', v)),
        ('latent', False, lambda v: vae.MLPVAE(2, v, 8)),
        ('k', False, lambda v: m.log_h(x, v)),
        ('k', False, lambda v: m.vae.iwae(x, v)),
        ('chunk', False, lambda v: m.vae.iwae(x, 2, chunk=v)),
        ('n', False, lambda v: list(m.vae.layout.noise(v, 2))),
        ('n', False, m.sample),
        ('n_steps', True, lambda v: vaebm.VAEBM(m.vae, m.energy, None, v)),
        ('n_steps', True, lambda v: samplers.run(kernel, m, torch.randn(2, 5), v)),
        ('n_leapfrog', False, lambda v: samplers.hmc(0.1, v)),
        ('n_leapfrog', False, lambda v: samplers.split_hmc(0.1, v)),
        ('max_depth', False, lambda v: chains.nuts(0.1, v)),
        ('k', False, lambda v: chains.two_sample_accuracy(x, x, v)),
        ('n_proposals', False, samplers.independence),
        ('capacity', False, lambda v: samplers.ReplayBuffer(v, 3)),
        ('dim', False, lambda v: samplers.ReplayBuffer(4, v)),
        ('n', True, lambda v: buffer.draw(v, 0.5)),
        ('kernel', False, lambda v: layers.WNConv2d(2, 2, v)),
        ('c_out', False, lambda v: layers.WNConv2d(2, v, 3)),
        ('n_iter', False, lambda v: layers.SpectralSum(m.energy, v)),
        ('n', False, net.sample),
        ('k', False, lambda v: net.iwae(torch.rand(1, 3, 8, 8), v)),
        ('n_batches', False, lambda v: batch_norm.readjust_batch_norm(net, 1.0, v)),
        ('batch_size', False, lambda v: batch_norm.readjust_batch_norm(net, 1.0, 1, v)),
        ('n_batches', False, lambda v: batch_norm.update_batch_norm(net, n_images, v)),
        ('n', False, lambda v: likelihood.log_z_importance(m, v)),
        ('chunk', False, lambda v: likelihood.log_z_importance(m, 4, None, v)),
        ('n_steps', False, lambda v: image_chains.log_z_ais(m, samplers.mala(0.1), 2, v)),
        ('n_iwae', False, lambda v: likelihood.mean_log_likelihood(m, grid, 4, v)),
        ('n_bootstrap', False, lambda v: ood.auroc(x[:, 0], x[:, 1], v)),
        (
            'n_resamples',
            False,
            lambda v: classifier.mode_interval(torch.zeros(3, 1, dtype=torch.long), torch.ones(10) / 10, v),
        ),
        ('chunk', False, lambda v: image_chains.along_chains(m, 2, (0, 1), chunk=v)),
        ('k', False, lambda v: metrics.precision_recall(features, features, v)),
        ('columns', False, lambda v: plot.make_grid(torch.rand(2, 3, 4, 4), v)),
        ('rounds', False, lambda v: fast.benchmark({'one': one}, v)),
        ('batch_sizes', False, lambda v: fast.calibrate(m, (v,), (1,), 1)),
        ('width', False, lambda v: fast.random_model(1, v)),
        ('every', False, lambda v: loop.fit(stage(), every=v, progress=False)),
        ('until', True, lambda v: loop.fit(stage(), until=v if v is not None else -1, progress=False)),
        ('n', False, lambda v: image_chains.project(net, n_images, v)),
        ('n', False, lambda v: image_chains.cold_start(net, v)),
        ('chunk', False, lambda v: image_chains.likelihood_gain(m, torch.rand(2, 3, 8, 8), {}, chunk=v)),
        ('gpus', False, lambda v: costs.costs(presets.preset('cifar10', 'smoke'), v)),
        ('bits', False, lambda v: pipeline.FewBits(n_images, v)),
        ('n', False, lambda v: full_scale.prepare('cifar10', 'train', 32, v)),
        ('n_steps', False, lambda v: loop.cosine_lr(0, v, 1.0)),
        ('n', False, lambda v: energy.Grid().sample(torch.zeros(40_000), v)),
    ]


@pytest.mark.slow
def test_counts_are_whole_and_not_negative():
    g = random.Random(1)
    silent = []
    n = 0
    for i, (name, zero, call) in enumerate(counts()):
        for value in numbers(g) + ([] if zero else [0]):
            n += 1
            try:
                call(value)
            except (ValueError, TypeError) as error:
                named = re.search(rf'\b{name}\b', str(error))
            except Exception as error:
                named = print(i, name, value, repr(error))
            else:
                named = value is None and name in ('n_steps',)  # None is the default there
            if not named:
                silent.append((i, name, value))
    assert not silent and n > 300


def quantities():
    "(name of an argument, call with a value for it, values that it may not have)."
    m = tiny_vaebm()
    net = tiny_nvae()
    x = torch.rand(2, 3, 8, 8)
    positive = [0.0, -0.5, NAN, math.inf, '1', None]
    weight = [-1e-6, NAN, math.inf, '1', None]
    share = [-0.1, 1.1, NAN, 'half', None]
    pair, net_energy = torch.randn(3, 2), energy.MLPEnergy(2, 8)
    return [
        *[
            ('step_size', make, positive)
            for make in (
                samplers.langevin,
                samplers.mala,
                samplers.pcn_langevin,
                samplers.underdamped,
                samplers.hmc,
                samplers.split_hmc,
                chains.nuts,
            )
        ],
        ('friction', lambda v: samplers.underdamped(0.1, v), weight),
        ('clip', lambda v: samplers.clipped_descent(0.1, v, 0.1), positive),
        ('noise', lambda v: samplers.clipped_descent(0.1, 0.1, v), weight),
        ('p', lambda v: samplers.ReplayBuffer(4, 3).draw(2, v), share),
        ('spacing', data.gaussian_grid, positive),
        ('sigma', lambda v: data.GaussianGrid(5, 2.0, v), positive),
        ('limit', energy.Grid, positive),
        ('gain', lambda v: energy.mlp(2, 1, 8, 2, v), positive),
        ('penalty', lambda v: energy.ebm_loss(net_energy, pair, pair, v), weight),
        ('spectral', lambda v: energy.ebm_loss(net_energy, pair, pair, 0.0, v), weight),
        ('gradient', lambda v: energy.ebm_loss(net_energy, pair, pair, 0.0, 0.0, v), weight),
        ('temperature', lambda v: net.sample(1, None, v), weight),
        ('temperature', lambda v: batch_norm.readjust_batch_norm(net, v, 1, 2), weight),
        ('beta', lambda v: net.elbo(x, v), weight),
        ('beta', lambda v: m.vae.elbo(pair, v), weight),
        ('noise', lambda v: batch_norm.update_batch_norm(net, tiny_images(), 1, 2, v), weight),
        (
            'level',
            lambda v: classifier.mode_interval(torch.zeros(3, 1, dtype=torch.long), torch.ones(10) / 10, 2, v),
            share,
        ),
        (
            'noise',
            lambda v: variants.DigitPairs(
                images.Images(torch.zeros(3, 1, 28, 28, dtype=torch.uint8), torch.zeros(3, dtype=torch.long)), v
            ),
            weight,
        ),
    ]


@pytest.mark.slow
def test_quantities_are_in_their_range():
    silent = []
    for i, (name, call, values) in enumerate(quantities()):
        for value in values:
            try:
                call(value)
            except (ValueError, TypeError) as error:
                named = re.search(rf'\b{name}\b', str(error))
            except Exception as error:
                named = print(i, name, value, repr(error))
            else:
                named = False
            if not named:
                silent.append((i, name, value))
    assert not silent


NAMES = [
    ('name', vaebm.load_pretrained),
    ('name', checkpoints.read_weights),
    ('name', images.load_images),
    ('split', lambda v: images.load_images('mnist', v)),
    ('name', lambda v: presets.preset(v)),
    ('tier', lambda v: presets.preset('cifar10', v)),
    ('source', lambda v: presets.preset('cifar10', 'paper', v)),
    ('name', lambda v: released.load_released_energy({}, v)),
    ('gpu', lambda v: costs.gpu_hours({'flops': 1.0, 'bytes': 0, 'launches': 0}, v)),
    ('kind', lambda v: costs.gpu_hours({'flops': 1.0, 'bytes': 0, 'launches': 0}, 'H100 SXM', v)),
    ('extractor', experiment.Extractor),
    ('kernel', lambda v: samplers.named_kernel(v, {})),
    ('blocks', lambda v: energy_nets.EnergyResNet(4, v)),
    ('name', lambda v: full_scale.write_example(v, 'train', 2, None)),
    ('name', lambda v: full_scale.prepare(v, 'train', 32, 2)),
    ('name', lambda v: runs.publish('.', v)),
    ('row', lambda v: ablations.row_config('pairs', v)),
    ('data', lambda v: ablations.row_config(v, 'VAE')),
    ('norm', lambda v: variants.PlainEnergy(4, 'd1', v, 'swish')),
    ('activation', lambda v: variants.PlainEnergy(4, 'd1', 'none', v)),
]


@pytest.mark.slow
def test_names_are_among_those_that_exist():
    g, silent = random.Random(2), []
    for name, call in NAMES:
        for value in ('../' * g.randint(1, 4) + 'etc', '/absolute/path', f'no {g.randint(0, 99)}', '', 'a/b'):
            try:
                call(value)
            except ValueError as error:
                named = re.search(rf'\b{name}\b', str(error))
            except Exception as error:
                named = print(name, repr(value), repr(error))
            else:
                named = False
            if not named:
                silent.append((name, value))
    assert not silent


def bad_images(g: random.Random, shape: tuple) -> list:
    "Tensors that are no images of this shape."
    x = torch.rand(shape, generator=torch.Generator().manual_seed(g.randint(0, 10**6)))
    broken, whole = x.clone(), (255 * x).round()
    broken.view(-1)[g.randrange(x.numel())] = g.choice([NAN, math.inf, -math.inf])
    return [
        255 * x,
        255 * x - 128,
        65535 * x,
        broken,
        whole.long(),
        whole.int(),
        whole.to(torch.int16),
        (257 * whole).to(torch.int32),
        x[0],
        x[:0],
        x.numpy(),
        None,
    ]


def image_doors():
    net = tiny_nvae()
    evaluator = classifier.load_classifier()
    resnet = energy_nets.EnergyResNet(4, 'd1', 3)
    model = vaebm.VAEBM(net, resnet)
    colour = (2, 3, 8, 8)
    digits = (2, 1, 32, 32)
    regression = stage_two.RatioConfig(n_steps=2, batch_size=2)
    return [
        ('as_images', data.as_images, colour),
        ('to_bytes', data.to_bytes, colour),
        ('infer', net.infer, colour),
        ('elbo', net.elbo, colour),
        ('iwae', lambda x: net.iwae(x, 1), colour),
        ('reconstruct', net.reconstruct, colour),
        ('log_h', lambda x: model.log_h(x, 1), colour),
        ('class_report', lambda x: classifier.class_report(evaluator, x), digits),
        ('make_grid', plot.make_grid, colour),
        (
            'likelihood_gain',
            lambda x: image_chains.likelihood_gain(model, x, {'log_z': 0.0, 'se': 0.0, 'n': 9, 'ess': 1.0}),
            colour,
        ),
        (
            'ImageStageOne',
            lambda x: stage_one.ImageStageOne(
                tiny_nvae(), x, stage_one.ImageStageOneConfig(n_steps=1, batch_size=2)
            ),
            colour,
        ),
        ('DensityRatio', lambda x: ratio.DensityRatio(model, x, regression), colour),
        (
            'ImageStageTwo',
            lambda x: stage_two.ImageStageTwo(model, x, stage_two.ImageStageTwoConfig(n_steps=1, batch_size=2)),
            colour,
        ),
    ]


@pytest.mark.slow
def test_images_that_are_none_are_refused_at_every_door():
    g, silent = random.Random(3), []
    for name, door, shape in image_doors():
        for k, x in enumerate(bad_images(g, shape)):
            try:
                door(x)
            except (ValueError, TypeError) as error:
                named = re.search(r'\b(x|images)\b', str(error))
            except Exception as error:
                named = print(name, k, repr(error))
            else:
                named = False
            if not named:
                silent.append((name, k))
    assert not silent


@pytest.mark.slow
def test_damaged_files_are_named(tmp_path):
    g, silent = random.Random(4), []
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 40, 3), dtype=np.uint8))
    content = {}
    for suffix in ('png', 'jpg', 'webp', 'gif', 'bmp', 'tif'):
        picture.save(buffer := io.BytesIO(), {'jpg': 'jpeg', 'tif': 'tiff'}.get(suffix, suffix))
        content[suffix] = buffer.getvalue()
    np.savez(tmp_path / 'whole.npz', images=np.zeros((3, 8, 8), np.uint8))
    torch.save({'state_dict': {'a': torch.ones(3)}, 'args': {}}, tmp_path / 'whole.pt')
    content |= {'npz': (tmp_path / 'whole.npz').read_bytes(), 'pt': (tmp_path / 'whole.pt').read_bytes()}
    readers = {'npz': images.read_npz, 'pt': released.load_released_nvae}
    for suffix, whole in content.items():
        for k in range(8):
            file = tmp_path / f'file{k}.{suffix}'
            file.write_bytes(
                g.choice(
                    [
                        whole[: g.randrange(len(whole) * 3 // 4)],
                        bytes(g.randrange(256) for _ in range(g.randrange(300))),
                        b'',
                    ]
                )
            )
            try:
                readers.get(suffix, lambda f: files.read_image(f, 16))(file)
            except ValueError as error:
                named = file.name in str(error)
            except Exception as error:
                named = print(file.name, repr(error))
            else:
                named = False
            if not named:
                silent.append(file.name)
    assert not silent
