"""Committed records and the manifest agree with each other and with the files that they speak of, and the
start page repeats their numbers; README.md repeats the start page's (test_readme.py).
"""

import ast
import json
import re
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from vaebm.ablations import summary
from vaebm.checkpoints import digest, load_checkpoint
from vaebm.classifier import CLASSIFIERS, ClassifierConfig

ROOT = Path(__file__).parents[1]
CHECKPOINTS = ROOT / 'data' / 'checkpoints'
MANIFEST = json.loads((CHECKPOINTS / 'manifest.json').read_text())
LEAST = {'digit_classifier': 0.993, 'digit_judge': 0.992, 'fashion_classifier': 0.92, 'fashion_judge': 0.92}
INDEX = json.loads((ROOT / 'nbs' / 'index.ipynb').read_text(encoding='utf-8'))['cells']


def test_files_stay_small():
    files = list(CHECKPOINTS.glob('*.safetensors'))
    assert {p.name for p in files} == {entry['file'] for entry in MANIFEST.values()}
    assert all(p.stat().st_size < 12e6 for p in files) and sum(p.stat().st_size for p in files) < 60e6


def test_the_manifest_speaks_of_what_the_files_hold():
    for name, entry in MANIFEST.items():
        assert digest(load_checkpoint(CHECKPOINTS / entry['file'])) == entry['digest'], name
        for other in ('vae', 'base'):
            if other in entry:
                assert MANIFEST[entry[other]['name']]['digest'] == entry[other]['digest'], name
    json.loads((CHECKPOINTS / 'manifest.json').read_text(), parse_constant=pytest.fail)


@pytest.mark.parametrize('name', CLASSIFIERS)
def test_record_says_how_the_weights_came_to_be(name):
    entry, (data, config) = MANIFEST[name], CLASSIFIERS[name]
    assert entry['metrics']['test_accuracy'] >= LEAST[name] and entry['metrics']['n_test'] == 10_000
    assert asdict(ClassifierConfig(**entry['config'])) == asdict(config) and entry['seed'] == config.seed
    assert entry.get('data', 'mnist') == data and entry['command'] and entry['metrics']['wall_s'] > 0
    assert (CHECKPOINTS / entry['file']).stat().st_size < 1e6


def test_recorded_bench_reaches_the_stated_gains():
    "Ratios of the run behind the start page and chapter 14."
    result = json.loads((ROOT / 'data' / 'results' / 'bench.json').read_text())
    assert result['tier'] == 'cpu' and abs(result['gflop']['published'] / 35.2 - 1) < 0.05
    assert result['float32']['ratio'] > 3 and result['bfloat16']['ratio'] > 4
    assert result['memory kept']['float32']['ratio'] > 2.2 and result['memory kept']['bfloat16']['ratio'] > 3
    assert result['gradient difference']['float32'] < 1e-6


def record(name):
    return json.loads((ROOT / 'data' / 'results' / f'{name}.json').read_text())


def stored(cell_id):
    "The table that a cell of the start page shows."
    (cell,) = [c for c in INDEX if c['id'] == cell_id]
    return ''.join(cell['outputs'][0]['data']['text/markdown'])


def shown(kind):
    "The entry of the manifest that the row of an image set shows; the start page names its weights."
    source = '\n'.join(''.join(c['source']) for c in INDEX)
    return MANIFEST[ast.literal_eval(re.search(r'^SHOWN = (\{.*?\})', source, re.M)[1])[kind]]


def of_seeds(reports, key, places):
    d = torch.tensor([r[key] for r in reports], dtype=torch.float64)
    return f'{d.mean():.{places}f} ± {d.std():.{places}f}'


def row(start):
    "Cells of the one line of the start page's table of results that begins so."
    (line,) = re.findall(rf'^\| {re.escape(start)}.*$', stored('index029'), re.M)
    return [cell.strip() for cell in line.strip()[1:-1].split('|')]


@pytest.mark.parametrize(
    ('tier', 'start'),
    [('cpu', '25-Gaussians, '), ('paper', 'the same, trained longer'), ('langevin', '25-Gaussians by local moves')],
)
def test_likelihoods_are_those_of_all_records(tier, start):
    seeds = sorted((ROOT / 'data' / 'results').glob(f'25_gaussians-{tier}-*.json'))
    found = [json.loads(p.read_text())['metrics'] for p in seeds]
    assert len(seeds) == 3 and all(m['modes']['vaebm']['modes'] == 25 for m in found)
    for cell, model in zip(row(start)[1:3], ('vae', 'vaebm')):
        assert cell == ', '.join(
            f"{m['likelihood'][f'{model}_minus_truth']:.3f}".replace('-', '−') for m in found
        )


@pytest.mark.parametrize(
    ('kind', 'name'),
    [('fashion_mnist', 'Fashion-MNIST'), ('stacked_mnist', 'StackedMNIST'), ('cifar10', 'CIFAR-10')],
)
def test_distances_of_images_are_those_of_the_manifest(kind, name):
    """Of rows over several sampling seeds, mean and standard deviation; the row says how the energy
    was trained.
    """
    entry = shown(kind)
    metrics = entry['metrics']
    label, *cells = row(f'{name}, Fréchet distance')
    if 'rows' in metrics:
        (product,) = [found for found in metrics['rows'] if found.startswith('VAEBM, ')]
        found = [metrics['rows'][m] for m in ('VAE, re-adjusted', product)]
        assert cells[:2] == [of_seeds(reports, 'frechet', 2) for reports in found]
        assert cells[2].startswith(product.removeprefix('VAEBM, ') + ', ')
        n = found[0][0]['n']
    else:
        found = [metrics['samples'][m] for m in ('means', 'VAEBM, means')]
        assert cells[:2] == [f"{r['frechet']:.0f}" for r in found]
        assert cells[2].startswith(f"logistic regression × {entry['config']['ratio']['scale']:g}, ")
        n = found[1]['n']
    assert f'{n:,} means' in label


def test_modes_of_stacked_mnist_are_those_of_the_manifest():
    rows = MANIFEST['stacked_mnist']['metrics']['rows']
    label, *cells = row('the same, KL of the 1,000 modes')
    for cell, name in zip(cells, ('VAE, re-adjusted', 'VAEBM, Eq. 7 on means')):
        assert len(rows[name]) == 3 and {r['modes'] for r in rows[name]} == {1000}
        assert cell == of_seeds(rows[name], 'kl_uniform', 3)
    assert f"a perfect model: {rows['test images'][0]['kl_floor']:.3f}" in label


def test_regression_on_stacked_mnist_is_that_of_the_manifest():
    samples = MANIFEST['stacked_mnist_ratio_x10']['metrics']['samples']
    _, *cells = row('StackedMNIST by regression')
    assert cells[:2] == [
        f"{samples[m]['modes']['modes']:,}, {samples[m]['modes']['kl']:.3f}" for m in ('VAE', 'VAEBM')
    ]


def test_controls_of_fashion_mnist_are_those_of_the_records():
    "The start page tells of them, below its table."
    text = '\n'.join(''.join(c['source']) for c in INDEX if c['cell_type'] == 'markdown')
    rows = MANIFEST['fashion_mnist']['metrics']['rows']
    cooled, stretched = (next(r for name, r in rows.items() if word in name) for word in ('cooled', 'contrast'))
    means = [sum(r['frechet'] for r in reports) / len(reports) for reports in (cooled, stretched)]
    assert f'cooled, it is at {means[0]:.2f}, with more contrast at {means[1]:.2f}' in text
    second = record('fashion_mnist-cpu-1')['metrics']['rows']
    told = [of_seeds(second[name], 'frechet', 2) for name in ('VAE, re-adjusted', 'VAEBM, Eq. 7 on means')]
    assert f'another seed, takes {told[0]} to {told[1]}' in text


def test_the_second_seed_of_cifar10_is_that_of_its_record():
    text = '\n'.join(''.join(c['source']) for c in INDEX if c['cell_type'] == 'markdown')
    rows = record('cifar10-cpu-1')['metrics']['rows']
    told = [of_seeds(rows[name], 'frechet', 1) for name in ('VAE, re-adjusted', 'VAEBM, Eq. 7 on means')]
    assert f'from another seed, takes {told[0]} to {told[1]}' in text


def test_ablations_are_those_of_the_record():
    found = record('ablations')
    _, *cells = row('pairs of digits')
    assert cells[:2] == [' ± '.join(f'{v:.1f}' for v in summary(found, m, 'frechet')) for m in ('VAE', 'VAEBM')]


def test_speed_is_that_of_the_benchmark():
    bench = record('bench')
    (full, half), (full_kept, half_kept) = (
        [f"{r[kind]['ratio']:.1f}" for kind in ('float32', 'bfloat16')] for r in (bench, bench['memory kept'])
    )
    kept = 'with memory kept ([chapter 14](14_fast.ipynb))'
    assert f'{full}, in bfloat16 {half}; {kept} {full_kept} and {half_kept}' in stored('index037')


def test_the_run_on_embedded_digits_is_reported_as_it_was():
    page, found = (ROOT / 'nbs' / 'experiments' / 'stacked_mnist_ratio.ipynb').read_text(
        encoding='utf-8'
    ), record('stacked_mnist-embedded')
    modes = {found['metrics']['samples'][m]['modes']['modes'] for m in ('VAE', 'VAEBM')}
    assert (
        len(modes) == 1
        and f'{modes.pop()} modes of 1,000, before and after the energy' in page
        and found['metrics']['vae']['n_train'] == 4500
    )
