"""Stage 2 on images: a run driven into explosion ends with a message and with good weights on disk; presets hold the paper's numbers."""
import json

import pytest
import torch

import vaebm
from vaebm.data import Images, embedded_digits
from vaebm.fast import fold
from vaebm.likelihood import log_z_importance
from vaebm.model import VAEBM
from vaebm.runs import configure, load_checkpoint
from vaebm.training import TABLE_8, ImageStageTwo, ImageStageTwoConfig, Monitor, VAEBMConfig, build_vaebm, fit, likelihood_gain

PUBLISHED_CHAIN = {'kernel': 'langevin', 'kernel_options': {'step_size': 8e-5}, 'chain_steps': 2}


def small_digits():
    digits, _ = embedded_digits()
    return torch.nn.functional.avg_pool2d(torch.nn.functional.pad(digits, [2] * 4), 2).expand(-1, 3, -1, -1)


@pytest.mark.slow
@pytest.mark.parametrize('seed', range(10))
def test_twenty_times_the_rate_ends_with_the_guard_and_good_weights(tmp_path, seed):
    torch.set_num_threads(1)   # other tests run beside this one
    digits, g = small_digits(), torch.Generator().manual_seed(seed)
    data = Images((255 * digits[::2]).round().byte())
    held_out = digits[1::20] + .03 * torch.randn(250, 3, 16, 16, generator=g)
    trained = vaebm.load_pretrained('nvae_digits')
    config = configure(VAEBMConfig(nvae=trained.config), {'seed': seed, 'energy': {'width': 8, 'blocks': 'd1 d2'}, 'stage2': PUBLISHED_CHAIN | {
        'n_steps': 2000, 'batch_size': 16, 'lr': 20e-3, 'noise': .03, 'clip': False, 'spectral': 0., 'max_gap': 50.}})
    model = build_vaebm(config, trained, data.sample(64, g))
    gain = lambda energy: likelihood_gain(m := VAEBM(vae, fold(energy)), held_out, log_z_importance(m, 500, torch.Generator().manual_seed(1), 250))
    stage = ImageStageTwo(model, data, config.stage2, seed)
    vae = stage.vae
    result = fit(stage, tmp_path / 'stage2.safetensors', 5, progress=False, watch=Monitor(tmp_path, judge=lambda s: gain(s.energy)))
    assert result.outcome == 'stopped' and result.reason.startswith('energy gap') and result.step == stage.done
    assert load_checkpoint(tmp_path / 'stage2.safetensors')['done'] == stage.done
    best = max((row for row in json.loads((tmp_path / 'judged.json').read_text()) if row['score'] is not None), key=lambda row: row['score'])
    model.energy.load_state_dict(load_checkpoint(tmp_path / 'best.safetensors'))
    assert abs(gain(model.energy)['score'] - best['score']) < 1e-3 and best['score'] > -.1


def test_table_8():
    "Learning rate, batch size, persistence, number of steps and step size as printed."
    rows = {name: configure(ImageStageTwoConfig(), changes) for name, changes in TABLE_8.items()}
    printed = {'cifar10': (4e-5, 32, False, 10, 8e-5), 'cifar10_persistent': (4e-5, 32, True, 6, 6e-5), 'celeba64': (5e-5, 32, False, 10, 5e-6),
               'lsun64': (4e-5, 32, True, 10, 4e-6), 'celebahq256': (4e-5, 16, True, 6, 3e-6)}
    assert {name: (c.lr, c.batch_size, c.replay > 0, c.chain_steps, c.kernel_options['step_size']) for name, c in rows.items()} == printed
