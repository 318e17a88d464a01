"""The check of a GPU, in miniature on the CPU and on a device that there is not: every check
passes, one that fails is named, and stops no other.
"""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from vaebm import gpu_check
from vaebm.costs import costs
from vaebm.config import configure, error_message
from vaebm.gpu_check import check_fid_network, check_numbers, check_ranks, check_update, full_width
from vaebm.gpu_measures import CheckSetting, Skipped, check_setting

ROOT = Path(__file__).parents[1]
PARTS = 'stage 1', 'stage 2', 'samples'


def test_other_numbers_are_seen(monkeypatch):
    "A device whose convolutions are a thousandth off fails in float32 and passes with TF32."
    here, seen = gpu_check.numbers_on, []

    def off(where, model, *noise):
        seen.append(where)
        found = here(where, model, *noise)
        return {name: value * (1 + 1e-3 * (len(seen) % 2 == 0)) for name, value in found.items()}

    monkeypatch.setattr(gpu_check, 'numbers_on', off)
    setting = CheckSetting(torch.device('cpu'), groups=1, width=4)
    assert not check_numbers(setting, False, 2e-4).passed and check_numbers(setting, True, 2e-2).passed


def test_memory_that_is_not_expected_fails(monkeypatch):
    setting = CheckSetting(torch.device('cpu'), rounds=1)
    for bf16, factor, bound in ((False, 1.5, 0.75), (True, 2, 0.85)):
        config = configure(full_width(setting), {'model': {'stage1': {'bf16': bf16}}})
        cost = costs(config)
        passed = check_update(setting, config, cost, 1)
        assert passed.passed, passed
        cost['memory']['activations 1'] *= factor
        found = check_update(setting, config, cost, 1)
        assert not found.passed and 0.6 < found.figures['peak / expected'] < bound


def test_the_fid_network_is_skipped_without_its_weights(monkeypatch, tmp_path):
    monkeypatch.setenv('VAEBM_DATA', str(tmp_path))
    setting = CheckSetting(torch.device('cpu'), full=True)
    installed = importlib.util.find_spec('torch_fidelity')
    expected = 'the FID needs' if installed else "torch_fidelity is missing: pip install 'vaebm[fid]'"
    assert error_message(Skipped, check_fid_network, setting).startswith(expected)


def test_a_network_that_differs_from_itself_on_the_cpu_fails(monkeypatch):
    class Moody(nn.Module):
        def __init__(self):
            super().__init__()
            self.times = 0

        def forward(self, x):
            self.times += 1
            return x.mean((2, 3)) + self.times

    monkeypatch.setattr('vaebm.full_scale.CoarseFeatures', Moody)
    assert not check_fid_network(check_setting('smoke')).passed


def test_ranks_need_two_gpus(monkeypatch):
    monkeypatch.setattr('torch.cuda.device_count', lambda: 1)
    assert error_message(Skipped, check_ranks, CheckSetting(torch.device('cuda'), full=True)) == 'there is one GPU'


def command(folder, *more):
    words = 'gpu_check.ipynb', f'run_dir={folder}', *more
    run = 'from vaebm.cli import main; main()'
    return subprocess.run(
        [sys.executable, '-c', run, str(ROOT / 'nbs' / 'benchmarks' / words[0]), *words[1:]],
        capture_output=True,
        text=True,
    )


@pytest.mark.slow
def test_the_page_in_miniature_ends_with_1_if_one_check_fails(tmp_path):
    """With a tolerance that even equal numbers miss.

    All other checks pass, those of two ranks included.
    """
    done = command(tmp_path, 'tolerance=0')
    failed = ['CPU and device agree, float32', 'CPU and device agree, TF32']
    assert done.returncode == 1 and f"2 of 13 checks failed: {', '.join(failed)}" in done.stderr
    found = json.loads((tmp_path / 'gpu-check.json').read_text())
    assert found['miniature'] and len(found['checks']) == 13 and {*found['rates']['float32']} == {*PARTS}
    assert [name for name, row in found['checks'].items() if row['status'] != 'passed'] == failed


@pytest.mark.skipif(torch.cuda.is_available(), reason='there is a GPU')
def test_full_width_is_refused_without_a_gpu(tmp_path):
    done = command(tmp_path / 'run', 'tier=gpu')
    assert done.returncode == 2 and 'tier gpu needs a GPU, and PyTorch finds none' in done.stderr
    assert not (tmp_path / 'run').exists()
