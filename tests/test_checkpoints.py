"""Weights are what they hold: equal content has one digest and one file, written whole or not at all.

Damaged and foreign files are refused by name.
"""

import json
import math
import multiprocessing
import os
import platform
import random
import subprocess
import sys

import pytest
import safetensors.torch
import torch

from small import former_file

from vaebm.checkpoints import CheckpointError, digest, load_checkpoint, replacing, save_checkpoint, write_atomic
from vaebm.config import error_message
from vaebm.distributed import load_rank_checkpoint, update_of
from vaebm.released import load_released_energy, load_released_nvae, read_published

STATE = {
    'module': {'w': torch.arange(6.0).view(2, 3), 'b': torch.zeros(2, dtype=torch.float16)},
    'optimizer': {'state': {0: {'step': torch.tensor(3.0)}}, 'lr': [0.1 + 0.2, 1e-300]},
    'generator': torch.Generator().manual_seed(1).get_state(),
    'done': 7,
    'history': [{'step': 0, 'elbo': -1.5}],
    'name': 'ä',
    'none': None,
    'empty': {},
    'flag': True,
}


def same(a, b):
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


def test_equal_states_are_one_file_and_one_digest(tmp_path):
    known, file = digest(STATE), tmp_path / 'a.safetensors'
    found = set()
    for _ in range(20):
        assert save_checkpoint(file, STATE) == known
        found.add(file.read_bytes())
        file.unlink()
    assert len(found) == 1
    save_checkpoint(file, STATE)
    assert same(load_checkpoint(file, known), STATE)
    assert digest(dict(reversed(STATE.items()))) == known, 'the order of keys is no content'


W = torch.arange(4.0)
TREES = [
    {'a/b': W},
    {'a': {'b': W}},
    {'a': [W]},
    {'a': {0: W}},
    {'a': {'0': W}},
    {'a/b': W, 'a': {'b': W}},
    {'a/b': W + 1, 'a': {'b': W}},
    {'a/b': W, 'a': {'b': W + 1}},
    {'a': W, 'b': W + 1},
    {'a': W + 1, 'b': W},
    {'a': W.view(2, 2)},
    {'a': W},
    {'a': W.view(torch.int32)},
    {'a': W.double()},
    {'a': W.bool()},
    {'a': W[:2], 'b': W[2:]},
    {'a': W[:3], 'b': W[3:]},
    {'ab': W},
    {'a': 1},
    {'a': 1.0},
    {'a': True},
    {'a': '1'},
    {'a': None},
    {'a': []},
    {'a': {}},
    {'a': ''},
    {'a': math.inf},
    {'a': -0.0},
    {'a': 0.0},
    {'a': torch.tensor(-0.0)},
    {'a': torch.tensor(0.0)},
    {'a': torch.empty(0)},
    {'a': torch.empty(0, 1)},
    {},
    [],
    W,
    'a',
]


def test_other_content_has_another_digest_and_comes_back_as_it_was(tmp_path):
    assert len({digest(tree) for tree in TREES}) == len(TREES)
    for k, tree in enumerate(TREES):
        known = save_checkpoint(tmp_path / f'{k}.safetensors', tree)
        assert same(load_checkpoint(tmp_path / f'{k}.safetensors', known), tree), tree


@pytest.mark.parametrize(
    'node',
    [{('a', 'b'): 1}, {b'a': 1}, {'a': b'1'}, {'a': {1, 2}}, {'a': object()}],
    ids=['tuple key', 'bytes key', 'bytes', 'set', 'object'],
)
def test_what_a_checkpoint_cannot_hold_is_refused_before_anything_is_written(tmp_path, node):
    with pytest.raises(TypeError, match='checkpoint'):
        save_checkpoint(tmp_path / 'a.safetensors', node)
    assert not list(tmp_path.iterdir())


def test_files_of_the_first_version_are_read(tmp_path):
    file = tmp_path / 'former.safetensors'
    former_file(file, STATE)
    assert same(load_checkpoint(file, digest(STATE)), STATE) and update_of(file) == 7
    data = file.read_bytes()
    for k in range(len(data) - 40, len(data)):
        file.write_bytes(data[:k] + bytes([data[k] ^ 4]) + data[k + 1 :])
        assert error_message(CheckpointError, load_checkpoint, file).startswith(str(file))


@pytest.mark.parametrize('write', [save_checkpoint, former_file])
def test_no_damaged_file_is_taken_for_another_state(tmp_path, write):
    "A byte changed, bytes lost at the end or in the middle, bytes added, at 400 places."
    file = tmp_path / 'a.safetensors'
    whole = tmp_path / 'whole.safetensors'
    chance = random.Random(0)
    write(whole, STATE)
    data, refused = whole.read_bytes(), 0
    for _ in range(400):
        k, how = chance.randrange(len(data)), chance.choice(['change', 'cut', 'lose', 'add'])
        file.write_bytes(
            {
                'change': data[:k] + bytes([data[k] ^ 1 << chance.randrange(8)]) + data[k + 1 :],
                'cut': data[:k],
                'lose': data[:k] + data[k + 3 :],
                'add': data[:k] + b'\0' + data[k:],
            }[how]
        )
        for read in (load_checkpoint, update_of):
            try:
                found = read(file)
            except CheckpointError as error:
                assert str(error).startswith(str(file))
                refused += read is load_checkpoint
            else:
                assert read is update_of or digest(found) == digest(
                    STATE
                )  # a blank in the header is no content
    assert refused > 390


def foreign(folder):
    "Files that are no checkpoint of ours, by what is wrong with them."
    safetensors.torch.save_file({'a': torch.zeros(1)}, folder / 'bare.safetensors')
    safetensors.torch.save_file({'a': torch.zeros(1)}, folder / 'other.safetensors', {'format': 'pt'})
    for name, tree in {
        'number': 3,
        'list': {'list': [1]},
        'no tensor': {'dict': [['done', {'tensor': 'b'}]]},
        'no tree': {'dict': 5},
        'two kinds': {'dict': [], 'list': []},
        'key': {'dict': [[[1], 2]]},
        'words': {'dict': [['done', 'seven']]},
    }.items():
        safetensors.torch.save_file(
            {'a': torch.zeros(1)},
            folder / f'{name}.safetensors',
            {'checkpoint': json.dumps({'digest': '0', 'tree': tree})},
        )
    for name, data in {
        'empty': b'',
        'text': b'hello world',
        'huge': b'\xff' * 8 + b'{}',
        'zip': b'PK\x03\x04' + bytes(40),
        'pickle': b'\x80\x04K\x01.',
        'binary': bytes(range(256)),
    }.items():
        (folder / f'{name}.safetensors').write_bytes(data)
    (folder / 'folder.safetensors').mkdir()
    return sorted(folder.iterdir())


@pytest.mark.parametrize(
    'read',
    [
        load_checkpoint,
        update_of,
        load_rank_checkpoint,
        read_published,
        load_released_nvae,
        lambda path: load_released_energy(path, 'cifar10'),
    ],
    ids=['load_checkpoint', 'update_of', 'load_rank_checkpoint', 'read_published', 'NVAE', 'EnergyResNet'],
)
def test_foreign_files_are_refused_with_their_path_by_every_reader(tmp_path, read):
    for path in foreign(tmp_path):
        assert str(path) in error_message(CheckpointError, read, path), path


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
    assert (
        [p.exitcode for p in writers] == [0, 0]
        and seen <= {0.0, 1.0, 2.0}
        and load_checkpoint(path)['a'][0] > 0
    )
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
        assert error_message(OSError, write_atomic, tmp_path / 'a', b'new') == 'no space left'
        assert (
            error_message(OSError, save_checkpoint, tmp_path / 'b.safetensors', {'w': torch.ones(1)})
            == 'no space left'
        )
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
    assert {p.name for p in tmp_path.iterdir()} == {
        'a',
        names['alive'],
        names['elsewhere'],
        names['other file'],
    }


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
