"""The command line: what it refuses, what it leaves behind, how it ends, and which interpreter it
starts.
"""

import io
import json
import os
import re
import signal
import sys
import time
from pathlib import Path

import nbformat
import pytest
from fork import finish, start

import vaebm
from vaebm.cli import main, read_notebook, read_parameters, read_values, split_values
from vaebm.images import data_folder
from vaebm.checkpoints import repository

ROOT = Path(__file__).parents[1]
EXPERIMENTS = [
    p for folder in ('experiments', 'benchmarks') for p in sorted((ROOT / 'nbs' / folder).glob('*.ipynb'))
]
COMMAND = 'from vaebm.cli import main; main()'
PARAMETERS = "tier = 'cpu'   # 'smoke' or 'cpu'\nseed = 0\nrate = 1.\nfast = False\nrun_dir = ''\nstage1 = {}"
OPENING = """from pathlib import Path
if tier not in ('smoke', 'cpu'): raise ValueError('tier must be smoke or cpu')
Path(run_dir).mkdir(parents=True, exist_ok=True)"""


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """Write an experiment whose last cell is the given one.

    The working directory is an empty folder beside it.
    """
    (tmp_path / 'here').mkdir()
    monkeypatch.chdir(tmp_path / 'here')

    def write(work="print('at work')"):
        cells = [nbformat.v4.new_code_cell(source) for source in ('# imports', PARAMETERS, OPENING, work)]
        cells[1].metadata['tags'] = ['parameters']
        nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / 'toy.ipynb')
        return str(tmp_path / 'toy.ipynb')

    return write


@pytest.fixture
def command(capsys):
    "Exit code, output and errors of a command in this process."

    def run(*words):
        capsys.readouterr()
        try:
            main(list(words))
        except SystemExit as end:
            code = end.code
        else:
            code = 0
        return code, *capsys.readouterr()

    return run


WRONG = {  # words, with TOY for a good notebook: part of the answer
    'nothing': ([], 'name a notebook'),
    'no such file': (['nowhere.ipynb'], 'there is no notebook nowhere.ipynb'),
    'no notebook': (['text.ipynb'], 'text.ipynb cannot be read as a notebook'),
    'no experiment': ([str(ROOT / 'nbs' / 'tools' / 'plot.ipynb')], 'is no experiment'),
    'an option': (['TOY', '--tier', 'smoke'], 'there is no option --tier; fields are given as name=value'),
    'a name': (['TOY', 'teir=smoke'], "unknown parameter 'teir'; allowed: tier, seed, rate"),
    'no value': (['TOY', 'smoke'], "name=value, got 'smoke'"),
    'a number as folder': (
        ['TOY', 'run_dir=123'],
        "run_dir must be a text, in double quotes if it could be a number",
    ),
    'a file as folder': (['TOY', 'run_dir=text.ipynb'], 'which is a file'),
    'no whole number': (['TOY', 'seed=one'], 'seed must be a whole number'),
    'a truth as number': (['TOY', 'seed=true'], 'seed must be a whole number'),
    'NaN': (['TOY', 'rate=NaN'], 'rate must be a number'),
    'too large': (['TOY', f'rate={10 ** 400}'], 'rate must be a number'),
    'a number as truth': (['TOY', 'fast=1'], 'fast must be true or false'),
    'no JSON': (['TOY', 'stage1={n_steps: 5}'], 'stage1 must be JSON like {"field": 1}'),
    'half of a JSON': (['TOY', 'run_dir={"a": 1'], 'run_dir must be a text'),
    'another JSON': (['TOY', 'stage1=[1]'], 'stage1 must be JSON like {"field": 1}'),
    'too deep': (['TOY', 'stage1=' + '[' * 100_000], 'stage1 must be JSON'),
}


@pytest.mark.parametrize('words, text', WRONG.values(), ids=WRONG)
def test_a_mistake_is_answered_by_one_line_and_leaves_nothing(toy, command, words, text):
    Path('text.ipynb').write_text('not a notebook')
    notebook = toy()
    code, out, err = command(*(notebook if word == 'TOY' else word for word in words))
    assert (code, out) == (2, '') and err.startswith('error: ') and text in err and err.count('\n') == 1
    assert os.listdir() == ['text.ipynb']


def test_values_have_the_types_of_their_defaults():
    defaults = {'tier': 'cpu', 'seed': 0, 'rate': 1.0, 'fast': False, 'stage1': {}, 'sizes': []}
    pairs = [
        'tier=two words',
        'seed=-3',
        'rate=2',
        'fast=true',
        'stage1={"a": [1, null]}',
        'sizes=[1]',
        'seed=4',
    ]
    wanted = {
        'tier': 'two words',
        'seed': 4,
        'rate': 2.0,
        'fast': True,
        'stage1': {'a': [1, None]},
        'sizes': [1],
    }
    found = read_values(pairs, defaults)
    assert found == wanted and type(found['rate']) is float
    assert read_values(['tier="12"'], defaults) == {'tier': '12'} and read_values(['tier='], defaults) == {
        'tier': ''
    }
    text = 'tier=two words  stage1={"a": 1, "b": "c d"} seed=1'
    assert (
        split_values(text) == ['tier=two words', 'stage1={"a": 1, "b": "c d"}', 'seed=1']
        and split_values(' ') == []
    )


def test_a_refused_run_leaves_the_finished_one_as_it_was(toy, command):
    notebook = toy()
    assert command(notebook, 'run_dir=run', 'stage1={"n": 1}')[0] == 0
    stored = Path('run/notebook.ipynb').read_text()
    given = [c.source.startswith('# Parameters') for c in nbformat.reads(stored, 4).cells]
    assert given == [False, False, True, False, False] and 'at work' in stored
    assert command(notebook, 'run_dir=run', 'tier=huge') == (2, '', 'error: tier must be smoke or cpu\n')
    assert os.listdir() == ['run'] and os.listdir('run') == ['notebook.ipynb']
    assert Path('run/notebook.ipynb').read_text() == stored
    assert command(notebook, 'tier=huge')[0] == 2 and os.listdir() == ['run']
    late = "class RunFolderError(ValueError): pass\nraise RunFolderError('other data')"
    for folder, left in (('run', ['notebook.ipynb']), ('new', [])):  # found out later, when the data is there
        assert command(toy(late), f'run_dir={folder}') == (2, '', 'error: other data\n')
        assert os.listdir(folder) == left
    assert Path('run/notebook.ipynb').read_text() == stored


def test_the_folder_is_named_by_tier_and_seed_or_by_hand(toy, command, monkeypatch, tmp_path):
    notebook, given = toy(), []
    monkeypatch.setattr('vaebm.cli.execute', lambda notebook, values, out: given.append((values, out)))
    monkeypatch.setenv('HOME', str(tmp_path))
    for words in (
        [],
        ['seed=3', 'tier=smoke'],
        ['run_dir=~/x y'],
        ['run_dir=x', '--args', 'seed=1 stage1={"n": 5}'],
    ):
        assert command(notebook, *words)[0] == 0
    here = Path.cwd()
    folders = [here / 'runs' / 'toy-cpu-0', here / 'runs' / 'toy-smoke-3', tmp_path / 'x y', here / 'x']
    assert [out.parent for _, out in given] == folders
    assert given[-1][0] == {'run_dir': str(here / 'x'), 'seed': 1, 'stage1': {'n': 5}}


def test_the_kernel_is_the_interpreter_of_the_command(toy, command, monkeypatch, tmp_path):
    other = tmp_path / 'jupyter' / 'kernels' / 'python3'
    other.mkdir(parents=True)
    spec = {'argv': ['/bin/false', '{connection_file}'], 'display_name': 'other', 'language': 'python'}
    (other / 'kernel.json').write_text(json.dumps(spec))
    monkeypatch.setenv('JUPYTER_PATH', str(tmp_path / 'jupyter'))
    monkeypatch.delenv('OMP_WAIT_POLICY', raising=False)
    notebook = toy("import os, sys\nprint(sys.executable, os.environ['OMP_WAIT_POLICY'], os.getcwd())")
    code, out, err = command(notebook, 'run_dir=x')
    assert (code, err) == (0, '')
    assert out.splitlines() == [f'{sys.executable} PASSIVE {tmp_path}', f'run folder: {Path.cwd() / "x"}']


def test_help_list_and_version(toy, command, monkeypatch):
    code, out, _ = command('--help')
    assert code == 0 and 'usage: vaebm-run [options] NOTEBOOK [name=value ...]' in out
    code, out, _ = command(toy(), '--help')
    shown = [line.split()[0] for line in out.splitlines()[-6:]]
    assert code == 0 and shown == ['tier=cpu', 'seed=0', 'rate=1.0', 'fast=false', 'run_dir=', 'stage1={}']
    assert "  tier=cpu    'smoke' or 'cpu'\n" in out
    code, out, _ = command('--list')
    assert (
        code == 0
        and len(out.splitlines()) == 2 * len(EXPERIMENTS)
        and 'Both stages on the 25-Gaussians set' in out
    )
    assert out.splitlines()[::2] == [path.stem for path in EXPERIMENTS]
    assert '  stage1={}' in command('25_gaussians', '--help')[1]  # a name does for a path
    version = re.search('^version = (.*)$', (ROOT / 'settings.ini').read_text(), re.M)[1]
    assert command('--version') == (0, f'vaebm {version}\n', '')


def test_a_stream_of_ascii_gets_question_marks(toy, monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), encoding='ascii')
    monkeypatch.setattr(sys, 'stdout', stream)
    main([toy("print('1.0 ± 0.1 µs')"), 'run_dir=x'])
    assert stream.buffer.getvalue().decode().startswith('1.0 ? 0.1 ?s\n')


def test_exit_code_is_that_of_the_run(toy, command):
    end = "import json\n(Path(run_dir) / 'metrics.json').write_text(json.dumps(RECORD))"
    stopped = 'stopped: energy gap 12 exceeds 10 at update 7'
    for outcome, status, ended in (('finished', 'finished', (0, '')), ('stopped', stopped, (1, f'error: {stopped}\n'))):
        record = {'outcome': outcome, 'status': status}
        assert command(toy(end.replace('RECORD', repr(record))), 'run_dir=x')[::2] == ended
    paused = (
        "class Paused(Exception): pass\nraise Paused('paused at update 3; go on with\\nvaebm-run toy.ipynb')"
    )
    assert command(toy(paused), 'run_dir=y') == (0, 'paused at update 3; go on with\nvaebm-run toy.ipynb\n', '')
    diverged = "class Stopped(Exception): pass\nraise Stopped('stage 1 stopped: not finite')"
    assert command(toy(diverged), 'run_dir=y') == (1, '', 'error: stage 1 stopped: not finite\n')
    code, out, err = command(toy("raise RuntimeError('no space left')"), 'run_dir=z')
    assert code == 1 and 'Traceback' in err and err.splitlines()[-1] == 'error: RuntimeError: no space left'
    assert 'no space left' in Path('z/notebook.ipynb').read_text()


def test_a_killed_kernel_ends_in_one_line(toy, command):
    code, out, err = command(toy('import os\nos.kill(os.getpid(), 9)'), 'run_dir=x y', 'seed=2')
    assert (code, out) == (1, '') and err.count('\n') == 1
    assert err.startswith(
        'error: the system killed the kernel: memory probably ran out; resume with: vaebm-run '
    )
    assert err.endswith("'run_dir=x y' seed=2\n")


def alive(pid):
    try:
        return Path(f'/proc/{pid}/stat').read_text().split()[2] != 'Z'
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not Path('/proc/self/stat').exists(), reason='needs /proc')
def test_ctrl_c_ends_in_one_line_and_takes_the_kernel_along(toy, tmp_path):
    log, pid = tmp_path / 'log', tmp_path / 'pid'
    work = (
        f"import os, time\nPath({str(pid)!r}).write_text(str(os.getpid()))\nprint('at work')\ntime.sleep(300)"
    )
    process = start(COMMAND, toy(work), f'run_dir={tmp_path}/x', log=log)
    while not log.exists() or 'at work' not in log.read_text():
        time.sleep(0.1)
    os.kill(process.pid, signal.SIGINT)
    assert finish(process, 100) == 130
    resume = f'vaebm-run {tmp_path}/toy.ipynb run_dir={tmp_path}/x'
    assert log.read_text().splitlines() == ['at work', f'interrupted; resume with: {resume}']
    for _ in range(100):
        if not alive(pid.read_text()):
            break
        time.sleep(0.1)
    assert not alive(pid.read_text())


@pytest.mark.parametrize('path', EXPERIMENTS, ids=lambda p: p.stem)
def test_every_experiment_has_the_form_that_the_command_expects(path):
    """Fields with literal defaults, which begin a new set, and a cell after them that reads them
    and trains nothing.
    """
    notebook = read_notebook(path)
    assert {'tier', 'run_dir'} <= read_parameters(notebook).keys()
    cells = [c for c in notebook.cells if c.cell_type == 'code']
    at = next(i for i, c in enumerate(cells) if 'parameters' in c.metadata.tags)
    opening = cells[at + 1].source
    assert cells[at].source.startswith('begin_parameters(globals())\n') and 'parameters(globals()' in opening
    assert 'fit(' not in opening and 'sweep(' not in opening


RERUN = [
    ('25_gaussians', 'stage1'),
    ('stacked_mnist', 'stage1'),
    ('ablation', 'stage2'),
    ('celeba64', 'stage1'),
    ('cifar10', 'stage2'),
]


@pytest.mark.parametrize('name, field', RERUN)
def test_parameters_can_be_changed_and_run_again(name, field, tmp_path, monkeypatch):
    """As a reader does it in Jupyter: the cell of the parameters with another seed, and then the
    cell after it.
    """
    monkeypatch.chdir(tmp_path)
    notebook = read_notebook(ROOT / 'nbs' / 'experiments' / f'{name}.ipynb')
    cells = [c for c in notebook.cells if c.cell_type == 'code']
    at = next(i for i, c in enumerate(cells) if 'parameters' in c.metadata.tags)
    names = {}

    def run(*sources):
        for source in sources:
            exec(source, names)

    def change(seed, key=field):
        smoke = cells[at].source.replace("tier = 'cpu'", "tier = 'smoke'").replace('seed = 0', f'seed = {seed}')
        return smoke.replace(f'\n{field} = ' + '{}', f'\n{key} = ' + '{"n_steps": 3}')

    run(*(c.source for c in cells[:at]), change(0), cells[at + 1].source)
    names['later'] = 'made by the run'
    for k in (1, 2):
        run(change(k), cells[at + 1].source)
        folder = names['folder'] if 'folder' in names else names['run'].folder
        assert folder.name.endswith(f'-{k}') and f'"seed": {k}' in (folder / 'config.json').read_text()
    with pytest.raises(ValueError, match=f"unknown parameter '{field}s'"):
        run(change(3, f'{field}s'), cells[at + 1].source)
    assert field not in names


def test_files_of_the_repository_are_found_whatever_the_working_directory(tmp_path, monkeypatch):
    "From the package, from within another clone, and outside of both."
    monkeypatch.delenv('VAEBM_DATA', raising=False)
    monkeypatch.setenv('HOME', str(tmp_path / 'home'))
    monkeypatch.chdir(tmp_path)
    assert repository() == ROOT and data_folder() == ROOT / 'data' / 'downloads'
    inner = tmp_path / 'clone' / 'nbs' / 'experiments'
    inner.mkdir(parents=True)
    (tmp_path / 'clone' / 'nbs' / 'index.ipynb').touch()
    monkeypatch.chdir(inner)
    assert repository() == tmp_path / 'clone' and data_folder() == tmp_path / 'clone' / 'data' / 'downloads'
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(vaebm, '__file__', str(tmp_path / 'site-packages' / 'vaebm' / '__init__.py'))
    with pytest.raises(FileNotFoundError, match='neither .* nor the package is in a clone'):
        repository()
    assert data_folder() == tmp_path / 'home' / '.cache' / 'vaebm'
    monkeypatch.setenv('VAEBM_DATA', '~/sets')
    assert data_folder() == tmp_path / 'home' / 'sets'
    with pytest.raises(SystemExit) as end:
        main(['--list'])
    assert end.value.code == 2
