"""Run folders: one process, one configuration, one set of data; whole files; a finished run that can only be read."""

import json
import multiprocessing
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from fork import finish, start

from vaebm import runs
from vaebm.data import Images, load_images
from vaebm.runs import (
    CheckpointError,
    RunFolderError,
    check_folder,
    claim_data,
    holder,
    load_checkpoint,
    lock_folder,
    message,
    replacing,
    run_folder,
    save_checkpoint,
    write_atomic,
    write_json,
    write_record,
)


@dataclass(frozen=True)
class Settings:
    seed: int = 0
    rate: float = 1.0


TRAIN = """
import sys, torch
from dataclasses import dataclass
from vaebm.data import gaussian_grid
from vaebm.runs import RunFolderError, configure, run_folder
from vaebm.training import Config, StageOne, build, fit
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
        text not in (path.read_text() if path.exists() else '') and process.exitcode is None and time.monotonic() < end
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
                f'run folder {folder} is in use by process ' in refused and f' on {platform.node()} since ' in refused
            )
            assert refused.split('by process ')[1].split()[0] == str(processes[codes.index(0)].pid)
        assert 'finished' in texts[codes.index(0)] and load_checkpoint(folder / 'stage1.safetensors')['done'] == 40
        assert (
            not list(folder.glob('*.tmp'))
            and json.loads((folder / 'config.json').read_text())['stage1']['n_steps'] == 40
        )


def test_a_folder_is_free_when_its_process_is_killed(tmp_path):
    process = start(TRAIN, str(tmp_path / 'run'), 'stay', log=tmp_path / 'log')
    wait_for(tmp_path / 'log', 'finished', process)
    assert holder(tmp_path / 'run')['process'] == process.pid
    assert f'in use by process {process.pid} on' in message(RunFolderError, lock_folder, tmp_path / 'run')
    assert f'in use by process {process.pid} on' in message(RunFolderError, run_folder, tmp_path / 'run', Settings())
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    lock_folder(tmp_path / 'run')
    assert holder(tmp_path / 'run')['process'] == os.getpid()


def test_a_process_may_open_its_folder_again_and_a_refused_one_is_let_go(tmp_path):
    for _ in range(2):
        run_folder(tmp_path / 'run', Settings())
    other = run_folder(tmp_path / 'other', Settings(seed=1))
    runs._release(other)
    assert 'differs in seed' in message(RunFolderError, run_folder, other, Settings())
    code = f'from vaebm.runs import lock_folder; lock_folder({str(other)!r})'
    assert finish(start(code, log=tmp_path / 'log'), 60) == 0, (tmp_path / 'log').read_text()
    assert (
        finish(start(code.replace(str(other), str(tmp_path / 'run')), log=tmp_path / 'log'), 60) == 1
        and f'in use by process {os.getpid()} on' in (tmp_path / 'log').read_text()
    )


@pytest.mark.parametrize('text', ['', '{"seed": ', '[1]', 'null'])
def test_a_damaged_configuration_is_named(tmp_path, text):
    (tmp_path / 'config.json').write_text(text)
    assert f"{tmp_path / 'config.json'} is damaged" in message(CheckpointError, run_folder, tmp_path, Settings())


def test_numbers_that_are_not_finite_do_not_change_a_configuration(tmp_path):
    for _ in range(2):
        run_folder(tmp_path, Settings(rate=float('inf')))
    json.loads((tmp_path / 'config.json').read_text(), parse_constant=pytest.fail)
    assert 'differs in rate' in message(RunFolderError, check_folder, tmp_path, Settings(rate=2.0))


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
        assert text in message(RunFolderError, claim_data, tmp_path, name, splits)
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


def test_writers_of_one_file_do_not_disturb_each_other(tmp_path):
    "Two write it 100 times each; a reader sees a whole file of either, always."
    path, fork = tmp_path / 'a.safetensors', multiprocessing.get_context('fork')
    save_checkpoint(path, {'a': torch.zeros(20_000)})

    def write(value):
        for _ in range(100):
            save_checkpoint(path, {'a': torch.full((20_000,), value)})

    writers = [fork.Process(target=write, args=(float(k),)) for k in (1, 2)]
    for p in writers:
        p.start()
    seen = set()
    while any(p.is_alive() for p in writers):
        seen.add(load_checkpoint(path)['a'].unique().item())
    assert [p.exitcode for p in writers] == [0, 0] and seen <= {0.0, 1.0, 2.0} and load_checkpoint(path)['a'][0] > 0
    assert [p.name for p in tmp_path.iterdir()] == ['a.safetensors']


def test_a_writer_that_fails_leaves_nothing(tmp_path, monkeypatch):
    write_atomic(tmp_path / 'a', b'old')
    with pytest.raises(OSError, match='no space'), replacing(tmp_path / 'a') as aside:
        aside.write_bytes(b'half')
        raise OSError('no space left')

    def full(descriptor):
        raise OSError('no space left')

    with monkeypatch.context() as patch:
        patch.setattr(os, 'fsync', full)
        assert message(OSError, write_atomic, tmp_path / 'a', b'new') == 'no space left'
        assert message(OSError, save_checkpoint, tmp_path / 'b.safetensors', {'w': torch.ones(1)}) == 'no space left'
    assert [p.name for p in tmp_path.iterdir()] == ['a'] and (tmp_path / 'a').read_bytes() == b'old'


def test_what_a_killed_writer_left_is_removed_and_what_another_writes_is_not(tmp_path):
    dead = subprocess.Popen([sys.executable, '-c', ''])
    dead.wait()
    here = platform.node()
    names = {
        'dead': f'a.{here}-{dead.pid}-0.tmp',
        'alive': f'a.{here}-{os.getppid()}-0.tmp',
        'elsewhere': f'a.another-host-{dead.pid}-0.tmp',
        'other file': f'ab.{here}-{dead.pid}-0.tmp',
    }
    for name in names.values():
        (tmp_path / name).touch()
    write_atomic(tmp_path / 'a', b'new')
    assert {p.name for p in tmp_path.iterdir()} == {'a', names['alive'], names['elsewhere'], names['other file']}


def test_files_keep_the_rights_that_the_user_gives(tmp_path):
    (tmp_path / 'plain').write_bytes(b'')
    write_atomic(tmp_path / 'a', b'new')
    assert (tmp_path / 'a').stat().st_mode == (tmp_path / 'plain').stat().st_mode


def test_what_is_there_already_is_not_written_again(tmp_path):
    for data in (b'', b'new', bytes(3 * 2**20)):
        write_atomic(tmp_path / 'a', data)
        before = (tmp_path / 'a').stat()
        write_atomic(tmp_path / 'a', data)
        after = (tmp_path / 'a').stat()
        assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
    write_atomic(tmp_path / 'a', bytes(3 * 2**20 - 1) + b'1')
    assert (tmp_path / 'a').read_bytes()[-1:] == b'1'


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
from vaebm.runs import claim_data, configure, run_folder, save_checkpoint, write_record
from vaebm.training import Config, FitResult, StageOne, StageTwo, build, fit
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
