"""The numbers in README.md are those of the committed records."""
import json
from pathlib import Path

from vaebm.baselines import summary

ROOT = Path(__file__).parents[1]
RECORDS = sorted((ROOT / 'data' / 'results').glob('25_gaussians-*.json'))


def row(record):
    "One line of the README's table."
    likelihood, modes = record['metrics']['likelihood'], record['metrics']['modes']['vaebm']
    gap = lambda name: f"{likelihood[name + '_minus_truth']:.3f} ± {likelihood[name + '_se']:.3f}".replace('-', '−')
    config = record['config']
    return f"| tier `{config['tier']}`, seed {config['seed']} | {gap('vae')} | {gap('vaebm')} | {modes['modes']}/25 | {100 * modes['within_3_sigma']:.1f} % |"


def test_results_table_matches_the_records():
    readme = (ROOT / 'README.md').read_text(encoding='utf-8')
    assert len(RECORDS) >= 4
    for path in RECORDS: assert row(json.loads(path.read_text())) in readme, path.name


def test_bench_table_matches_its_record():
    readme, bench = (ROOT / 'README.md').read_text(encoding='utf-8'), json.loads((ROOT / 'data' / 'results' / 'bench.json').read_text())
    for name, rows in (('default allocator', bench), ('freed memory kept on both sides', bench['memory kept'])):
        assert f"| {name} | {rows['float32']['ratio']:.1f} × | {rows['bfloat16']['ratio']:.1f} × |" in readme
    peak = {how: f"{bench['fresh'][how]['default']['peak MB']:,.0f} MB" for how in ('float32', 'plain')}
    assert f"{peak['float32']} in float32, against {peak['plain']} for the plain networks" in readme


def legs_are_stated(entry, readme):
    "Total time of training, and the command of every leg."
    minutes = sum(leg['metrics']['train_s'] for leg in entry['legs']) / 60
    return f'{minutes:.0f} minutes' in readme and all(leg['command'] in readme for leg in entry['legs'])


def test_stacked_mnist_table_matches_the_manifest():
    readme = (ROOT / 'README.md').read_text(encoding='utf-8')
    entry = json.loads((ROOT / 'data' / 'checkpoints' / 'manifest.json').read_text())['stacked_mnist_nvae']
    m = entry['metrics']
    for name in ('test images', 'reconstructions', 'samples'):
        cells = ['samples of the NVAE' if name == 'samples' else name, f"{m['confidence'][name]:.3f}", f"{m['share_kl'][name]:.3f}", f"{100 * m['accuracy'][name]:.1f} %" if name in m['accuracy'] else '']
        assert ' | '.join(cells).strip() in readme
    assert f"| {m['modes']['modes']}/1000 | {m['modes']['kl']:.3f} |" in readme and legs_are_stated(entry, readme)
    assert f"{m['bound']['elbo']:.0f} nats".replace('-', '−') in readme and f"{m['bound']['bits_per_dim']:.3f} bits" in readme


def test_stacked_mnist_energies_match_the_manifest():
    readme = (ROOT / 'README.md').read_text(encoding='utf-8')
    manifest = json.loads((ROOT / 'data' / 'checkpoints' / 'manifest.json').read_text())
    def row(label, r): return f"| {label} | {r['confidence']:.3f} | {r['share_kl']:.3f} |  | {r['modes']['modes']}/1000 | {r['modes']['kl']:.3f} |"
    short, long = (manifest[name]['metrics'] for name in ('stacked_mnist_short', 'stacked_mnist'))
    assert row('samples of the VAEBM', long['samples']['VAEBM']) in readme
    assert row('samples of the VAEBM, short chains, 8 steps', short['samples']['VAEBM']) in readme and row('the same after 4 steps', short['samples']['after 4']) in readme
    gain = long['gain']['test']
    assert f"the energy adds {gain['gain']:.1f} ± {gain['se']:.1f}" in readme and f"{long['samples']['after 1']['modes']['kl']:.3f} after one cycle" in readme
    projected = manifest['stacked_mnist_projected']['metrics']['samples']['VAEBM']
    assert row('samples of the VAEBM, projected data, 4 steps', projected) in readme and projected['modes']['modes'] == 1000 and projected['modes']['kl'] < .071
    for leg in manifest['stacked_mnist_short']['legs'] + manifest['stacked_mnist_projected']['legs']: assert leg['command'] in readme and f"{(leg['metrics']['ratio_s'] + leg['metrics']['train_s']) / 60:.0f} minutes" in readme


def test_cifar10_table_matches_the_manifest():
    readme = (ROOT / 'README.md').read_text(encoding='utf-8')
    entry = json.loads((ROOT / 'data' / 'checkpoints' / 'manifest.json').read_text())['cifar10_nvae']
    m = entry['metrics']
    for name, distance in m['frechet_efficientnet_lite0'].items():
        assert f"| {m['n_samples'] if name == 'means' else m['n_test']:,} | {distance:.0f} |" in readme, name
    assert legs_are_stated(entry, readme) and f"{sum(leg['metrics']['updates'] for leg in entry['legs']):,} updates" in readme
    assert f"{m['bound']['elbo']:,.0f} nats, {m['bound']['bits_per_dim']:.3f} bits".replace('-', '−') in readme


def test_cifar10_energy_matches_the_manifest():
    readme = (ROOT / 'README.md').read_text(encoding='utf-8')
    entry = json.loads((ROOT / 'data' / 'checkpoints' / 'manifest.json').read_text())['cifar10']
    for name, r in entry['metrics']['samples'].items(): assert f"| {r['n']:,} | {r['frechet']:.0f} | {r['score']:.2f} |" in readme, name
    assert f"lowers the distance of means {entry['metrics']['drop']['means']:.2f} times" in readme and all(leg['command'] in readme for leg in entry['legs'])
    assert f"{sum(leg['metrics']['ratio_s'] + leg['metrics']['train_s'] for leg in entry['legs']) / 60:.0f} minutes on two cores, published as `cifar10`" in readme


def test_the_run_on_embedded_digits_is_reported_as_it_was():
    readme, record = (ROOT / 'README.md').read_text(encoding='utf-8'), json.loads((ROOT / 'data' / 'results' / 'stacked_mnist-embedded.json').read_text())
    vae, model = (record['metrics']['samples'][name]['modes'] for name in ('VAE', 'VAEBM'))
    assert record['command'] in readme and record['metrics']['vae']['n_train'] == 4500
    assert f"{model['modes']} of 1,000 modes, KL {model['kl']:.2f} (the VAE alone {vae['modes']}, {vae['kl']:.2f})" in readme


def test_ablations_are_those_of_the_record():
    readme, found = (ROOT / 'README.md').read_text(encoding='utf-8'), json.loads((ROOT / 'data' / 'results' / 'ablations.json').read_text())
    for row in list(dict.fromkeys(r['row'] for r in found))[:6]:
        (mean, se), (kl, kl_se) = (summary(found, row, key) for key in ('frechet', 'kl'))
        assert f'| {row} | {mean:.1f} ± {se:.1f} | {kl:.2f} ± {kl_se:.2f} |' in readme, row
