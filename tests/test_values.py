"""Values are checked at the start, with their range: a run is refused before it trains anything, and nothing is written outside of its folder."""
import pytest
import torch

import vaebm
from vaebm.data import gaussian_grid
from vaebm.energy import MLPEnergy
from vaebm.experiment import EvaluationConfig, open_run, prepare, preset, tailor, write_example
from vaebm.model import VAEBM
from vaebm.parallel import pause_when
from vaebm.ratio import DensityRatio
from vaebm.runs import configure, message, publish, save_checkpoint, write_json
from vaebm.training import (Config, ImageConfig, ImageStageOne, ImageStageOneConfig, RatioConfig, StageOne, StageTwo, StageTwoConfig, VAEBMConfig, build, build_nvae, build_vaebm, fit, make_kernel)
from vaebm.vae import MLPVAE

SMALL = configure(Config(), {'network': {'width': 8}, 'stage1': {'n_steps': 3, 'batch_size': 8}, 'stage2': {'n_steps': 3, 'batch_size': 8, 'buffer_size': 8}})


@pytest.mark.parametrize('values, said', [
    ({'stage1': {'n_steps': -5}}, 'n_steps must be a whole number >= 0, got -5'), ({'stage1': {'batch_size': 0}}, 'batch_size must be a whole number >= 1, got 0'), ({'stage1': {'kl_warmup': -1.}}, 'kl_warmup must be from 0 to 1, got -1.0'),
    ({'stage1': {'kl_warmup': float('nan')}}, 'kl_warmup must be from 0 to 1, got nan'), ({'stage1': {'lr': float('inf')}}, 'lr must be > 0 and finite, got inf'), ({'stage2': {'replay': 7.}}, 'replay must be from 0 to 1, got 7.0'),
    ({'stage2': {'chain_steps': -1}}, 'chain_steps must be a whole number >= 0, got -1'), ({'stage2': {'burn_in': -3}}, 'burn_in must be a whole number >= 0, got -3'), ({'stage2': {'spectral': -1.}}, 'spectral must be >= 0 and finite, got -1.0'),
    ({'stage2': {'replay_anneal': -5}}, 'replay_anneal must be a whole number >= 0, got -5'), ({'stage2': {'beta2': 1.}}, 'beta2 must be from 0 to below 1, got 1.0'), ({'stage2': {'kernel_options': {'n_proposals': 0}}}, 'n_proposals must be a whole number >= 1, got 0'),
    ({'stage2': {'kernel': 'nuts'}}, 'kernel must be cycle or one of langevin'), ({'stage2': {'kernel': 'hmc'}}, 'kernel_options of hmc must be among step_size, n_leapfrog'), ({'network': {'latent': 0}}, 'latent must be a whole number >= 1, got 0'),
    ({'network': {'depth': -1}}, 'depth must be a whole number >= 1, got -1'), ({'seed': 10 ** 22}, 'seed must be a whole number from 0 to 2147483647'), ({'tier': '../..'}, 'tier must be a word')])
def test_configurations_refuse_what_no_training_can_use(values, said):
    assert message(ValueError, configure, SMALL, values).startswith(said)


def test_the_edges_of_every_range_are_allowed():
    c = configure(Config(), {'stage1': {'n_steps': 0, 'kl_warmup': 0., 'batch_size': 1}, 'stage2': {'replay': 0., 'chain_steps': 0, 'beta1': 0., 'spectral': 0., 'buffer_size': 1}, 'network': {'latent': 1, 'depth': 1}})
    assert (c.stage1.kl_warmup, c.stage2.chain_steps, c.network.depth) == (0., 0, 1) and StageTwoConfig(lr=1).lr == 1
    cycle = {'kernel': 'cycle', 'kernel_options': {'mala': {'step_size': .1, 'times': 2}, 'independence': {}}}
    assert make_kernel(configure(StageTwoConfig(), cycle)).made == ('cycle', {'kernels': [('mala', {'step_size': .1})] * 2 + [('independence', {'n_proposals': 1})]})


@pytest.mark.parametrize('values, said', [
    ({'data': {'name': '../../etc'}}, "name must be one of mnist, fashion_mnist, cifar10, cifar100, svhn, celeba64, church64, celebahq256, got '../../etc'"), ({'stage2': {'kernel': 'nuts'}}, 'kernel must be'), ({'energy': {'blocks': 'x1'}}, "blocks must be widths of blocks such as 'd1 1 d2 2', got 'x1'"),
    ({'energy': {'blocks': 'd1 ' * 7}}, 'blocks must halve images of 32 pixels at most 5 times'), ({'evaluation': {'judge_every': 0}}, 'judge_every must be a whole number >= 1, got 0'), ({'evaluation': {'judge_samples': 1}}, 'judge_samples must be a whole number >= 2, got 1'),
    ({'evaluation': {'n_samples': 1}}, 'n_samples must be a whole number >= 2, got 1'), ({'evaluation': {'extractor': 'resnet'}}, "extractor must be module:class, got 'resnet'"), ({'nvae': {'groups': 0}}, 'groups must be a whole number >= 1, got 0'), ({'stage1': {'ema': 2.}}, 'ema must be from 0 to 1, got 2.0'),
    ({'start': '../other'}, "start must be '' or the name of published weights, got '../other'")])
def test_a_run_is_refused_before_its_folder_is_written(tmp_path, values, said):
    given = {'tier': 'smoke', 'source': 'paper', 'run_dir': tmp_path / 'run'} | values
    assert message(ValueError, open_run, 'cifar10_paper' if 'name' in given else 'cifar10', given).startswith(said)
    assert not list(tmp_path.iterdir())


def test_names_of_sets_do_not_leave_the_folder(tmp_path):
    for call in (lambda: write_example('../../etc', 'train', 2, tmp_path / 'a' / 'b'), lambda: prepare('../../etc', 'train', 32, 2, tmp_path / 'a' / 'b')): assert message(ValueError, call).startswith('name must be one of mnist')
    assert "split must be one of train, test, got '../x'" == message(ValueError, write_example, 'cifar10', '../x', 2, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('name', ['../evil', '/tmp/absolute', '', 'a/b', 'a.b'])
def test_weights_are_published_in_their_folder_alone(tmp_path, name):
    (tmp_path / 'run').mkdir(); (tmp_path / 'target').mkdir()
    known = save_checkpoint(tmp_path / 'run' / 'weights.safetensors', {'w': torch.zeros(1)})
    write_json(tmp_path / 'run' / 'metrics.json', {'digest': known})
    assert message(ValueError, publish, tmp_path / 'run', name, tmp_path / 'target').startswith('name must consist of letters, digits and _')
    assert not list((tmp_path / 'target').iterdir()) and len(list(tmp_path.rglob('*.safetensors'))) == 1


def test_until_nothing_trains_nothing():
    stage = StageOne(build(SMALL).vae, gaussian_grid().sample(50), SMALL.stage1)
    before = [p.clone() for p in stage.module.parameters()]
    assert str(fit(stage, until=0, progress=False)) == 'paused at update 0' and stage.done == 0
    assert all(torch.equal(p, q) for p, q in zip(before, stage.module.parameters()))
    assert str(fit(stage, until=2, progress=False)) == 'paused at update 2' and fit(stage, progress=False).outcome == 'finished'
    assert message(ValueError, fit, stage, every=0) == 'every must be a whole number >= 1, got 0' and message(ValueError, fit, stage, until=-1) == 'until must be a whole number >= 0, got -1'


def test_chains_of_nothing_are_refused():
    points, images = vaebm.load_pretrained(), vaebm.load_pretrained('nvae_digits')
    assert message(ValueError, points.sample, 2, n_steps=-1) == 'n_steps must be a whole number >= 0, got -1'
    assert message(ValueError, points.sample, 0) == message(ValueError, images.sample, 0) == 'n must be a whole number >= 1, got 0'
    assert message(ValueError, points.log_h, torch.zeros(2, 2), k=0) == 'k must be a whole number >= 1, got 0'
    start = torch.zeros(2, points.vae.layout.size); start[1, 3] = float('nan')
    assert message(ValueError, points.sample, 2, start=start) == 'start must be finite, but 1 of 2 rows hold NaN or infinity, the first at index 1'
    assert message(ValueError, pause_when, '.', float('nan')) == 'seconds must be >= 0, got nan'


def test_objects_that_are_something_else_are_refused_by_name():
    vae, model = vaebm.load_pretrained('nvae_digits'), build(SMALL)
    x, config = torch.rand(4, 3, 16, 16), VAEBMConfig(nvae=vae.config)
    assert message(ValueError, build_vaebm, config, MLPVAE(), x) == 'vae must be an NVAE, got MLPVAE'
    assert message(ValueError, build_vaebm, config, vae, x[:, :1]).startswith('x must have shape (n, 3, 16, 16), got (4, 1, 16, 16)')
    assert message(ValueError, ImageStageOne, MLPVAE(), x, ImageStageOneConfig()) == 'vae must have elbo, sample, layout, got MLPVAE without sample'
    assert message(ValueError, DensityRatio, VAEBM(vae, MLPEnergy(768)), x, RatioConfig(scale=2.)).startswith('scale must be 1 for an energy without a last layer `linear`')
    assert message(ValueError, VAEBM, model.energy, model.vae) == 'vae must have layout, transform, got MLPEnergy without layout'
    assert message(ValueError, VAEBM, model.vae, model.energy, 'langevin') == 'kernel must have init, step, got str without init'
    assert message(ValueError, StageTwo, model.vae, torch.randn(9, 2), SMALL.stage2) == 'model must have vae, energy, n_steps, got MLPVAE without vae'
    assert message(ValueError, StageOne, model.vae, [1, 2], SMALL.stage1) == 'x must have sample, got list without sample'
    assert message(ValueError, build_nvae, ImageConfig(start='stacked_mnist_ratio')) == "start must name an NVAE, got 'stacked_mnist_ratio', a VAEBM"


def test_regression_serves_any_energy_that_is_not_sharpened():
    points = DensityRatio(VAEBM(MLPVAE(2, 3, 8), MLPEnergy(2, 8)), gaussian_grid().sample(64), RatioConfig(n_steps=2, batch_size=8))
    before = points.energy(torch.ones(1, 2))
    assert fit(points, progress=False).outcome == 'finished' and not torch.equal(points.energy(torch.ones(1, 2)), before)
    after = points.energy(torch.ones(1, 2))
    points.sharpen()
    assert torch.equal(points.energy(torch.ones(1, 2)), after)


def test_stage_one_serves_any_vae_that_can_sample():
    vae = vaebm.load_pretrained('pairs_vae').requires_grad_(True)
    stage = ImageStageOne(vae, torch.rand(16, 2, 16, 16), ImageStageOneConfig(n_steps=2, batch_size=4))
    assert fit(stage, progress=False).outcome == 'finished' and stage.sample(2, torch.Generator().manual_seed(0)).shape == (2, 2, 16, 16)


def test_presets_of_every_tier_are_within_their_ranges():
    config = tailor(preset('cifar10', 'smoke'), {'evaluation': {'n_samples': 2}})
    assert config.evaluation.n_samples == 2 and EvaluationConfig().temperature == 1. and config.data.name == 'cifar10'
