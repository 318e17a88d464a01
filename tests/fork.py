"""Processes that begin with torch and the library imported: forks of one that has done it once,
where each import takes ten seconds.  Ranks are forks of the test itself.
"""

import multiprocessing
import os
import sys
import time
from multiprocessing import forkserver
from pathlib import Path
from unittest import mock

import torch
from torch import distributed

forks = multiprocessing.get_context('forkserver')
forks.set_forkserver_preload(
    ['torch._dynamo', 'matplotlib.pyplot', 'nbdev.test', 'vaebm.frechet', 'vaebm.report']
)


def _run(code, arguments, log, environment):
    with open(log, 'wb', buffering=0) as file:
        for descriptor in (1, 2):
            os.dup2(file.fileno(), descriptor)
    os.environ.update(environment)
    sys.argv = ['-c', *arguments]
    exec(compile(code, '<code>', 'exec'), {'__name__': '__main__'})


def start(code: str, *arguments: str, log: Path, **environment: str) -> multiprocessing.Process:
    """A process that executes `code` with `arguments` as its command line, on one thread.

    What it prints goes to the file `log`.
    """
    with mock.patch.dict(os.environ, OMP_NUM_THREADS='1'):
        forkserver.ensure_running()  # tests run side by side, and two thread pools on two cores crawl
    process = forks.Process(target=_run, args=(code, arguments, log, environment))
    process.start()
    return process


def finish(process: multiprocessing.Process, limit_s: float) -> int:
    "Its exit code; raises `TimeoutError` after `limit_s` seconds, the process killed."
    process.join(limit_s)
    if process.exitcode is None:
        process.kill()
        process.join()
        raise TimeoutError(f'still running after {limit_s} s')
    return process.exitcode


def ranks(function, folder, *args, n=2):
    "Start `function(folder, *args)` on n ranks, copies of this process that gloo joins."
    store = folder / f'store-{time.time_ns()}'

    def enter(r):
        os.environ['GLOO_SOCKET_IFNAME'] = 'lo'
        torch.set_num_threads(1)
        distributed.init_process_group('gloo', rank=r, world_size=n, store=distributed.FileStore(str(store), n))
        function(folder, *args)
        distributed.destroy_process_group()

    started = [multiprocessing.get_context('fork').Process(target=enter, args=(r,)) for r in range(n)]
    for p in started:
        p.start()
    return started


def join_ranks(processes):
    for p in processes:
        p.join(60)
    assert [p.exitcode for p in processes] == [0] * len(processes)
