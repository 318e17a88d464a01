"""Two processes on the CPU train as one with twice the batch, stop together, and survive the death of one of them."""
import json
import os
import re
import signal
import subprocess
import sys
import time
import weakref
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch
from torch import distributed

import vaebm.parallel
from vaebm import experiment, launch
from vaebm.energy import EnergyResNet
from vaebm.experiment import Run, preset, tailor
from vaebm.layers import data_dependent_init
from vaebm.model import VAEBM
from vaebm.nvae import NVAE, NVAEConfig
from vaebm.parallel import gathered, load_shares, pause_when, rank, rank_file, save_shares, world_size
from vaebm.runs import Paused, RunFolderError, Stopped, load_checkpoint, message, save_checkpoint
from vaebm.training import FitResult, ImageStageOne, ImageStageOneConfig, ImageStageTwo, ImageStageTwoConfig, fit

EXPERIMENTS = Path(__file__).parents[1] / 'nbs' / 'experiments'
SIZES = NVAEConfig(image_size=8, groups=2, latent=2, channels_enc=4, channels_dec=4, cells_pre=1, cells_post=1, cells_enc=1, cells_dec=1, flows=0)


def blobs():
    "Smooth random images."
    noise = torch.rand(200, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.interpolate(noise, size=8, mode='bilinear')


def stage_one(batch_size, **options):
    torch.manual_seed(0)
    return ImageStageOne(NVAE(SIZES), blobs(), ImageStageOneConfig(**{'n_steps': 40, 'batch_size': batch_size, 'warmup': 5, 'noise': .03, 'flip': True, 'ema': .9} | options))


def stage_two(batch_size, **options):
    "Chains that all persist."
    torch.manual_seed(0)
    vae, energy, data = NVAE(SIZES), EnergyResNet(4, 'd1'), blobs()
    with torch.no_grad(): vae.reconstruct(data)   # fills the running statistics
    data_dependent_init(energy, data)
    config = ImageStageTwoConfig(**{'n_steps': 40, 'batch_size': batch_size, 'buffer_size': batch_size, 'replay': 1., 'kernel_options': {'step_size': 1e-2}, 'chain_steps': 2,
                                    'half_buffer': False, 'lr': 1e-3, 'noise': .03, 'ema': .9} | options)
    return ImageStageTwo(VAEBM(vae.eval().requires_grad_(False), energy), data, config)


def ranks(function, folder, *args, n=2):
    "Start `function(folder, *args)` on n ranks, copies of this process that gloo joins."
    store = folder / f'store-{time.time_ns()}'
    def enter(r):
        os.environ['GLOO_SOCKET_IFNAME'] = 'lo'
        torch.set_num_threads(1)
        distributed.init_process_group('gloo', rank=r, world_size=n, store=distributed.FileStore(str(store), n))
        function(folder, *args)
        distributed.destroy_process_group()
    started = [get_context('fork').Process(target=enter, args=(r,)) for r in range(n)]
    for p in started: p.start()
    return started


def finish(processes):
    for p in processes: p.join(60)
    assert [p.exitcode for p in processes] == [0] * len(processes)


def in_parts(n, k): return torch.arange(n).view(2, k, -1).transpose(0, 1).flatten()   # of a whole batch, such that k parts of it are those of two ranks together


def draw_for_all(patch, generator, whole, k):
    "Every draw of `generator` is made for the batches of all ranks, `whole` or their k-th parts, and each rank takes its share: noise that does not depend on their number."
    def sliced(draw, where):
        def f(*args, **options):
            if options.get('generator') is not generator: return draw(*args, **options)
            n, *rest = args[where] if isinstance(args[where], tuple) else args[where:]
            drawn = draw(*args[:where], (world_size() * n, *rest), **options)
            if world_size() == 1: return drawn[in_parts(n, k)] if n == whole else drawn
            return drawn[rank() * n:(rank() + 1) * n].contiguous()
        return f
    for name, where in (('randn', 0), ('rand', 0), ('randint', 1)): patch.setattr(torch, name, sliced(getattr(torch, name), where))
    patch.setattr(torch, 'randperm', lambda n, generator=None, device=None: torch.arange(n, device=device))


def twenty_steps(folder, make, batch_size, options):
    with pytest.MonkeyPatch.context() as patch:
        stage = make(batch_size, **options)
        draw_for_all(patch, stage.generator.manual_seed(0), 8, options.get('accumulate', 1))
        assert str(fit(stage, progress=False, until=20)) == 'paused at update 20'
    save_checkpoint(folder / f'{rank()}-of-{world_size()}.safetensors', stage.state_dict())


def difference(a, b): return max((a[k].double() - b[k].double()).abs().max().item() for k in a)


@pytest.fixture
def double():
    "Rounding far below the effects that are looked for."
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize('make, options', [(stage_one, {}), (stage_one, {'accumulate': 2}), (stage_one, {'recompute': True}), (stage_two, {}), (stage_two, {'accumulate': 2})])
def test_two_ranks_are_one_process_with_twice_the_batch(tmp_path, make, options, double):
    processes = ranks(twenty_steps, tmp_path, make, 4, options)
    twenty_steps(tmp_path, make, 8, options)
    finish(processes)
    one, a, b = (load_checkpoint(tmp_path / f'{name}.safetensors') for name in ('0-of-1', '0-of-2', '1-of-2'))
    start = make(8).state_dict()
    for part in ('module', 'ema'):
        assert difference(a[part], b[part]) == 0
        assert difference(a[part], one[part]) < 1e-7 and difference(start[part], one[part]) > 1e-3
    if make is stage_two: assert torch.allclose(torch.cat([a['buffer']['noise'], b['buffer']['noise']])[in_parts(8, options.get('accumulate', 1))], one['buffer']['noise'])
    assert all(abs(u[k] - v[k]) < 1e-6 for u, v in zip(a['history'], one['history']) for k in ('elbo', 'e_pos', 'e_neg') if k in u)


@pytest.mark.parametrize('make', [stage_one, stage_two])
def test_two_ranks_in_bfloat16_are_one_process_but_for_its_rounding(tmp_path, make):
    "Weights of both ranks are the same bit for bit; those of one process differ by less than a twentieth of how far they moved."
    processes = ranks(twenty_steps, tmp_path, make, 4, {'bf16': True})
    twenty_steps(tmp_path, make, 8, {'bf16': True})
    finish(processes)
    one, a, b = (load_checkpoint(tmp_path / f'{name}.safetensors')['module'] for name in ('0-of-1', '0-of-2', '1-of-2'))
    start = make(8).state_dict()['module']
    norm = lambda u, v: sum((u[k] - v[k]).double().square().sum() for k in u if u[k].is_floating_point()) ** .5
    assert difference(a, b) == 0 and norm(a, one) < .05 * norm(start, one)


def blind(folder, make):
    "One rank's data turn into NaN at update 6."
    stage = make(4)
    healthy = stage.batch
    stage.batch = lambda: healthy() * (float('nan') if rank() == 1 and stage.done == 6 else 1)
    result = fit(stage, folder / 'stage.safetensors', 4, progress=False, watch=lambda s: open(folder / f'watched by {rank()}', 'a').write(f'{s.done} '))
    (folder / f'status {rank()}').write_text(str(result))


@pytest.mark.parametrize('make', [stage_one, stage_two])
def test_what_one_rank_sees_stops_all(tmp_path, make):
    finish(ranks(blind, tmp_path, make))
    status = (tmp_path / 'status 0').read_text()
    assert status == 'stopped: row 0 of the batch is not finite at update 6; weights of update 4 restored'
    assert (tmp_path / 'status 1').read_text() == status
    assert [(tmp_path / f'watched by {r}').read_text() for r in (0, 1)] == ['0 4 '] * 2


def test_a_failed_pass_leaves_the_name_of_the_layer(tmp_path):
    "It has put NaN into the running statistics of all batch norms behind that layer."
    stage = stage_one(4)
    with torch.no_grad(): stage.module.groups[1].cells[0].depthwise.weight.fill_(3e38)
    assert fit(stage, progress=False).reason == 'the output of groups.1.cells.0.depthwise is not finite at update 0'


def until_stop(folder):
    result = fit(stage_two(4, n_steps=1_000_000), folder / 'stage.safetensors', 1_000_000, progress=False, pause=pause_when(folder))
    (folder / f'status {rank()}').write_text(str(result))


def test_a_file_stops_all_at_the_same_update(tmp_path):
    processes = ranks(until_stop, tmp_path)
    while not (tmp_path / 'stage.safetensors').exists() and processes[0].is_alive(): time.sleep(.05)
    (tmp_path / 'STOP').touch()
    finish(processes)
    done = [load_checkpoint(rank_file(tmp_path / 'stage.safetensors', r))['done'] for r in (0, 1)]
    assert not (tmp_path / 'STOP').exists()   # answered
    assert done[0] == done[1] and {(tmp_path / f'status {r}').read_text() for r in (0, 1)} == {f'paused at update {done[0]}'}


def whole_run(folder, dies=None, dies_at=None, until=None, slow=0.):
    "Checkpoints at every fourth update; one rank may be killed as it is about to write one, `slow` seconds after the other has written its own."
    def save(path, state):
        if rank() == dies and state['done'] == dies_at:
            while newest(folder / 'stage.safetensors', 1 - dies) < dies_at: time.sleep(.01)
            time.sleep(slow)
            os.kill(os.getpid(), signal.SIGKILL)
        save_checkpoint(path, state)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vaebm.parallel, 'save_checkpoint', save)
        result = fit(stage_two(4, buffer_size=12, replay=.7, n_steps=30), folder / 'stage.safetensors', 4, progress=False, until=until)
        assert str(result) == ('finished' if until is None else f'paused at update {until}')


def same(a, b):
    if isinstance(a, torch.Tensor): return torch.equal(a, b)
    if isinstance(a, dict): return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    return a == b


def newest(path, r):
    "Update of the newest checkpoint of rank r."
    found = [-1]
    for file in (rank_file(path, r), rank_file(path, r).with_stem(f'{rank_file(path, r).stem}.before')):
        try: found.append(load_checkpoint(file)['done'])
        except FileNotFoundError: pass   # about to be replaced
    return max(found)


def test_death_of_one_rank_loses_nothing_beyond_the_last_checkpoint(tmp_path):
    whole, killed = tmp_path / 'whole', tmp_path / 'killed'
    whole.mkdir(); killed.mkdir()
    finish(ranks(whole_run, whole))
    path = killed / 'stage.safetensors'
    first = ranks(whole_run, killed, 1, 12)
    for p in first: p.join(60)
    assert first[1].exitcode == -signal.SIGKILL and first[0].exitcode == 1   # the other does not wait for the dead
    assert [newest(path, r) for r in (0, 1)] == [12, 8]
    second = ranks(whole_run, killed, 0, 20)
    for p in second: p.join(60)
    assert second[0].exitcode == -signal.SIGKILL and second[1].exitcode == 1
    assert [newest(path, r) for r in (0, 1)] == [16, 20]
    finish(ranks(whole_run, killed))
    shares = [[load_checkpoint(rank_file(folder / 'stage.safetensors', r)) for r in (0, 1)] for folder in (whole, killed)]
    assert all(map(same, *shares))
    assert not torch.equal(*(share['buffer']['noise'] for share in shares[0]))   # each rank has chains of its own


def test_the_last_checkpoint_waits_for_ranks_that_still_write_the_one_before(tmp_path):
    "Between the updates 8 and 9 no message of the training makes rank 0 wait for rank 1."
    path = tmp_path / 'stage.safetensors'
    first = ranks(whole_run, tmp_path, 1, 8, 9, 2.)
    for p in first: p.join(60)
    assert first[1].exitcode == -signal.SIGKILL and first[0].exitcode == 1
    assert [newest(path, r) for r in (0, 1)] == [8, 4]
    finish(ranks(whole_run, tmp_path))
    assert [load_checkpoint(rank_file(path, r))['done'] for r in (0, 1)] == [30, 30]


def saves(folder, *updates):
    for done in updates: save_shares(folder / 'stage.safetensors', {'done': done, 'module': torch.ones(2), 'generator': torch.tensor(rank())})


def resumes_at(folder, update):
    assert load_shares(folder / 'stage.safetensors')['done'] == update


def is_refused(folder):
    assert f'must be a checkpoint of {world_size()} processes' in message(ValueError, load_shares, folder / 'stage.safetensors')
    gathered(None)   # both have looked


@pytest.mark.parametrize('between', [1, 2])
def test_shares_of_ranks_that_have_left_are_not_taken_up_again(tmp_path, between):
    "Three ranks train, then fewer write at an update of which the third has a file, then three would go on."
    finish(ranks(saves, tmp_path, 4, 8, n=3))
    (tmp_path / 'stage.rank2.safetensors.host-1-0.tmp').touch()   # of a rank killed as it wrote
    finish(ranks(resumes_at, tmp_path, 8, n=3))
    if between == 1:
        saves(tmp_path, 8)
        assert [p.name for p in tmp_path.glob('stage.*')] == ['stage.safetensors']
    else: finish(ranks(saves, tmp_path, 8, 12))
    assert not list(tmp_path.glob('*.rank2.*'))
    finish(ranks(is_refused, tmp_path, n=3))
    finish(ranks(resumes_at, tmp_path, 12) if between == 2 else ranks(is_refused, tmp_path))


HQ = {'stage1': {'n_steps': 2}, 'stage2': {'n_steps': 4}, 'evaluation': {'judge_samples': 10, 'judge_every': 2, 'n_samples': 14, 'batch_size': 5}}   # the batches of training have 4


def look_and_draw(folder):
    "Looks at an untrained stage 2, and samples of its product; every rank says what it has drawn."
    config = tailor(preset('celebahq256', 'smoke'), HQ)
    images = experiment.splits_of(config, folder / 'images')   # made beforehand
    extractor, model = experiment.Extractor(config.evaluation.extractor), experiment.build_vaebm(config.model, experiment.build_nvae(config.model)[0].eval(), images['train'][:8])
    stage = ImageStageTwo(model, images['train'], experiment.share_of(config.model, world_size()).stage2)
    reference = None if rank() else experiment.reference_statistics(config, extractor, images, folder / 'images')
    found, drawn = experiment._look(config, stage, extractor, reference), experiment.draw(Run(config, folder / f'{world_size()}'), model)
    (folder / f'{rank()}-of-{world_size()}.json').write_text(json.dumps({'look': found, 'samples': experiment.read_samples(drawn).pixels.tolist()}))


def test_looks_and_samples_do_not_depend_on_the_number_of_ranks(tmp_path):
    config = tailor(preset('celebahq256', 'smoke'), HQ)
    experiment.splits_of(config, tmp_path / 'images')
    for n in (1, 2): finish(ranks(look_and_draw, tmp_path, n=n))
    one, a, b = (json.loads((tmp_path / f'{name}.json').read_text()) for name in ('0-of-1', '0-of-2', '1-of-2'))
    assert len(one['samples']) == 14 and one['look']['distance'] == -one['look']['score'] > 0
    assert a == one and b == one | {'look': {}}


def launched(folder):
    end = launch.train(tailor(preset('celebahq256', 'smoke'), HQ), folder, again='the same')
    (folder / f'rank {rank()}').write_text(str(end))


def test_a_run_of_two_ranks_is_taken_over_by_one_process(tmp_path, monkeypatch):
    "It finds both stages and all samples, and neither trains, nor looks, nor draws; and so do two ranks that come after it."
    finish(ranks(launched, tmp_path))
    assert [(tmp_path / f'rank {r}').read_text() for r in (0, 1)] == ['finished'] * 2
    assert [row['step'] for row in json.loads((tmp_path / 'judged.json').read_text())] == [0, 2, 4]
    config, samples = tailor(preset('celebahq256', 'smoke'), HQ), sorted(tmp_path.glob('samples/*/*.safetensors'))
    run, dates = Run(config, tmp_path), [p.stat().st_mtime_ns for p in samples]
    images = experiment.splits_of(config, tmp_path)['train']
    for name in ('ImageStageOne', 'ImageStageTwo', '_look'): monkeypatch.setattr(experiment, name, None)
    vae, _ = experiment.train_vae(run, images)
    model, result = experiment.train_energy(run, vae, images, None, None)
    assert result.outcome == 'finished' and experiment.draw(run, model) == samples and [p.stat().st_mtime_ns for p in samples] == dates and len(dates) == 3
    assert len(experiment.read_samples(samples)) == 14
    best = load_checkpoint(tmp_path / 'best.safetensors')
    assert all(torch.equal(v, best[k]) for k, v in model.energy.state_dict().items())
    finish(ranks(launched, tmp_path))
    assert [(leg['processes'], leg['command']) for leg in experiment.launches(tmp_path)] == [(2, 'the same')] * 2
    assert [p.stat().st_mtime_ns for p in samples] == dates


def test_a_stage_2_begun_anew_in_its_folder_is_not_taken_as_finished(tmp_path, monkeypatch):
    "Its files are deleted, and the new training pauses, which is no look; then it goes on."
    config, steps = tailor(preset('celebahq256', 'smoke'), HQ), lambda: [row['step'] for row in json.loads((tmp_path / 'judged.json').read_text())]
    assert launch.train(config, tmp_path).outcome == 'finished' and steps() == [0, 2, 4]
    for file in tmp_path.glob('stage2*'): file.unlink()
    with monkeypatch.context() as patch:
        asked = iter([False] * 3 + [True])
        patch.setattr(launch, 'pause_when', lambda *_: lambda: next(asked))
        assert message(Paused, launch.train, config, tmp_path).startswith('stage 2 paused at update 3')
    assert steps() == [0, 2]
    assert launch.train(config, tmp_path).outcome == 'finished' and steps() == [0, 2, 4] and load_checkpoint(tmp_path / 'stage2.safetensors')['done'] == 4


def asks_to_end(folder):
    "In the second round of parts: rank 0 is asked, both end."
    config, asked = tailor(preset('celebahq256', 'smoke'), HQ), iter([False, True])
    vae = experiment.build_nvae(config.model)[0].eval()
    model = experiment.build_vaebm(config.model, vae, torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(0)))
    run = Run(config, folder, again='the same', stop=lambda: next(asked) if not rank() else pytest.fail('rank 1 was asked'))
    (folder / f'rank {rank()}').write_text(message(Paused, experiment.draw, run, model))


def test_all_ranks_end_drawing_when_one_is_asked(tmp_path):
    finish(ranks(asks_to_end, tmp_path))
    assert {(tmp_path / f'rank {r}').read_text() for r in (0, 1)} == {'paused before part 2 of the samples; go on with\nthe same'}
    assert len(list(tmp_path.glob('samples/*/*.safetensors'))) == 2


def test_each_stage_is_freed_before_the_next_is_built(tmp_path, monkeypatch):
    config = tailor(preset('celebahq256', 'smoke'), {stage: {'n_steps': 2} for stage in ('stage1', 'stage2')} | {'evaluation': {'judge_samples': 4}})
    trained, alive = [], []
    def fit_and_note(stage, *args, **options):
        trained.append(weakref.ref(stage))
        return fit(stage, *args, **options)
    def look(build):
        def f(*args):
            alive.append([old() is not None for old in trained])
            return build(*args)
        return f
    monkeypatch.setattr(experiment, 'fit', fit_and_note)
    for name in ('build_vaebm', 'ImageStageTwo'): monkeypatch.setattr(experiment, name, look(getattr(experiment, name)))
    assert launch.train(config, tmp_path).outcome == 'finished'
    assert alive == [[False], [False]]


@pytest.mark.parametrize('end, status, code', [(FitResult('finished', 9), 'stage 2 finished', None), ('stage 2 paused at update 5', 'stage 2 paused at update 5', None),
                                               (FitResult('stopped', 4, 'energy gap 2000.0 exceeds 1000.0 at update 6'), 'stage 2 stopped: energy gap 2000.0 exceeds 1000.0 at update 6; weights of update 4 restored', 1),
                                               (Stopped('stage 1 stopped: no luck'), 'stage 1 stopped: no luck', 1)])
def test_the_launcher_reports_how_training_ended(tmp_path, monkeypatch, capsys, end, status, code):
    def train(config, folder, seconds, again):
        assert config == tailor(preset('lsun64', source='released'), {'stage2': {'lr': 1e-5}}) and seconds == 60
        if 'paused' in status: raise Run(config, folder, again=again).paused(status)
        if isinstance(end, Stopped): raise end
        return end
    monkeypatch.setattr(launch, 'train', train)
    command = [f'run_dir={tmp_path}', 'data=lsun64', 'source=released', 'seconds=60', 'stage2={"lr": 1e-5}']
    try: launch.main(command)
    except SystemExit as left: assert left.code == code == 1
    else: assert code is None
    out = capsys.readouterr().out
    assert status in out and ('go on with\nthe same launcher and 1 processes:' in out) == ('paused' in status)
    if 'paused' in status: assert f"-m vaebm.launch run_dir={tmp_path} data=lsun64 source=released seconds=60 'stage2={{" in out


@pytest.mark.parametrize('words, text', [(['data=mnist'], "data must be one of cifar10, .*, got 'mnist'"), (['data=cifar10', 'tier=cpu'], "tier paper or smoke, got 'cifar10' and 'cpu'"),
                                         (['data=celeba64', 'source=code'], 'source of celeba64'), (['data=celeba64', 'stage2={"steps": 3}'], "unknown parameter 'steps'"), (['data=celeba64', 'ratio={"n_steps": 3}'], "unknown parameter 'ratio'; allowed: run_dir, data, tier"),
                                         (['data=celeba64', 'stage2={n_steps: 3}'], 'stage2 must be JSON'), (['data=celeba64', 'seconds=soon'], 'seconds must be a number')])
def test_the_launcher_refuses_what_is_not_there(tmp_path, capsys, words, text):
    with pytest.raises(SystemExit) as end: launch.main([f'run_dir={tmp_path}/run', *words])
    said = capsys.readouterr().err
    assert end.value.code == 2 and re.match(f'error: .*{text}', said) and said.count('\n') == 1
    assert not (tmp_path / 'run').exists()


def test_the_launcher_refuses_a_folder_of_another_run(tmp_path, monkeypatch, capsys):
    def train(*args): raise RunFolderError('run folder x belongs to another configuration')
    monkeypatch.setattr(launch, 'train', train)
    with pytest.raises(SystemExit) as end: launch.main([f'run_dir={tmp_path}/run', 'data=celeba64'])
    assert end.value.code == 2
    assert capsys.readouterr().err == 'error: run folder x belongs to another configuration\n'


def wait_for(path, process):
    while not path.exists() and process.poll() is None: time.sleep(.02)


@pytest.mark.slow
def test_an_experiment_ends_when_asked_and_says_how_to_go_on(tmp_path):
    command = [sys.executable, '-c', 'from vaebm.cli import main; main()', str(EXPERIMENTS / '25_gaussians.ipynb'), f'run_dir={tmp_path}', 'seed=3']
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | {'OMP_NUM_THREADS': '1'})
    wait_for(tmp_path / 'stage1.safetensors', process)
    (tmp_path / 'STOP').touch()
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 0 and f'paused at update {load_checkpoint(tmp_path / "stage1.safetensors")["done"]}; go on with\nvaebm-run nbs/experiments/25_gaussians.ipynb' in out
    assert f'seed=3 run_dir={tmp_path}' in out and not (tmp_path / 'stage2.safetensors').exists()


LAUNCHER = """#!/bin/bash
if [ -e {run}/STOP ]; then exit 3; fi
echo "$@" > {folder}/launched
for i in $(seq 200); do
  if [ -e {run}/STOP ]; then rm {run}/STOP; sleep .2; exit {code}; fi
  sleep .05
done
"""


@pytest.mark.parametrize('code, requeued', [(0, True), (1, False)])
def test_slurm_recipe_turns_a_signal_into_the_file_and_requeues(tmp_path, code, requeued):
    "Stand-ins for `accelerate`, which ends after it has seen the file, and for `scontrol`; a file of an earlier job is there."
    for name, text in (('accelerate', LAUNCHER.format(folder=tmp_path, run=tmp_path / 'run', code=code)), ('scontrol', f'#!/bin/bash\necho "$@" > {tmp_path}/requeued\n')):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    (tmp_path / 'run').mkdir()
    (tmp_path / 'run' / 'STOP').touch()
    env = os.environ | {'PATH': f'{tmp_path}:{os.environ["PATH"]}', 'SLURM_JOB_ID': '7', 'SLURM_GPUS_ON_NODE': '4'}
    process = subprocess.Popen(['bash', str(EXPERIMENTS / 'slurm.sh'), str(tmp_path / 'run'), 'data=cifar10', 'stage2={"lr": 1e-5}'], env=env)
    wait_for(tmp_path / 'launched', process)
    process.send_signal(signal.SIGUSR1)
    assert process.wait(30) == code
    assert (tmp_path / 'launched').read_text() == f'launch --multi_gpu --num_processes 4 -m vaebm.launch run_dir={tmp_path}/run data=cifar10 stage2={{"lr": 1e-5}}\n'
    assert (tmp_path / 'requeued').exists() == requeued and (not requeued or (tmp_path / 'requeued').read_text() == 'requeue 7\n')


@pytest.mark.parametrize('args', [[], ['data=cifar10']])
def test_slurm_recipe_needs_a_folder(tmp_path, args):
    done = subprocess.run(['bash', str(EXPERIMENTS / 'slurm.sh'), *args], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2 and done.stderr.startswith('usage:') and not list(tmp_path.iterdir())
