"""The pipeline of the small image runs: configurations, judges, controls, and weights stored as a change of others."""
import copy
import json

import pytest
import torch

from vaebm.data import Images
from vaebm.energy import EnergyResNet
from vaebm.fast import fold
from vaebm.model import VAEBM
from vaebm.nvae import NVAE, NVAEConfig
from vaebm.pipeline import (JUDGES, RUNS, Judge, ZeroEnergy, bound_of, changed, image_run, images_for, sample_product, sample_vae,
                            stretched)
from vaebm.runs import CheckpointError, message, publish, read_weights, save_checkpoint, write_json
from vaebm.training import make_kernel

TINY = NVAEConfig(image_size=32, groups=2, latent=2, channels_enc=4, channels_dec=4, blocks_pre=3, blocks_post=3, cells_pre=1, cells_post=1,
                  cells_enc=1, cells_dec=1, flows=0, channels=1)


def seeded(k): return torch.Generator().manual_seed(k)


def tiny(seed=0):
    torch.manual_seed(seed)
    return NVAE(TINY).eval().requires_grad_(False)


@pytest.mark.parametrize('name', RUNS)
def test_every_tier_of_every_run_is_a_configuration(name):
    cpu, smoke = (image_run(name, tier, {'seed': 4}) for tier in ('cpu', 'smoke'))
    assert cpu.model.tier == 'cpu' and cpu.model.seed == 4 and cpu.data == name and name in JUDGES
    assert smoke.model.stage1.n_steps == 10 and smoke.model.stage2.n_steps == 4
    assert cpu.model.nvae.channels == (1 if name == 'fashion_mnist' else 3)
    assert not cpu.model.pixel_noise and cpu.model.ratio.n_steps == 0   # Eq. 7 from a fresh energy, on means


def test_unknown_names_are_refused_with_those_that_exist():
    assert 'fashion_mnist, stacked_mnist, cifar10' in message(ValueError, image_run, 'mnist', 'cpu', {})
    assert 'smoke, quick, cpu' in message(ValueError, image_run, 'fashion_mnist', 'paper', {})
    assert "unknown parameter 'stage3'" in message(ValueError, image_run, 'fashion_mnist', 'cpu', {'stage3': {}})


def test_the_network_that_reports_is_not_the_one_that_chooses():
    assert {data for data, (chooses, reports) in JUDGES.items() if chooses == reports} == {'cifar10'}   # which keeps its last weights


def test_stretching_keeps_the_mean_and_multiplies_the_contrast():
    x = .5 + .1 * torch.rand(3, 1, 8, 8, generator=seeded(0))
    y = stretched(x, 2.)
    assert torch.allclose(y.mean((1, 2, 3)), x.mean((1, 2, 3))) and torch.allclose(y.std((1, 2, 3)), 2 * x.std((1, 2, 3)))
    assert stretched(torch.tensor([[[[0., 1.]]]]), 3.).tolist() == [[[[0., 1.]]]]


def test_an_energy_of_zero_leaves_the_prior():
    vae, config = tiny().noiseless(), image_run('fashion_mnist', 'smoke', {})
    images = sample_product(config, VAEBM(vae, ZeroEnergy()), 200, seeded(1))
    assert all(x.shape == (200, 1, 32, 32) for x in images.values())
    assert torch.allclose(images['start'][:5], sample_vae(vae, 200, seeded(1))[:5], atol=1 / 255)
    assert not torch.equal(images['start'], images['picked']) and not torch.equal(images['picked'], images['end'])
    assert max(abs(images[name].mean() - images['start'].mean()) for name in ('picked', 'end')) < .01


def test_the_parts_of_the_kernel_are_the_kernel():
    config, vae = image_run('fashion_mnist', 'smoke', {}), tiny().noiseless()
    torch.manual_seed(5)
    model = VAEBM(vae, EnergyResNet(4, 'd1 d1', 1).requires_grad_(False), make_kernel(config.model.stage2), 1)
    parts = sample_product(config, model, 8, seeded(6))['end']
    whole = model.sample(8, seeded(6), mean=True)
    assert torch.allclose(parts, whole, atol=1 / 255)


def test_bounds_of_equal_models_differ_by_nothing():
    vae, x = tiny(), torch.rand(20, 1, 32, 32, generator=seeded(2))
    found = bound_of({'a': vae, 'b': copy.deepcopy(vae)}, x, .1, 0)
    assert found['b']['difference'] == found['b']['difference_se'] == 0
    assert abs(found['a']['bits_pixel'] - found['a']['bits_density'] - 6.9944) < 1e-3   # log2(255 / 2)
    assert abs(found['a']['elbo'] + found['a']['bits_density'] * 1024 * torch.log(torch.tensor(2.)).item()) < 1e-2


def test_a_judge_finds_no_distance_between_a_set_and_itself():
    train = images_for('fashion_mnist', 'train', download=False)
    few = Images(train.pixels[:600], train.labels[:600])
    judge = Judge('fashion_classifier', 'fashion_mnist', few, 600)
    same, other = judge.report(few.sample(600, seeded(3))), judge.report(1 - few.sample(600, seeded(3)))
    assert same['frechet'] < .2 * other['frechet'] and same['share_kl'] < .05
    assert 0 < same['saturated'] < 1 and same['n'] == 600


def test_weights_can_be_a_change_of_others(tmp_path, monkeypatch):
    monkeypatch.setattr('vaebm.runs.checkpoint_folder', lambda: tmp_path)
    state = tiny().state_dict()
    new = {name: t + 1 if name.endswith('running_mean') else t for name, t in state.items()}
    assert set(changed(new, state)) == {name for name in state if name.endswith('running_mean')}
    def put(name, tensors, **more):
        folder = tmp_path / f'run-{name}'
        folder.mkdir()
        save_checkpoint(folder / 'weights.safetensors', tensors)
        from vaebm.runs import write_record
        write_record(folder, 'fashion_mnist', {}, 'nvae', TINY, {}, **more)
        return publish(folder, name, tmp_path)['digest']
    digest = put('plain', state)
    put('moved', changed(new, state), base={'name': 'plain', 'digest': digest})
    found = read_weights('moved')[1]
    assert found.keys() == state.keys() and all(torch.equal(found[name], new[name]) for name in new)
    manifest = json.loads((tmp_path / 'manifest.json').read_text())
    manifest['moved']['base']['digest'] = 'f00'
    write_json(tmp_path / 'manifest.json', manifest)
    assert 'is a change of plain' in message(CheckpointError, read_weights, 'moved')


def test_one_channel_is_folded_like_three():
    vae, eps = tiny(1), torch.randn(3, 1024 + 2 * 2 * 16, generator=seeded(4))
    with torch.no_grad(): assert torch.allclose(fold(vae).transform(eps), vae.transform(eps), atol=1e-5)
