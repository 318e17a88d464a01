"""The numbers and pictures of README.md are those of the committed records and runs, and its example runs."""
import json
import re
from base64 import b64decode
from pathlib import Path

import pytest
import torch

from vaebm.baselines import summary

ROOT = Path(__file__).parents[1]
README = (ROOT / 'README.md').read_text(encoding='utf-8')


def record(name): return json.loads((ROOT / 'data' / 'results' / f'{name}.json').read_text())


def manifest(): return json.loads((ROOT / 'data' / 'checkpoints' / 'manifest.json').read_text())


def row(start):
    "Cells of the one line of the table of results that begins so."
    line, = re.findall(rf'^\| {re.escape(start)}.*$', README, re.M)
    return [cell.strip() for cell in line.strip()[1:-1].split('|')]


@pytest.mark.parametrize(('tier', 'start'), [('cpu', '25-Gaussians'), ('paper', 'the same, tier `paper`')])
def test_likelihoods_are_those_of_all_records(tier, start):
    seeds = sorted((ROOT / 'data' / 'results').glob(f'25_gaussians-{tier}-*.json'))
    found = [json.loads(p.read_text())['metrics'] for p in seeds]
    assert len(seeds) == 3 and all(m['modes']['vaebm']['modes'] == 25 for m in found)
    for cell, model in zip(row(start)[1:3], ('vae', 'vaebm')):
        assert cell == ', '.join(f"{m['likelihood'][f'{model}_minus_truth']:.3f}".replace('-', '−') for m in found)


def test_stacked_mnist_is_that_of_the_manifest():
    rows = manifest()['stacked_mnist']['metrics']['rows']
    _, *frechet = row('StackedMNIST')
    label, *kl = row('the same, KL of the 1,000 modes')
    for k, name in enumerate(('VAE, re-adjusted', 'VAEBM, Eq. 7 on means')):
        assert len(rows[name]) == 3 and {r['modes'] for r in rows[name]} == {1000}
        for cells, key, places in ((frechet, 'frechet', 2), (kl, 'kl_uniform', 3)):
            d = torch.tensor([r[key] for r in rows[name]], dtype=torch.float64)
            assert cells[k] == f'{d.mean():.{places}f} ± {d.std():.{places}f}'
    assert f"a perfect model: {rows['test images'][0]['kl_floor']:.3f}" in label


def test_regression_on_stacked_mnist_is_that_of_the_manifest():
    samples = manifest()['stacked_mnist_ratio_x10']['metrics']['samples']
    _, *cells = row('the same by regression')
    assert cells[:2] == [f"{samples[m]['modes']['modes']}, {samples[m]['modes']['kl']:.3f}" for m in ('VAE', 'VAEBM')]


def test_fashion_mnist_is_that_of_the_manifest():
    rows = manifest()['fashion_mnist']['metrics']['rows']
    def told(name, rows=rows):
        d = torch.tensor([r['frechet'] for r in rows[name]])
        return f'{d.mean():.2f} ± {d.std():.2f}'
    assert row('Fashion-MNIST')[1:3] == [told('VAE, re-adjusted'), told('VAEBM, Eq. 7 on means')]
    cooled, stretched = (next(r for name, r in rows.items() if word in name) for word in ('cooled', 'contrast'))
    means = [sum(r['frechet'] for r in reports) / len(reports) for reports in (cooled, stretched)]
    assert f'cooled, it is at {means[0]:.2f}, with more contrast at {means[1]:.2f}' in README
    second = record('fashion_mnist-cpu-1')['metrics']['rows']
    assert f"another seed, takes {told('VAE, re-adjusted', second)} to {told('VAEBM, Eq. 7 on means', second)}" in README


def test_cifar10_is_that_of_the_manifest():
    samples = manifest()['cifar10_ratio_x30']['metrics']['samples']
    label, *cells = row('CIFAR-10')
    assert cells[:2] == [f"{samples[m]['frechet']:.0f}" for m in ('means', 'VAEBM, means')] and f"{samples['means']['n']:,} means" in label


def test_ablations_are_those_of_the_record():
    found = record('ablations')
    _, *cells = row('pairs of digits')
    assert cells[:2] == [' ± '.join(f'{v:.1f}' for v in summary(found, m, 'frechet')) for m in ('VAE', 'VAEBM')]


def test_speed_is_that_of_the_benchmark():
    bench = record('bench')
    (full, half), (full_kept, half_kept) = ([f"{r[kind]['ratio']:.1f}" for kind in ('float32', 'bfloat16')] for r in (bench, bench['memory kept']))
    assert f'{full}, in bfloat16 {half}; {full_kept} and {half_kept} with memory kept' in row('one chain step')


def test_the_run_on_embedded_digits_is_reported_as_it_was():
    page, found = (ROOT / 'nbs' / 'experiments' / 'stacked_mnist_ratio.ipynb').read_text(encoding='utf-8'), record('stacked_mnist-embedded')
    modes = {found['metrics']['samples'][m]['modes']['modes'] for m in ('VAE', 'VAEBM')}
    assert len(modes) == 1 and f'{modes.pop()} modes of 1,000, before and after the energy' in page and found['metrics']['vae']['n_train'] == 4500


@pytest.mark.parametrize(('experiment', 'cell'), [('25_gaussians', '25gaussians014'), ('fashion_mnist', 'fashionmnist015')])
def test_pictures_are_outputs_of_committed_runs(experiment, cell):
    page = json.loads((ROOT / 'nbs' / 'experiments' / f'{experiment}.ipynb').read_text(encoding='utf-8'))
    output = next(c for c in page['cells'] if c['id'] == cell)['outputs'][-1]['data']
    picture = (ROOT / 'nbs' / 'figures' / f'{experiment}.png').read_bytes()
    assert picture == b64decode(output['image/png']) and len(picture) < 150_000
    assert f"![{''.join(output['text/plain'])}](nbs/figures/{experiment}.png)" in README


def test_example_runs():
    code, = re.findall(r'```python\n(.*?)```', README, re.S)
    names = {}
    exec(code, names)
    assert names['x'].shape == (1000, 2) and names['clothes'].shape == (16, 1, 32, 32)
    assert torch.isfinite(names['fast'].potential(names['eps'][:1])).all()


def test_citation_names_authors_and_place():
    settings = (ROOT / 'settings.ini').read_text(encoding='utf-8')
    for field in ('author', 'git_url'): assert re.search(rf'^{field} = (.*)$', settings, re.M)[1] in README
