"""Weights are what they hold: equal content has one digest and one file; damaged and foreign files are refused by name."""

import hashlib
import json
import math
import multiprocessing
import random
import shutil
from pathlib import Path

import pytest
import safetensors.torch
import torch

import vaebm
from vaebm import runs
from vaebm.energy import EnergyResNet
from vaebm.nvae import NVAE
from vaebm.parallel import load_shares, update_of
from vaebm.runs import (
    CheckpointError,
    configure,
    digest,
    load_checkpoint,
    message,
    publish,
    read_published,
    save_checkpoint,
    write_json,
    write_record,
)
from vaebm.training import VAEBMConfig, build_vaebm

CHECKPOINTS = Path(__file__).parents[1] / 'data' / 'checkpoints'
MANIFEST = json.loads((CHECKPOINTS / 'manifest.json').read_text())
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


def former_file(path, state):
    "A file as the first version of the library wrote it: two entries of metadata, names joined by slashes."

    def pack(node, tensors, name):
        if isinstance(node, torch.Tensor):
            tensors[name] = node.clone()
            return {'tensor': name}
        if isinstance(node, dict):
            return {'dict': [[k, pack(v, tensors, f'{name}/{k}')] for k, v in node.items()]}
        if isinstance(node, list):
            return {'list': [pack(v, tensors, f'{name}/{i}') for i, v in enumerate(node)]}
        return node

    tensors = {}
    tree = json.dumps(pack(state, tensors, ''))
    h = hashlib.sha256(tree.encode())
    for name in sorted(tensors):
        h.update(name.encode())
        h.update(tensors[name].reshape(-1).view(torch.uint8).numpy())
    safetensors.torch.save_file(tensors, path, {'tree': tree, 'sha256': h.hexdigest()})


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


@pytest.mark.parametrize('node', [{('a', 'b'): 1}, {b'a': 1}, {'a': b'1'}, {'a': {1, 2}}, {'a': object()}], ids=['tuple key', 'bytes key', 'bytes', 'set', 'object'])
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
        assert message(CheckpointError, load_checkpoint, file).startswith(str(file))


@pytest.mark.parametrize('write', [save_checkpoint, former_file])
def test_no_damaged_file_is_taken_for_another_state(tmp_path, write):
    "A byte changed, bytes lost at the end or in the middle, bytes added, at 400 places."
    file, whole, chance = tmp_path / 'a.safetensors', tmp_path / 'whole.safetensors', random.Random(0)
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
                assert read is update_of or digest(found) == digest(STATE)  # a blank in the header is no content
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
        load_shares,
        read_published,
        NVAE.from_official,
        lambda path: EnergyResNet.from_official(path, 'cifar10'),
    ],
    ids=['load_checkpoint', 'update_of', 'load_shares', 'read_published', 'NVAE', 'EnergyResNet'],
)
def test_foreign_files_are_refused_with_their_path_by_every_reader(tmp_path, read):
    for path in foreign(tmp_path):
        assert str(path) in message(CheckpointError, read, path), path


@pytest.mark.parametrize(
    'content',
    [
        {'state_dict': None},
        {'state_dict': {}, 'args': None},
        {'state_dict': {}, 'args': ['a']},
        {'state_dict': {}, 'args': {}},
        {},
        {'weights': {}},
    ],
    ids=repr,
)
def test_contents_that_are_no_published_checkpoint_are_refused(content):
    assert message(CheckpointError, NVAE.from_official, content)


def test_the_manifest_speaks_of_what_the_files_hold():
    for name, entry in MANIFEST.items():
        assert digest(load_checkpoint(CHECKPOINTS / entry['file'])) == entry['digest'], name
        for other in ('vae', 'base'):
            if other in entry:
                assert MANIFEST[entry[other]['name']]['digest'] == entry[other]['digest'], name
    json.loads((CHECKPOINTS / 'manifest.json').read_text(), parse_constant=pytest.fail)


@pytest.fixture
def published(tmp_path, monkeypatch):
    "A folder of published weights with the small VAE in it."
    target = tmp_path / 'published'
    target.mkdir()
    shutil.copy(CHECKPOINTS / 'nvae_digits.safetensors', target)
    write_json(target / 'manifest.json', {'nvae_digits': MANIFEST['nvae_digits']})
    monkeypatch.setattr(runs, 'checkpoint_folder', lambda: target)
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
    energy = build_vaebm(config, model, torch.rand(8, 3, 16, 16, generator=torch.Generator().manual_seed(0))).energy
    folder.mkdir()
    save_checkpoint(folder / 'weights.safetensors', energy.state_dict())
    write_record(folder, 'digits', {}, 'energy', config, {}, vae=vae)


def test_a_vae_published_again_keeps_its_energies(published, tmp_path):
    "Read, saved anew and published under its name: the weights are the same, and so is what belongs to them."
    run_of_an_energy(tmp_path / 'energy', {'name': 'nvae_digits', 'digest': MANIFEST['nvae_digits']['digest']})
    publish(tmp_path / 'energy', 'mine', published)
    (tmp_path / 'vae').mkdir()
    save_checkpoint(tmp_path / 'vae' / 'weights.safetensors', load_checkpoint(published / 'nvae_digits.safetensors'))
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
    write_json(tmp_path / 'run' / 'metrics.json', record | {'sha256': hashlib.sha256(weights.read_bytes()).hexdigest()})
    entry = publish(tmp_path / 'run', 'mine', published)
    assert 'sha256' not in entry and entry['vae'] == {
        'name': 'nvae_digits',
        'digest': MANIFEST['nvae_digits']['digest'],
    }
    assert entry['digest'] == digest(load_checkpoint(weights)) and vaebm.load_pretrained('mine').n_steps == 1
    write_json(tmp_path / 'run' / 'metrics.json', record | {'sha256': '0'})
    assert 'records other weights than those beside it' in message(
        CheckpointError, publish, tmp_path / 'run', 'mine', published
    )
    write_json(
        tmp_path / 'run' / 'metrics.json', record | {'digest': entry['digest'], 'vae': {'name': 'other', 'sha256': '0'}}
    )
    assert 'speaks of other, whose weights are not in' in message(CheckpointError, publish, tmp_path / 'run', 'mine', published)


@pytest.mark.parametrize('name', ['../mine', '/mine', '', 'a/b', 'a b', 'mine.safetensors', 'ä', 'a\n'], ids=repr)
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
    assert 'was changed' in message(CheckpointError, publish, tmp_path / 'run', 'mine', published)
    state['linear.bias'] = state['linear.bias'] + math.nan
    write_json(tmp_path / 'run' / 'metrics.json', record | {'digest': save_checkpoint(weights, state)})
    assert 'linear.bias is not finite' in message(CheckpointError, publish, tmp_path / 'run', 'mine', published)
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
