"""What takes minutes on the simulated device; the slow test of `test_device` runs this in a process of its own."""

import pytest
import torch
from test_stage_one import pixels, train

from vaebm.costs import costs
from vaebm.gpu_check import (
    check_depthwise,
    check_fid_network,
    check_numbers,
    check_ranks,
    check_resume,
    check_step,
    check_training,
    check_update,
    full_width,
)
from vaebm.gpu_measures import CheckSetting, Skipped, check_setting, host_waits
from vaebm.config import configure, error_message
from vaebm.presets import preset
from vaebm.stage_one import ImageStageOne, build_nvae
from vaebm.stage_two import ImageStageTwo, build_vaebm

sim = pytest.importorskip('sim', reason='needs a PyTorch in which Python can make a device', exc_type=ImportError)


def test_launches_and_waits_of_updates_at_a_third_of_the_papers_depth():
    """Depth alone counts, so the networks are thin.

    An energy waits once more, when it checks the scale of its images; chains of any length do not
    wait.
    """
    thin = {
        'nvae': {'channels_enc': 8, 'channels_dec': 8, 'groups': 5},
        'energy': {'width': 4},
        'stage1': {'batch_size': 2},
        'stage2': {'batch_size': 2, 'chain_steps': 3},
    }
    config, x = configure(preset('cifar10').model, thin), pixels(32)[:]
    vae, counts = build_nvae(config), {}
    with sim.device() as device:
        one = ImageStageOne(vae.to(device), x.to(device), config.stage1)
        two = ImageStageTwo(build_vaebm(config, one.ema, x).to(device), x.to(device), config.stage2)
        for stage in (one, two):
            train(stage, 1)
            with sim.counted() as count:
                train(stage, 1)
            counts[stage] = sum(count.launches.values()), sum(count.waits.values())
            print(type(stage).__name__, counts[stage], dict(count.waits))
    assert counts[one][0] < 14_000 / 3 + 1000
    assert (counts[one][1], counts[two][1]) == (1, 2)


def checks(setting):
    "All that need no second process."
    yield from ((check_numbers, setting, False, 2e-4), (check_numbers, setting, True, 2e-2))
    yield from (
        (check, setting)
        for check in (check_depthwise, check_step, check_resume, check_training, check_fid_network)
    )
    for bf16 in (False, True):
        stages = {f'stage{number}': {'bf16': bf16} for number in (1, 2)}
        config = configure(full_width(check_setting('smoke')), {'model': stages})
        yield from ((check_update, setting, config, costs(config), number) for number in (1, 2))


def test_the_miniature_passes_on_a_simulated_device(monkeypatch):
    for module in ('experiment', 'pipeline', 'rows', 'report'):
        monkeypatch.setattr(f'vaebm.{module}.device', lambda: sim.SIM)
    with sim.device() as device:
        setting = CheckSetting(device, groups=1, width=4, deep=1, rounds=1, n_updates=10)
        for check, *args in checks(setting):
            found = check(*args)
            assert found.passed, (check.__name__, found)
            if check is check_step:
                assert found.figures['host waits'] == 0
            if check is check_update:
                assert found.figures['host waits'] <= 2
        assert host_waits(lambda: torch.ones(3, device=device).sum().item(), setting) == 1
        assert error_message(Skipped, check_ranks, setting) == 'sim is in one process alone'
