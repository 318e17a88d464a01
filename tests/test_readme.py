"""The numbers in README.md are those of the committed records."""
import json
from pathlib import Path

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
