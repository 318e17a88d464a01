"""The instruments of the GPU check: a report that a failure does not stop, counters of a GPU that there is not, and
rates that replace a guess.
"""

import json
import warnings
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from vaebm.checkpoints import write_json
from vaebm.cli import execute
from vaebm.config import configure, error_message
from vaebm.costs import GPUS, plan, read_rates, work
from vaebm.gpu_check import new_stage, random_images
from vaebm.gpu_measures import (
    CheckSetting,
    DrawsForAll,
    Finding,
    Report,
    Skipped,
    arithmetic,
    check_setting,
    difference,
    fitting_batch,
    host_waits,
    measured_rates,
    misplaced_moments,
    peak_of,
)
from vaebm.presets import preset
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


@pytest.fixture
def record(tmp_path):
    "What a GPU would write that reaches 6 TFLOP/s in float32 and 10 in bfloat16; made up."
    rates = {kind: dict.fromkeys(PARTS, rate) for kind, rate in (('float32', 6e12), ('bfloat16', 10e12))}
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


def test_measured_rates_replace_the_published_one(record, capsys):
    tiny = preset('celeba64', 'smoke').model
    config = configure(
        preset('celeba64'), {'model': {'nvae': asdict(tiny.nvae), 'energy': asdict(tiny.energy)}}
    )
    cost = plan(config, 8, rates=record)
    said = capsys.readouterr().out.splitlines()
    measured = [line for line in said if 'measured GPU-hours' in line]
    assert len(measured) == 2 and not any(line.startswith(tuple(GPUS)) for line in said)
    operations = sum(part['flops'] for part in work(config, cost).values())
    for line, (kind, rates) in zip(measured, read_rates(record)[1].items()):
        assert line.startswith('made up 80 GB') and f'in {kind}' in line
        assert line.endswith(f"all {operations / rates['samples'] / 3600:.3g}")


def test_records_that_say_nothing_of_a_gpu_are_refused(record):
    found = json.loads(record.read_text())
    write_json(record, found | {'miniature': True})
    assert 'rates must be measured at full width' in error_message(ValueError, read_rates, record)
    write_json(record, found | {'rates': found['rates'] | {'bfloat16': {}}})
    assert 'lacks stage 1, bfloat16; stage 2, bfloat16; samples, bfloat16' in error_message(
        ValueError, read_rates, record
    )
    assert measured_rates({'chain step': {'status': 'failed', 'error': ''}}) == {'float32': {}, 'bfloat16': {}}


def test_a_difference_is_relative_and_in_double_precision():
    x = torch.tensor([3.0, 4.0], dtype=torch.float64)
    assert difference(x + torch.tensor([0.0, 0.05]), x) == pytest.approx(0.01, rel=1e-6)
    assert difference(x.bfloat16(), x) == 0


def test_on_a_cpu_the_peak_is_what_is_held_at_once():
    setting = CheckSetting(torch.device('cpu'))

    def in_turn():
        for _ in range(3):
            torch.empty(500_000)

    assert peak_of(in_turn, setting) == (0, 2_000_000) and host_waits(in_turn, setting) is None


def test_the_page_runs_in_miniature(tmp_path):
    page = ROOT / 'nbs' / 'benchmarks' / 'gpu_measures.ipynb'
    execute(page, {'tier': 'smoke', 'run_dir': str(tmp_path)}, tmp_path / 'notebook.ipynb')
