"""The Makefile, with stand-ins: values reach the command whole.

A wrong Python is refused or replaced.
"""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
RUNS = (
    'run',
    'fashion',
    'bench',
    'gpu-check',
    'course',
    'paper-cifar10',
    'paper-celeba64',
    'paper-lsun64',
    'paper-celebahq256',
)
ECHO = '#!/bin/sh\nfor word in "$@"; do echo "<$word>"; done\n'
PYTHON = '''#!/bin/sh
case "$1" in
    -c) echo {version}; exit {code};;
    -m) echo "$0 $@"; mkdir -p .venv/bin; touch .venv/pyvenv.cfg
        for name in pip vaebm-run; do printf '#!/bin/sh\\n' > .venv/bin/$name; chmod +x .venv/bin/$name; done
        cp "$0" .venv/bin/python;;
esac
'''
pytestmark = pytest.mark.skipif(not shutil.which('make'), reason='needs make')


@pytest.fixture
def folder(tmp_path):
    """A folder with blanks in its name, the Makefile, and the stand-ins python-3.12, python-3.11
    and python-3.9.
    """
    folder = tmp_path / 'a folder with blanks'
    folder.mkdir()
    for name in ('Makefile', 'settings.ini', 'setup.py'):
        shutil.copy(ROOT / name, folder)
    for minor, code in ((12, 0), (11, 0), (9, 1)):
        script(folder / f'python-3.{minor}', PYTHON.format(version=f'3 {minor}', code=code))
    return folder


def script(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


def make(folder, *words):
    return subprocess.run(['make', *words], cwd=folder, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize('target', RUNS)
def test_values_reach_the_command_whole(folder, target):
    script(folder / '.venv' / 'bin' / 'vaebm-run', ECHO)
    (folder / '.venv' / '.installed').touch()
    done = make(folder, '-s', target, "ARGS=stage1={\"checkpoint_activations\": true} note=it's")
    words = re.findall('<(.*)>', done.stdout)
    assert done.returncode == 0 and words[:2] == ['--args', "stage1={\"checkpoint_activations\": true} note=it's"]
    assert Path(ROOT, words[2]).exists() and all(re.fullmatch(r'\w+=[\w./-]+', word) for word in words[3:])
    assert target == 'course' or {'tier=paper', 'tier=cpu', 'tier=gpu'} & {*words}
    assert re.findall('<(.*)>', make(folder, '-s', target).stdout)[:2] == ['--args', '']


@pytest.mark.parametrize('target', ['slides', 'grade'])
def test_notebooks_of_lecturers_reach_their_command_whole(folder, target):
    script(folder / '.venv' / 'bin' / 'vaebm-teach', ECHO)
    (folder / '.venv' / '.installed').touch()
    done = make(folder, '-s', target, "NOTEBOOK=Ann's work.ipynb")
    assert done.returncode == 0 and re.findall('<(.*)>', done.stdout) == [target, "Ann's work.ipynb"]


def test_an_old_python_is_refused_before_anything_is_made(folder):
    for python in ('./python-3.9', './nowhere'):
        done = make(folder, 'run', f'PYTHON={python}')
        assert done.returncode == 2 and f'error: {python} is no Python of version 3.10 or newer' in done.stderr
        assert not (folder / '.venv').exists()


def test_an_environment_is_made_once_and_anew_if_it_is_stale(folder):
    good, other = 'PYTHON=./python-3.12', 'PYTHON=./python-3.11'
    assert './python-3.12 -m venv .venv\n' in make(folder, 'run', good).stdout
    assert 'venv' not in make(folder, '-s', 'run', good).stdout
    assert (
        './python-3.11 -m venv --clear .venv\n' in make(folder, 'run', other).stdout
    )  # another one is asked for
    shutil.copy(folder / 'python-3.9', folder / '.venv' / 'bin' / 'python')
    assert './python-3.12 -m venv --clear .venv\n' in make(folder, 'run', good).stdout  # of an older Makefile
    (folder / '.venv' / 'bin' / 'python').unlink()
    (folder / '.venv' / 'bin' / 'python').symlink_to('python-that-was-removed')
    assert './python-3.12 -m venv --clear .venv\n' in make(folder, 'run', good).stdout
    done = make(folder, 'run', 'PYTHON=./python-3.9')
    assert (
        done.returncode == 2 and (folder / '.venv' / 'pyvenv.cfg').exists()
    )  # refused, and the good one is kept


def test_help_names_every_target(folder):
    targets = set(re.search(r'^\.PHONY: (.*)', (ROOT / 'Makefile').read_text(), re.M)[1].split()) - {'stale'}
    shown = make(folder)
    assert shown.returncode == 0 and shown.stdout == make(folder, 'help').stdout
    named = {name for line in re.findall('^make (.*?):', shown.stdout, re.M) for name in line.split()}
    assert named == targets and '''ARGS='stage1={"n_steps": 5}\'''' in shown.stdout


@pytest.mark.parametrize('file', ['Dockerfile', '.devcontainer/devcontainer.json'])
def test_containers_call_targets_that_exist(file):
    "No container is built here: what they do beyond the base image is the Makefile's."
    known = set(re.findall(r'^([\w$()/.-]+(?: [\w-]+)*):', (ROOT / 'Makefile').read_text(), re.M))
    known = {name for names in known for name in names.replace('$(VENV)', '.venv').split()}
    called = re.findall(r'\bmake"?,? "?([\w./-]+)', (ROOT / file).read_text().replace('git make', ''))
    assert called and set(called) <= known, set(called) - known
