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
from fork import finish, start

from vaebm.runs import load_checkpoint

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / 'nbs' / 'experiments' / '25_gaussians.ipynb'
ONE_THREAD = os.environ | {'OMP_NUM_THREADS': '1'}  # tests run side by side, and two thread pools on two cores crawl


def vaebm_run(*args, notebook=NOTEBOOK, **env):
    return subprocess.run([sys.executable, '-c', 'from vaebm.cli import main; main()', str(notebook), *args], env=ONE_THREAD | env, capture_output=True, text=True, timeout=300)


def test_smoke_tier_writes_a_whole_run_folder(tmp_path):
    done = vaebm_run('tier=smoke', f'run_dir={tmp_path}')
    assert done.returncode == 0, done.stderr[-3000:]
    assert 'minus truth' in done.stdout
    assert {'config.json', 'metrics.json', 'weights.safetensors', 'notebook.ipynb', 'figure4.png', 'training.png'} <= {p.name for p in tmp_path.iterdir()}
    record, notebook = json.loads((tmp_path / 'metrics.json').read_text()), (tmp_path / 'notebook.ipynb').read_bytes()
    assert abs(record['metrics']['likelihood']['truth'] + 1.10) < .02
    assert record['status'] == 'finished' and record['data_sets']['train']['count'] == 2000 and 0 < record['metrics']['train_s'] < record['metrics']['wall_s']
    again = vaebm_run('tier=smoke', 'seed=1', f'run_dir={tmp_path}')
    assert again.returncode == 2 and 'belongs to another configuration' in again.stderr and again.stderr.count('\n') == 1
    assert (tmp_path / 'notebook.ipynb').read_bytes() == notebook and {p.name for p in tmp_path.glob('*.ipynb')} == {'notebook.ipynb'}


def test_a_first_stage_that_stops_ends_the_run_with_its_reason(tmp_path):
    "The weights before the update that went wrong are on disk, and no weights are handed on."
    done = vaebm_run('tier=smoke', 'stage1={"lr": 600.0}', f'run_dir={tmp_path}')
    assert done.returncode == 1 and 'Traceback' not in done.stderr
    assert done.stderr.splitlines()[-1].startswith('error: stage 1 stopped: ') and 'is not finite at update' in done.stderr
    record = json.loads((tmp_path / 'metrics.json').read_text(), parse_constant=pytest.fail)
    assert record['status'].startswith('stage 1 stopped: ') and '"lr": 600.0' in record['command']
    assert not (tmp_path / 'weights.safetensors').exists() and (tmp_path / 'notebook.ipynb').exists()


@pytest.mark.slow
def test_a_second_stage_that_stops_is_told_at_the_end(tmp_path):
    "The run is evaluated with the restored weights; running it again changes neither that nor the seconds of training."
    records = []
    for _ in range(2):
        done = vaebm_run('tier=smoke', 'stage2={"lr": 1000.0}', f'run_dir={tmp_path}')
        assert done.returncode == 1 and done.stderr.splitlines()[-1].startswith('error: stopped: ')
        records.append(json.loads((tmp_path / 'metrics.json').read_text(), parse_constant=pytest.fail))
    first, second = records
    assert first['status'].startswith('stopped: ') and first['status'] == first['metrics']['status'] == second['status']
    assert first['digest'] == second['digest'] and second['metrics']['train_s'] >= .9 * first['metrics']['train_s']
    assert all(v.isfinite().all() for v in load_checkpoint(tmp_path / 'weights.safetensors').values())


@pytest.mark.slow
@pytest.mark.parametrize('name', ['fashion_mnist', 'stacked_mnist', 'cifar10'])
def test_image_experiments_need_nothing_but_the_packages(tmp_path, name):
    (tmp_path / 'no data').mkdir()
    done = vaebm_run('tier=smoke', f'run_dir={tmp_path}/run', notebook=NOTEBOOK.with_name(f'{name}.ipynb'), VAEBM_DATA=str(tmp_path / 'no data'))
    assert done.returncode == 0, done.stderr[-3000:]
    record = json.loads((tmp_path / 'run' / 'metrics.json').read_text())
    assert record['command'] == f'vaebm-run nbs/experiments/{name}.ipynb tier=smoke seed=0'
    assert record['metrics']['n_train'] == (10_000 if name == 'fashion_mnist' else 4500)   # the images of the package
    assert {'training.png', 'samples.png', 'strips.png', 'neighbours.png', 'energies.png', 'weights.safetensors'} <= {p.name for p in (tmp_path / 'run').iterdir()}
    rows = record['metrics']['rows']
    assert {'test images', 'VAE, re-adjusted', 'VAE, picked by global moves alone', 'VAEBM, Eq. 7 on means'} <= rows.keys()
    assert len(rows['VAEBM, Eq. 7 on means']) == 2 and any((tmp_path / 'run' / 'tensorboard').iterdir())


@pytest.mark.slow
@pytest.mark.parametrize('name', ['stacked_mnist_ratio', 'cifar10_ratio'])
def test_experiments_by_regression_need_nothing_but_the_packages(tmp_path, name):
    (tmp_path / 'no data').mkdir()
    done = vaebm_run('tier=smoke', f'run_dir={tmp_path}/run', notebook=NOTEBOOK.with_name(f'{name}.ipynb'), VAEBM_DATA=str(tmp_path / 'no data'))
    assert done.returncode == 0, done.stderr[-3000:]
    record = json.loads((tmp_path / 'run' / 'metrics.json').read_text())
    assert record['metrics']['status'] == 'finished' and len(record['legs']) == 1
    assert name == 'cifar10_ratio' or record['metrics']['vae']['n_train'] == 4500
    assert {'training.png', 'weights.safetensors'} <= {p.name for p in (tmp_path / 'run').iterdir()}
    assert {'vae_samples.png', 'reconstructions.png', 'training.png', 'weights.safetensors'} <= {p.name for p in (tmp_path / 'run' / 'vae').iterdir()}


@pytest.mark.slow
def test_architectures_keep_finished_rows(tmp_path):
    run = lambda: vaebm_run('tier=smoke', f'run_dir={tmp_path}', notebook=NOTEBOOK.with_name('architectures.ipynb'))
    assert run().returncode == 0
    record, rows = json.loads((tmp_path / 'metrics.json').read_text()), sorted(tmp_path.glob('????????????.json'))
    assert len(rows) == len(record['rows']) == 3 and all(r['status'] == 'finished' for r in record['rows'].values())
    rows[0].unlink()
    written = {p: p.stat().st_mtime_ns for p in rows[1:]}
    assert run().returncode == 0 and rows[0].exists() and written == {p: p.stat().st_mtime_ns for p in rows[1:]}


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
    assert fit(stage, f'{sys.argv[1]}/stage{number}.safetensors', every=20, progress=False).outcome == 'finished'
"""


TRAIN_IMAGES = """
import sys, torch
from vaebm.data import Images, StackedDigits, embedded_digits
from vaebm.nvae import NVAEConfig
from vaebm.training import ImageConfig, ImageStageOne, ImageStageOneConfig, build_nvae, fit
torch.set_num_threads(1)
digits, labels = embedded_digits()
data = StackedDigits(Images((255 * digits).round().byte(), labels))
sizes = NVAEConfig(groups=2, latent=4, channels_enc=4, channels_dec=4, cells_enc=1, cells_dec=1, blocks_pre=3, blocks_post=3, cells_pre=1, cells_post=1)
vae, _ = build_nvae(ImageConfig(nvae=sizes))
stage = ImageStageOne(vae, data, ImageStageOneConfig(n_steps=80, batch_size=4, warmup=10, noise=.1, flip=True))
assert fit(stage, f'{sys.argv[1]}/images.safetensors', every=4, progress=False).outcome == 'finished'
"""


TRAIN_ENERGY = """
import sys, torch, vaebm
from vaebm.data import Images, embedded_digits
from vaebm.runs import configure
from vaebm.ratio import DensityRatio
from vaebm.training import ImageStageTwo, RatioConfig, VAEBMConfig, build_vaebm, fit
torch.set_num_threads(1)
digits, _ = embedded_digits()
small = torch.nn.functional.avg_pool2d(torch.nn.functional.pad(digits, [2] * 4), 2).expand(-1, 3, -1, -1)
data = Images((255 * small).round().byte())
vae = vaebm.load_pretrained('nvae_digits')
config = configure(VAEBMConfig(nvae=vae.config), {'energy': {'width': 4, 'blocks': 'd1'}, 'stage2': {
    'n_steps': 160, 'batch_size': 8, 'kernel': 'cycle', 'kernel_options': {'independence': {'n_proposals': 2}, 'pcn_langevin': {'step_size': .1}}, 'chain_steps': 1,
    'buffer_size': 64, 'replay': .9, 'replay_anneal': 20, 'lr': 1e-3, 'noise': .03}})
model = build_vaebm(config, vae, data.sample(32, torch.Generator().manual_seed(0)))
assert fit(DensityRatio(model, data, RatioConfig(n_steps=80, batch_size=8, noise=.03)), f'{sys.argv[1]}/ratio.safetensors', every=4, progress=False).outcome == 'finished'
stage = ImageStageTwo(model, data, config.stage2)
assert fit(stage, f'{sys.argv[1]}/energy.safetensors', every=4, progress=False).outcome == 'finished'
"""


def train(folder, script, kill_after=None):
    "Run the training in its own process; with `kill_after` (checkpoints, seconds), SIGKILL it that long after it has written so many."
    log = folder / 'log'
    process = start(script, str(folder), log=log)
    if kill_after is not None:
        newest = lambda: max((p.stat().st_mtime for p in folder.glob('*.safetensors')), default=0)
        checkpoints, seconds = kill_after
        for _ in range(checkpoints):
            before = newest()
            while newest() == before and process.is_alive(): time.sleep(.01)
        time.sleep(seconds)
        process.kill()
    code = finish(process, 300)
    assert code in (0, -signal.SIGKILL), log.read_text()
    return code == -signal.SIGKILL


def same(a, b):
    if isinstance(a, torch.Tensor): return torch.equal(a, b)
    if isinstance(a, dict): return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list): return len(a) == len(b) and all(map(same, a, b))
    return a == b


@pytest.mark.parametrize('script, n_kills', [(TRAIN, 2), pytest.param(TRAIN, 10, marks=pytest.mark.slow), pytest.param(TRAIN_IMAGES, 5, marks=pytest.mark.slow), pytest.param(TRAIN_ENERGY, 5, marks=pytest.mark.slow)], ids=['2-D', '2-D long', 'images', 'energy of images'])
def test_killed_training_resumes_bit_for_bit(tmp_path, script, n_kills):
    whole, killed = tmp_path / 'whole', tmp_path / 'killed'
    whole.mkdir(); killed.mkdir()
    train(whole, script)
    moments, kills = random.Random(n_kills), 0
    for _ in range(n_kills):
        kills += train(killed, script, (moments.randint(1, 3), moments.uniform(0, .3)))
        print('updates at the kill:', {p.stem: load_checkpoint(p)['done'] for p in killed.glob('*.safetensors')})
    assert kills == n_kills, 'the training ended before all kills were sent: make it longer'
    train(killed, script)
    assert {p.name for p in whole.glob('*.safetensors')} == {p.name for p in killed.glob('*.safetensors')}
    for path in whole.glob('*.safetensors'): assert same(load_checkpoint(path), load_checkpoint(killed / path.name))
    assert not list(killed.glob('*.tmp')), 'a half-written file outlived the next whole one'
