"""The launcher of several processes: its refusals, its report, and the recipe for a cluster."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import weakref
from pathlib import Path

import pytest
import torch

from fork import join_ranks, ranks

from vaebm import full_scale, launch, pipeline
from vaebm.checkpoints import load_checkpoint
from vaebm.config import error_message
from vaebm.distributed import rank
from vaebm.experiment import Run
from vaebm.report import launches
from vaebm.rows import draw, read_samples
from vaebm.presets import override, preset
from vaebm.runs import Paused, RunFolderError, Stopped
from vaebm.loop import FitResult, fit

EXPERIMENTS = Path(__file__).parents[1] / 'nbs' / 'experiments'
HQ = {
    'stage1': {'n_steps': 2},
    'stage2': {'n_steps': 4},
    'evaluation': {'eval_samples': 10, 'eval_every': 2, 'n_samples': 14, 'batch_size': 5},
}  # the batches of training have 4


def launched(folder):
    end = launch.train(override(preset('celebahq256', 'smoke'), HQ), folder, resume_command='the same')
    (folder / f'rank {rank()}').write_text(str(end))


def test_a_run_of_two_ranks_is_taken_over_by_one_process(tmp_path, monkeypatch):
    """It finds both stages and all samples, and neither trains, nor evaluates, nor draws.

    And so do two ranks that come after it.
    """
    join_ranks(ranks(launched, tmp_path))
    assert [(tmp_path / f'rank {r}').read_text() for r in (0, 1)] == ['finished'] * 2
    assert [row['step'] for row in json.loads((tmp_path / 'evaluations.json').read_text())] == [0, 2, 4]
    config, samples = override(preset('celebahq256', 'smoke'), HQ), sorted(
        tmp_path.glob('samples/*/*.safetensors')
    )
    run, dates = Run(config, tmp_path), [p.stat().st_mtime_ns for p in samples]
    images = full_scale.splits_of(config, tmp_path)['train']
    for name in ('ImageStageOne', 'ImageStageTwo', 'evaluate_weights'):
        monkeypatch.setattr(pipeline, name, None)
    vae = pipeline.train_vae(run, images)
    model, result = pipeline.train_energy(run, vae, images, None)
    assert (
        result.outcome == 'finished'
        and draw(run, model) == samples
        and [p.stat().st_mtime_ns for p in samples] == dates
        and len(dates) == 3
    )
    assert len(read_samples(samples)) == 14
    best = load_checkpoint(tmp_path / 'best.safetensors')
    assert all(torch.equal(v, best[k]) for k, v in model.energy.state_dict().items())
    join_ranks(ranks(launched, tmp_path))
    assert [(launched['processes'], launched['command']) for launched in launches(tmp_path)] == [
        (2, 'the same')
    ] * 2
    assert [p.stat().st_mtime_ns for p in samples] == dates


@pytest.mark.slow
def test_a_stage_2_begun_anew_in_its_folder_is_not_taken_as_finished(tmp_path, monkeypatch):
    "Its files are deleted, and the new training pauses, which is no evaluation; then it goes on."
    config, steps = override(preset('celebahq256', 'smoke'), HQ), lambda: [
        row['step'] for row in json.loads((tmp_path / 'evaluations.json').read_text())
    ]
    assert launch.train(config, tmp_path).outcome == 'finished' and steps() == [0, 2, 4]
    for file in tmp_path.glob('stage2*'):
        file.unlink()
    with monkeypatch.context() as patch:
        asked = iter([False] * 3 + [True])
        patch.setattr(launch, 'pause_when', lambda *_: lambda: next(asked))
        assert error_message(Paused, launch.train, config, tmp_path).startswith('stage 2 paused at update 3')
    assert steps() == [0, 2]
    assert (
        launch.train(config, tmp_path).outcome == 'finished'
        and steps() == [0, 2, 4]
        and load_checkpoint(tmp_path / 'stage2.safetensors')['done'] == 4
    )


def test_each_stage_is_freed_before_the_next_is_built(tmp_path, monkeypatch):
    config = override(
        preset('celebahq256', 'smoke'),
        {stage: {'n_steps': 2} for stage in ('stage1', 'stage2')} | {'evaluation': {'eval_samples': 4}},
    )
    trained, alive = [], []

    def fit_and_note(stage, *args, **options):
        trained.append(weakref.ref(stage))
        return fit(stage, *args, **options)

    def noting(build):
        def f(*args):
            alive.append([old() is not None for old in trained])
            return build(*args)

        return f

    monkeypatch.setattr(pipeline, 'fit', fit_and_note)
    for name in ('build_vaebm', 'ImageStageTwo'):
        monkeypatch.setattr(pipeline, name, noting(getattr(pipeline, name)))
    assert launch.train(config, tmp_path).outcome == 'finished'
    assert alive == [[False], [False]]


@pytest.mark.parametrize(
    'end, status, code',
    [
        (FitResult('finished', 9), 'stage 2 finished', None),
        ('stage 2 paused at update 5', 'stage 2 paused at update 5', None),
        (
            FitResult('stopped', 4, 'energy gap 2000.0 exceeds 1000.0 at update 6'),
            'stage 2 stopped: energy gap 2000.0 exceeds 1000.0 at update 6; weights of update 4 restored',
            1,
        ),
        (Stopped('stage 1 stopped: no luck'), 'stage 1 stopped: no luck', 1),
    ],
)
def test_the_launcher_reports_how_training_ended(tmp_path, monkeypatch, capsys, end, status, code):
    def train(config, folder, seconds, resume_command):
        assert config == override(preset('lsun64', source='released'), {'stage2': {'lr': 1e-5}}) and seconds == 60
        if 'paused' in status:
            raise Run(config, folder, resume_command=resume_command).paused(status)
        if isinstance(end, Stopped):
            raise end
        return end

    monkeypatch.setattr(launch, 'train', train)
    command = [f'run_dir={tmp_path}', 'data=lsun64', 'source=released', 'seconds=60', 'stage2={"lr": 1e-5}']
    try:
        launch.main(command)
    except SystemExit as left:
        assert left.code == code == 1
    else:
        assert code is None
    out = capsys.readouterr().out
    assert status in out and ('go on with\nthe same launcher and 1 processes:' in out) == ('paused' in status)
    if 'paused' in status:
        assert f"-m vaebm.launch run_dir={tmp_path} data=lsun64 source=released seconds=60 'stage2={{" in out


@pytest.mark.parametrize(
    'words, text',
    [
        (['data=mnist'], "data must be one of cifar10, .*, got 'mnist'"),
        (['data=cifar10', 'tier=cpu'], "tier paper or smoke, got 'cifar10' and 'cpu'"),
        (['data=celeba64', 'source=code'], 'source of celeba64'),
        (['data=celeba64', 'stage2={"steps": 3}'], "unknown parameter 'steps'"),
        (['data=celeba64', 'ratio={"n_steps": 3}'], "unknown parameter 'ratio'; allowed: run_dir, data, tier"),
        (['data=celeba64', 'stage2={n_steps: 3}'], 'stage2 must be JSON'),
        (['data=celeba64', 'seconds=soon'], 'seconds must be a number'),
    ],
)
def test_the_launcher_refuses_what_is_not_there(tmp_path, capsys, words, text):
    with pytest.raises(SystemExit) as end:
        launch.main([f'run_dir={tmp_path}/run', *words])
    said = capsys.readouterr().err
    assert end.value.code == 2 and re.match(f'error: .*{text}', said) and said.count('\n') == 1
    assert not (tmp_path / 'run').exists()


def test_the_launcher_refuses_a_folder_of_another_run(tmp_path, monkeypatch, capsys):
    def train(*args):
        raise RunFolderError('run folder x belongs to another configuration')

    monkeypatch.setattr(launch, 'train', train)
    with pytest.raises(SystemExit) as end:
        launch.main([f'run_dir={tmp_path}/run', 'data=celeba64'])
    assert end.value.code == 2
    assert capsys.readouterr().err == 'error: run folder x belongs to another configuration\n'


def wait_for(path, process):
    while not path.exists() and process.poll() is None:
        time.sleep(0.02)


@pytest.mark.slow
def test_an_experiment_ends_when_asked_and_says_how_to_go_on(tmp_path):
    command = [
        sys.executable,
        '-c',
        'from vaebm.cli import main; main()',
        str(EXPERIMENTS / '25_gaussians.ipynb'),
        f'run_dir={tmp_path}',
        'seed=3',
    ]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=os.environ | {'OMP_NUM_THREADS': '1'}
    )
    wait_for(tmp_path / 'stage1.safetensors', process)
    (tmp_path / 'STOP').touch()
    out, _ = process.communicate(timeout=120)
    assert (
        process.returncode == 0
        and f'paused at update {load_checkpoint(tmp_path / "stage1.safetensors")["done"]}; go on with\n'
        'vaebm-run nbs/experiments/25_gaussians.ipynb'
        in out
    )
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
    """Stand-ins for `accelerate`, which ends after it has seen the file, and for `scontrol`.

    A file of an earlier job is there.
    """
    for name, text in (
        ('accelerate', LAUNCHER.format(folder=tmp_path, run=tmp_path / 'run', code=code)),
        ('scontrol', f'#!/bin/bash\necho "$@" > {tmp_path}/requeued\n'),
    ):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    (tmp_path / 'run').mkdir()
    (tmp_path / 'run' / 'STOP').touch()
    env = os.environ | {
        'PATH': f'{tmp_path}:{os.environ["PATH"]}',
        'SLURM_JOB_ID': '7',
        'SLURM_GPUS_ON_NODE': '4',
    }
    process = subprocess.Popen(
        ['bash', str(EXPERIMENTS / 'slurm.sh'), str(tmp_path / 'run'), 'data=cifar10', 'stage2={"lr": 1e-5}'],
        env=env,
    )
    wait_for(tmp_path / 'launched', process)
    process.send_signal(signal.SIGUSR1)
    assert process.wait(30) == code
    assert (
        tmp_path / 'launched'
    ).read_text() == (
        f'launch --multi_gpu --num_processes 4 -m vaebm.launch run_dir={tmp_path}/run data=cifar10'
        ' stage2={"lr": 1e-5}\n'
    )
    assert (tmp_path / 'requeued').exists() == requeued and (
        not requeued or (tmp_path / 'requeued').read_text() == 'requeue 7\n'
    )


@pytest.mark.parametrize('args', [[], ['data=cifar10']])
def test_slurm_recipe_needs_a_folder(tmp_path, args):
    done = subprocess.run(
        ['bash', str(EXPERIMENTS / 'slurm.sh'), *args], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 2 and done.stderr.startswith('usage:') and not list(tmp_path.iterdir())
