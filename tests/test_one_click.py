"""Pages that open in Colab, Kaggle and Binder: they install the course themselves and need no clone."""

import ast
import os
import re
import subprocess
import sys
import venv
from functools import cache
from importlib import import_module
from importlib.metadata import PackageNotFoundError, distribution, packages_distributions
from pathlib import Path

import nbformat
import pytest

from conftest import settings
from test_package import left_out, needed, wheel  # noqa: F401, a fixture

ROOT = Path(__file__).parents[1]
NBS = ROOT / 'nbs'
PAGES = [*sorted(NBS.glob('[0-9]*.ipynb')), *sorted((NBS / 'tools').glob('*.ipynb'))]
SETUP = """#| hide
# In Colab and Kaggle this installs the course. Elsewhere it is installed already, and nothing happens.
from importlib.util import find_spec

if find_spec('{name}') is None:
    get_ipython().run_line_magic('pip', 'install -q {name}[course]')"""
# Tools whose subject is the repository, and a chapter that loads the weights `cifar10`, which is a data set's name too.
OF_A_CLONE = {'checkpoints', 'cli', 'contributing', 'pretrained', 'teaching', '33_full_scale'}


def code_of(path):
    "The trees of a page's code cells, the slow ones and those of the library excepted."
    for cell in nbformat.read(path, as_version=4).cells:
        slow = 'skip-execution' in cell.metadata.get('tags', [])
        if cell.cell_type == 'code' and not slow and not cell.source.startswith('#| export'):
            yield ast.parse(re.sub('^[%!].*', '', cell.source, flags=re.M))


def all_requirements(extra):
    "The requirements of an extra of ours, those of the extras that it names included."
    words = settings()['requirements'].split()
    for word in settings()[f'{extra}_requirements'].split():
        own = re.fullmatch(r'vaebm\[(.*)\]', word)
        words += [w for name in own[1].split(',') for w in all_requirements(name)] if own else [word]
    return words


@cache
def brought():
    "Names of the packages that `vaebm[course]` brings."
    names = needed(all_requirements('course'))
    of_package = packages_distributions()
    return {p for p in of_package if names & {re.sub('[-_.]+', '-', d).lower() for d in of_package[p]}}


@cache
def reasons(path):
    "What a page uses that is in a clone alone, or in another extra."
    absent = {p.stem for pattern in left_out() for p in (ROOT / 'data' / 'checkpoints').glob(pattern)}
    absent -= {'cifar10'}
    known = brought() | sys.stdlib_module_names | {'vaebm'}
    found = set()
    for tree in code_of(path):
        calls = {getattr(n.func, 'id', '') for n in ast.walk(tree) if isinstance(n, ast.Call)}
        found |= {'repository'} & calls
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and node.value in absent:
                found.add(node.value)
            if isinstance(node, ast.Import):
                found |= {a.name.partition('.')[0] for a in node.names} - known
            if isinstance(node, ast.ImportFrom):
                found |= {node.module.partition('.')[0]} - known
    return found


@pytest.mark.parametrize('path', PAGES, ids=lambda p: p.stem)
def test_a_page_installs_the_course_if_it_works_without_a_clone(path):
    cells = nbformat.read(path, as_version=4).cells
    setup = [c for c in cells if c.id == 'setup']
    if path.stem in OF_A_CLONE or reasons(path):
        assert not setup, f'needs a clone, for {sorted(reasons(path))}: take the set-up cell out'
        return
    code = [c for c in cells if c.cell_type == 'code']
    assert setup == code[:1], 'its first code cell must be the set-up cell, of the id setup'
    assert setup[0].source == SETUP.format(name=settings()['lib_name']) and not setup[0].outputs
    assert setup[0].metadata == {'jupyter': {'source_hidden': True}}


def test_records_that_such_pages_read_are_in_the_package():
    text = (ROOT / 'setup.py').read_text(encoding='utf-8')
    patterns = ['*.json', *re.findall(r'"([^"]+)"', re.search(r'^WITH_RECORDS = \[(.*)\]', text, re.M)[1])]
    results = ROOT / 'data' / 'results'
    shipped = {path.name for pattern in patterns for path in results.glob(pattern)}
    assert len(shipped) > 30 and all(any(results.glob(pattern)) for pattern in patterns)
    for path in PAGES:
        if path.stem in OF_A_CLONE or reasons(path):
            continue
        texts = {n.value for tree in code_of(path) for n in ast.walk(tree) if isinstance(n, ast.Constant)}
        assert {path.name for path in results.iterdir()} & texts <= shipped, path.stem


def test_the_set_up_cell_installs_only_where_the_course_is_not(monkeypatch):
    import importlib.util

    asked = []

    class Shell:
        def run_line_magic(self, *words):
            asked.append(words)

    code = SETUP.format(name='vaebm')
    exec(code, {'get_ipython': Shell})
    assert not asked
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
    exec(code, {'get_ipython': Shell})
    assert asked == [('pip', 'install -q vaebm[course]')] and settings()['course_requirements']


def test_links_are_made_from_one_place(monkeypatch):
    "The website's; nobody types them into a page."
    monkeypatch.syspath_prepend(ROOT / 'docs')
    pages = import_module('pages')

    monkeypatch.setitem(pages.SETTINGS['DEFAULT'], 'git_url', 'https://github.com/someone/course')
    linked = {path.stem: pages.page(path).cells[1].source for path in PAGES}
    assert linked['01_energy'] == (
        'Open this page in [Colab](https://colab.research.google.com/github/someone/course/blob/main/nbs/01_energy.ipynb)'
        ' · [Kaggle](https://kaggle.com/kernels/welcome?src=https://github.com/someone/course/blob/main/nbs/01_energy.ipynb)'
        ' · [Binder](https://mybinder.org/v2/gh/someone/course/main?labpath=nbs/01_energy.ipynb)'
    )
    for path in PAGES:
        text = path.read_text(encoding='utf-8')
        assert ('Colab' in linked[path.stem]) == ('"id": "setup"' in text), path.stem
        assert not re.search('colab.research|mybinder.org|kaggle.com/kernels', text), path.stem


def test_binder_installs_what_all_pages_use():
    lines = (ROOT / '.binder' / 'requirements.txt').read_text(encoding='utf-8').splitlines()
    (extras,) = [re.fullmatch(r'-e \.\[(.*)\]', line)[1].split(',') for line in lines if line.startswith('-e')]
    assert 'course' in settings()['lab_requirements'] and {'lab', 'explore', 'multi-gpu'} == {*extras}
    assert all(settings()[f'{extra}_requirements'] for extra in extras)
    version = (ROOT / '.binder' / 'runtime.txt').read_text(encoding='utf-8').strip().removeprefix('python-')
    least = settings()['min_python']
    assert [int(n) for n in version.split('.')] >= [int(n) for n in least.split('.')]
    wheels = re.search(r'WHEELS=(\S+)', (ROOT / 'Dockerfile').read_text(encoding='utf-8'))[1]
    assert f'--index-url {wheels}' in lines  # without CUDA, as in the Dockerfile


RUN = """
import sys
import nbformat
from nbclient import NotebookClient
notebook = nbformat.read(sys.argv[1], as_version=4)
begin = [c.id for c in notebook.cells].index('setup')
notebook.cells = [c for c in notebook.cells[begin:] if 'skip-execution' not in c.metadata.get('tags', [])]
where = {'metadata': {'path': '.'}}
NotebookClient(notebook, timeout=900, kernel_name='python3', resources=where).execute()
"""


def machine(folder):
    "An environment as Colab's: what `vaebm[course]` needs is there, vaebm is not."
    venv.create(folder)
    (site,) = folder.glob('lib/python*/site-packages')
    for name in needed(all_requirements('course')) | {'pip'}:
        try:
            found = distribution(name)
        except PackageNotFoundError:  # for another version of Python
            continue
        for top in {file.parts[0] for file in found.files or [] if file.parts[0] not in ('..', '__pycache__')}:
            if not (site / top).exists():
                (site / top).symlink_to(found.locate_file(top))
    return folder / 'bin' / 'python'


@pytest.mark.slow
def test_two_chapters_run_in_an_empty_folder_from_their_set_up_cell_on(wheel, tmp_path):  # noqa: F811
    "The set-up cell installs the wheel, which pip takes from its folder instead of the network."
    python, here = machine(tmp_path / 'env'), tmp_path / 'here'
    here.mkdir()
    clean = {'PATH': os.environ['PATH'], 'HOME': str(tmp_path), 'OMP_NUM_THREADS': '1', 'MPLBACKEND': 'agg'}
    clean |= {'PIP_NO_INDEX': '1', 'PIP_FIND_LINKS': str(wheel.parent)}

    def call(*words):
        return subprocess.run([python, *words], cwd=here, env=clean, capture_output=True, text=True)

    assert call('-c', 'import pip, torch, nbclient').returncode == 0 and call('-c', 'import vaebm').returncode == 1
    for name in ('01_energy', '10_likelihood'):
        done = call('-c', RUN, str(NBS / f'{name}.ipynb'))
        assert done.returncode == 0, done.stderr[-3000:]
    assert call('-c', 'import vaebm; print(vaebm.__file__)').stdout.startswith(str(tmp_path))
    assert not any(here.iterdir())
