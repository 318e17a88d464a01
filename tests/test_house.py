"""The layout: file order is reading order, a chapter is a module, no module needs a later one, lines can be read."""

import ast
import json
import os
import re
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import torch
from conftest import kept_state, settings

ROOT = Path(__file__).parents[1]
NBS = ROOT / 'nbs'
CHAPTERS = sorted(NBS.glob('[0-9]*.ipynb'))
TOOLS = 'config checkpoints runs distributed loop files cli plot pretrained widgets teaching'.split()
WITHOUT_MODULE = {'04_relatives'}  # its functions serve one comparison
NEEDS = {'plot': {'data'}, 'loop': {'data'}, 'pretrained': {'model', 'nvae'}}  # chapters that a tool needs


def exported(page):
    "The exported code of a page, cell by cell, without directives."
    cells = json.loads(page.read_text(encoding='utf-8'))['cells']
    sources = [''.join(c['source']) for c in cells if c['cell_type'] == 'code']
    return [re.sub(r'^#\|.*\n', '', s, flags=re.M) for s in sources if re.match(r'#\|\s*export', s)]


def default_module(page):
    found = re.search(r'#\| default_exp (\w+)', page.read_text(encoding='utf-8'))
    return found and found[1]


def imported(module):
    "Modules of the library that a module imports, anywhere in it."
    tree = ast.parse((ROOT / 'vaebm' / f'{module}.py').read_text(encoding='utf-8'))
    nodes = [n for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.level]
    return {name for n in nodes for name in ([n.module] if n.module else [a.name for a in n.names])}


def test_chapters_are_numbered_in_reading_order():
    assert [p.stem[:3] for p in CHAPTERS] == [f'{k:02}_' for k in range(len(CHAPTERS))]
    index = json.loads((NBS / 'index.ipynb').read_text(encoding='utf-8'))['cells']
    text = '\n'.join(''.join(cell['source']) for cell in index)
    shown = re.findall(r'^\| \[\d\d [^\]]*\]\((\w+)\.ipynb\)', text, re.M)
    assert shown == [p.stem for p in CHAPTERS]


PAGES = [*CHAPTERS, *(NBS / 'tools' / f'{name}.ipynb' for name in TOOLS)]


@pytest.mark.parametrize('page', PAGES, ids=lambda p: p.stem)
def test_a_page_has_the_name_of_its_module(page):
    expected = None if page.stem in WITHOUT_MODULE else re.sub(r'^\d\d_', '', page.stem)
    assert default_module(page) == expected


def test_no_module_imports_a_later_one():
    chapters = [p.stem[3:] for p in CHAPTERS if p.stem not in WITHOUT_MODULE]
    for module in chapters:
        later = set(chapters[chapters.index(module):]) & imported(module)
        assert not later, f'{module} imports {sorted(later)}, which come later'
    for tool in TOOLS:
        allowed = set(TOOLS) | NEEDS.get(tool, set())
        assert imported(tool) <= allowed, f'{tool} imports {sorted(imported(tool) - allowed)}'


def test_modules_import_each_other_in_no_circle():
    modules = {p.stem: imported(p.stem) for p in (ROOT / 'vaebm').glob('*.py') if not p.stem.startswith('_')}
    while modules:
        free = {name for name, needs in modules.items() if not needs & modules.keys()}
        assert free, f'a circle among {sorted(modules)}'
        modules = {name: needs for name, needs in modules.items() if name not in free}


def parallel_assignments(tree):
    tuples = [n for n in ast.walk(tree) if isinstance(n, ast.Assign) and isinstance(n.targets[0], ast.Tuple)]
    return [n for n in tuples if isinstance(n.value, ast.Tuple) and len(n.targets[0].elts) > 2]


def test_lines_can_be_read():
    "At most 5 % of the exported lines are longer than 100 columns, few lambdas, no three assignments in one."
    sources = [s for page in NBS.rglob('*.ipynb') if '.ipynb_checkpoints' not in page.parts for s in exported(page)]
    lines = [line for s in sources for line in s.split('\n')]
    long = sum(len(line) > 100 for line in lines) / len(lines)
    lambdas = 1000 * sum(line.count('lambda') for line in lines) / len(lines)
    found = [ast.unparse(n) for s in sources for n in parallel_assignments(ast.parse(s))]
    print(f'{len(lines)} lines, {long:.1%} over 100 columns, {lambdas:.1f} lambdas per 1,000, {len(found)} parallel')
    assert long <= .05 and max(map(len, lines)) <= 120 and lambdas <= 5 and not found, found


def test_names_of_constants_are_unique():
    "Pages import modules with a star: two constants of one name would hide each other."
    found = {}
    for path in (ROOT / 'vaebm').glob('[a-z]*.py'):
        for node in ast.parse(path.read_text(encoding='utf-8')).body:
            targets = getattr(node, 'targets', [getattr(node, 'target', None)])
            names = [t.id for t in targets if isinstance(t, ast.Name) and t.id.isupper()]
            for name in names:
                assert found.setdefault(name, path.stem) == path.stem, f'{name} of {found[name]} and {path.stem}'
    assert 'FORMER_FIELDS' in found


def imported_by(path):
    "Packages outside the standard library that a file of tests imports, `importorskip` included."
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module)
        elif isinstance(node, ast.Call) and getattr(node.func, 'attr', '') == 'importorskip':
            names.add(node.args[0].value)
    return {name.partition('.')[0] for name in names} - sys.stdlib_module_names


def plain(name):
    return re.sub('[-_.]+', '-', name).lower()


def test_every_package_that_a_test_imports_is_declared():
    listed = ' '.join(value for key, value in settings().items() if key.endswith('requirements'))
    declared = {plain(re.match(r'[\w.-]+', word)[0]) for word in listed.split()}
    files = [*(ROOT / 'tests').glob('*.py')]
    packages = set().union(*map(imported_by, files)) - {path.stem for path in files} - {'vaebm'}
    of_package = packages_distributions()
    missing = {name for name in packages if not {plain(d) for d in of_package.get(name, [name])} & declared}
    assert {'torch', 'PIL', 'pytest'} <= packages and not missing, f'not in settings.ini: {sorted(missing)}'


def test_what_a_test_sets_is_put_back(tmp_path, monkeypatch):
    "Threads, precision, environment and working directory, also after an error."
    monkeypatch.setenv('VAEBM_KEPT', '1')

    def state():
        return torch.get_num_threads(), torch.get_default_dtype(), dict(os.environ), Path.cwd()

    before = state()
    with pytest.raises(ZeroDivisionError), kept_state():
        torch.set_num_threads(before[0] + 1)
        torch.set_default_dtype(torch.float64)
        os.environ['VAEBM_NEW'] = os.environ['VAEBM_KEPT'] = '2'
        os.chdir(tmp_path)
        raise ZeroDivisionError
    assert state() == before
