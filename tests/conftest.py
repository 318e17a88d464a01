import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope='module')
def copy(tmp_path_factory):
    "A clone of the working tree's tracked and new files, so that nothing here is touched."
    folder = tmp_path_factory.mktemp('copy')
    files = subprocess.run(['git', 'ls-files', '-co', '--exclude-standard'], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split('\n')
    for name in filter(None, files):
        if (ROOT / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes((ROOT / name).read_bytes())
    subprocess.run(['git', 'init', '-q'], cwd=folder, check=True)
    return folder


def pytest_configure(config):
    config.addinivalue_line('markers', 'slow: minutes; run by `make test-slow`')
