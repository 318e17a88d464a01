"""Runs a page of the course in a process of its own, forked from one that has imported once what every page needs."""
import multiprocessing
import os
import sys
from multiprocessing import forkserver
from pathlib import Path
from unittest import mock

ENVIRONMENT = {'IN_TEST': '1', 'MPLBACKEND': 'agg', 'OMP_NUM_THREADS': '1'}
forks = multiprocessing.get_context('forkserver')
forks.set_forkserver_preload(['torch', 'matplotlib.pyplot', 'nbdev.test', 'vaebm.metrics', 'vaebm.training'])


def _run(path, log):
    os.chdir(path.parent)
    with open(log, 'wb', buffering=0) as file:
        for descriptor in (1, 2): os.dup2(file.fileno(), descriptor)
    from nbdev.test import test_nb
    ok, _ = test_nb(path, skip_flags=['notest', 'slow', 'cuda'])
    sys.exit(not ok)


def run_page(path: Path, log: Path, limit_s: float) -> None:
    "Raise `AssertionError` with what the page printed if one of its cells fails, or if it takes longer than `limit_s` seconds."
    with mock.patch.dict(os.environ, ENVIRONMENT): forkserver.ensure_running()
    process = forks.Process(target=_run, args=(path, log))
    process.start(); process.join(limit_s)
    if process.is_alive():
        process.kill(); process.join()
        raise AssertionError(f'{path.name} takes more than {limit_s} s\n{log.read_text()}')
    assert process.exitcode == 0, log.read_text() if log.exists() else f'ended with {process.exitcode}'
