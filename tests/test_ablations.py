"""The driver of the ablations loses no finished row, wherever it is cut, and every row of the table is a valid configuration."""
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vaebm.baselines import BASE, ROWS, AblationConfig
from vaebm.runs import configure

ROOT = Path(__file__).parents[1]
RUN = [sys.executable, '-c', 'from vaebm.runs import main; main()', str(ROOT / 'nbs' / 'experiments' / 'ablations.ipynb'), 'tier=smoke', 'seeds=1', 'only=VAE;VAEBM']


def test_rows_are_configurations_that_differ():
    configs = [configure(configure(AblationConfig(), BASE), changes) for changes in ROWS.values()]
    assert len({repr(c) for c in configs}) == len(ROWS) > 10


@pytest.mark.slow
def test_a_cut_driver_loses_no_finished_row(tmp_path):
    env = os.environ | {'OMP_NUM_THREADS': '1'}
    finished = lambda: {p: p.stat().st_mtime_ns for p in tmp_path.glob('*/metrics.json')}
    process = subprocess.Popen([*RUN, f'run_dir={tmp_path}'], env=env, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 200
    while not finished() and process.poll() is None and time.monotonic() < deadline: time.sleep(.05)
    time.sleep(random.uniform(0, 6))   # somewhere in the next row
    before = finished()
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert before and not (tmp_path / 'ablations.json').exists()
    done = subprocess.run([*RUN, f'run_dir={tmp_path}'], env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    after = finished()
    assert len(after) == 2 and all(after[p] == t for p, t in before.items())
    rows = json.loads((tmp_path / 'ablations.json').read_text())
    assert [r['row'] for r in rows] == ['VAE', 'VAEBM'] and all(r['metrics']['status'] == 'finished' for r in rows)
    assert len(rows[1]['metrics']['others']) == 11
