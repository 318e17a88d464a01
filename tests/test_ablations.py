"""The driver of the ablations loses no finished row, wherever it is cut.  Every row of the table is a valid
configuration.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vaebm.ablations import TABLES, row_config, sweep
from vaebm.config import error_message
from vaebm.runs import Paused, run_folder

ROOT = Path(__file__).parents[1]
RUN = [
    sys.executable,
    '-c',
    'from vaebm.cli import main; main()',
    str(ROOT / 'nbs' / 'experiments' / 'ablations.ipynb'),
    'tier=smoke',
    'seeds=1',
    'only=VAE;VAEBM',
]


@pytest.mark.parametrize('data', TABLES)
def test_rows_are_configurations_that_differ(data):
    rows = TABLES[data][1]
    configs = [row_config(data, row) for row in rows]
    assert len({repr(c) for c in configs}) == len(rows) >= 6
    assert {c.data for c in configs} == {data} and list(rows)[0] == 'VAE' and configs[0].stage2.n_steps == 0


def test_rows_of_cifar10_are_those_of_appendix_f():
    c = {name: row_config('cifar10', name) for name in TABLES['cifar10'][1]}
    ours, on_x, gan = (c[name] for name in ('VAEBM', 'EBM on x', 'WGAN from VAE'))
    assert (
        ours.stage2.lr,
        ours.stage2.chain_steps,
        ours.stage2.kernel_options,
        ours.sample_steps,
        ours.stage2.replay,
    ) == (5e-5, 5, {'step_size': 8e-5}, 15, 0.6)
    assert (
        on_x.stage2.n_steps,
        on_x.stage2.lr,
        on_x.stage2.chain_steps,
        on_x.stage2.replay,
        on_x.sample_steps,
        on_x.norm,
    ) == (100_000, 1e-4, 60, 0.95, 150, 'spectral')
    assert on_x.stage2.kernel_options['step_size'] == 10 and on_x.stage2.kernel_options['clip'] == 0.01
    assert (gan.stage2.n_steps, gan.stage2.lr, gan.decoder_lr, gan.stage2.chain_steps) == (
        40_000,
        5e-5,
        5e-6,
        0,
    )
    assert (
        c['VAEBM and decoder'].decoder_lr,
        c['VAEBM and decoder'].stage2.chain_steps,
        c['VAEBM and decoder'].stage2.replay,
    ) == (5e-6, 10, 0)


@pytest.mark.slow
def test_a_cut_driver_loses_no_finished_row(tmp_path):
    env = os.environ | {'OMP_NUM_THREADS': '1'}

    def finished():
        return {p: p.stat().st_mtime_ns for p in tmp_path.glob('*/metrics.json')}

    process = subprocess.Popen(
        [*RUN, f'run_dir={tmp_path}'],
        env=env,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 200
    while not finished() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(random.uniform(0, 6))  # somewhere in the next row
    before = finished()
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert before and not (tmp_path / 'ablations.json').exists()
    done = subprocess.run([*RUN, f'run_dir={tmp_path}'], env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    after = finished()
    assert len(after) == 2 and all(after[p] == t for p, t in before.items())
    rows = json.loads((tmp_path / 'ablations.json').read_text())
    assert [r['row'] for r in rows] == ['VAE', 'VAEBM'] and all(
        r['metrics']['status'] == 'finished' for r in rows
    )
    assert len(rows[1]['metrics']['others']) == 11


def test_the_driver_ends_before_the_next_row_when_asked(tmp_path):
    (tmp_path / 'VAE-0').mkdir()
    (tmp_path / 'VAE-0' / 'metrics.json').write_text('{"metrics": {}}')
    asked = iter([False, True])
    text = error_message(
        Paused,
        sweep,
        'no notebook',
        [('VAE', 0), ('VAEBM', 0)],
        tmp_path,
        pause=lambda: next(asked),
        resume_command='the same command',
    )
    assert text == 'paused before VAEBM, seed 0; go on with\nthe same command'


def test_a_finished_row_of_another_configuration_is_refused(tmp_path):
    place = run_folder(tmp_path / 'VAE-0', row_config('pairs', 'VAE', {'stage2': {'lr': 0.1}}))
    (place / 'metrics.json').write_text('{"metrics": {}}')
    text = error_message(ValueError, sweep, 'no notebook', [('VAE', 0)], tmp_path)
    assert 'belongs to another configuration (differs in stage2)' in text
    run_folder(tmp_path / 'again' / 'VAE-0', row_config('pairs', 'VAE'))
    (tmp_path / 'again' / 'VAE-0' / 'metrics.json').write_text('{"metrics": {}}')
    assert sweep('no notebook', [('VAE', 0)], tmp_path / 'again') == [{'row': 'VAE', 'seed': 0, 'metrics': {}}]
