"""The types of the library: pyright finds no error, and sees what the README's examples return."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

import vaebm
from vaebm import pretrained

ROOT = Path(__file__).parents[1]
EXAMPLES = """
import torch
import vaebm
from vaebm.loop import fit
from vaebm.training import StageTwo, StageTwoConfig

model = vaebm.load_pretrained('25_gaussians')
x = model.sample(1000, generator=torch.Generator().manual_seed(0))
reveal_type(vaebm.load_pretrained())
reveal_type(vaebm.load_pretrained('fashion_mnist'))
reveal_type(vaebm.load_pretrained('nvae_digits'))
reveal_type(vaebm.load_pretrained('runs/mine'))
reveal_type(x)
reveal_type(model.potential(x))
reveal_type(model.log_h(x, k=100))
reveal_type(model.value_and_grad(x))
reveal_type(vaebm.VAEBM(vaebm.MLPVAE(), vaebm.MLPEnergy()))
reveal_type(vaebm.VAEBM(vaebm.load_pretrained('nvae_digits'), vaebm.EnergyResNet()))
reveal_type(fit(StageTwo(model, x, StageTwoConfig())).outcome)
reveal_type(vaebm.samplers.langevin(1e-3))
"""
TYPES = [
    'VAEBM',
    'VAEBM',
    'NVAE',
    'Any',
    'Tensor',
    'Tensor',
    'Tensor',
    'tuple[Tensor, Tensor]',
    'VAEBM',
    'VAEBM',
    'str',
    'Kernel',
]
WRONG = """
import torch
import vaebm

vaebm.VAEBM(torch.nn.Linear(2, 2), vaebm.MLPEnergy())
vaebm.VAEBM(vaebm.MLPVAE(), 3.0)
vaebm.load_pretrained(5)
"""


@pytest.fixture(scope='module')
def found(tmp_path_factory):
    "What pyright says of the library and of two texts: diagnostics by file."
    pytest.importorskip('basedpyright')
    folder = tmp_path_factory.mktemp('types')
    (folder / 'examples.py').write_text(EXAMPLES)
    (folder / 'wrong.py').write_text(WRONG)
    config = json.loads((ROOT / 'pyrightconfig.json').read_text())
    config['include'] = [str(ROOT / path) for path in config['include']] + [str(folder)]
    config['extraPaths'] = [str(ROOT), *(str(ROOT / path) for path in config['extraPaths'])]
    (folder / 'pyrightconfig.json').write_text(json.dumps(config))
    command = [sys.executable, '-m', 'basedpyright', '-p', str(folder), '--pythonpath', sys.executable, '--outputjson']
    said = json.loads(subprocess.run(command, capture_output=True, text=True).stdout)
    by_file = {}
    for row in said['generalDiagnostics']:
        by_file.setdefault(Path(row['file']), []).append(row)
    assert said['summary']['filesAnalyzed'] > 30
    return {'examples': by_file.pop(folder / 'examples.py'), 'wrong': by_file.pop(folder / 'wrong.py'), 'ours': by_file}


def test_the_library_has_no_error(found):
    assert not found['ours']


def test_readme_examples_have_types(found):
    assert {row['severity'] for row in found['examples']} == {'information'}
    types = [re.search(r'is "(.*)"$', row['message'])[1] for row in found['examples']]
    assert types == TYPES


def test_wrong_objects_are_errors(found):
    assert {row['severity'] for row in found['wrong']} == {'error'}
    assert sorted({row['range']['start']['line'] for row in found['wrong']}) == [4, 5, 6]


def test_names_for_type_checkers_are_those_of_the_manifest():
    kinds = vaebm.list_pretrained()
    assert set(get_args(pretrained.VAES)) == {name for name, kind in kinds.items() if kind == 'nvae'}
    assert set(get_args(pretrained.PRODUCTS)) == {name for name, kind in kinds.items() if kind in ('vaebm', 'energy')}


def test_few_lines_ask_pyright_to_look_away():
    lines = [
        line
        for path in (ROOT / 'vaebm').glob('*.py')
        for line in path.read_text(encoding='utf-8').split('\n')
        if 'pyright: ignore' in line or 'type: ignore' in line
    ]
    assert len(lines) <= 5 and all(re.search(r'pyright: ignore\[\w+\]', line) for line in lines)
