"""Run folders: one process, one configuration, one set of data.  What is published from them, and what is not."""

import hashlib
import json
import math
import multiprocessing
import os
import platform
import shutil
import signal
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from fork import finish, start
from small import former_file

import vaebm
from vaebm import checkpoints, runs
from vaebm.checkpoints import CheckpointError, digest, load_checkpoint, save_checkpoint, write_json
from vaebm.config import configure, error_message
from vaebm.images import Images, load_images
from vaebm.runs import (
    RunFolderError,
    Stopped,
    check_folder,
    claim_data,
    holder,
    lock_folder,
    need_finished,
    publish,
    run_folder,
    write_record,
)
from vaebm.stage_two import VAEBMConfig, build_vaebm
from vaebm.loop import FitResult


@dataclass(frozen=True)
class Settings:
    seed: int = 0
    rate: float = 1.0


TRAIN = """
import sys, torch
from dataclasses import dataclass
from vaebm.data import gaussian_grid
from vaebm.config import configure
from vaebm.runs import RunFolderError, run_folder
from vaebm.loop import fit
from vaebm.training import Config, StageOne, build
torch.set_num_threads(1)
config = configure(Config(), {'network': {'width': 8}, 'stage1': {'n_steps': 40, 'batch_size': 16}})
try: folder = run_folder(sys.argv[1], config)
except RunFolderError as error: sys.exit(f'refused: {error}')
print('in', flush=True)
x = gaussian_grid().sample(200, generator=torch.Generator().manual_seed(0))
stage = StageOne(build(config).vae, x, config.stage1)
print(fit(stage, folder / 'stage1.safetensors', 10, progress=False), flush=True)
import time
while len(sys.argv) > 2: time.sleep(.01)
"""


def wait_for(path, text, process):
    end = time.monotonic() + 120
    while (
        text not in (path.read_text() if path.exists() else '')
        and process.exitcode is None
        and time.monotonic() < end
    ):
        time.sleep(0.01)


def test_of_two_processes_in_a_folder_one_goes_on_and_the_other_is_told(tmp_path):
    "Twenty times; then the folder is free, and the run has finished in whole files."
    for k in range(20):
        folder, logs = tmp_path / f'run {k}', [tmp_path / f'{k} {i}.log' for i in (0, 1)]
        processes = [start(TRAIN, str(folder), log=log) for log in logs]
        codes = [finish(p, 120) for p in processes]
        texts = [log.read_text() for log in logs]
        if codes != [0, 0]:  # the first may have finished before the second came
            assert sorted(codes) == [0, 1], texts
            refused = texts[codes.index(1)]
            assert (
                f'run folder {folder} is in use by process ' in refused
                and f' on {platform.node()} since ' in refused
            )
            assert refused.split('by process ')[1].split()[0] == str(processes[codes.index(0)].pid)
        assert (
            'finished' in texts[codes.index(0)] and load_checkpoint(folder / 'stage1.safetensors')['done'] == 40
        )
        assert (
            not list(folder.glob('*.tmp'))
            and json.loads((folder / 'config.json').read_text())['stage1']['n_steps'] == 40
        )


def test_a_folder_is_free_when_its_process_is_killed(tmp_path):
    process = start(TRAIN, str(tmp_path / 'run'), 'stay', log=tmp_path / 'log')
    wait_for(tmp_path / 'log', 'finished', process)
    assert holder(tmp_path / 'run')['process'] == process.pid
    assert f'in use by process {process.pid} on' in error_message(RunFolderError, lock_folder, tmp_path / 'run')
    assert f'in use by process {process.pid} on' in error_message(
        RunFolderError, run_folder, tmp_path / 'run', Settings()
    )
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    lock_folder(tmp_path / 'run')
    assert holder(tmp_path / 'run')['process'] == os.getpid()


def test_a_process_may_open_its_folder_again_and_a_refused_one_is_let_go(tmp_path):
    for _ in range(2):
        run_folder(tmp_path / 'run', Settings())
    other = run_folder(tmp_path / 'other', Settings(seed=1))
    runs._release(other)
    assert 'differs in seed' in error_message(RunFolderError, run_folder, other, Settings())
    code = f'from vaebm.runs import lock_folder; lock_folder({str(other)!r})'
    assert finish(start(code, log=tmp_path / 'log'), 60) == 0, (tmp_path / 'log').read_text()
    assert (
        finish(start(code.replace(str(other), str(tmp_path / 'run')), log=tmp_path / 'log'), 60) == 1
        and f'in use by process {os.getpid()} on' in (tmp_path / 'log').read_text()
    )


@pytest.mark.parametrize('text', ['', '{"seed": ', '[1]', 'null'])
def test_a_damaged_configuration_is_named(tmp_path, text):
    (tmp_path / 'config.json').write_text(text)
    assert f"{tmp_path / 'config.json'} is damaged" in error_message(
        CheckpointError, run_folder, tmp_path, Settings()
    )


def test_numbers_that_are_not_finite_do_not_change_a_configuration(tmp_path):
    for _ in range(2):
        run_folder(tmp_path, Settings(rate=float('inf')))
    json.loads((tmp_path / 'config.json').read_text(), parse_constant=pytest.fail)
    assert 'differs in rate' in error_message(RunFolderError, check_folder, tmp_path, Settings(rate=2.0))


def test_data_belong_to_the_configuration(tmp_path):
    digits = {split: load_images('mnist', split, download=False) for split in ('train', 'test')}
    few = {split: Images(d.pixels[:100], d.labels[:100]) for split, d in digits.items()}
    run_folder(tmp_path, Settings())
    claim_data(tmp_path, 'mnist', {'train': few['train']})
    claimed = claim_data(tmp_path, 'mnist', few)
    assert {split: (d['set'], d['count']) for split, d in claimed.items()} == {
        'train': ('mnist', 100),
        'test': ('mnist', 100),
    }
    run_folder(tmp_path, Settings())  # opened again: nothing is forgotten
    config = (tmp_path / 'config.json').read_text()
    changed = Images(few['test'].pixels.clone(), few['test'].labels)
    changed.pixels[3, 0, 0, 0] += 1
    relabelled = Images(few['train'].pixels, few['train'].labels.flip(0))
    for name, splits, text in (
        ('mnist', {'train': digits['train']}, 'train was 100 of mnist'),
        ('mnist', few | {'test': changed}, 'test was 100 of mnist'),
        ('mnist', {'train': relabelled}, 'train was'),
        ('fashion_mnist', few, 'and is 100 of fashion_mnist'),
    ):
        assert text in error_message(RunFolderError, claim_data, tmp_path, name, splits)
    assert (tmp_path / 'config.json').read_text() == config
    save_checkpoint(tmp_path / 'weights.safetensors', {'w': torch.ones(1)})
    (tmp_path / 'vae').mkdir()
    save_checkpoint(tmp_path / 'vae' / 'weights.safetensors', {'w': torch.ones(1)})
    for part in ('.', 'vae'):
        assert write_record(tmp_path / part, 'digits', {}, 'nvae', Settings(), {})['data_sets'] == claimed


def test_a_folder_of_the_first_version_learns_its_data(tmp_path):
    write_json(tmp_path / 'config.json', Settings())
    run_folder(tmp_path, Settings())
    claimed = claim_data(tmp_path, 'points', {'train': torch.zeros(3, 2)})
    run_folder(tmp_path, Settings())
    assert json.loads((tmp_path / 'config.json').read_text()) == {'seed': 0, 'rate': 1.0, 'data_sets': claimed}


REOPEN = """
import os, sys
from pathlib import Path
folder = Path(sys.argv[1])
if not os.geteuid(): os.setuid(65534)   # the owner of nothing
try: (folder / 'new').touch()
except PermissionError: pass
else: sys.exit('the folder can be written')
import torch
from vaebm.data import gaussian_grid
from vaebm.checkpoints import save_checkpoint
from vaebm.config import configure
from vaebm.runs import claim_data, run_folder, write_record
from vaebm.loop import FitResult, fit
from vaebm.training import Config, StageOne, StageTwo, build
torch.set_num_threads(1)
few = {'n_steps': 6, 'batch_size': 16}
config = configure(Config(), {'network': {'width': 8}, 'stage1': few, 'stage2': few | {'buffer_size': 16}})
run_folder(folder, config)
x = gaussian_grid().sample(200, generator=torch.Generator().manual_seed(0))
claim_data(folder, 'points', {'train': x})
model = build(config)
for name, stage in ('stage1', StageOne(model.vae, x, config.stage1)), ('stage2', StageTwo(model, x, config.stage2)):
    assert fit(stage, folder / f'{name}.safetensors', 2, progress=False) == FitResult('finished', 6)
save_checkpoint(folder / 'weights.safetensors', model.state_dict())
write_record(folder, 'points', {}, 'vaebm', config, {'status': 'finished', 'loss': os.getpid()})
"""


@pytest.fixture
def open_place():
    "A temporary folder that everybody may enter."
    with tempfile.TemporaryDirectory() as place:
        os.chmod(place, 0o755)
        yield Path(place)


def test_a_finished_run_is_reopened_in_a_folder_that_cannot_be_written(tmp_path, open_place):
    folder = open_place / 'run'
    writing = REOPEN.split('if not os')[0] + REOPEN[REOPEN.index('import torch') :]
    assert finish(start(writing, str(folder), log=tmp_path / 'log'), 120) == 0, (tmp_path / 'log').read_text()
    before = {p: p.read_bytes() for p in folder.iterdir()}
    for p in folder.iterdir():
        p.chmod(0o444)
    folder.chmod(0o555)
    code = finish(start(REOPEN, str(folder), log=tmp_path / 'log'), 120)
    folder.chmod(0o755)
    assert code == 0, (tmp_path / 'log').read_text()
    assert {p: p.read_bytes() for p in folder.iterdir()} == before


CHECKPOINTS = Path(__file__).parents[1] / 'data' / 'checkpoints'
MANIFEST = json.loads((CHECKPOINTS / 'manifest.json').read_text())


@pytest.fixture
def published(tmp_path, monkeypatch):
    "A folder of published weights with the small VAE in it."
    target = tmp_path / 'published'
    target.mkdir()
    shutil.copy(CHECKPOINTS / 'nvae_digits.safetensors', target)
    write_json(target / 'manifest.json', {'nvae_digits': MANIFEST['nvae_digits']})
    for module in (checkpoints, runs):
        monkeypatch.setattr(module, 'checkpoint_folder', lambda: target)
    return target


def run_of_an_energy(folder, vae):
    "A finished run folder with an energy of the small VAE; the VAE is named by `vae`."
    model = vaebm.load_pretrained('nvae_digits')
    config = configure(
        VAEBMConfig(nvae=model.config),
        {
            'energy': {'width': 4, 'blocks': 'd1'},
            'stage2': {'kernel': 'independence', 'kernel_options': {'n_proposals': 2}},
            'sample_steps': 1,
        },
    )
    energy = build_vaebm(
        config, model, torch.rand(8, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    ).energy
    folder.mkdir()
    save_checkpoint(folder / 'weights.safetensors', energy.state_dict())
    write_record(folder, 'digits', {}, 'energy', config, {}, vae=vae)


def test_a_vae_published_again_keeps_its_energies(published, tmp_path):
    """Read, saved anew and published under its name: the weights are the same, and so is what
    belongs to them.
    """
    run_of_an_energy(tmp_path / 'energy', {'name': 'nvae_digits', 'digest': MANIFEST['nvae_digits']['digest']})
    publish(tmp_path / 'energy', 'mine', published)
    (tmp_path / 'vae').mkdir()
    save_checkpoint(
        tmp_path / 'vae' / 'weights.safetensors', load_checkpoint(published / 'nvae_digits.safetensors')
    )
    write_record(tmp_path / 'vae', 'digits', {}, 'nvae', MANIFEST['nvae_digits']['config'], {})
    publish(tmp_path / 'vae', 'nvae_digits', published)
    assert vaebm.load_pretrained('mine').sample(1, torch.Generator().manual_seed(0)).shape == (1, 3, 16, 16)


def test_a_record_of_the_first_version_is_published_with_digests(published, tmp_path):
    sha256 = hashlib.sha256((published / 'nvae_digits.safetensors').read_bytes()).hexdigest()
    run_of_an_energy(tmp_path / 'run', {'name': 'nvae_digits', 'sha256': sha256})
    weights, record = (
        tmp_path / 'run' / 'weights.safetensors',
        json.loads((tmp_path / 'run' / 'metrics.json').read_text()),
    )
    former_file(weights, load_checkpoint(weights))
    del record['digest']
    write_json(
        tmp_path / 'run' / 'metrics.json', record | {'sha256': hashlib.sha256(weights.read_bytes()).hexdigest()}
    )
    entry = publish(tmp_path / 'run', 'mine', published)
    assert 'sha256' not in entry and entry['vae'] == {
        'name': 'nvae_digits',
        'digest': MANIFEST['nvae_digits']['digest'],
    }
    assert entry['digest'] == digest(load_checkpoint(weights)) and vaebm.load_pretrained('mine').n_steps == 1
    write_json(tmp_path / 'run' / 'metrics.json', record | {'sha256': '0'})
    assert 'records other weights than those beside it' in error_message(
        CheckpointError, publish, tmp_path / 'run', 'mine', published
    )
    write_json(
        tmp_path / 'run' / 'metrics.json',
        record | {'digest': entry['digest'], 'vae': {'name': 'other', 'sha256': '0'}},
    )
    assert 'speaks of other, whose weights are not in' in error_message(
        CheckpointError, publish, tmp_path / 'run', 'mine', published
    )


@pytest.mark.parametrize(
    'name', ['../mine', '/mine', '', 'a/b', 'a b', 'mine.safetensors', 'ä', 'a\n'], ids=repr
)
def test_published_names_stay_in_their_folder(published, tmp_path, name):
    run_of_an_energy(tmp_path / 'run', {'name': 'nvae_digits', 'digest': MANIFEST['nvae_digits']['digest']})
    before = sorted(tmp_path.rglob('*'))
    with pytest.raises(ValueError, match='name must consist of letters, digits and _, got '):
        publish(tmp_path / 'run', name, published)
    assert sorted(tmp_path.rglob('*')) == before


def test_weights_that_are_not_finite_or_not_of_the_record_are_not_published(published, tmp_path):
    run_of_an_energy(tmp_path / 'run', {'name': 'nvae_digits', 'digest': MANIFEST['nvae_digits']['digest']})
    weights, record = (
        tmp_path / 'run' / 'weights.safetensors',
        json.loads((tmp_path / 'run' / 'metrics.json').read_text()),
    )
    state = load_checkpoint(weights)
    state['linear.bias'] = state['linear.bias'] + 1
    save_checkpoint(weights, state)
    assert 'was changed' in error_message(CheckpointError, publish, tmp_path / 'run', 'mine', published)
    state['linear.bias'] = state['linear.bias'] + math.nan
    write_json(tmp_path / 'run' / 'metrics.json', record | {'digest': save_checkpoint(weights, state)})
    assert 'linear.bias is not finite' in error_message(CheckpointError, publish, tmp_path / 'run', 'mine', published)
    assert list(json.loads((published / 'manifest.json').read_text())) == ['nvae_digits']


def test_no_entry_is_lost_when_several_publish_at_once(published, tmp_path):
    run_of_an_energy(tmp_path / 'run', {'name': 'nvae_digits', 'digest': MANIFEST['nvae_digits']['digest']})

    def many(k):
        for i in range(5):
            publish(tmp_path / 'run', f'mine_{k}_{i}', published)

    processes = [multiprocessing.get_context('fork').Process(target=many, args=(k,)) for k in range(4)]
    for p in processes:
        p.start()
    for p in processes:
        p.join(60)
    assert [p.exitcode for p in processes] == [0] * 4
    assert {f'mine_{k}_{i}' for k in range(4) for i in range(5)} < json.loads(
        (published / 'manifest.json').read_text()
    ).keys()


def test_a_stopped_training_that_the_rest_needs_ends_the_run_with_a_status(tmp_path):
    assert need_finished(FitResult('finished', 3), 'again', 'stage 1', tmp_path) == FitResult(
        'finished', 3
    ) and not list(tmp_path.iterdir())
    text = error_message(
        Stopped,
        need_finished,
        FitResult('stopped', 2, 'the ELBO is not finite at update 3'),
        'again',
        'stage 1',
        tmp_path,
    )
    record = json.loads((tmp_path / 'metrics.json').read_text(), parse_constant=pytest.fail)
    assert (
        text
        == record['status']
        == 'stage 1 stopped: the ELBO is not finite at update 3; weights of update 2 restored'
        and record['command'] == 'again'
    )


@pytest.mark.parametrize('name', ['../evil', '/tmp/absolute', '', 'a/b', 'a.b'])
def test_weights_are_published_in_their_folder_alone(tmp_path, name):
    (tmp_path / 'run').mkdir()
    (tmp_path / 'target').mkdir()
    known = save_checkpoint(tmp_path / 'run' / 'weights.safetensors', {'w': torch.zeros(1)})
    write_json(tmp_path / 'run' / 'metrics.json', {'digest': known})
    assert error_message(ValueError, publish, tmp_path / 'run', name, tmp_path / 'target').startswith(
        'name must consist of letters, digits and _'
    )
    assert not list((tmp_path / 'target').iterdir()) and len(list(tmp_path.rglob('*.safetensors'))) == 1
