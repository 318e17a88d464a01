"""Two processes on the CPU train as one with twice the batch, stop together, and survive the death of one of them."""

import json
import os
import signal
import time
from dataclasses import replace

import pytest
import torch

import small
from fork import join_ranks, ranks

from vaebm import full_scale, pipeline, rows
from vaebm.checkpoints import load_checkpoint, save_checkpoint
from vaebm.config import error_message
from vaebm.distributed import (
    barrier,
    load_rank_checkpoint,
    pause_when,
    rank,
    rank_file,
    save_rank_checkpoint,
    world_size,
)
from vaebm.energy_nets import EnergyResNet
from vaebm.experiment import Run
from vaebm.layers import data_dependent_init
from vaebm.model import VAEBM
from vaebm.nvae import NVAE
from vaebm.presets import override, preset
from vaebm.runs import Paused
from vaebm.stage_one import ImageStageOne, ImageStageOneConfig, build_nvae
from vaebm.stage_two import ImageStageTwo, ImageStageTwoConfig, build_vaebm
from vaebm.loop import fit

SIZES = replace(small.SIZES, flows=0)


def blobs():
    "Smooth random images."
    noise = torch.rand(200, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.interpolate(noise, size=8, mode='bilinear')


def stage_one(batch_size, **options):
    torch.manual_seed(0)
    return ImageStageOne(
        NVAE(SIZES),
        blobs(),
        ImageStageOneConfig(
            **{'n_steps': 40, 'batch_size': batch_size, 'warmup': 5, 'noise': 0.03, 'flip': True, 'ema': 0.9}
            | options
        ),
    )


def stage_two(batch_size, **options):
    "Chains that all persist."
    torch.manual_seed(0)
    vae = NVAE(SIZES)
    energy = EnergyResNet(4, 'd1')
    data = blobs()
    with torch.no_grad():
        vae.reconstruct(data)  # fills the running statistics
    data_dependent_init(energy, data)
    config = ImageStageTwoConfig(
        **{
            'n_steps': 40,
            'batch_size': batch_size,
            'buffer_size': batch_size,
            'replay': 1.0,
            'kernel_options': {'step_size': 1e-2},
            'chain_steps': 2,
            'half_buffer': False,
            'lr': 1e-3,
            'noise': 0.03,
            'ema': 0.9,
        }
        | options
    )
    return ImageStageTwo(VAEBM(vae.eval().requires_grad_(False), energy), data, config)


def in_micro_batches(n, k):
    return (
        torch.arange(n).view(2, k, -1).transpose(0, 1).flatten()
    )  # of a whole batch, such that k micro-batches of it are those of two ranks together


def draw_for_all(patch, generator, whole, k):
    """Every draw of `generator` is made for the batches of all ranks, `whole` or their k-th micro-batches,
    and each rank takes its share: noise that does not depend on their number.
    """

    def sliced(draw, where):
        def f(*args, **options):
            if options.get('generator') is not generator:
                return draw(*args, **options)
            n, *rest = args[where] if isinstance(args[where], tuple) else args[where:]
            drawn = draw(*args[:where], (world_size() * n, *rest), **options)
            if world_size() == 1:
                return drawn[in_micro_batches(n, k)] if n == whole else drawn
            return drawn[rank() * n : (rank() + 1) * n].contiguous()

        return f

    for name, where in (('randn', 0), ('rand', 0), ('randint', 1)):
        patch.setattr(torch, name, sliced(getattr(torch, name), where))
    patch.setattr(torch, 'randperm', lambda n, generator=None, device=None: torch.arange(n, device=device))


def twenty_steps(folder, make, batch_size, options):
    with pytest.MonkeyPatch.context() as patch:
        stage = make(batch_size, **options)
        draw_for_all(patch, stage.generator.manual_seed(0), 8, options.get('accumulate', 1))
        assert str(fit(stage, progress=False, until=20)) == 'paused at update 20'
    save_checkpoint(folder / f'{rank()}-of-{world_size()}.safetensors', stage.state_dict())


def difference(a, b):
    return max((a[k].double() - b[k].double()).abs().max().item() for k in a)


@pytest.mark.parametrize(
    'make, options',
    [
        (stage_one, {}),
        (stage_one, {'accumulate': 2}),
        pytest.param(stage_one, {'checkpoint_activations': True}, marks=pytest.mark.slow),
        (stage_two, {}),
        pytest.param(stage_two, {'accumulate': 2}, marks=pytest.mark.slow),
    ],
)
def test_two_ranks_are_one_process_with_twice_the_batch(tmp_path, make, options, double):
    processes = ranks(twenty_steps, tmp_path, make, 4, options)
    twenty_steps(tmp_path, make, 8, options)
    join_ranks(processes)
    one, a, b = (load_checkpoint(tmp_path / f'{name}.safetensors') for name in ('0-of-1', '0-of-2', '1-of-2'))
    start = make(8).state_dict()
    for part in ('module', 'ema'):
        assert difference(a[part], b[part]) == 0
        assert difference(a[part], one[part]) < 1e-7 and difference(start[part], one[part]) > 1e-3
    if make is stage_two:
        assert torch.allclose(
            torch.cat([a['buffer']['noise'], b['buffer']['noise']])[in_micro_batches(8, options.get('accumulate', 1))],
            one['buffer']['noise'],
        )
    assert all(
        abs(u[k] - v[k]) < 1e-6
        for u, v in zip(a['history'], one['history'])
        for k in ('elbo', 'e_pos', 'e_neg')
        if k in u
    )


@pytest.mark.parametrize('make', [stage_one, stage_two])
def test_two_ranks_in_bfloat16_are_one_process_but_for_its_rounding(tmp_path, make):
    """Weights of both ranks are the same bit for bit.

    Those of one process differ by less than a twentieth of how far they moved.
    """
    processes = ranks(twenty_steps, tmp_path, make, 4, {'bf16': True})
    twenty_steps(tmp_path, make, 8, {'bf16': True})
    join_ranks(processes)
    one, a, b = (
        load_checkpoint(tmp_path / f'{name}.safetensors')['module'] for name in ('0-of-1', '0-of-2', '1-of-2')
    )
    start = make(8).state_dict()['module']

    def norm(u, v):
        return sum((u[k] - v[k]).double().square().sum() for k in u if u[k].is_floating_point()) ** 0.5

    assert difference(a, b) == 0 and norm(a, one) < 0.05 * norm(start, one)


def blind(folder, make):
    "One rank's data turn into NaN at update 6."
    stage = make(4)
    healthy = stage.batch
    stage.batch = lambda: healthy() * (float('nan') if rank() == 1 and stage.done == 6 else 1)
    result = fit(
        stage,
        folder / 'stage.safetensors',
        4,
        progress=False,
        watch=lambda s: open(folder / f'watched by {rank()}', 'a').write(f'{s.done} '),
    )
    (folder / f'status {rank()}').write_text(str(result))


@pytest.mark.parametrize('make', [stage_one, stage_two])
def test_what_one_rank_sees_stops_all(tmp_path, make):
    join_ranks(ranks(blind, tmp_path, make))
    status = (tmp_path / 'status 0').read_text()
    assert status == 'stopped: row 0 of the batch is not finite at update 6; weights of update 4 restored'
    assert (tmp_path / 'status 1').read_text() == status
    assert [(tmp_path / f'watched by {r}').read_text() for r in (0, 1)] == ['0 4 '] * 2


def test_a_failed_pass_leaves_the_name_of_the_layer(tmp_path):
    "It has put NaN into the running statistics of all batch norms behind that layer."
    stage = stage_one(4)
    with torch.no_grad():
        stage.module.groups[1].cells[0].depthwise.weight.fill_(3e38)
    assert (
        fit(stage, progress=False).reason
        == 'the output of groups.1.cells.0.depthwise is not finite at update 0'
    )


def until_stop(folder):
    result = fit(
        stage_two(4, n_steps=1_000_000),
        folder / 'stage.safetensors',
        1_000_000,
        progress=False,
        pause=pause_when(folder),
    )
    (folder / f'status {rank()}').write_text(str(result))


def test_a_file_stops_all_at_the_same_update(tmp_path):
    processes = ranks(until_stop, tmp_path)
    while not (tmp_path / 'stage.safetensors').exists() and processes[0].is_alive():
        time.sleep(0.05)
    (tmp_path / 'STOP').touch()
    join_ranks(processes)
    done = [load_checkpoint(rank_file(tmp_path / 'stage.safetensors', r))['done'] for r in (0, 1)]
    assert not (tmp_path / 'STOP').exists()  # answered
    assert done[0] == done[1] and {(tmp_path / f'status {r}').read_text() for r in (0, 1)} == {
        f'paused at update {done[0]}'
    }


def whole_run(folder, dies=None, dies_at=None, until=None, slow=0.0):
    """Checkpoints at every fourth update.

    One rank may be killed as it is about to write one, `slow` seconds after the other has written
    its own.
    """

    def save(path, state):
        if rank() == dies and state['done'] == dies_at:
            while newest(folder / 'stage.safetensors', 1 - dies) < dies_at:
                time.sleep(0.01)
            time.sleep(slow)
            os.kill(os.getpid(), signal.SIGKILL)
        save_checkpoint(path, state)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr('vaebm.loop.save_checkpoint', save)
        result = fit(
            stage_two(4, buffer_size=12, replay=0.7, n_steps=30),
            folder / 'stage.safetensors',
            4,
            progress=False,
            until=until,
        )
        assert str(result) == ('finished' if until is None else f'paused at update {until}')


def same(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    return a == b


def newest(path, r):
    "Update of the newest checkpoint of rank r."
    found = [-1]
    for file in (rank_file(path, r), rank_file(path, r).with_stem(f'{rank_file(path, r).stem}.before')):
        try:
            found.append(load_checkpoint(file)['done'])
        except FileNotFoundError:
            pass  # about to be replaced
    return max(found)


def test_death_of_one_rank_loses_nothing_beyond_the_last_checkpoint(tmp_path):
    whole, killed = tmp_path / 'whole', tmp_path / 'killed'
    whole.mkdir()
    killed.mkdir()
    join_ranks(ranks(whole_run, whole))
    path = killed / 'stage.safetensors'
    first = ranks(whole_run, killed, 1, 12)
    for p in first:
        p.join(60)
    assert (
        first[1].exitcode == -signal.SIGKILL and first[0].exitcode == 1
    )  # the other does not wait for the dead
    assert [newest(path, r) for r in (0, 1)] == [12, 8]
    second = ranks(whole_run, killed, 0, 20)
    for p in second:
        p.join(60)
    assert second[0].exitcode == -signal.SIGKILL and second[1].exitcode == 1
    assert [newest(path, r) for r in (0, 1)] == [16, 20]
    join_ranks(ranks(whole_run, killed))
    shares = [
        [load_checkpoint(rank_file(folder / 'stage.safetensors', r)) for r in (0, 1)]
        for folder in (whole, killed)
    ]
    assert all(map(same, *shares))
    assert not torch.equal(
        *(share['buffer']['noise'] for share in shares[0])
    )  # each rank has chains of its own


def test_the_last_checkpoint_waits_for_ranks_that_still_write_the_one_before(tmp_path):
    "Between the updates 8 and 9 no message of the training makes rank 0 wait for rank 1."
    path = tmp_path / 'stage.safetensors'
    first = ranks(whole_run, tmp_path, 1, 8, 9, 2.0)
    for p in first:
        p.join(60)
    assert first[1].exitcode == -signal.SIGKILL and first[0].exitcode == 1
    assert [newest(path, r) for r in (0, 1)] == [8, 4]
    join_ranks(ranks(whole_run, tmp_path))
    assert [load_checkpoint(rank_file(path, r))['done'] for r in (0, 1)] == [30, 30]


def saves(folder, *updates):
    for done in updates:
        save_rank_checkpoint(
            folder / 'stage.safetensors',
            {'done': done, 'module': torch.ones(2), 'generator': torch.tensor(rank())},
        )


def resumes_at(folder, update):
    assert load_rank_checkpoint(folder / 'stage.safetensors')['done'] == update


def is_refused(folder):
    assert f'must be a checkpoint of {world_size()} processes' in error_message(
        ValueError, load_rank_checkpoint, folder / 'stage.safetensors'
    )
    barrier()  # both have looked


@pytest.mark.parametrize('between', [1, 2])
def test_files_of_ranks_that_have_left_are_not_taken_up_again(tmp_path, between):
    """Three ranks train, then fewer write at an update of which the third has a file, then three
    would go on.
    """
    join_ranks(ranks(saves, tmp_path, 4, 8, n=3))
    (tmp_path / 'stage.rank2.safetensors.host-1-0.tmp').touch()  # of a rank killed as it wrote
    join_ranks(ranks(resumes_at, tmp_path, 8, n=3))
    if between == 1:
        saves(tmp_path, 8)
        assert [p.name for p in tmp_path.glob('stage.*')] == ['stage.safetensors']
    else:
        join_ranks(ranks(saves, tmp_path, 8, 12))
    assert not list(tmp_path.glob('*.rank2.*'))
    join_ranks(ranks(is_refused, tmp_path, n=3))
    join_ranks(ranks(resumes_at, tmp_path, 12) if between == 2 else ranks(is_refused, tmp_path))


HQ = {
    'stage1': {'n_steps': 2},
    'stage2': {'n_steps': 4},
    'evaluation': {'eval_samples': 10, 'eval_every': 2, 'n_samples': 14, 'batch_size': 5},
}  # the batches of training have 4


def evaluate_and_draw(folder):
    "Looks at an untrained stage 2, and samples of its product; every rank says what it has drawn."
    config = override(preset('celebahq256', 'smoke'), HQ)
    splits = full_scale.splits_of(config, folder / 'images')  # made beforehand
    run, vae = Run(config, folder / f'{world_size()}'), build_nvae(config.model).eval()
    model = build_vaebm(config.model, vae, splits['train'][:8])
    share = pipeline.per_rank_config(config.model, world_size()).stage2
    stage = ImageStageTwo(model, splits['train'], share)
    choose = None if rank() else pipeline.evaluators(run, splits)[0]
    found, drawn = pipeline.evaluate_weights(run, stage, choose), rows.draw(run, model)
    (folder / f'{rank()}-of-{world_size()}.json').write_text(
        json.dumps({'evaluation': found, 'samples': rows.read_samples(drawn).pixels.tolist()})
    )


def test_evaluations_and_samples_do_not_depend_on_the_number_of_ranks(tmp_path):
    config = override(preset('celebahq256', 'smoke'), HQ)
    full_scale.splits_of(config, tmp_path / 'images')
    for n in (1, 2):
        join_ranks(ranks(evaluate_and_draw, tmp_path, n=n))
    one, a, b = (json.loads((tmp_path / f'{name}.json').read_text()) for name in ('0-of-1', '0-of-2', '1-of-2'))
    assert len(one['samples']) == 14 and one['evaluation']['frechet'] == -one['evaluation']['score'] > 0
    assert a == one and b == one | {'evaluation': {}}


def asks_to_end(folder):
    "In the second round of parts: rank 0 is asked, both end."
    config, asked = override(preset('celebahq256', 'smoke'), HQ), iter([False, True])
    vae = build_nvae(config.model).eval()
    model = build_vaebm(
        config.model, vae, torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    )
    run = Run(
        config,
        folder,
        resume_command='the same',
        stop=lambda: next(asked) if not rank() else pytest.fail('rank 1 was asked'),
    )
    (folder / f'rank {rank()}').write_text(error_message(Paused, rows.draw, run, model))


def test_all_ranks_end_drawing_when_one_is_asked(tmp_path):
    join_ranks(ranks(asks_to_end, tmp_path))
    assert {(tmp_path / f'rank {r}').read_text() for r in (0, 1)} == {
        'paused before part 2 of the samples; go on with\nthe same'
    }
    assert len(list(tmp_path.glob('samples/*/*.safetensors'))) == 2


def different_weights(folder):
    state = {'done': 10, 'module': {'weight': torch.full((2,), float(rank()))}}
    message = error_message(RuntimeError, save_rank_checkpoint, folder / 'stage.safetensors', state)
    assert 'all ranks must have the same weights, got different ones at update 10' in message


def test_ranks_whose_weights_have_come_apart_write_nothing(tmp_path):
    join_ranks(ranks(different_weights, tmp_path))
    assert not list(tmp_path.glob('*.safetensors'))
