"""The main job from the command line: its smoke tier, its refusals, and training that survives SIGKILL bit for bit."""
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from vaebm.runs import load_checkpoint

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / 'nbs' / 'experiments' / '25_gaussians.ipynb'
ONE_THREAD = os.environ | {'OMP_NUM_THREADS': '1'}  # tests run side by side, and two thread pools on two cores crawl


def vaebm_run(*args):
    return subprocess.run([sys.executable, '-c', 'from vaebm.runs import main; main()', str(NOTEBOOK), *args], env=ONE_THREAD, capture_output=True, text=True, timeout=300)


def test_smoke_tier_writes_a_whole_run_folder(tmp_path):
    done = vaebm_run('tier=smoke', f'run_dir={tmp_path}')
    assert done.returncode == 0, done.stderr[-3000:]
    assert 'minus truth' in done.stdout
    assert {'config.json', 'metrics.json', 'weights.safetensors', 'notebook.ipynb', 'figure4.png', 'training.png'} <= {p.name for p in tmp_path.iterdir()}
    metrics = json.loads((tmp_path / 'metrics.json').read_text())['metrics']
    assert abs(metrics['likelihood']['truth'] + 1.10) < .02
    again = vaebm_run('tier=smoke', 'seed=1', f'run_dir={tmp_path}')
    assert again.returncode != 0 and 'belongs to another configuration' in again.stderr


def test_unknown_parameter_is_refused_before_anything_runs(tmp_path):
    done = vaebm_run('teir=smoke', f'run_dir={tmp_path}')
    assert done.returncode != 0 and "unknown parameter 'teir'" in done.stderr and 'allowed: tier, seed' in done.stderr


def test_unknown_parameter_is_refused_under_plain_papermill(tmp_path):
    done = subprocess.run([sys.executable, '-m', 'papermill', str(NOTEBOOK), str(tmp_path / 'out.ipynb'), '-p', 'stage3', '1', '-p', 'tier', 'smoke',
                           '-k', 'python3', '--cwd', str(tmp_path), '--no-progress-bar'], env=ONE_THREAD, capture_output=True, text=True, timeout=300)
    assert done.returncode != 0 and "unknown parameter 'stage3'" in done.stderr


TRAIN = """
import sys, torch
from vaebm.data import gaussian_grid
from vaebm.runs import configure
from vaebm.training import Config, StageOne, StageTwo, build, fit
torch.set_num_threads(1)
small = {'network': {'width': 32}, 'stage1': {'n_steps': 300}, 'stage2': {'n_steps': 800, 'batch_size': 128, 'buffer_size': 256, 'replay': .9, 'replay_anneal': 100}}
config = configure(Config(), small)
train = gaussian_grid().sample(2000, generator=torch.Generator().manual_seed(0))
model = build(config)
for number, stage in (1, StageOne(model.vae, train, config.stage1)), (2, StageTwo(model, train, config.stage2)):
    assert fit(stage, f'{sys.argv[1]}/stage{number}.safetensors', every=20, progress=False) == 'finished'
"""


def train(folder, kill_after=None):
    "Run the training in its own process; with `kill_after`, SIGKILL it that many seconds after its first checkpoint appears."
    process = subprocess.Popen([sys.executable, '-c', TRAIN, str(folder)], stderr=subprocess.PIPE, env=ONE_THREAD)
    if kill_after is not None:
        newest = lambda: max((p.stat().st_mtime for p in folder.glob('stage*.safetensors')), default=0)
        before = newest()
        while newest() == before and process.poll() is None: time.sleep(.01)
        time.sleep(kill_after)
        if process.poll() is None: process.send_signal(signal.SIGKILL)
    _, error = process.communicate(timeout=300)
    assert process.returncode in (0, -signal.SIGKILL), error.decode()
    return process.returncode == -signal.SIGKILL


def same(a, b):
    if isinstance(a, torch.Tensor): return torch.equal(a, b)
    if isinstance(a, dict): return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list): return len(a) == len(b) and all(map(same, a, b))
    return a == b


@pytest.mark.parametrize('n_kills', [2, pytest.param(10, marks=pytest.mark.slow)])
def test_killed_training_resumes_bit_for_bit(tmp_path, n_kills):
    whole, killed = tmp_path / 'whole', tmp_path / 'killed'
    whole.mkdir(); killed.mkdir()
    train(whole)
    moments = random.Random(n_kills)
    kills, stages = 0, []
    for _ in range(n_kills):
        kills += train(killed, moments.uniform(0, .3))
        stages.append(2 if (killed / 'stage2.safetensors').exists() else 1)
    print('stage at each kill:', stages)
    assert kills == n_kills, 'the training ended before all kills were sent: make it longer'
    train(killed)
    for name in ('stage1.safetensors', 'stage2.safetensors'):
        assert same(load_checkpoint(whole / name), load_checkpoint(killed / name))
    assert not list(killed.glob('*.tmp')), 'a half-written file outlived the next whole one'
