"""The check of a GPU, in miniature on the CPU and on a device that there is not: every check
passes, one that fails is named, and stops no other.
"""

import json
import subprocess
import sys
import warnings
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from torch import nn

from vaebm import gpu_check
from vaebm.costs import GPUS, costs, plan, read_rates, work
from vaebm.presets import preset
from vaebm.gpu_check import (
    CheckSetting,
    DrawsForAll,
    Finding,
    Report,
    Skipped,
    arithmetic,
    check_fid_network,
    check_numbers,
    check_ranks,
    check_setting,
    check_update,
    fitting_batch,
    full_width,
    host_waits,
    measured_rates,
    misplaced_moments,
    new_stage,
    peak_of,
    random_images,
)
from vaebm.checkpoints import write_json
from vaebm.config import configure, error_message
from vaebm.runs import Stopped

ROOT = Path(__file__).parents[1]
PARTS = 'stage 1', 'stage 2', 'samples'


def passes():
    return Finding(True, {'status': 'fine', 'seconds': 3})


def fails():
    return Finding(False, {'seconds': float('inf')})


def breaks():
    raise MemoryError('no room\nfor more')


def skips():
    raise Skipped('one GPU')


def test_a_check_that_fails_is_named_and_stops_no_other(tmp_path, capsys):
    report = Report(tmp_path, check_setting('smoke'))
    for f in (fails, breaks, skips, passes):
        report.run(f.__name__, f)
    assert report.failed() == ['fails', 'breaks']
    assert error_message(Stopped, report.need_passed) == '2 of 4 checks failed: fails, breaks'
    found = json.loads((tmp_path / 'gpu-check.json').read_text())
    assert [row['status'] for row in found['checks'].values()] == ['failed', 'failed', 'skipped', 'passed']
    assert (
        found['checks']['breaks']['error'] == 'MemoryError: no room\nfor more'
        and found['checks']['skips']['reason'] == 'one GPU'
    )
    assert found['miniature'] and found['environment']['device'] == found['device']['name'].upper() == 'CPU'
    assert 'passed: passes\n    status: fine\n    seconds: 3\n' in capsys.readouterr().out


def test_a_report_without_failures_raises_nothing(tmp_path):
    report = Report(tmp_path, check_setting('smoke'))
    report.run('skips', skips)
    report.need_passed()


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


def test_settings_of_a_gpu_are_as_before_afterwards():
    def settings():
        return (
            torch.backends.cudnn.allow_tf32,
            torch.backends.cuda.matmul.allow_tf32,
            torch.backends.cudnn.benchmark,
            torch.are_deterministic_algorithms_enabled(),
        )

    before = settings()
    with pytest.raises(KeyError), arithmetic(tf32=True, exact=True):
        assert settings() == (True, True, False, True)
        raise KeyError
    assert settings() == before


def test_moments_in_another_layout_are_counted():
    stage = new_stage(1, preset('cifar10', 'smoke').model, random_images(8), torch.device('cpu'))
    stage.step()
    assert misplaced_moments(stage) == 0
    p, moments = next((p, m) for p, m in stage.optimizer.state.items() if p.ndim == 4 and min(p.shape) > 1)
    moments['exp_avg'] = moments['exp_avg'].contiguous(memory_format=torch.contiguous_format)
    assert not p.is_contiguous() and misplaced_moments(stage) == 1


def test_draws_for_all_leave_one_process_alone():
    a, b = (torch.Generator().manual_seed(1) for _ in range(2))
    with DrawsForAll(a):
        drawn = (
            torch.randn(3, 2, generator=a),
            torch.randint(9, (3,), generator=a),
            torch.rand((2, 2), generator=a),
        )
    for x, y in zip(
        drawn,
        (torch.randn(3, 2, generator=b), torch.randint(9, (3,), generator=b), torch.rand(2, 2, generator=b)),
    ):
        assert torch.equal(x, y)


def test_memory_that_is_not_expected_fails(monkeypatch):
    setting = CheckSetting(torch.device('cpu'), rounds=1)
    config = full_width(setting)
    cost = costs(config)
    assert check_update(setting, config, cost, 1, False).passed
    cost['memory']['activations 1'] *= 1.5
    found = check_update(setting, config, cost, 1, False)
    assert not found.passed and 0.6 < found.figures['peak / expected'] < 0.75
    assert check_update(setting, config, cost, 1, True).passed  # `costs` is about float32


def test_the_fid_network_is_skipped_without_its_weights(monkeypatch, tmp_path):
    monkeypatch.setenv('VAEBM_DATA', str(tmp_path))
    setting = CheckSetting(torch.device('cpu'), full=True)
    assert error_message(Skipped, check_fid_network, setting).startswith('the FID needs')


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


@pytest.fixture
def gpu(monkeypatch):
    "The setting of a GPU of which nothing but the counters is there."
    monkeypatch.setattr('torch.cuda.memory_allocated', lambda: 70)
    monkeypatch.setattr('torch.cuda.max_memory_allocated', lambda: 100)
    monkeypatch.setattr('torch.cuda.reset_peak_memory_stats', lambda: None)
    return CheckSetting(torch.device('cuda'), full=True)


def test_a_gpu_counts_its_memory_and_its_waits_itself(gpu, monkeypatch):
    modes = []
    monkeypatch.setattr('torch.cuda.set_sync_debug_mode', modes.append)

    def f():
        for _ in range(2):
            warnings.warn('called a synchronizing CUDA operation', stacklevel=1)
        warnings.warn('something else', stacklevel=1)

    assert peak_of(lambda: None, gpu) == (70, 30) and host_waits(f, gpu) == 2 and modes == ['warn', 'default']
    with pytest.raises(ZeroDivisionError):
        host_waits(lambda: 1 / 0, gpu)
    assert modes[-1] == 'default'


@pytest.mark.parametrize(('gigabytes', 'batch'), [(80, 32), (40, 32), (32, 16), (24, 16), (16, 8), (8, 8)])
def test_smaller_gpus_get_fewer_images(gigabytes, batch):
    assert fitting_batch(gigabytes * 10**9) == batch


def test_ranks_need_two_gpus(gpu, monkeypatch):
    monkeypatch.setattr('torch.cuda.device_count', lambda: 1)
    assert error_message(Skipped, check_ranks, gpu) == 'there is one GPU'


@pytest.fixture
def record(tmp_path):
    "What a GPU would write that reaches 30 % of an A100's peak; made up."
    rates = {
        kind: dict.fromkeys(PARTS, 0.3e12 * GPUS['A100 SXM'][k])
        for k, kind in enumerate(('float32', 'bfloat16'))
    }
    checks = {
        f'update of {stage}, {kind}': {'figures': {'FLOP/s': rates[kind][stage]}}
        for stage in PARTS[:2]
        for kind in rates
    }
    checks['chain step'] = {'figures': {'FLOP/s': {kind: rates[kind]['samples'] for kind in rates}}}
    assert measured_rates(checks) == rates
    return write_json(
        tmp_path / 'gpu-check.json',
        {'miniature': False, 'device': {'name': 'made up', 'memory': 80e9}, 'rates': rates},
    )


def test_measured_rates_replace_the_assumed_share(record, capsys):
    tiny = preset('celeba64', 'smoke').model
    config = configure(
        preset('celeba64'), {'model': {'nvae': asdict(tiny.nvae), 'energy': asdict(tiny.energy)}}
    )
    plan(config, 8)
    assumed = next(line for line in capsys.readouterr().out.splitlines() if line.startswith('A100'))
    cost = plan(config, 8, rates=record)
    said = capsys.readouterr().out.splitlines()
    (measured,) = [line for line in said if 'GPU-hours' in line]
    assert measured.startswith('made up ') and not any(line.startswith(tuple(GPUS)) for line in said)
    hours = (
        assumed.partition('GPU-hours: ')[2]
        .replace('at 30% of the peak', 'as measured')
        .replace('16 bits', 'bfloat16')
    )
    assert measured.partition('GPU-hours: ')[2] == hours
    rates = read_rates(record)[1]
    assert (
        f"{sum(work(config, cost['flops']).values()) / rates['float32']['samples'] / 3600:.3g} as measured"
        in measured
    )


def test_records_that_say_nothing_of_a_gpu_are_refused(record):
    found = json.loads(record.read_text())
    write_json(record, found | {'miniature': True})
    assert 'rates must be measured at full width' in error_message(ValueError, read_rates, record)
    write_json(record, found | {'rates': found['rates'] | {'bfloat16': {}}})
    assert 'lacks stage 1, bfloat16; stage 2, bfloat16; samples, bfloat16' in error_message(
        ValueError, read_rates, record
    )
    assert measured_rates({'chain step': {'status': 'failed', 'error': ''}}) == {'float32': {}, 'bfloat16': {}}


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
