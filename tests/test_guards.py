"""Trainings that go wrong: whatever the stage and the moment, the cause is named and the last good weights stay."""

import json
import math

import pytest
import torch

from vaebm.baselines import DecoderStage
from vaebm.data import gaussian_grid
from vaebm.energy import EnergyResNet
from vaebm.layers import data_dependent_init
from vaebm.model import VAEBM
from vaebm.nvae import NVAE, NVAEConfig
from vaebm.runs import (
    CheckpointError,
    Stopped,
    configure,
    digest,
    load_checkpoint,
    message,
    need_finished,
    nonfinite_entry,
    save_checkpoint,
    write_json,
)
from vaebm.ratio import DensityRatio
from vaebm.training import (
    Config,
    Exploded,
    FitResult,
    ImageStageOne,
    ImageStageOneConfig,
    ImageStageTwo,
    ImageStageTwoConfig,
    Monitor,
    RatioConfig,
    StageOne,
    StageTwo,
    build,
    fit,
    read_seconds,
)

SIZES = NVAEConfig(
    image_size=8,
    groups=2,
    latent=2,
    channels_enc=4,
    channels_dec=4,
    cells_pre=1,
    cells_post=1,
    cells_enc=1,
    cells_dec=1,
    flows=0,
)
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
        ImageStageOneConfig(**{'n_steps': 40, 'batch_size': 8, 'warmup': 5, 'noise': 0.03, 'ema': 0.9} | options),
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
    'stage 2 on points': (points, lambda x, **options: StageTwo(build(POINTS), x, configure(POINTS.stage2, options))),
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
every_stage = pytest.mark.parametrize('name', STAGES)


def start(name, **options):
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
    "Update 5 breaks the state, right before it would be written: as a regular checkpoint, at a pause, at the end."
    file, every = tmp_path / 'stage.safetensors', 6 if end == 'checkpoint' else 4
    stage = start(name, **({'n_steps': 6} if end == 'end' else {}))
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
        saved['done'] == result.step and nonfinite_entry(saved) is None and nonfinite_entry(stage.state_dict()) is None
    )


@every_stage
def test_the_update_that_tries_a_state_leaves_no_trace(tmp_path, name):
    "A pause anywhere changes no bit of the rest, and what it keeps is what the unpaused training had there."
    whole, file = start(name, n_steps=9), tmp_path / 'stage.safetensors'
    seen, healthy = {}, whole.step

    def step():
        seen[whole.done] = digest(whole.state_dict())
        return healthy()

    whole.step = step
    assert fit(whole, tmp_path / 'whole.safetensors', 4, progress=False).outcome == 'finished'
    for until in (3, 4, 7, None):
        result = fit(start(name, n_steps=9), file, 4, progress=False, until=until)
        assert result == (FitResult('finished', 9) if until is None else FitResult('paused', until))
        if until:
            assert digest(load_checkpoint(file)) == seen[until]
    assert same(load_checkpoint(file), load_checkpoint(tmp_path / 'whole.safetensors'))


@every_stage
def test_a_request_to_pause_is_answered_before_the_next_update(tmp_path, name):
    stage, questions = start(name), iter([False, False, False, True])
    assert fit(stage, tmp_path / 'stage.safetensors', 2, progress=False, pause=lambda: next(questions)) == FitResult(
        'paused', 3
    )
    assert load_checkpoint(tmp_path / 'stage.safetensors')['done'] == 3


@every_stage
def test_data_that_are_not_finite_are_named_by_their_row(name):
    data, make = STAGES[name]
    broken = data()
    broken[7].view(-1)[0] = math.nan
    assert 'x must be finite' in message(ValueError, make, broken) and 'index 7' in message(ValueError, make, broken)
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
    stage = start(name)
    healthy = stage.chains

    def chains():
        eps, accepted = healthy()
        if stage.done == 2:
            eps[5, 1] = math.nan
        return eps, accepted

    stage.chains = chains
    result = fit(stage, every=1, progress=False)
    assert (
        result == FitResult('stopped', 1, f'chain 5 of the sampler {stage.config.kernel} is not finite at update 2')
        and nonfinite_entry(stage.state_dict()) is None
    )


@every_stage
def test_a_gradient_that_is_not_finite_is_named(name):
    stage = start(name)
    known, p = list(stage.module.named_parameters())[-2]
    p.register_hook(lambda g: g + math.inf)
    assert message(Exploded, stage.step) == f'the gradient of {known} is not finite at update 0'


def test_a_rate_that_is_too_large_stops_the_first_stage_on_points(tmp_path):
    for lr in (600.0, 1e5, 1e30):
        file = tmp_path / f'{lr}.safetensors'
        result = fit(start('stage 1 on points', lr=lr), file, 10, progress=False)
        assert result.outcome == 'stopped' and nonfinite_entry(load_checkpoint(file)) is None


@pytest.mark.parametrize('ends', [{'until': 1}, {'n_steps': 1}])
def test_energies_that_overflow_after_the_last_update_are_seen(tmp_path, ends):
    "Weights of 1e30 are finite; what they make of the data is not."
    file, config = tmp_path / 'stage.safetensors', {'lr': 1e30, 'constant': True}
    stage = start('stage 2 on points', **config, **{k: v for k, v in ends.items() if k == 'n_steps'})
    result = fit(stage, file, 1, progress=False, until=ends.get('until'))
    assert (result.outcome, result.step) == ('stopped', 0)
    assert stage.module(points()).isfinite().all() and load_checkpoint(file)['done'] == 0


def test_a_pause_evaluates_nothing_and_kept_weights_do_not_depend_on_it(tmp_path):
    def run(folder, pauses):
        looks = []

        def judge(stage):
            looks.append(stage.done)
            return {'score': -abs(stage.done - 8.0)}

        for until in (*pauses, None):
            fit(
                start('stage 2 on images', n_steps=12),
                folder / 'stage2.safetensors',
                4,
                progress=False,
                until=until,
                watch=Monitor(folder, 2, judge),
            )
        return looks, json.loads((folder / 'judged.json').read_text()), load_checkpoint(folder / 'best.safetensors')

    (looks, rows, best), (again, rows2, best2) = run(tmp_path / 'whole', ()), run(tmp_path / 'paused', (2, 5, 8, 11))
    assert looks == again == [0, 4, 8, 12] and rows == rows2 and same(best, best2)


def test_a_finished_training_is_not_touched_again(tmp_path):
    file, looks = tmp_path / 'stage.safetensors', []
    for _ in range(2):
        stage = start('stage 1 on points', n_steps=6)
        assert fit(stage, file, 4, progress=False, watch=lambda s: looks.append(s.done)) == FitResult('finished', 6)
        assert stage.done == 6
        dates = {p: p.stat().st_mtime_ns for p in tmp_path.iterdir()}
    assert looks == [0, 4, 6] and dates == {p: p.stat().st_mtime_ns for p in tmp_path.iterdir()}


def test_no_updates_are_a_finished_training_that_is_looked_at_once(tmp_path):
    file, looks = tmp_path / 'stage.safetensors', []
    for _ in range(2):
        assert fit(
            start('stage 2 on points', n_steps=0), file, progress=False, watch=lambda s: looks.append(s.done)
        ) == FitResult('finished', 0)
    assert looks == [0] and load_checkpoint(file)['done'] == 0


def test_seconds_are_those_of_all_parts(tmp_path):
    file, parts = tmp_path / 'stage1.safetensors', []
    for until in (5, 9, None):
        stage = start('stage 1 on points', n_steps=12)
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
    stage = start('stage 1 on points', n_steps=14)
    fit(stage, file, 4, progress=False)
    assert stage.seconds > 100


@every_stage
def test_a_checkpoint_of_another_stage_is_refused_with_its_path(tmp_path, name):
    file = tmp_path / 'other.safetensors'
    save_checkpoint(file, {'w': torch.ones(2), 'done': 3})
    assert str(file) in message(CheckpointError, fit, start(name), file, progress=False)
    other = 'stage 1 on points' if name != 'stage 1 on points' else 'stage 2 on points'
    fit(start(other), file.with_name('theirs.safetensors'), progress=False, until=1)
    assert 'theirs.safetensors is no checkpoint of this' in message(
        CheckpointError, fit, start(name), file.with_name('theirs.safetensors'), progress=False
    )


def test_a_stopped_training_that_the_rest_needs_ends_the_run_with_a_status(tmp_path):
    assert need_finished(FitResult('finished', 3), 'again', 'stage 1', tmp_path) == FitResult(
        'finished', 3
    ) and not list(tmp_path.iterdir())
    text = message(
        Stopped,
        need_finished,
        FitResult('stopped', 2, 'the ELBO is not finite at update 3'),
        'again',
        'stage 1',
        tmp_path,
    )
    record = json.loads((tmp_path / 'metrics.json').read_text(), parse_constant=pytest.fail)
    assert (
        text == record['status'] == 'stage 1 stopped: the ELBO is not finite at update 3; weights of update 2 restored'
        and record['command'] == 'again'
    )


def test_figures_that_are_not_finite_are_strict_json(tmp_path):
    looks = iter(
        [{'score': -math.inf, 'gain': math.nan}, {'score': 1.0, 'gain': 2.0}, {'score': math.nan, 'gain': math.inf}]
    )
    fit(
        start('stage 2 on images', n_steps=2),
        every=1,
        progress=False,
        watch=Monitor(tmp_path, 2, lambda stage: next(looks)),
    )
    rows = json.loads((tmp_path / 'judged.json').read_text(), parse_constant=pytest.fail)
    assert [(r['score'], r['gain']) for r in rows] == [(None, None), (1.0, 2.0), (None, None)]
    assert (tmp_path / 'best.safetensors').exists()
