import configparser
import os
import shutil
import subprocess
from contextlib import contextmanager
from pathlib import Path

import pytest

if 'PYTEST_XDIST_WORKER' in os.environ:  # two workers of two threads each wait for one another most of the time
    os.environ.setdefault('OMP_NUM_THREADS', '1')

import torch  # noqa: E402, reads the variable

ROOT = Path(__file__).parents[1]
FLAGS = (
    '--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking'
    ' --disable-component-update --disable-sync'.split()
)


def settings():
    "The entries of settings.ini."
    parser = configparser.ConfigParser(delimiters=['='])
    parser.read(ROOT / 'settings.ini', encoding='utf-8')
    return parser['DEFAULT']


@contextmanager
def kept_state():
    "Threads and default precision of PyTorch, environment and working directory are afterwards what they were."
    threads = torch.get_num_threads()
    dtype = torch.get_default_dtype()
    environment = dict(os.environ)
    folder = Path.cwd()
    try:
        yield
    finally:
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        torch.set_default_dtype(dtype)
        os.chdir(folder)
        for name in os.environ.keys() - environment.keys():
            del os.environ[name]
        os.environ.update(environment)


@pytest.fixture(autouse=True)
def restored():
    "No test changes the process for those after it."
    with kept_state():
        yield


@pytest.fixture
def double():
    "Rounding far below the effects that are looked for."
    torch.set_default_dtype(torch.float64)


@pytest.fixture(scope='module')
def copy(tmp_path_factory):
    "A clone of the working tree's tracked and new files, so that nothing here is touched."
    folder = tmp_path_factory.mktemp('copy')
    files = subprocess.run(
        ['git', 'ls-files', '-co', '--exclude-standard'], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split('\n')
    for name in filter(None, files):
        if (ROOT / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes((ROOT / name).read_bytes())
    subprocess.run(['git', 'init', '-q'], cwd=folder, check=True)
    return folder


@pytest.fixture(scope='module')
def browser():
    "A headless Chromium; where there is none, or no playwright, its tests are skipped."
    chromium = shutil.which('chromium') or shutil.which('chromium-browser')
    if not chromium:
        pytest.skip('needs chromium')
    playwright = pytest.importorskip('playwright.sync_api')
    with playwright.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=chromium, args=FLAGS)
        yield browser
        browser.close()


def pytest_configure(config):
    config.addinivalue_line('markers', 'slow: minutes; run by `make test-slow`')
