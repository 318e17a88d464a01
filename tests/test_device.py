"""The public API on a simulated device.

In processes of their own, for PyTorch starts threads for a device, and the tests of several ranks fork.
"""

import subprocess
import sys
from pathlib import Path

import pytest


def run(name, *options):
    checks = Path(__file__).with_name(name)
    command = [sys.executable, '-m', 'pytest', '-q', '-p', 'no:cacheprovider', '-p', 'no:xdist', *options, str(checks)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout


def test_the_public_api_runs_on_a_device_that_is_not_the_cpu():
    run('on_device.py', '-m', 'not slow')


@pytest.mark.slow
def test_trainings_and_a_run_on_a_device_that_is_not_the_cpu():
    run('on_device.py', '-m', 'slow')


@pytest.mark.slow
def test_launches_and_the_check_of_a_gpu_on_a_device_that_is_not_the_cpu():
    run('on_device_slow.py')
