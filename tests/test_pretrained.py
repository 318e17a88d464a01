"""Trained weights: found, whole, refused when changed, and as good as their manifest says."""

import json
import multiprocessing
import pickle
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

from small import seed

import vaebm
from vaebm.checkpoints import FORMER_NAMES, CheckpointError, read_manifest, read_weights, save_checkpoint
from vaebm.classifier import class_report, load_classifier
from vaebm.config import configure, error_message, present_names
from vaebm.data import coverage, gaussian_grid
from vaebm.images import StackedDigits, load_images
from vaebm.likelihood import mean_log_likelihood
from vaebm.model import VAEBM
from vaebm.pretrained import model_card, model_cards
from vaebm.runs import publish, write_record
from vaebm.image_chains import along_chains
from vaebm.stage_two import VAEBMConfig, build_vaebm

ROOT = Path(__file__).parents[1]
MANIFEST = json.loads((ROOT / 'data' / 'checkpoints' / 'manifest.json').read_text())


@pytest.fixture
def checkpoints(tmp_path, monkeypatch):
    "A private copy of the weights that tests may damage."
    shutil.copytree(ROOT / 'data' / 'checkpoints', tmp_path / 'checkpoints')
    monkeypatch.setattr('vaebm.checkpoints.checkpoint_folder', lambda: tmp_path / 'checkpoints')
    return tmp_path / 'checkpoints'


def test_pretrained_reaches_the_likelihood_of_its_manifest():
    model = vaebm.load_pretrained('25_gaussians')
    recorded = MANIFEST['25_gaussians']['metrics']['likelihood']
    result = mean_log_likelihood(
        model,
        gaussian_grid(),
        n=20_000,
        n_iwae=500,
        k=1000,
        n_z=100_000,
        generator=torch.Generator().manual_seed(0),
    )
    assert (
        abs(result['vaebm_minus_truth'] - recorded['vaebm_minus_truth']) < 4 * result['vaebm_se'] + 0.03
    )  # .03: fewer posterior samples
    assert result['vaebm_minus_truth'] > result['vae_minus_truth'] + 0.3


def test_pretrained_samples_cover_all_modes():
    x = vaebm.load_pretrained('25_gaussians').sample(5000, generator=torch.Generator().manual_seed(0))
    assert x.shape == (5000, 2) and coverage(gaussian_grid(), x)['modes'] == 25


def test_stacked_mnist_nvae_samples_and_reconstructs_as_its_manifest_says():
    recorded = MANIFEST['stacked_mnist_nvae']['metrics']
    vae = vaebm.load_pretrained('stacked_mnist_nvae')
    classifier = load_classifier()
    g = torch.Generator().manual_seed(0)
    report = class_report(classifier, vae.sample(400, g))
    assert (
        abs(report['confidence'] - recorded['confidence']['samples']) < 0.02
        and report['share_kl'] < recorded['share_kl']['samples'] + 0.03
    )
    x, y = StackedDigits(load_images('mnist', 'test', download=False)).draw(200, g)
    with torch.no_grad():
        classes = class_report(classifier, (vae.reconstruct(x, generator=g)[1].loc + 1) / 2)['classes']
    accuracy = (classes == torch.stack([y // 100, y // 10 % 10, y % 10], 1)).float().mean().item()
    assert (
        accuracy > 0.96
        and recorded['accuracy']['reconstructions'] >= 0.97
        and recorded['modes']['modes'] == 1000
    )


@pytest.mark.parametrize(
    'name', ['stacked_mnist_ratio', 'stacked_mnist_ratio_short', 'stacked_mnist_ratio_x10']
)
def test_stacked_mnist_chains_end_where_its_manifest_says(name):
    entry = MANIFEST[name]
    model = vaebm.load_pretrained(name)
    classifier = load_classifier()
    recorded = {row: r['modes'] for row, r in entry['metrics']['samples'].items()}
    assert recorded['VAEBM']['modes'] == 1000 and recorded['VAEBM']['kl'] < recorded['VAE']['kl']
    torch.set_num_threads(1)  # other tests run beside this one
    path = along_chains(model, 64, (0, model.n_steps), generator=torch.Generator().manual_seed(0))
    for k, snapshot in path.items():
        energies = [part[str(k)]['energy'] for part in entry['metrics']['lengths']]
        assert abs(snapshot.energy.mean() - sum(energies) / len(energies)) < 4 * snapshot.energy.std() / 8, k
    confidence = [class_report(classifier, snapshot.images[:])['confidence'] for snapshot in path.values()]
    assert confidence[1] > confidence[0]
    assert model.sample(2, torch.Generator().manual_seed(0)).shape == (2, 3, 32, 32)


def test_cifar10_chains_end_where_its_manifest_says():
    entry, model = MANIFEST['cifar10_ratio_x30'], vaebm.load_pretrained('cifar10_ratio_x30')
    torch.set_num_threads(1)  # other tests run beside this one
    path = along_chains(model, 48, (0, model.n_steps), generator=torch.Generator().manual_seed(0))
    for k, name in ((0, 'VAE'), (model.n_steps, 'VAEBM')):
        e = path[k].energy
        assert abs(e.mean() - entry['metrics']['energies'][name]) < 4 * e.std() / 48**0.5, name
    assert (
        entry['metrics']['samples']['VAEBM, means']['frechet'] < entry['metrics']['samples']['means']['frechet']
    )


def test_an_energy_is_published_apart_from_its_vae_and_loaded_with_it(checkpoints, tmp_path):
    vae = vaebm.load_pretrained('nvae_digits')
    config = configure(
        VAEBMConfig(nvae=vae.config),
        {
            'energy': {'width': 4, 'blocks': 'd1'},
            'stage2': {'kernel': 'independence', 'kernel_options': {'n_proposals': 2}},
            'sample_steps': 3,
        },
    )
    model = build_vaebm(config, vae, torch.rand(8, 3, 16, 16, generator=torch.Generator().manual_seed(0)))
    save_checkpoint(tmp_path / 'weights.safetensors', model.energy.state_dict())
    write_record(
        tmp_path,
        'digits',
        {'tier': 'cpu'},
        'energy',
        config,
        {},
        vae={'name': 'nvae_digits', 'digest': MANIFEST['nvae_digits']['digest']},
    )
    publish(tmp_path, 'digits', checkpoints)
    loaded, g = vaebm.load_pretrained('digits'), lambda: torch.Generator().manual_seed(1)
    assert torch.equal(loaded.sample(2, g()), model.sample(2, g())) and not any(
        p.requires_grad for p in loaded.parameters()
    )
    manifest = json.loads((checkpoints / 'manifest.json').read_text())
    manifest['digits']['vae']['digest'] = '0'
    (checkpoints / 'manifest.json').write_text(json.dumps(manifest))
    assert 'belongs to nvae_digits of digest 0' in error_message(CheckpointError, vaebm.load_pretrained, 'digits')


@pytest.mark.parametrize('damage', ['truncate', 'flip'])
def test_damaged_weights_are_refused(checkpoints, damage):
    path = checkpoints / MANIFEST['25_gaussians']['file']
    data = path.read_bytes()
    path.write_bytes(data[:-100] if damage == 'truncate' else data[:-1] + bytes([data[-1] ^ 1]))
    text = error_message(CheckpointError, vaebm.load_pretrained, '25_gaussians')
    assert text.startswith(str(path)) and ('is truncated' if damage == 'truncate' else 'was changed') in text


def test_all_names_that_are_offered_load_whatever_was_imported():
    code = """
import sys, vaebm
try: vaebm.load_pretrained('cifar100')
except ValueError as error: text = str(error)
names = text.split('one of ')[1].split(', got')[0].split(', ')
assert names == list(vaebm.list_pretrained()), text
assert 'vaebm.variants' not in sys.modules
print(*[f'{name}={type(vaebm.load_pretrained(name)).__name__}' for name in names])
"""
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    loaded = dict(pair.split('=') for pair in done.stdout.split())
    assert done.returncode == 0, done.stderr
    assert (
        loaded['25_gaussians'],
        loaded['nvae_digits'],
        loaded['cifar10_ratio_x30'],
        loaded['pairs_vae'],
    ) == ('VAEBM', 'NVAE', 'VAEBM', 'PairVAE')
    assert loaded.keys() == {
        name for name, entry in MANIFEST.items() if entry.get('model') not in ('classifier', 'statistics')
    }


def test_a_run_folder_is_loaded_with_its_own_vae(tmp_path):
    vae = vaebm.load_pretrained('nvae_digits')
    config = configure(
        VAEBMConfig(nvae=vae.config),
        {'energy': {'width': 4, 'blocks': 'd1'}, 'sample_steps': 3, 'pixel_noise': False},
    )
    with torch.no_grad():
        vae.top += 0.1  # the run's own, not the published one
    model = build_vaebm(config, vae, torch.rand(8, 3, 16, 16, generator=torch.Generator().manual_seed(0)))
    (tmp_path / 'vae').mkdir()
    save_checkpoint(tmp_path / 'vae' / 'weights.safetensors', vae.state_dict())
    save_checkpoint(tmp_path / 'weights.safetensors', model.energy.state_dict())
    write_record(tmp_path, 'digits', {}, 'energy', config, {}, vae={'name': 'digits_nvae', 'digest': '0'})
    assert torch.equal(
        vaebm.load_pretrained(tmp_path).sample(2, torch.Generator().manual_seed(1)),
        model.sample(2, torch.Generator().manual_seed(1)),
    )
    (tmp_path / 'metrics.json').unlink()
    assert error_message(ValueError, vaebm.load_pretrained, tmp_path).startswith(
        'source must be the folder of a finished run'
    )


@pytest.mark.slow
def test_wheel_carries_the_weights_and_the_image_set(tmp_path):
    copy = tmp_path / 'source'
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns('.venv', '.git', 'runs', 'build', '*.egg-info'))
    subprocess.run(
        [sys.executable, '-m', 'pip', 'wheel', '-q', '--no-deps', '-w', str(tmp_path), str(copy)], check=True
    )
    (wheel,) = tmp_path.glob('*.whl')
    zipfile.ZipFile(wheel).extractall(tmp_path / 'site')
    assert (tmp_path / 'site' / 'vaebm' / 'sets' / 'README.md').exists()
    code = """
import vaebm
from vaebm.images import load_images
print(vaebm.__file__)
print(vaebm.load_pretrained('25_gaussians').vae.layout.size)
print(len(load_images('fashion_mnist', 'test', download=False)))
"""
    done = subprocess.run(
        [sys.executable, '-c', code],
        cwd=tmp_path,
        env={'PYTHONPATH': str(tmp_path / 'site'), 'PATH': ''},
        capture_output=True,
        text=True,
    )
    assert str(tmp_path / 'site') in done.stdout and done.stdout.split()[-2:] == ['22', '2000'], done.stderr


@pytest.mark.parametrize('former, name', FORMER_NAMES.items())
def test_weights_are_found_by_their_former_names(former, name):
    assert former not in MANIFEST and read_weights(former)[0] == present_names(MANIFEST[name])
    assert vaebm.load_pretrained(former).n_steps == vaebm.load_pretrained(name).n_steps


@pytest.mark.parametrize('name', ['25_gaussians', 'nvae_digits', 'stacked_mnist_ratio_x10', 'pairs_vae'])
def test_double_models_sample_double(name):
    single, double = vaebm.load_pretrained(name), vaebm.load_pretrained(name).double()
    options = {'n_steps': 2} if isinstance(single, VAEBM) else {}
    draws = [m.sample(3, seed(0), **options) for m in (single, double)]
    assert draws[0].dtype == torch.float32 and draws[1].dtype == torch.float64 and draws[1].isfinite().all()
    if name == 'nvae_digits':
        assert torch.allclose(
            draws[0].double(), draws[1], atol=1e-4
        )  # chains of two precisions draw other noise


@pytest.mark.parametrize('name', vaebm.list_pretrained())
def test_models_come_back_from_a_pickle(name):
    model = vaebm.load_pretrained(name)
    again, options = pickle.loads(pickle.dumps(model)), {'n_steps': 1} if isinstance(model, VAEBM) else {}
    assert torch.equal(again.sample(2, seed(0), **options), model.sample(2, seed(0), **options))


def draw_elsewhere(model, queue):
    queue.put(model.sample(3, torch.Generator().manual_seed(0)).tolist())


def test_a_model_samples_in_a_spawned_process():
    model, context = vaebm.load_pretrained(), multiprocessing.get_context('spawn')
    queue = context.Queue()
    process = context.Process(target=draw_elsewhere, args=(model, queue))
    process.start()
    drawn = queue.get(timeout=300)
    process.join()
    assert drawn == model.sample(3, seed(0)).tolist()


def test_the_cards_beside_the_weights_are_those_of_the_manifest():
    "Written by `model_cards`: one card for each file, with its digest, its command and its numbers."
    text = (ROOT / 'data' / 'checkpoints' / 'README.md').read_text(encoding='utf-8')
    assert text == model_cards(), 'write model_cards() to data/checkpoints/README.md'
    for name, entry in read_manifest().items():
        card = model_card(name)
        assert card in text and entry['digest'][:12] in card and entry['command'] in card
        assert all(f'**{part}:**' in card for part in ('What', 'Data', 'Training', 'Numbers', 'Limits', 'Licence'))
    assert '-0.05146' in model_card('25_gaussians') and '0.9265' in model_card('fashion_classifier')
    with pytest.raises(ValueError, match='name must be one of 25_gaussians'):
        model_card('nobody')
