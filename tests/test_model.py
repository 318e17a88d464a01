"""VAEBM: the way from `sample` to the networks, chains in any precision, and a model in one file.

Few frames a step, few calls before the first, networks folded once for a set of weights and again after any change.
"""

import copy
import json
import pickle
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.distributions import Normal

from reference import FIXTURES, arrays, close, energy, nvae, same_magnitude, series
from small import KERNELS, SIZES, seed

import vaebm
from vaebm import model as module_of_model, samplers
from vaebm.batch_norm import readjust_batch_norm
from vaebm.checkpoints import CheckpointError, load_checkpoint, save_checkpoint
from vaebm.config import error_message
from vaebm.distributed import pause_when
from vaebm.energy import MLPEnergy
from vaebm.energy_nets import EnergyResNet
from vaebm.fast import fold
from vaebm.layers import data_dependent_init
from vaebm.model import VAEBM, weights_now
from vaebm.nvae import NVAE
from vaebm.samplers import Kernel
from vaebm.image_chains import along_chains, log_z_ais
from vaebm.vae import MLPVAE

LIBRARY = str(Path(vaebm.__file__).parent)
MODULE_CALL = torch.nn.Module._wrapped_call_impl.__code__


def images() -> VAEBM:
    torch.manual_seed(0)
    vae, energy = NVAE(SIZES), EnergyResNet(4, 'd1')
    x = torch.rand(24, 3, 8, 8, generator=seed(1))
    with torch.no_grad():
        vae.reconstruct(x)  # fills the running statistics
    data_dependent_init(energy, x)
    return VAEBM(vae.eval(), energy, samplers.langevin(1e-3), 2)


def points() -> VAEBM:
    torch.manual_seed(0)
    return VAEBM(MLPVAE(2, 3, 8), MLPEnergy(2, 8))


def between(frame, code) -> int:
    "Frames between `frame` and the one of `code` that called it."
    count = 0
    while frame.f_back.f_code is not code:
        frame, count = frame.f_back, count + 1
    return count


def first_module_call(call) -> int:
    "Frames between `samplers.run` and the first call of a network in `call()`."
    found = []

    def look(frame, event, arg):
        if event == 'call' and frame.f_code is MODULE_CALL and not isinstance(frame.f_locals['self'], VAEBM):
            if not found:
                found.append(between(frame, samplers.run.__code__))

    sys.setprofile(look)
    try:
        call()
    finally:
        sys.setprofile(None)
    return found[0]


@pytest.mark.parametrize('make', [points, images])
@pytest.mark.parametrize('name', KERNELS)
def test_at_most_seven_frames_lie_between_run_and_the_networks(make, name):
    model, kernel = make().folded(), KERNELS[name]
    start = torch.randn(3, model.vae.layout.size, generator=seed(2))
    for init in (kernel.init, samplers.init_bare):  # in the second case the first call is that of a step
        bare = samplers.Kernel(init, kernel.step)
        frames = first_module_call(partial(samplers.run, bare, model, start, 1, seed(3)))
        print(name, 'from', init.__name__, frames)
        assert frames <= 7


def test_an_energy_is_called_by_few():
    seen = []

    class Looking(MLPEnergy):
        def forward(self, x):
            seen.append(between(sys._getframe(), samplers.run.__code__))
            return super().forward(x)

    samplers.run(samplers.langevin(0.01), VAEBM(MLPVAE(2, 3, 8), Looking(2, 8)), torch.randn(4, 5), 3)
    assert len(seen) == 3 and max(seen) <= 7


class FirstStep(Exception):
    pass


def calls_before_the_first_step(model) -> int:
    "Functions of the library that `sample` calls before its chains move."
    count = 0

    def look(frame, event, arg):
        nonlocal count
        count += event == 'call' and frame.f_code.co_filename.startswith(LIBRARY)

    def step(state, potential, generator):
        raise FirstStep

    kernel = samplers.Kernel(samplers.init_bare, step)
    with pytest.raises(FirstStep):
        sys.setprofile(look)
        try:
            model.sample(2, seed(0), kernel, 1)
        finally:
            sys.setprofile(None)
    return count


@pytest.mark.parametrize('make', [points, images])
def test_few_calls_come_before_the_first_step(make):
    model = make()
    model.sample(2, seed(0), n_steps=0)
    assert calls_before_the_first_step(model) <= 25


@pytest.fixture
def folds(monkeypatch):
    "The products that have been folded."
    made = []

    def counting(module, dtype=None):
        made.append(module)
        return vaebm.fold(module, dtype)

    monkeypatch.setattr(module_of_model, 'fold', counting)
    return made


def adam(model, **options):
    optimizer = torch.optim.Adam(model.energy.parameters(), 0.1, **options)
    model.energy(torch.rand(2, 3, 8, 8, generator=seed(4)).to(model.like)).sum().backward()
    optimizer.step()


def other_weights(model):
    return {name: w + 0.1 for name, w in model.state_dict().items()}


def in_place(model):
    with torch.no_grad():
        model.energy.linear.weight.mul_(1.5)


def new_memory(model):
    weight = model.energy.linear.weight
    weight.data = weight.data * 1.5


def vector_twice(model):
    for _ in range(2):
        vector = torch.nn.utils.parameters_to_vector(model.parameters())
        torch.nn.utils.vector_to_parameters(1.2 * vector, model.parameters())


def statistics_move(model):
    model.vae.train()
    with torch.no_grad():
        model.vae.sample(8, seed(5))
    model.vae.eval()


def another_energy(model):
    torch.manual_seed(9)
    model.energy = EnergyResNet(4, 'd1')


def another_part(model):
    model.energy.linear = torch.nn.Linear(4, 1)


def energy_of_a_function(model):
    del model.energy
    model.energy = lambda x: x.flatten(1).sum(1)


CHANGES = {
    'optimiser': adam,
    'many tensors at once': lambda model: adam(model, foreach=True),
    'one kernel': lambda model: adam(model, fused=True),
    'load_state_dict': lambda model: model.load_state_dict(other_weights(model)),
    'load_state_dict, assigned': lambda model: model.load_state_dict(other_weights(model), assign=True),
    'in place': in_place,
    'other memory': new_memory,
    'a vector of all': vector_twice,
    'double': lambda model: model.double(),
    'double and back': lambda model: (in_place(model.double()), model.float()),
    'batch norms move': statistics_move,
    'train mode': lambda model: model.train(),
    'no pixel noise': lambda model: setattr(model.vae, 'pixel_noise', False),
    'another energy': another_energy,
    'another part': another_part,
    'energy of a function': energy_of_a_function,
}


@pytest.mark.parametrize('name', CHANGES)
def test_samples_are_those_of_the_weights_now(name, folds):
    model = images()
    first = model.sample(3, seed(1))
    assert torch.equal(model.sample(3, seed(1)), first) and folds.count(model) == 1
    CHANGES[name](model)
    found = model.sample(3, seed(1))
    assert folds.count(model) == 2
    fresh = copy.deepcopy(model)
    assert fresh._folded is None and torch.equal(found, fresh.sample(3, seed(1)))
    assert name == 'train mode' or not torch.equal(found.float(), first)
    assert torch.equal(model.sample(3, seed(1)), found) and folds.count(model) == 2


def test_functions_as_energies_are_told_apart(folds):
    model = VAEBM(images().vae, lambda x: x.flatten(1).sum(1), samplers.langevin(1e-3), 2)
    model.sample(2, seed(1))
    model.energy = lambda x: 100 * x.flatten(1).square().sum(1)
    assert torch.equal(model.sample(2, seed(1)), copy.copy(model).sample(2, seed(1)))
    assert folds.count(model) == 2


def test_copies_and_pickles_fold_for_themselves(folds):
    model = images()
    x = model.sample(3, seed(1))
    for again in (copy.copy(model), copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert again._folded is None
        assert torch.equal(again.sample(3, seed(1)), x) and folds.count(again) == 1
    changed = copy.deepcopy(model)
    in_place(changed)
    assert not torch.equal(changed.sample(3, seed(1)), x) and torch.equal(model.sample(3, seed(1)), x)
    assert not any('_folded' in name for name in model.state_dict()) and len(list(model.children())) == 2


def test_what_has_nothing_to_fold_is_not_kept():
    model = points()
    assert model.folded() is model and model._folded is None


def test_inference_mode_keeps_nothing(folds):
    model = images()
    with torch.inference_mode():
        counted = folds.count(model)
        model.folded()
        model.folded()
        assert folds.count(model) == counted + 2 and model._folded is None
        made_there = MLPEnergy(2, 8)
    assert weights_now(made_there) is None
    model.sample(2, seed(0))
    assert folds.count(model) == counted + 3


@pytest.mark.parametrize('name', ['25_gaussians', 'stacked_mnist_ratio_x10'])
def test_a_model_goes_into_one_file_and_comes_back(tmp_path, name):
    model = vaebm.load_pretrained(name)
    model.save(tmp_path / 'mine.safetensors')
    for again in (
        VAEBM.load(tmp_path / 'mine.safetensors'),
        vaebm.load_pretrained(tmp_path / 'mine.safetensors'),
    ):
        assert torch.equal(
            again.sample(2, torch.Generator().manual_seed(0)), model.sample(2, torch.Generator().manual_seed(0))
        )
        assert again.n_steps == model.n_steps and again.kernel.made == model.kernel.made and not again.training


def test_what_cannot_be_saved_or_loaded_says_so(tmp_path):
    model = vaebm.load_pretrained('stacked_mnist_ratio_x10')
    assert error_message(ValueError, VAEBM(model.vae, torch.nn.Flatten(0)).save, tmp_path / 'a').startswith(
        'energy must be one of MLPVAE'
    )
    assert error_message(ValueError, fold(model).save, tmp_path / 'a').startswith('vae must be whole to be saved')
    assert error_message(
        ValueError,
        VAEBM(model.vae, model.energy, Kernel(model.kernel.init, model.kernel.step)).save,
        tmp_path / 'a',
    ).startswith('kernel must be one of `vaebm.samplers`')
    save_checkpoint(tmp_path / 'other.safetensors', {'w': torch.ones(2)})
    assert (
        error_message(CheckpointError, VAEBM.load, tmp_path / 'other.safetensors')
        == f"{tmp_path / 'other.safetensors'} must be a file that `VAEBM.save` wrote"
    )
    model.save(tmp_path / 'mine.safetensors')
    foreign = load_checkpoint(tmp_path / 'mine.safetensors')
    foreign['vaebm']['energy']['class'] = 'Popen'
    save_checkpoint(tmp_path / 'foreign.safetensors', foreign)
    assert 'holds no model of this library' in error_message(
        CheckpointError, VAEBM.load, tmp_path / 'foreign.safetensors'
    )
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        'foreign.safetensors',
        'mine.safetensors',
        'other.safetensors',
    ]


def published_potential(model, net, eps):
    """The potential that the published code differentiates: densities of z and of the clamped image
    instead of the noise's; see chapter 08.
    """
    eps_x, eps_z = model.layout.split(eps)
    latents, p = model.generate(eps_z)
    x = (p.loc + p.scale * eps_x).clamp(-1, 1)
    floor = Normal(p.loc, (p.scale - 0.01).clamp_min(np.exp(-2)) + 0.01)
    return net((x + 1) / 2) - sum(l.log_p for l in latents) - floor.log_prob(x).sum((1, 2, 3))


@pytest.mark.parametrize('name', ['langevin_A_step8e-5', 'langevin_A_step1e-2'])
def test_published_chain(name):
    model, _ = nvae('nvae_A')
    net, _ = energy('ebm_CIFAR32')
    t = arrays(name)
    s = json.loads((FIXTURES / f'{name}.json').read_text())

    def join(prefix, what):
        return model.layout.join(t[f'{prefix}/{what}_x'], series(t, f'{prefix}/{what}_z'))

    eps = join('step0', 'eps')
    for k in range(s['num_steps']):
        eps = eps.requires_grad_()
        potential = published_potential(model, net, eps)
        same_magnitude(potential.detach(), t[f'step{k}/dvalue_per_sample'])
        (grad,) = torch.autograd.grad(potential.sum(), eps)
        recorded = join(f'step{k}', 'grad') * s['batch']
        assert (grad - recorded).norm() <= 1e-4 * recorded.norm()
        eps = eps.detach() - s['step_size'] / 2 * grad + s['step_size'] ** 0.5 * join(f'step{k}', 'noise')
    close(eps, join('final', 'eps'), 1e-5)


def test_chains_of_nothing_are_refused():
    points, images = vaebm.load_pretrained(), vaebm.load_pretrained('nvae_digits')
    assert error_message(ValueError, points.sample, 2, n_steps=-1) == 'n_steps must be a whole number >= 0, got -1'
    assert (
        error_message(ValueError, points.sample, 0)
        == error_message(ValueError, images.sample, 0)
        == 'n must be a whole number >= 1, got 0'
    )
    assert error_message(ValueError, points.log_h, torch.zeros(2, 2), k=0) == 'k must be a whole number >= 1, got 0'
    start = torch.zeros(2, points.vae.layout.size)
    start[1, 3] = float('nan')
    assert (
        error_message(ValueError, points.sample, 2, start=start)
        == 'start must be finite, but 1 of 2 rows hold NaN or infinity, the first at index 1'
    )
    assert error_message(ValueError, pause_when, '.', float('nan')) == 'seconds must be >= 0, got nan'


def test_double_images_pass_every_chain():
    torch.manual_seed(0)
    model = VAEBM(
        vaebm.load_pretrained('nvae_digits').double(),
        EnergyResNet(4, 'd1').double(),
        samplers.langevin(1e-4),
        2,
    )
    path = along_chains(model, 2, (0, 1), generator=seed(0))
    assert path[1].energy.dtype == torch.float64
    assert log_z_ais(model, samplers.pcn_langevin(0.1, adjust=True), 2, 2, seed(1))['n'] == 2
    readjust_batch_norm(model.vae, 1.0, 1, 4, seed(2))
    x = torch.rand(2, 3, 16, 16)
    assert {
        t.dtype
        for t in (model.vae.infer(x), model.vae.elbo(x), model.vae.iwae(x, 1), model.vae.noiseless().sample(2))
    } == {torch.float64}
    assert (
        fold(model).energy.weight.dtype == torch.float64
        and fold(vaebm.load_pretrained('nvae_digits').half()).head[1].weight.dtype == torch.float32
    )
