"""Presets, costs and data of the full-scale runs, and their notebooks in miniature."""
import json
import os
import re
import subprocess
import sys
import time
import types
from dataclasses import asdict
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from vaebm import experiment
from vaebm.data import IMAGE_SETS, Images, load_images
from vaebm.energy import ENERGY_NETWORKS, EnergyResNet
from vaebm.experiment import GPUS, PAPER, TIERS, Extractor, Run, costs, describe, draw, fingerprint, images_of, plan, prepare, preset, read_lmdb, read_samples, reference_statistics, share_of, splits_of, tailor, tally, train_energy, train_vae, write_example
from vaebm.fast import fold, published_step
from vaebm.model import VAEBM
from vaebm.nvae import NVAE
from vaebm.runs import CheckpointError, RunFolderError, Stopped, load_checkpoint, run_folder, save_checkpoint
from vaebm.training import RELEASED, TABLE_8, FitResult, ImageStageOne, build_nvae, build_vaebm

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize('name, groups, steps, reference, n', [
    ('cifar10', 30, 16, 'train', 50_000), ('ablation', 20, 15, 'train', 50_000), ('celeba64', 15, 20, 'train', 50_000), ('lsun64', 15, 20, 'train', 50_000), ('celebahq256', 20, 24, 'train+test', 30_000)])
def test_a_preset_is_what_appendix_e_says(name, groups, steps, reference, n):
    config = preset(name)
    m, e = config.model, config.evaluation
    assert len(m.nvae.scale_of_groups()) == groups and m.sample_steps == steps and (e.reference, e.n_samples) == (reference, n)
    assert config.data.n_train == IMAGE_SETS[config.data.name].counts['train'] and m.nvae.image_size == IMAGE_SETS[config.data.name].shape[1]
    assert (m.stage2.constant, m.stage2.clip, m.stage2.weight_decay, m.stage2.kernel) == (True, True, 3e-5, 'langevin')


def test_presets_take_table_8_and_released_commands_as_they_are():
    for name, row in TABLE_8.items():
        theirs = asdict(preset(name).model.stage2)
        assert {k: theirs[k] for k in row} == row
    for name, row in RELEASED.items():
        theirs = asdict(preset(name, source='released').model.stage2)
        assert {k: theirs[k] for k in row} == row
    for name in ('lsun64', 'celebahq256'):
        assert [asdict(preset(name, source=s).model.energy) for s in ('paper', 'released')] == [ENERGY_NETWORKS[f'{name}_{s}'] for s in ('paper', 'released')]


@pytest.mark.parametrize('name', TIERS)
def test_every_value_has_a_source(name, capsys):
    for tier in TIERS[name]:
        rows = describe(preset(name, tier))
        assert [r.field for r in rows if r.source == 'the choice of preset'] == ['name', 'tier', 'source'] and not any(r.source == 'given' for r in rows)
        assert capsys.readouterr().out.count('\n') == len(rows)


def test_sources_say_what_is_ours_and_what_is_not_used(capsys):
    of = lambda *a: {r.field.removeprefix('model.'): r.source for r in describe(preset(*a))}
    cifar, hq = of('cifar10'), of('celebahq256')
    assert [cifar[f'stage2.{k}'] for k in ('buffer_size', 'replay_anneal')] == ['not used'] * 2
    assert 'not used' not in hq.values() and hq['nvae.groups'] == 'App. E: 20 in all' and of('celeba64')['nvae.groups'] == 'App. E: 15 in all'
    assert cifar['evaluation.extractor'] == "the course's own" and of('stacked_mnist', 'cpu')['evaluation.n_samples'] == "the course's own"


def test_what_is_not_there_is_refused():
    for arguments, text in ((('celeba',), 'name must be one of cifar10, '), (('lsun64', 'cpu'), "tier of lsun64 must be one of smoke, paper, got 'cpu'"), (('celeba64', 'paper', 'code'), "must be one of paper, released, got 'code'")):
        with pytest.raises(ValueError, match=text): preset(*arguments)
    for given, text in (({'stage9': {}}, "unknown parameter 'stage9'"), ({'stage2': {'steps': 3}}, "unknown parameter 'steps' of ImageStageTwoConfig"),
                        ({'evaluation': {'n_samples': '9'}}, "n_samples must be int, got '9'"), ({'data': {'bits': 5.}}, 'bits must be int')):
        with pytest.raises(ValueError, match=text): tailor(preset('celeba64'), given)


def small(name, **changes): return tailor(preset(name), {'nvae': {'scales': 1, 'groups': 1, 'image_size': 32, 'channels_enc': 8, 'channels_dec': 8, 'cells_pre': 1, 'cells_post': 1, 'cells_enc': 1, 'cells_dec': 1}, 'energy': {'width': 4}, **changes})


@pytest.mark.parametrize('name', PAPER)
def test_batches_of_all_processes_are_those_of_the_preset(name):
    whole = preset(name).model
    for n, k in ((1, 1), (4, 2), (8, 1)):
        model = tailor(preset(name), {stage: {'accumulate': k} for stage in ('stage1', 'stage2')}).model
        part = share_of(model, n)
        for stage in ('stage1', 'stage2'): assert n * getattr(part, stage).batch_size == getattr(whole, stage).batch_size
        assert n * part.stage2.buffer_size == (whole.stage2.buffer_size if whole.stage2.replay else n)
    with pytest.raises(ValueError, match=re.escape('stage1.batch_size must be a multiple of 5 processes times 1 parts (stage1.accumulate), got ')): share_of(whole, 5)


def test_each_process_has_its_share_of_the_buffer():
    one, eight = (costs(small('lsun64'), gpus=n) for n in (1, 8))
    assert one['memory']['buffer'] == 10_000 * 20 * 16 * 16 * 2 == 8 * eight['memory']['buffer'] and 1 < eight['flops']['stage 1'] / one['flops']['stage 1'] < 1.01, 'shared, but for the penalty'
    assert eight['disk']['checkpoints'] >= 2 * one['memory']['buffer'], 'eight buffers, and eight before them'


def test_parts_and_recomputation_cost_operations_and_save_memory():
    deep = lambda s1, s2: costs(tailor(small('celeba64', stage1={'batch_size': 16} | s1, stage2={'batch_size': 16} | s2), {'nvae': {'groups': 3, 'cells_enc': 4, 'cells_dec': 4}}))
    plain, parts, again = (deep(*changes) for changes in (({}, {}), ({'accumulate': 4}, {'accumulate': 4}), ({'recompute': True}, {})))
    for key in ('activations 1', 'activations 2'): assert .2 < parts['memory'][key] / plain['memory'][key] < .45
    assert abs(parts['flops']['stage 1'] / plain['flops']['stage 1'] - 1) < .01 and abs(parts['flops']['stage 2'] / plain['flops']['stage 2'] - 1) < .01
    assert again['memory']['activations 1'] < .6 * plain['memory']['activations 1'] and 1.1 < again['flops']['stage 1'] / plain['flops']['stage 1'] < 4 / 3
    with pytest.raises(ValueError, match='gpus times parts must divide the batch sizes 16 and 16, got 8 gpus and 4 and 1 parts'): costs(small('celeba64', stage1={'batch_size': 16, 'accumulate': 4}, stage2={'batch_size': 16}), gpus=8)


def test_plan_compares_with_the_memory_of_each_gpu(capsys):
    c = plan(small('celeba64', stage1={'batch_size': 15_000}))
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith(tuple(GPUS))]
    assert ['stage 1 fits, stage 2 fits' in line for line in lines] == [False, True, True, False] and all('stage 2 fits' in line for line in lines), c['memory']
    plan(preset('celeba64', 'smoke'))
    assert 'hours' not in capsys.readouterr().out


@pytest.mark.parametrize('groups', [1, 4, 8])
def test_operations_of_grouped_convolutions_by_hand(groups):
    conv, x = nn.Conv2d(8, 16, 3, stride=2, padding=1, groups=groups), torch.randn(3, 8, 10, 10, requires_grad=True)
    forward = 2 * 3 * 16 * 5 * 5 * (8 // groups) * 9
    assert tally(lambda: conv(x)).flops == forward
    assert tally(lambda: conv(x).sum().backward()).flops == 3 * forward
    conv.requires_grad_(False)
    assert tally(lambda: conv(x).sum().backward()).flops == 2 * forward, 'frozen weights cost nothing'


def test_peak_counts_storages_once_and_forgets_the_dead():
    def f():
        a = torch.empty(1000, device='meta')    # 4,000 bytes
        b = a.view(10, 100).T                   # the same storage
        c = b * 2                               # 8,000 now
        del a, b
        return c + 1                            # 8,000 again
    assert tally(f).peak == 8000


@pytest.mark.slow
@pytest.mark.parametrize('name, vae, energy, gflop', [
    ('cifar10', 130_744_004, 5_137_921, 56.6), ('celeba64', 65_005_372, 4_337_537, 22.5), ('lsun64', 65_005_372, 5_813_633, 23.1), ('celebahq256', 365_372_032, 14_207_105, None)])
def test_networks_have_the_published_sizes(name, vae, energy, gflop):
    m = preset(name, source='released').model
    with torch.device('meta'): model = VAEBM(NVAE(m.nvae).eval().requires_grad_(False), EnergyResNet(**asdict(m.energy)).requires_grad_(False))
    assert [sum(p.numel() for p in part.parameters()) for part in (model.vae, model.energy)] == [vae, energy]
    if gflop: assert abs(tally(lambda: published_step(model, torch.empty(1, model.vae.layout.size, device='meta'), frozen=True)).flops / gflop / 1e9 - 1) < .02


@pytest.mark.slow
def test_memory_estimate_is_near_the_allocator():
    config = tailor(preset('celebahq256'), {'nvae': {'scales': 2, 'groups': 1, 'image_size': 64, 'channels_enc': 8, 'channels_dec': 8}, 'energy': {'width': 4}, 'stage1': {'batch_size': 6}, 'stage2': {'buffer_size': 16}})
    stage = ImageStageOne(build_nvae(config.model)[0], Images(torch.randint(256, (16, 3, 64, 64), dtype=torch.uint8)), config.model.stage1)
    stage.step()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as p: stage.step()
    events = sorted((e for e in p.profiler.kineto_results.events() if e.name() == '[memory]'), key=lambda e: e.start_ns())
    measured = np.cumsum([e.nbytes() for e in events]).max() + 4 * sum(w.numel() for w in stage.module.parameters())
    assert abs(costs(config)['memory']['activations 1'] / measured - 1) < .08


def test_looks_need_the_memory_of_their_own_batch():
    few, many = (costs(tailor(small('celeba64'), {'evaluation': {'batch_size': n}}))['memory'] for n in (4, 128))
    assert 31 < many['samples'] / few['samples'] < 33 and few['samples'] < few['activations 2']   # of 32 chains
    assert many['stage 2'] - few['stage 2'] == many['samples'] - few['activations 2'] > 0
    config = tailor(small('celeba64'), {'evaluation': {'batch_size': 8}})
    model = build_vaebm(config.model, build_nvae(config.model)[0].eval(), torch.rand(8, 3, 32, 32))
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as p: fold(model).sample(8, n_steps=1, mean=True)
    events = sorted((e for e in p.profiler.kineto_results.events() if e.name() == '[memory]'), key=lambda e: e.start_ns())
    assert abs(costs(config)['memory']['samples'] / np.cumsum([e.nbytes() for e in events]).max() - 1) < .15


@pytest.mark.parametrize('name', ['celeba64', 'lsun64', 'celebahq256'])
def test_original_files_become_a_checked_array(name, tmp_path):
    config = preset(name, 'smoke')
    write_example(config.data.name, 'train', 24, tmp_path)
    images, size = images_of(config, 'train', tmp_path), config.model.nvae.image_size
    assert images.pixels.shape == (24, 3, size, size) and images.pixels.flatten(1).float().std(1).min() > 1
    array = tmp_path / f'{config.data.name}_train.npz'
    before = array.stat().st_mtime_ns
    assert torch.equal(images_of(config, 'train', tmp_path).pixels, images.pixels) and array.stat().st_mtime_ns == before
    pixels = np.load(array)['images'].copy()
    pixels[3, 2, 1, 0] ^= 1
    np.savez(array, images=pixels)
    with pytest.raises(ValueError, match='their checksum differs'): images_of(config, 'train', tmp_path)


def test_a_conversion_that_is_cut_leaves_nothing_behind(tmp_path, monkeypatch):
    write_example('celeba64', 'test', 6, tmp_path)
    def half(f, **arrays):
        f.write(b'half of it')
        raise KeyboardInterrupt
    with monkeypatch.context() as m:
        m.setattr(experiment.np, 'savez', half)
        with pytest.raises(KeyboardInterrupt): prepare('celeba64', 'test', 16, 6, tmp_path)
    assert not list(tmp_path.glob('*.npz'))
    file = prepare('celeba64', 'test', 16, 6, tmp_path)
    assert np.load(file)['images'].shape == (6, 16, 16, 3) and not list(tmp_path.glob('*.tmp'))


def test_a_cut_download_is_no_data_set(tmp_path, monkeypatch):
    write_example('church64', 'train', 5, tmp_path)
    with pytest.raises(ValueError, match=re.escape('must hold images of shape (126227, 3, 64, 64), got (5, 3, 64, 64)')): prepare('church64', 'train', 64, 126_227, tmp_path)
    assert not list(tmp_path.glob('*.npz'))
    monkeypatch.setenv('VAEBM_DATA', str(tmp_path))
    with pytest.raises(FileNotFoundError, match='put celeba64_train.npz there'): prepare('celeba64', 'train', 64, 162_770)
    with pytest.raises(FileNotFoundError, match=f'neither celeba64_train.npz nor celeba64/train is in {tmp_path}/elsewhere'): prepare('celeba64', 'train', 64, 162_770, tmp_path / 'elsewhere')
    with pytest.raises(FileNotFoundError, match='no data.mdb'): read_lmdb(tmp_path, 16)
    monkeypatch.setitem(sys.modules, 'lmdb', None)
    with pytest.raises(ImportError, match='pip install lmdb'): read_lmdb(tmp_path / 'church64' / 'train', 16)


def test_prepared_arrays_are_read_by_load_images_too(tmp_path, monkeypatch):
    write_example('church64', 'test', 300, tmp_path)
    prepare('church64', 'test', 64, 300, tmp_path)
    monkeypatch.setenv('VAEBM_DATA', str(tmp_path))
    assert load_images('church64', 'test').pixels.shape == (300, 3, 64, 64)


def test_labels_are_kept(tmp_path, monkeypatch):
    monkeypatch.setenv('VAEBM_DATA', str(tmp_path))
    theirs = Images(torch.randint(256, (6, 3, 32, 32), dtype=torch.uint8), torch.arange(6))
    monkeypatch.setattr(experiment, 'load_images', lambda name, split: theirs)
    ours = images_of(tailor(preset('cifar10'), {'data': {'n_test': 6}}), 'test')
    assert torch.equal(ours.labels, theirs.labels) and torch.equal(ours.pixels, theirs.pixels)


def test_half_a_generated_set_is_made_anew(tmp_path, monkeypatch):
    config, whole = preset('celeba64', 'smoke'), experiment.write_example
    def half(name, split, n, folder):
        whole(name, split, n // 2, folder)
        raise KeyboardInterrupt
    with monkeypatch.context() as m:
        m.setattr(experiment, 'write_example', half)
        with pytest.raises(KeyboardInterrupt): splits_of(config, tmp_path)
    assert len(splits_of(config, tmp_path)['train']) == 24


def test_samples_and_energies_of_other_weights_are_not_taken(tmp_path):
    config = tailor(preset('cifar10', 'smoke'), {'evaluation': {'n_samples': 4}})
    x = torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    a, b = (build_vaebm(m, build_nvae(m)[0].eval(), x) for m in (tailor(config, {'seed': s}).model for s in (0, 1)))
    run = Run(config, tmp_path)
    first, other = (read_samples(draw(run, model)).pixels for model in (a, b))
    assert not torch.equal(first, other) and torch.equal(read_samples(draw(run, a)).pixels, first)
    save_checkpoint(tmp_path / 'stage2.safetensors', {'done': 0})
    (tmp_path / 'stage2.vae.json').write_text(json.dumps(fingerprint(a.vae)))
    with pytest.raises(CheckpointError, match=f'trained on the VAE {fingerprint(a.vae)}, got {fingerprint(b.vae)}'): train_energy(run, b.vae, Images((255 * x).byte()), None, None)


def test_a_stage_one_that_breaks_ends_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(experiment, 'fit', lambda *a, **k: FitResult('stopped', 0, 'a loss is not finite at update 3'))
    with pytest.raises(Stopped, match='stage 1 stopped: a loss is not finite at update 3; weights of update 0 restored'):
        train_vae(Run(preset('cifar10', 'smoke'), tmp_path), Images(torch.zeros(8, 3, 32, 32, dtype=torch.uint8)))
    assert json.loads((tmp_path / 'metrics.json').read_text())['status'].startswith('stage 1 stopped')


def test_a_run_refuses_other_images_than_it_began_with(tmp_path, monkeypatch):
    config = preset('lsun64', 'smoke')
    run_folder(tmp_path, config)
    first = splits_of(config, tmp_path)
    splits_of(config, tmp_path)
    monkeypatch.setattr(experiment, 'images_of', lambda *_: Images(first['train'].pixels.flip(0)))
    with pytest.raises(RunFolderError, match='began with other data: train was 24 of church64'): splits_of(config, tmp_path)


def test_an_error_inside_an_extractor_is_not_hidden(monkeypatch):
    def broken(self): raise ValueError('no such file')
    monkeypatch.setattr(experiment.CoarseFeatures, '__init__', broken)
    with pytest.raises(ValueError, match='^no such file$'): experiment.Extractor('vaebm.experiment:CoarseFeatures')


def test_the_fid_network_is_asked_as_it_wants_to_be(tmp_path, monkeypatch):
    class Network(nn.Module):   # in place of the package, which needs a download
        def __init__(self, name, features, feature_extractor_weights_path):
            super().__init__()
            assert features == ['2048'] and Path(feature_extractor_weights_path).exists()
            self.fc = nn.Linear(3, 2)
        def forward(self, x):
            assert x.dtype == torch.uint8
            return (x.float().mean((2, 3)),)
    monkeypatch.setitem(sys.modules, 'torch_fidelity', types.ModuleType('torch_fidelity'))
    monkeypatch.setitem(sys.modules, 'torch_fidelity.feature_extractor_inceptionv3', types.SimpleNamespace(FeatureExtractorInceptionV3=Network))
    monkeypatch.setenv('VAEBM_DATA', str(tmp_path))
    with pytest.raises(FileNotFoundError, match=experiment.InceptionFeatures.FILE): experiment.InceptionFeatures()
    (tmp_path / experiment.InceptionFeatures.FILE).touch()
    extractor = experiment.Extractor('vaebm.experiment:InceptionFeatures')
    f = extractor.of(Images(torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1).expand(2, 3, 4, 4)))
    assert f.tolist() == [[0., 0., 0.], [255., 255., 255.]] and torch.equal(extractor.net.logits(f), f @ extractor.net.net.fc.weight.T)


def command(name, folder, *more):
    return [sys.executable, '-c', 'from vaebm.cli import main; main()', str(ROOT / 'nbs' / 'experiments' / f'{name}.ipynb'), 'tier=smoke', f'run_dir={folder}', *more]


def environment(tmp_path): return os.environ | {'OMP_NUM_THREADS': '1', 'VAEBM_DATA': str(tmp_path / 'no data'), 'MPLBACKEND': 'agg'}


FEW = 'stage1={"n_steps": 4}', 'stage2={"n_steps": 4}', 'evaluation={"n_samples": 8, "judge_every": 4}'   # updates and samples


@pytest.mark.slow
@pytest.mark.parametrize('name, more, row', [('celeba64', (), '| NVAE | 14.74 | – |'), ('celebahq256', ('source=released',), '| PGGAN | 8.03 | – |'), ('cifar10_paper', ('name=ablation',), '| VAEBM | 12.96 | 8.15 |')])
def test_notebooks_run_in_miniature(name, more, row, tmp_path):
    "The one of CelebA-HQ goes on where two processes ended."
    run = tmp_path / 'run'
    if name == 'celebahq256':
        launch = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc-per-node', '2', '-m', 'vaebm.launch', f'run_dir={run}', f'data={name}', 'tier=smoke', *more, *FEW]
        done = subprocess.run(launch, env=environment(tmp_path) | {'GLOO_SOCKET_IFNAME': 'lo'}, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0 and 'stage 2 finished' in done.stdout, done.stderr[-3000:]
        assert (run / 'stage2.rank1.safetensors').exists()
        two = [load_checkpoint(run / part / 'weights.safetensors') for part in ('vae', '.')]
    done = subprocess.run(command(name, run, *more, *FEW), env=environment(tmp_path), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    files = {p.name for p in run.iterdir()}
    assert {'metrics.json', 'report.md', 'weights.safetensors', 'samples.png', 'pairs.png', 'training.png', 'notebook.ipynb'} <= files and ('cold.png' in files) == (name == 'celebahq256')
    record = json.loads((run / 'metrics.json').read_text())
    assert record['metrics']['samples']['VAEBM']['n'] == 8 and row in (run / 'report.md').read_text()
    assert record['command'].startswith(f'vaebm-run nbs/experiments/{name}.ipynb ') and all(part in record['command'] for part in ('tier=smoke', *more)) and record['preset']['tier'] == 'smoke'
    if name == 'celebahq256':
        for before, part in zip(two, ('vae', '.')):
            after = load_checkpoint(run / part / 'weights.safetensors')
            assert all(torch.equal(v, after[k]) for k, v in before.items()), 'the notebook has trained what was trained'


def kill(process):
    for p in (*psutil.Process(process.pid).children(recursive=True), process): p.kill()   # the kernel first
    process.wait()


@pytest.fixture
def one_thread():
    "As many as the runs from the command line have: sums in another order are other numbers."
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.slow
def test_a_run_that_is_killed_or_asked_to_end_ends_as_one_that_was_not(tmp_path, one_thread):
    "Killed in stage 2, then asked to end while it draws samples, then left alone; the other in one piece, in this process."
    whole, cut, env = tmp_path / 'whole', tmp_path / 'cut', environment(tmp_path)
    given = {'stage1': {'n_steps': 4}, 'stage2': {'n_steps': 60}, 'evaluation': {'n_samples': 8, 'judge_every': 30, 'judge_samples': 4}}
    config = tailor(preset('lsun64', 'smoke'), given)
    process = subprocess.Popen(command('lsun64', cut, *(f'{k}={json.dumps(v)}' for k, v in given.items())), env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not (cut / 'stage2.safetensors').exists() and process.poll() is None: time.sleep(.01)
    assert process.poll() is None, 'the run ended before it was killed'
    kill(process)
    assert load_checkpoint(cut / 'stage2.safetensors')['done'] < 60
    process = subprocess.Popen(command('lsun64', cut, *(f'{k}={json.dumps(v)}' for k, v in given.items())), env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    while not (cut / 'weights.safetensors').exists() and process.poll() is None: time.sleep(.001)
    (cut / 'STOP').touch()
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 0 and 'go on with\nvaebm-run nbs/experiments/lsun64.ipynb tier=smoke' in out and not (cut / 'report.md').exists() and not (cut / 'STOP').exists()
    runs = [Run(config, folder) for folder in (whole, cut)]
    for run in runs:
        splits, extractor = splits_of(config, run.folder), Extractor(config.evaluation.extractor)
        reference, images = reference_statistics(config, extractor, splits, run.folder), splits['train']
        model, _ = train_energy(run, train_vae(run, images)[0], images, extractor, reference)
        draw(run, model)
    samples, = {p.relative_to(whole) for p in whole.glob('samples/*/000000.safetensors')}
    for part in ('stage2.safetensors', samples):
        a, b = (load_checkpoint(run.folder / part) for run in runs)
        assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a) if part == samples else all(torch.equal(a['module'][k], b['module'][k]) for k in a['module'])


def test_make_names_notebooks_that_exist():
    names = re.findall(r'^paper-[\w-]+: NOTEBOOK = (\w+)$', (ROOT / 'Makefile').read_text(), re.M)
    assert len(names) == 4 and all((ROOT / 'nbs' / 'experiments' / f'{name}.ipynb').exists() for name in names)
