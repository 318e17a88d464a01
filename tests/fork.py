"""Processes that begin with torch and the library imported: forks of one that has done it once, where each import takes ten seconds."""
import multiprocessing
import os
import sys
from multiprocessing import forkserver
from pathlib import Path
from unittest import mock

forks = multiprocessing.get_context('forkserver')
forks.set_forkserver_preload(['torch._dynamo', 'matplotlib.pyplot', 'nbdev.test', 'vaebm.metrics', 'vaebm.training'])


def _run(code, arguments, log, environment):
    with open(log, 'wb', buffering=0) as file:
        for descriptor in (1, 2): os.dup2(file.fileno(), descriptor)
    os.environ.update(environment)
    sys.argv = ['-c', *arguments]
    exec(compile(code, '<code>', 'exec'), {'__name__': '__main__'})


def start(code: str, *arguments: str, log: Path, **environment: str) -> multiprocessing.Process:
    "A process that executes `code` with `arguments` as its command line, on one thread; what it prints goes to the file `log`."
    with mock.patch.dict(os.environ, OMP_NUM_THREADS='1'): forkserver.ensure_running()   # tests run side by side, and two thread pools on two cores crawl
    process = forks.Process(target=_run, args=(code, arguments, log, environment))
    process.start()
    return process


def finish(process: multiprocessing.Process, limit_s: float) -> int:
    "Its exit code; raises `TimeoutError` after `limit_s` seconds, the process killed."
    process.join(limit_s)
    if process.exitcode is None:
        process.kill(); process.join()
        raise TimeoutError(f'still running after {limit_s} s')
    return process.exitcode
