"""Data, folders and notebooks of the full-scale runs, in miniature."""

import json
import os
import re
import subprocess
import sys
import time
import types
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from torch import nn

from test_released import energy_state, published_state
from vaebm import full_scale, pipeline
from vaebm.checkpoints import CheckpointError, load_checkpoint, save_checkpoint
from vaebm.config import error_message
from vaebm.energy_nets import ENERGY_NETWORKS, EnergyResNet
from vaebm.full_scale import (
    InceptionFeatures,
    NotReady,
    images_of,
    needs,
    open_run,
    preflight,
    prepare,
    splits_of,
    write_example,
)
from vaebm.images import Images, load_images, read_lmdb
from vaebm.experiment import Extractor, Run
from vaebm.pipeline import evaluators, fingerprint, per_rank_config, train_energy, train_vae
from vaebm.rows import draw, read_samples
from vaebm.nvae import NVAE
from vaebm.presets import PAPER, override, preset
from vaebm.runs import RunFolderError, Stopped, publish, run_folder
from vaebm.stage_one import build_nvae
from vaebm.stage_two import build_vaebm
from vaebm.loop import FitResult

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize('name', PAPER)
def test_batches_of_all_processes_are_those_of_the_preset(name):
    whole = preset(name).model
    for n, k in ((1, 1), (4, 2), (8, 1)):
        model = override(preset(name), {stage: {'accumulate': k} for stage in ('stage1', 'stage2')}).model
        part = per_rank_config(model, n)
        for stage in ('stage1', 'stage2'):
            assert n * getattr(part, stage).batch_size == getattr(whole, stage).batch_size
        assert n * part.stage2.buffer_size == (whole.stage2.buffer_size if whole.stage2.replay else n)
    with pytest.raises(
        ValueError,
        match=re.escape(
            'stage1.batch_size must be a multiple of 5 processes times 1 micro-batches (stage1.accumulate), got '
        ),
    ):
        per_rank_config(whole, 5)


@pytest.mark.parametrize('name', ['celeba64', 'lsun64', 'celebahq256'])
def test_original_files_become_a_checked_array(name, tmp_path):
    config = preset(name, 'smoke')
    write_example(config.data.name, 'train', 24, tmp_path)
    images, size = images_of(config, 'train', tmp_path), config.model.nvae.image_size
    assert images.pixels.shape == (24, 3, size, size) and images.pixels.flatten(1).float().std(1).min() > 1
    array = tmp_path / f'{config.data.name}_train.npz'
    before = array.stat().st_mtime_ns
    assert (
        torch.equal(images_of(config, 'train', tmp_path).pixels, images.pixels)
        and array.stat().st_mtime_ns == before
    )
    pixels = np.load(array)['images'].copy()
    pixels[3, 2, 1, 0] ^= 1
    np.savez(array, images=pixels)
    with pytest.raises(ValueError, match='their checksum differs'):
        images_of(config, 'train', tmp_path)


def test_a_conversion_that_is_cut_leaves_nothing_behind(tmp_path, monkeypatch):
    write_example('celeba64', 'test', 6, tmp_path)

    def half(f, **arrays):
        f.write(b'half of it')
        raise KeyboardInterrupt

    with monkeypatch.context() as m:
        m.setattr(full_scale.np, 'savez', half)
        with pytest.raises(KeyboardInterrupt):
            prepare('celeba64', 'test', 16, 6, tmp_path)
    assert not list(tmp_path.glob('*.npz'))
    decoded = [p.stat().st_mtime_ns for p in tmp_path.glob('*.parts/*')]
    with monkeypatch.context() as m:
        m.setattr(full_scale.np, 'savez', half)
        with pytest.raises(KeyboardInterrupt):
            prepare('celeba64', 'test', 16, 6, tmp_path)
    assert decoded and decoded == [p.stat().st_mtime_ns for p in tmp_path.glob('*.parts/*')]
    file = prepare('celeba64', 'test', 16, 6, tmp_path)
    assert np.load(file)['images'].shape == (6, 16, 16, 3) and not list(tmp_path.glob('*.tmp'))
    assert not list(tmp_path.glob('*.parts'))


def test_a_cut_download_is_no_data_set(tmp_path, monkeypatch):
    write_example('church64', 'train', 5, tmp_path)
    with pytest.raises(ValueError, match='must hold 126,227 images, got 5'):
        prepare('church64', 'train', 64, 126_227, tmp_path)
    assert not list(tmp_path.glob('*.npz'))
    monkeypatch.setenv('VAEBM_DATA', str(tmp_path))
    with pytest.raises(FileNotFoundError, match='put celeba64_train.npz there'):
        prepare('celeba64', 'train', 64, 162_770)
    with pytest.raises(
        FileNotFoundError, match=f'neither celeba64_train.npz nor celeba64/train is in {tmp_path}/elsewhere'
    ):
        prepare('celeba64', 'train', 64, 162_770, tmp_path / 'elsewhere')
    with pytest.raises(FileNotFoundError, match='no data.mdb'):
        read_lmdb(tmp_path, 16)
    monkeypatch.setitem(sys.modules, 'lmdb', None)
    with pytest.raises(ImportError, match='lmdb is missing: pip install'):
        read_lmdb(tmp_path / 'church64' / 'train', 16)


def test_prepared_arrays_are_read_by_load_images_too(tmp_path, monkeypatch):
    write_example('church64', 'test', 300, tmp_path)
    prepare('church64', 'test', 64, 300, tmp_path)
    monkeypatch.setenv('VAEBM_DATA', str(tmp_path))
    assert load_images('church64', 'test').pixels.shape == (300, 3, 64, 64)


def test_labels_are_kept(tmp_path, monkeypatch):
    monkeypatch.setenv('VAEBM_DATA', str(tmp_path))
    theirs = Images(torch.randint(256, (6, 3, 32, 32), dtype=torch.uint8), torch.arange(6))
    monkeypatch.setattr(full_scale, 'load_images', lambda name, split: theirs)
    ours = images_of(override(preset('cifar10'), {'data': {'n_test': 6}}), 'test')
    assert torch.equal(ours.labels, theirs.labels) and torch.equal(ours.pixels, theirs.pixels)


def test_half_a_generated_set_is_made_anew(tmp_path, monkeypatch):
    config, whole = preset('celeba64', 'smoke'), full_scale.write_example

    def half(name, split, n, folder):
        whole(name, split, n // 2, folder)
        raise KeyboardInterrupt

    with monkeypatch.context() as m:
        m.setattr(full_scale, 'write_example', half)
        with pytest.raises(KeyboardInterrupt):
            splits_of(config, tmp_path)
    assert len(splits_of(config, tmp_path)['train']) == 24


def test_samples_and_energies_of_other_weights_are_not_taken(tmp_path):
    config = override(preset('cifar10', 'smoke'), {'evaluation': {'n_samples': 4}})
    x = torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    a, b = (
        build_vaebm(m, build_nvae(m).eval(), x) for m in (override(config, {'seed': s}).model for s in (0, 1))
    )
    run = Run(config, tmp_path)
    first, other = (read_samples(draw(run, model)).pixels for model in (a, b))
    assert not torch.equal(first, other) and torch.equal(read_samples(draw(run, a)).pixels, first)
    save_checkpoint(tmp_path / 'stage2.safetensors', {'done': 0})
    (tmp_path / 'stage2.vae.json').write_text(json.dumps(fingerprint(a.vae)))
    with pytest.raises(
        CheckpointError, match=f'trained on the VAE {fingerprint(a.vae)}, got {fingerprint(b.vae)}'
    ):
        train_energy(run, b.vae, Images((255 * x).byte()), None)


def test_a_stage_one_that_breaks_ends_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(
        pipeline, 'fit', lambda *a, **k: FitResult('stopped', 0, 'a loss is not finite at update 3')
    )
    with pytest.raises(
        Stopped, match='stage 1 stopped: a loss is not finite at update 3; weights of update 0 restored'
    ):
        train_vae(
            Run(preset('cifar10', 'smoke'), tmp_path), Images(torch.zeros(8, 3, 32, 32, dtype=torch.uint8))
        )
    assert json.loads((tmp_path / 'metrics.json').read_text())['status'].startswith('stage 1 stopped')


def test_a_run_refuses_other_images_than_it_began_with(tmp_path, monkeypatch):
    config = preset('lsun64', 'smoke')
    run_folder(tmp_path, config)
    first = splits_of(config, tmp_path)
    splits_of(config, tmp_path)
    others = first | {'train': Images(first['train'].pixels.flip(0))}
    monkeypatch.setattr(full_scale, 'images_of', lambda config, split, *_: others[split])
    with pytest.raises(RunFolderError, match='began with other data: train was 24 of church64'):
        splits_of(config, tmp_path)


def test_an_error_inside_an_extractor_is_not_hidden(monkeypatch):
    def broken(self):
        raise ValueError('no such file')

    monkeypatch.setattr(full_scale.CoarseFeatures, '__init__', broken)
    with pytest.raises(ValueError, match='^no such file$'):
        Extractor('vaebm.full_scale:CoarseFeatures')


def test_the_fid_network_is_asked_as_it_wants_to_be(tmp_path, monkeypatch):
    class Network(nn.Module):  # in place of the package, which needs a download
        def __init__(self, name, features, feature_extractor_weights_path):
            super().__init__()
            assert features == ['2048'] and Path(feature_extractor_weights_path).exists()
            self.fc = nn.Linear(3, 2)

        def forward(self, x):
            assert x.dtype == torch.uint8
            return (x.float().mean((2, 3)),)

    monkeypatch.setitem(sys.modules, 'torch_fidelity', types.ModuleType('torch_fidelity'))
    monkeypatch.setitem(
        sys.modules,
        'torch_fidelity.feature_extractor_inceptionv3',
        types.SimpleNamespace(FeatureExtractorInceptionV3=Network),
    )
    monkeypatch.setenv('VAEBM_DATA', str(tmp_path))
    with pytest.raises(FileNotFoundError, match=full_scale.InceptionFeatures.FILE):
        full_scale.InceptionFeatures()
    (tmp_path / full_scale.InceptionFeatures.FILE).touch()
    extractor = Extractor('vaebm.full_scale:InceptionFeatures')
    f = extractor.of(Images(torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1).expand(2, 3, 4, 4)))
    assert f.tolist() == [[0.0, 0.0, 0.0], [255.0, 255.0, 255.0]] and torch.equal(
        extractor.net.logits(f), f @ extractor.net.net.fc.weight.T
    )


def command(name, folder, *more):
    return [
        sys.executable,
        '-c',
        'from vaebm.cli import main; main()',
        str(ROOT / 'nbs' / 'experiments' / f'{name}.ipynb'),
        'tier=smoke',
        f'run_dir={folder}',
        *more,
    ]


def environment(tmp_path):
    return os.environ | {'OMP_NUM_THREADS': '1', 'VAEBM_DATA': str(tmp_path / 'no data'), 'MPLBACKEND': 'agg'}


FEW = (
    'stage1={"n_steps": 4}',
    'stage2={"n_steps": 4}',
    'evaluation={"n_samples": 8, "eval_every": 4}',
)  # updates and samples


@pytest.mark.slow
@pytest.mark.parametrize(
    'name, more, row',
    [
        ('celeba64', (), '| NVAE | 14.74 | – |'),
        ('celebahq256', ('source=released',), '| PGGAN | 8.03 | – |'),
        ('cifar10', ('name=ablation',), '| VAEBM | 12.96 | 8.15 |'),
    ],
)
def test_notebooks_run_in_miniature(name, more, row, tmp_path):
    "The one of CelebA-HQ goes on where two processes ended."
    run = tmp_path / 'run'
    if name == 'celebahq256':
        launch = [
            sys.executable,
            '-m',
            'torch.distributed.run',
            '--standalone',
            '--nproc-per-node',
            '2',
            '-m',
            'vaebm.launch',
            f'run_dir={run}',
            f'data={name}',
            'tier=smoke',
            *more,
            *FEW,
        ]
        done = subprocess.run(
            launch,
            env=environment(tmp_path) | {'GLOO_SOCKET_IFNAME': 'lo'},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0 and 'stage 2 finished' in done.stdout, done.stderr[-3000:]
        assert (run / 'stage2.rank1.safetensors').exists()
        two = [load_checkpoint(run / part / 'weights.safetensors') for part in ('vae', '.')]
    done = subprocess.run(
        command(name, run, *more, *FEW), env=environment(tmp_path), capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    files = {p.name for p in run.iterdir()}
    assert {
        'metrics.json',
        'report.md',
        'weights.safetensors',
        'samples.png',
        'strips.png',
        'neighbours.png',
        'energies.png',
        'training.png',
        'notebook.ipynb',
    } <= files
    record = json.loads((run / 'metrics.json').read_text())
    report, table = (run / 'report.md').read_text(), record['metrics']['rows']
    assert table['VAEBM, Eq. 7'][0]['n'] == 8 and row in report and 'A smoke run' in report
    assert {'test images', 'VAE, as trained', 'VAE, re-adjusted', 'VAEBM with an energy of zero, 8'} <= table.keys()
    assert ('inception_score' in table['VAEBM, Eq. 7'][0]) == (name == 'cifar10')
    assert (
        record['command'].startswith(f'vaebm-run nbs/experiments/{name}.ipynb ')
        and all(part in record['command'] for part in ('tier=smoke', *more))
        and record['preset']['tier'] == 'smoke'
    )
    if name == 'celebahq256':
        for before, part in zip(two, ('vae', '.')):
            after = load_checkpoint(run / part / 'weights.safetensors')
            assert all(
                torch.equal(v, after[k]) for k, v in before.items()
            ), 'the notebook has trained what was trained'


def kill(process):
    for p in (*psutil.Process(process.pid).children(recursive=True), process):
        p.kill()  # the kernel first
    process.wait()


@pytest.fixture
def one_thread():
    "As many as the runs from the command line have: sums in another order are other numbers."
    torch.set_num_threads(1)


@pytest.mark.slow
def test_a_run_that_is_killed_or_asked_to_end_ends_as_one_that_was_not(tmp_path, one_thread):
    """Killed in stage 2, then asked to end while it draws samples, then left alone.

    The other in one piece, in this process.
    """
    whole = tmp_path / 'whole'
    cut = tmp_path / 'cut'
    env = environment(tmp_path)
    overrides = {
        'stage1': {'n_steps': 4},
        'stage2': {'n_steps': 60},
        'evaluation': {'n_samples': 8, 'eval_every': 30, 'eval_samples': 4},
    }
    config = override(preset('lsun64', 'smoke'), overrides)
    process = subprocess.Popen(
        command('lsun64', cut, *(f'{k}={json.dumps(v)}' for k, v in overrides.items())),
        env=env,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while not (cut / 'stage2.safetensors').exists() and process.poll() is None:
        time.sleep(0.01)
    assert process.poll() is None, 'the run ended before it was killed'
    kill(process)
    assert load_checkpoint(cut / 'stage2.safetensors')['done'] < 60
    process = subprocess.Popen(
        command('lsun64', cut, *(f'{k}={json.dumps(v)}' for k, v in overrides.items())),
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    while not (cut / 'weights.safetensors').exists() and process.poll() is None:
        time.sleep(0.001)
    (cut / 'STOP').touch()
    out, _ = process.communicate(timeout=300)
    assert (
        process.returncode == 0
        and 'go on with\nvaebm-run nbs/experiments/lsun64.ipynb tier=smoke' in out
        and not (cut / 'report.md').exists()
        and not (cut / 'STOP').exists()
    )
    runs = [Run(config, folder) for folder in (whole, cut)]
    for run in runs:
        splits = splits_of(config, run.folder)
        images = splits['train']
        model, _ = train_energy(run, train_vae(run, images), images, evaluators(run, splits)[0])
        draw(run, model)
    (samples,) = {p.relative_to(whole) for p in whole.glob('samples/*/000000.safetensors')}
    for part in ('stage2.safetensors', samples):
        a, b = (load_checkpoint(run.folder / part) for run in runs)
        assert (
            a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
            if part == samples
            else all(torch.equal(a['module'][k], b['module'][k]) for k in a['module'])
        )


def test_make_names_notebooks_that_exist():
    names = re.findall(r'^paper-[\w-]+: NOTEBOOK = (\w+)$', (ROOT / 'Makefile').read_text(), re.M)
    assert len(names) == 4 and all((ROOT / 'nbs' / 'experiments' / f'{name}.ipynb').exists() for name in names)


@pytest.mark.parametrize(
    'values, said',
    [
        (
            {'data': {'name': '../../etc'}},
            (
                "name must be one of mnist, fashion_mnist, cifar10, cifar100, svhn, celeba64, church64,"
                " celebahq256, stacked_mnist, got '../../etc'"
            ),
        ),
        ({'stage2': {'kernel': 'nuts'}}, 'kernel must be'),
        ({'energy': {'blocks': 'x1'}}, "blocks must be widths of blocks such as 'd1 1 d2 2', got 'x1'"),
        ({'energy': {'blocks': 'd1 ' * 7}}, 'blocks must halve images of 32 pixels at most 5 times'),
        ({'evaluation': {'eval_every': 0}}, 'eval_every must be a whole number >= 1, got 0'),
        ({'evaluation': {'eval_samples': 1}}, 'eval_samples must be a whole number >= 2, got 1'),
        ({'evaluation': {'n_samples': 1}}, 'n_samples must be a whole number >= 2, got 1'),
        ({'evaluation': {'extractor': 'resnet'}}, 'extractor must be module:class or one of digit_classifier, '),
        ({'evaluation': {'chooser': 'resnet'}}, "chooser must be '' or module:class or one of digit_classifier, "),
        ({'evaluation': {'keep': 'first'}}, "keep must be one of best, last, got 'first'"),
        ({'nvae': {'groups': 0}}, 'groups must be a whole number >= 1, got 0'),
        ({'stage1': {'ema': 2.0}}, 'ema must be from 0 to 1, got 2.0'),
        ({'start': '../other'}, "start must be '', the name of published weights, or a file: .pt or .pth of"),
    ],
)
def test_a_run_is_refused_before_its_folder_is_written(tmp_path, values, said):
    overrides = {'tier': 'smoke', 'source': 'paper', 'run_dir': tmp_path / 'run'} | values
    assert error_message(ValueError, open_run, 'cifar10', overrides).startswith(said)
    assert not list(tmp_path.iterdir())


def test_names_of_sets_do_not_leave_the_folder(tmp_path):
    for call in (
        lambda: write_example('../../etc', 'train', 2, tmp_path / 'a' / 'b'),
        lambda: prepare('../../etc', 'train', 32, 2, tmp_path / 'a' / 'b'),
    ):
        assert error_message(ValueError, call).startswith('name must be one of mnist')
    assert "split must be one of train, test, got '../x'" == error_message(
        ValueError, write_example, 'cifar10', '../x', 2, tmp_path
    )
    assert not list(tmp_path.iterdir())


def published_args(c):
    "The `args` that NVAE's authors would have written beside weights of this configuration."
    return {
        'dataset': 'cifar10',
        'num_latent_scales': c.scales,
        'num_groups_per_scale': c.groups,
        'num_latent_per_group': c.latent,
        'num_channels_enc': c.channels_enc,
        'num_channels_dec': c.channels_dec,
        'num_preprocess_blocks': c.blocks_pre,
        'num_preprocess_cells': c.cells_pre,
        'num_postprocess_blocks': c.blocks_post,
        'num_postprocess_cells': c.cells_post,
        'num_cell_per_cond_enc': c.cells_enc,
        'num_cell_per_cond_dec': c.cells_dec,
        'num_nf': c.flows,
        'use_se': c.use_se,
        'res_dist': c.residual,
    }


LOADED = """
import sys, torch
from pathlib import Path
from vaebm import checkpoints, load_pretrained
checkpoints.checkpoint_folder = lambda: Path(sys.argv[1])
x = load_pretrained('mine').sample(2, torch.Generator().manual_seed(0))
assert x.shape == (2, 3, 32, 32) and x.isfinite().all()
print('sampled')
"""


def test_a_run_from_the_authors_files_is_published_and_sampled_in_a_fresh_process(tmp_path):
    "Stage 1 is skipped, the report written; both weights go into a manifest and come back by name."
    m = preset('cifar10', 'smoke').model
    torch.manual_seed(0)
    vae = NVAE(m.nvae)
    nvae_file, run = tmp_path / 'checkpoint.pt', tmp_path / 'run'
    torch.save({'epoch': 400, 'state_dict': published_state(vae), 'args': published_args(m.nvae)}, nvae_file)
    energy_file = tmp_path / 'EBM.pth'
    blocks = ENERGY_NETWORKS['cifar10']['blocks']
    torch.save({'model': energy_state(EnergyResNet(4, blocks)), 'optimizer': {}}, energy_file)
    more = [f'vae={nvae_file}', f'start_energy={energy_file}', f'energy={json.dumps({"width": 4, "blocks": blocks})}']
    more += [word for word in FEW if not word.startswith('stage1')]
    done = subprocess.run(
        command('cifar10', run, *more), env=environment(tmp_path), capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    record, of_vae = (json.loads((run / part / 'metrics.json').read_text()) for part in ('.', 'vae'))
    assert record['metrics']['updates']['stage1'] == 0 and (run / 'report.md').exists()
    assert of_vae['lineage'][0]['command'] == 'published as checkpoint.pt'
    assert record['lineage'][0]['command'] == 'published as EBM.pth'
    assert record['vae'] == {'name': 'cifar10_smoke_nvae', 'digest': of_vae['digest']}
    trained = load_checkpoint(run / 'vae' / 'weights.safetensors')
    assert all(torch.equal(v, trained[k]) for k, v in vae.state_dict().items())
    weights = tmp_path / 'weights'
    weights.mkdir()
    publish(run / 'vae', 'cifar10_smoke_nvae', weights)
    publish(run, 'mine', weights)
    done = subprocess.run(
        [sys.executable, '-c', LOADED, str(weights)],
        env=environment(tmp_path),
        capture_output=True,
        text=True,
    )
    assert done.stdout == 'sampled\n', done.stderr[-2000:]


def test_what_is_missing_is_said_before_the_first_update(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv('VAEBM_DATA', str(tmp_path))
    run = Run(override(preset('celeba64'), {'vae': 'checkpoint.pt'}), tmp_path)
    cost = {'disk': {'images': 10**30}, 'memory': {}}
    with pytest.raises(NotReady) as refused:
        preflight(needs(run, cost))
    said = capsys.readouterr().out
    for text in ('images of celeba64, train', 'images of celeba64, test', 'published weights', 'its weights', 'disk'):
        assert f'✗ {text}: ' in said and text in str(refused.value), text
    assert f'✓ folder of data: {tmp_path} (VAEBM_DATA names it)' in said and 'checkpoint.pt' in said
    (tmp_path / 'checkpoint.pt').touch()
    for split, n in (('train', 5), ('test', 2)):
        write_example('celeba64', split, n, tmp_path)
    few = [need.text for need in needs(run, cost) if need.text.startswith('images')]
    place = tmp_path / 'celeba64'
    assert few[0] == f'images of celeba64, train: {place / "train"} holds 5, needed are 162,770'
    assert few[1] == f'images of celeba64, test: {place / "test"} holds 2, needed are 19,962'
    (tmp_path / 'celeba64_train.npz').write_bytes(b'cut')
    assert [need.met for need in needs(run, cost)][1:3] == [False, False]
    (tmp_path / 'celeba64_train.npz').unlink()
    run = Run(override(run.config, {'data': {'n_train': 5, 'n_test': 2}}), tmp_path)
    (tmp_path / InceptionFeatures.FILE).touch()
    monkeypatch.chdir(tmp_path)
    met = needs(run, {'disk': {'images': 1}, 'memory': {}})
    assert [need.text for need in met if need.met is False] in ([], ["network of the FID: pip install 'vaebm[fid]'"])
    monkeypatch.setenv('VAEBM_DATA', str(tmp_path / 'nowhere'))
    first = needs(run, cost)[0]
    assert first == (False, f'folder of data: {tmp_path / "nowhere"}, which VAEBM_DATA names, does not exist')
    monkeypatch.delenv('VAEBM_DATA')
    first = needs(run, cost)[0]
    assert first.met is None and first.text.endswith('(VAEBM_DATA is not set)')
