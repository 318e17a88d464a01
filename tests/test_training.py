"""Trainings that go wrong or are killed: whatever the stage and the moment, the cause is named and the last good
weights stay.
"""

import json
import math
import random
import signal
import time
from dataclasses import replace

import pytest
import torch

import small
from fork import finish, start
from small import SMALL

import vaebm
from vaebm.variants import DecoderStage
from vaebm.checkpoints import (
    CheckpointError,
    digest,
    load_checkpoint,
    nonfinite_entry,
    save_checkpoint,
    write_json,
)
from vaebm.config import configure, error_message
from vaebm.data import gaussian_grid
from vaebm.energy import MLPEnergy
from vaebm.energy_nets import EnergyResNet
from vaebm.layers import data_dependent_init
from vaebm.model import VAEBM
from vaebm.nvae import NVAE
from vaebm.ratio import DensityRatio
from vaebm.stage_one import ImageConfig, ImageStageOne, ImageStageOneConfig, Monitor, build_nvae
from vaebm.stage_two import ImageStageTwo, ImageStageTwoConfig, RatioConfig, VAEBMConfig, build_vaebm
from vaebm.loop import FitResult, TrainingDiverged, fit, read_seconds
from vaebm.training import Config, StageOne, StageTwo, build
from vaebm.vae import MLPVAE

SIZES = replace(small.SIZES, flows=0)
POINTS = configure(
    Config(),
    {
        'network': {'width': 16},
        'stage1': {'n_steps': 40, 'batch_size': 64},
        'stage2': {'n_steps': 40, 'batch_size': 64, 'buffer_size': 64},
    },
)


def points():
    return gaussian_grid().sample(500, torch.Generator().manual_seed(1))


def images():
    return torch.rand(60, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def product():
    torch.manual_seed(0)
    vae, energy = NVAE(SIZES), EnergyResNet(4, 'd1')
    with torch.no_grad():
        vae.reconstruct(images())  # fills the running statistics
    data_dependent_init(energy, images())
    return VAEBM(vae.eval().requires_grad_(False), energy)


def image_stage_one(x, **options):
    torch.manual_seed(0)
    return ImageStageOne(
        NVAE(SIZES),
        x,
        ImageStageOneConfig(
            **{'n_steps': 40, 'batch_size': 8, 'warmup': 5, 'noise': 0.03, 'ema': 0.9} | options
        ),
    )


def two_config(options):
    return ImageStageTwoConfig(
        **{
            'n_steps': 40,
            'batch_size': 8,
            'buffer_size': 8,
            'replay': 1.0,
            'kernel_options': {'step_size': 1e-2},
            'chain_steps': 2,
            'lr': 1e-3,
            'spectral': 0.0,
            'noise': 0.03,
            'ema': 0.9,
        }
        | options
    )


STAGES = {
    'stage 1 on points': (
        points,
        lambda x, **options: StageOne(build(POINTS).vae, x, configure(POINTS.stage1, options)),
    ),
    'stage 2 on points': (
        points,
        lambda x, **options: StageTwo(build(POINTS), x, configure(POINTS.stage2, options)),
    ),
    'stage 1 on images': (images, image_stage_one),
    'stage 2 on images': (images, lambda x, **options: ImageStageTwo(product(), x, two_config(options))),
    'regression': (
        images,
        lambda x, **options: DensityRatio(
            product(), x, RatioConfig(**{'n_steps': 40, 'batch_size': 8, 'noise': 0.03} | options)
        ),
    ),
    'decoder': (images, lambda x, **options: DecoderStage(product(), x, two_config(options), decoder_lr=1e-4)),
}
every_stage = pytest.mark.parametrize(
    'name', [pytest.param(name, marks=pytest.mark.slow) if name == 'decoder' else name for name in STAGES]
)


def begin(name, **options):
    data, make = STAGES[name]
    return make(data(), **options)


def same(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def poison(stage, part, at):
    "Put an infinity into the state once update `at` is made."
    healthy = stage.step

    def step():
        row = healthy()
        if stage.done == at:
            moments = next(iter(stage.optimizer.state.values()))
            tensor = {
                'weights': next(stage.module.parameters()),
                'moments': moments['exp_avg'],
                'average': next(stage.ema.parameters()) if hasattr(stage, 'ema') else None,
            }[part]
            with torch.no_grad():
                tensor.view(-1)[0] = math.inf
        return row

    stage.step = step
    return stage


@every_stage
@pytest.mark.parametrize('part', ['weights', 'moments', 'average'])
@pytest.mark.parametrize('end', ['checkpoint', 'pause', 'end'])
def test_a_bad_state_replaces_no_good_one(tmp_path, name, part, end):
    """Update 5 breaks the state, right before it would be written: as a regular checkpoint, at a
    pause, at the end.
    """
    file, every = tmp_path / 'stage.safetensors', 6 if end == 'checkpoint' else 4
    stage = begin(name, **({'n_steps': 6} if end == 'end' else {}))
    if part == 'average' and not hasattr(stage, 'ema'):
        pytest.skip('no averaged weights')
    result = fit(poison(stage, part, 5), file, every, progress=False, until=6 if end == 'pause' else None)
    assert (
        result.outcome == 'stopped'
        and result.step == (0 if end == 'checkpoint' else 4) == stage.done
        and 'is not finite at update' in result.reason
    )
    saved = load_checkpoint(file)
    assert (
        saved['done'] == result.step
        and nonfinite_entry(saved) is None
        and nonfinite_entry(stage.state_dict()) is None
    )


@every_stage
def test_the_update_that_tries_a_state_leaves_no_trace(tmp_path, name):
    """A pause anywhere changes no bit of the rest, and what it keeps is what the unpaused training
    had there.
    """
    whole, file = begin(name, n_steps=9), tmp_path / 'stage.safetensors'
    seen, healthy = {}, whole.step

    def step():
        seen[whole.done] = digest(whole.state_dict())
        return healthy()

    whole.step = step
    assert fit(whole, tmp_path / 'whole.safetensors', 4, progress=False).outcome == 'finished'
    for until in (3, 4, 7, None):
        result = fit(begin(name, n_steps=9), file, 4, progress=False, until=until)
        assert result == (FitResult('finished', 9) if until is None else FitResult('paused', until))
        if until:
            assert digest(load_checkpoint(file)) == seen[until]
    assert same(load_checkpoint(file), load_checkpoint(tmp_path / 'whole.safetensors'))


@every_stage
def test_a_request_to_pause_is_answered_before_the_next_update(tmp_path, name):
    stage, questions = begin(name), iter([False, False, False, True])
    assert fit(
        stage, tmp_path / 'stage.safetensors', 2, progress=False, pause=lambda: next(questions)
    ) == FitResult('paused', 3)
    assert load_checkpoint(tmp_path / 'stage.safetensors')['done'] == 3


@every_stage
def test_data_that_are_not_finite_are_named_by_their_row(name):
    data, make = STAGES[name]
    broken = data()
    broken[7].view(-1)[0] = math.nan
    assert 'x must be finite' in error_message(ValueError, make, broken) and 'index 7' in error_message(
        ValueError, make, broken
    )
    stage = make(data())
    stage.x[7].view(-1)[0] = math.nan  # after the stage was made
    result = fit(stage, progress=False)
    assert result.outcome == 'stopped' and result.reason.startswith('row 7 of the data is not finite at update')

    class Source:
        def sample(self, n, generator):
            x = data()[:n]
            x[3].view(-1)[0] = math.nan
            return x

    assert fit(make(Source()), progress=False).reason == 'row 3 of the batch is not finite at update 0'


@pytest.mark.parametrize('name', ['stage 2 on points', 'stage 2 on images', 'decoder'])
def test_a_chain_that_is_not_finite_is_named_with_its_sampler(name):
    stage = begin(name)
    healthy = stage.chains

    def chains():
        eps, accepted = healthy()
        if stage.done == 2:
            eps[5, 1] = math.nan
        return eps, accepted

    stage.chains = chains
    result = fit(stage, every=1, progress=False)
    assert (
        result == FitResult(
            'stopped', 1, f'chain 5 of the sampler {stage.config.kernel} is not finite at update 2'
        )
        and nonfinite_entry(stage.state_dict()) is None
    )


@every_stage
def test_a_gradient_that_is_not_finite_is_named(name):
    stage = begin(name)
    known, p = list(stage.module.named_parameters())[-2]
    p.register_hook(lambda g: g + math.inf)
    assert error_message(TrainingDiverged, stage.step) == f'the gradient of {known} is not finite at update 0'


def test_a_rate_that_is_too_large_stops_the_first_stage_on_points(tmp_path):
    for lr in (600.0, 1e5, 1e30):
        file = tmp_path / f'{lr}.safetensors'
        result = fit(begin('stage 1 on points', lr=lr), file, 10, progress=False)
        assert result.outcome == 'stopped' and nonfinite_entry(load_checkpoint(file)) is None


@pytest.mark.parametrize('ends', [{'until': 1}, {'n_steps': 1}])
def test_energies_that_overflow_after_the_last_update_are_seen(tmp_path, ends):
    "Weights of 1e30 are finite; what they make of the data is not."
    file, config = tmp_path / 'stage.safetensors', {'lr': 1e30, 'constant': True}
    stage = begin('stage 2 on points', **config, **{k: v for k, v in ends.items() if k == 'n_steps'})
    result = fit(stage, file, 1, progress=False, until=ends.get('until'))
    assert (result.outcome, result.step) == ('stopped', 0)
    assert stage.module(points()).isfinite().all() and load_checkpoint(file)['done'] == 0


def test_a_pause_evaluates_nothing_and_kept_weights_do_not_depend_on_it(tmp_path):
    def run(folder, pauses):
        evaluations = []

        def evaluator(stage):
            evaluations.append(stage.done)
            return {'score': -abs(stage.done - 8.0)}

        for until in (*pauses, None):
            fit(
                begin('stage 2 on images', n_steps=12),
                folder / 'stage2.safetensors',
                4,
                progress=False,
                until=until,
                watch=Monitor(folder, 2, evaluator),
            )
        return (
            evaluations,
            json.loads((folder / 'evaluations.json').read_text()),
            load_checkpoint(folder / 'best.safetensors'),
        )

    (evaluations, rows, best), (again, rows2, best2) = run(tmp_path / 'whole', ()), run(
        tmp_path / 'paused', (2, 5, 8, 11)
    )
    assert evaluations == again == [0, 4, 8, 12] and rows == rows2 and same(best, best2)


def test_a_finished_training_is_not_touched_again(tmp_path):
    file, evaluations = tmp_path / 'stage.safetensors', []
    for _ in range(2):
        stage = begin('stage 1 on points', n_steps=6)
        assert fit(stage, file, 4, progress=False, watch=lambda s: evaluations.append(s.done)) == FitResult(
            'finished', 6
        )
        assert stage.done == 6
        dates = {p: p.stat().st_mtime_ns for p in tmp_path.iterdir()}
    assert evaluations == [0, 4, 6] and dates == {p: p.stat().st_mtime_ns for p in tmp_path.iterdir()}


def test_no_updates_are_a_finished_training_that_is_evaluated_once(tmp_path):
    file, evaluations = tmp_path / 'stage.safetensors', []
    for _ in range(2):
        assert fit(
            begin('stage 2 on points', n_steps=0), file, progress=False, watch=lambda s: evaluations.append(s.done)
        ) == FitResult('finished', 0)
    assert evaluations == [0] and load_checkpoint(file)['done'] == 0


def test_seconds_are_those_of_all_parts(tmp_path):
    file, parts = tmp_path / 'stage1.safetensors', []
    for until in (5, 9, None):
        stage = begin('stage 1 on points', n_steps=12)
        fit(stage, file, 4, progress=False, until=until)
        parts.append(stage.seconds)
    assert (
        0
        < parts[0]
        < parts[1]
        < parts[2]
        == read_seconds(file)
        == json.loads((tmp_path / 'seconds.json').read_text())['stage1']
    )
    write_json(tmp_path / 'seconds.json', 100.0)  # of one stage, as folders of the first version have it
    stage = begin('stage 1 on points', n_steps=14)
    fit(stage, file, 4, progress=False)
    assert stage.seconds > 100


def test_updates_go_on_while_a_checkpoint_is_written(tmp_path, monkeypatch):
    stage, file, save = begin('stage 1 on points', n_steps=12), tmp_path / 'stage1.safetensors', save_checkpoint
    seen = []

    def slowly(path, state):
        deadline = time.monotonic() + 30
        while stage.done < min(state['done'] + 3, 12) and time.monotonic() < deadline:
            time.sleep(0.001)
        seen.append((state['done'], stage.done))
        save(path, state)

    monkeypatch.setattr('vaebm.loop.save_checkpoint', slowly)
    assert fit(stage, file, 4, progress=False).outcome == 'finished'
    assert [done for done, _ in seen] == [0, 4, 8, 12] and all(now >= done + 3 for done, now in seen[:3])
    assert load_checkpoint(file)['done'] == 12 and read_seconds(file) == stage.seconds


def test_a_checkpoint_that_cannot_be_written_ends_the_training(tmp_path, monkeypatch):
    def full(path, state):
        raise OSError('No space left on device')

    file = tmp_path / 'stage1.safetensors'
    fit(begin('stage 1 on points', n_steps=12), file, 4, progress=False, until=6)
    with monkeypatch.context() as m:
        m.setattr('vaebm.loop.save_checkpoint', full)
        stage = begin('stage 1 on points', n_steps=12)
        assert error_message(OSError, fit, stage, file, 4, progress=False) == 'No space left on device'
    assert load_checkpoint(file)['done'] == 6


@every_stage
def test_a_checkpoint_of_another_stage_is_refused_with_its_path(tmp_path, name):
    file = tmp_path / 'other.safetensors'
    save_checkpoint(file, {'w': torch.ones(2), 'done': 3})
    assert str(file) in error_message(CheckpointError, fit, begin(name), file, progress=False)
    other = 'stage 1 on points' if name != 'stage 1 on points' else 'stage 2 on points'
    fit(begin(other), file.with_name('theirs.safetensors'), progress=False, until=1)
    assert 'theirs.safetensors is no checkpoint of this' in error_message(
        CheckpointError, fit, begin(name), file.with_name('theirs.safetensors'), progress=False
    )


def test_figures_that_are_not_finite_are_strict_json(tmp_path):
    evaluations = iter(
        [
            {'score': -math.inf, 'gain': math.nan},
            {'score': 1.0, 'gain': 2.0},
            {'score': math.nan, 'gain': math.inf},
        ]
    )
    fit(
        begin('stage 2 on images', n_steps=2),
        every=1,
        progress=False,
        watch=Monitor(tmp_path, 2, lambda stage: next(evaluations)),
    )
    rows = json.loads((tmp_path / 'evaluations.json').read_text(), parse_constant=pytest.fail)
    assert [(r['score'], r['gain']) for r in rows] == [(None, None), (1.0, 2.0), (None, None)]
    assert (tmp_path / 'best.safetensors').exists()


TRAIN = """
import sys, torch
from vaebm.data import gaussian_grid
from vaebm.config import configure
from vaebm.loop import fit
from vaebm.training import Config, StageOne, StageTwo, build
torch.set_num_threads(1)
second = {'n_steps': 800, 'batch_size': 128, 'buffer_size': 256, 'replay': .9, 'replay_anneal': 100}
small = {'network': {'width': 32}, 'stage1': {'n_steps': 300}, 'stage2': second}
config = configure(Config(), small)
train = gaussian_grid().sample(2000, generator=torch.Generator().manual_seed(0))
model = build(config)
for number, stage in (1, StageOne(model.vae, train, config.stage1)), (2, StageTwo(model, train, config.stage2)):
    assert fit(stage, f'{sys.argv[1]}/stage{number}.safetensors', every=20, progress=False).outcome == 'finished'
"""
TRAIN_IMAGES = """
import sys, torch
from vaebm.data import embedded_digits
from vaebm.images import Images, StackedDigits
from vaebm.nvae import NVAEConfig
from vaebm.stage_one import ImageConfig, ImageStageOne, ImageStageOneConfig, build_nvae
from vaebm.loop import fit
torch.set_num_threads(1)
digits, labels = embedded_digits()
data = StackedDigits(Images((255 * digits).round().byte(), labels))
sizes = NVAEConfig(groups=2, latent=4, channels_enc=4, channels_dec=4, cells_enc=1, cells_dec=1,
                   blocks_pre=3, blocks_post=3, cells_pre=1, cells_post=1)
vae = build_nvae(ImageConfig(nvae=sizes))
stage = ImageStageOne(vae, data, ImageStageOneConfig(n_steps=80, batch_size=4, warmup=10, noise=.1, flip=True))
assert fit(stage, f'{sys.argv[1]}/images.safetensors', every=4, progress=False).outcome == 'finished'
"""
TRAIN_ENERGY = """
import sys, torch, vaebm
from vaebm.data import embedded_digits
from vaebm.images import Images
from vaebm.config import configure
from vaebm.ratio import DensityRatio
from vaebm.stage_two import ImageStageTwo, RatioConfig, VAEBMConfig, build_vaebm
from vaebm.loop import fit
torch.set_num_threads(1)
digits, _ = embedded_digits()
small = torch.nn.functional.avg_pool2d(torch.nn.functional.pad(digits, [2] * 4), 2).expand(-1, 3, -1, -1)
data = Images((255 * small).round().byte())
vae = vaebm.load_pretrained('nvae_digits')
config = configure(VAEBMConfig(nvae=vae.config), {'energy': {'width': 4, 'blocks': 'd1'}, 'stage2': {
    'n_steps': 160, 'batch_size': 8, 'kernel': 'cycle', 'chain_steps': 1,
    'kernel_options': {'independence': {'n_proposals': 2}, 'pcn_langevin': {'step_size': .1}},
    'buffer_size': 64, 'replay': .9, 'replay_anneal': 20, 'lr': 1e-3, 'noise': .03}})
model = build_vaebm(config, vae, data.sample(32, torch.Generator().manual_seed(0)))
ratio = DensityRatio(model, data, RatioConfig(n_steps=80, batch_size=8, noise=.03))
assert fit(ratio, f'{sys.argv[1]}/ratio.safetensors', every=4, progress=False).outcome == 'finished'
stage = ImageStageTwo(model, data, config.stage2)
assert fit(stage, f'{sys.argv[1]}/energy.safetensors', every=4, progress=False).outcome == 'finished'
"""


def train(folder, script, kill_after=None):
    """Run the training in its own process.

    With `kill_after` (checkpoints, seconds), SIGKILL it that long after it has written so many.
    """
    log = folder / 'log'
    process = start(script, str(folder), log=log)
    if kill_after is not None:

        def newest():
            return max((p.stat().st_mtime for p in folder.glob('*.safetensors')), default=0)

        checkpoints, seconds = kill_after
        for _ in range(checkpoints):
            before = newest()
            while newest() == before and process.is_alive():
                time.sleep(0.01)
        time.sleep(seconds)
        process.kill()
    code = finish(process, 300)
    assert code in (0, -signal.SIGKILL), log.read_text()
    return code == -signal.SIGKILL


@pytest.mark.parametrize(
    'script, n_kills',
    [
        (TRAIN, 2),
        pytest.param(TRAIN, 10, marks=pytest.mark.slow),
        pytest.param(TRAIN_IMAGES, 5, marks=pytest.mark.slow),
        pytest.param(TRAIN_ENERGY, 5, marks=pytest.mark.slow),
    ],
    ids=['2-D', '2-D long', 'images', 'energy of images'],
)
def test_killed_training_resumes_bit_for_bit(tmp_path, script, n_kills):
    whole, killed = tmp_path / 'whole', tmp_path / 'killed'
    whole.mkdir()
    killed.mkdir()
    train(whole, script)
    moments, kills = random.Random(n_kills), 0
    for _ in range(n_kills):
        kills += train(killed, script, (moments.randint(1, 3), moments.uniform(0, 0.1)))
        print(
            'updates at the kill:', {p.stem: load_checkpoint(p)['done'] for p in killed.glob('*.safetensors')}
        )
    assert kills == n_kills, 'the training ended before all kills were sent: make it longer'
    train(killed, script)
    assert {p.name for p in whole.glob('*.safetensors')} == {p.name for p in killed.glob('*.safetensors')}
    for path in whole.glob('*.safetensors'):
        assert same(load_checkpoint(path), load_checkpoint(killed / path.name))
    assert not list(killed.glob('*.tmp')), 'a half-written file outlived the next whole one'


def test_until_nothing_trains_nothing():
    stage = StageOne(build(SMALL).vae, gaussian_grid().sample(50), SMALL.stage1)
    before = [p.clone() for p in stage.module.parameters()]
    assert str(fit(stage, until=0, progress=False)) == 'paused at update 0' and stage.done == 0
    assert all(torch.equal(p, q) for p, q in zip(before, stage.module.parameters()))
    assert (
        str(fit(stage, until=2, progress=False)) == 'paused at update 2'
        and fit(stage, progress=False).outcome == 'finished'
    )
    assert (
        error_message(ValueError, fit, stage, every=0) == 'every must be a whole number >= 1, got 0'
        and error_message(ValueError, fit, stage, until=-1) == 'until must be a whole number >= 0, got -1'
    )


def test_objects_that_are_something_else_are_refused_by_name():
    vae, model = vaebm.load_pretrained('nvae_digits'), build(SMALL)
    x, config = torch.rand(4, 3, 16, 16), VAEBMConfig(nvae=vae.config)
    assert error_message(ValueError, build_vaebm, config, MLPVAE(), x) == 'vae must be an NVAE, got MLPVAE'
    assert error_message(ValueError, build_vaebm, config, vae, x[:, :1]).startswith(
        'x must have shape (n, 3, 16, 16), got (4, 1, 16, 16)'
    )
    assert (
        error_message(ValueError, ImageStageOne, MLPVAE(), x, ImageStageOneConfig())
        == 'vae must have elbo, sample, layout, got MLPVAE without sample'
    )
    assert error_message(ValueError, DensityRatio, VAEBM(vae, MLPEnergy(768)), x, RatioConfig(scale=2.0)).startswith(
        'scale must be 1 for an energy without a last layer `linear`'
    )
    assert (
        error_message(ValueError, VAEBM, model.energy, model.vae)
        == 'vae must have layout, transform, got MLPEnergy without layout'
    )
    assert (
        error_message(ValueError, VAEBM, model.vae, model.energy, 'langevin')
        == 'kernel must have init, step, got str without init'
    )
    assert (
        error_message(ValueError, StageTwo, model.vae, torch.randn(9, 2), SMALL.stage2)
        == 'model must have vae, energy, n_steps, got MLPVAE without vae'
    )
    assert (
        error_message(ValueError, StageOne, model.vae, [1, 2], SMALL.stage1)
        == 'x must have sample, got list without sample'
    )
    assert (
        error_message(ValueError, build_nvae, ImageConfig(start='stacked_mnist_ratio'))
        == "start must name an NVAE, got 'stacked_mnist_ratio', a VAEBM"
    )
