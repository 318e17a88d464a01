"""Every notebook runs with its exercises solved, the library is what the notebooks export, and notebooks are stored
clean.  Experiments and benchmarks run in miniature.
"""

import ast
import json
import os
import re
import subprocess
import sys
from itertools import takewhile
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
from papermill.exceptions import PapermillExecutionError

from fork import finish, start

from vaebm.checkpoints import load_checkpoint
from vaebm.cli import execute
from vaebm.teaching import ANSWER, exercises, fill_gap

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted(
    p
    for p in (ROOT / 'nbs').rglob('*.ipynb')
    if '.ipynb_checkpoints' not in str(p) and p.parent.name not in ('experiments', 'benchmarks')
)
LONG = {
    '04_relatives',
    '18_batch_norm',
    '14_fast',
    '09_training',
    '19_stage_one',
    '15_classifier',
    '16_frechet',
    '17_metrics',
    '20_stage_two',
    '21_image_chains',
    '22_ratio',
    '25_rows',
    '26_report',
    '27_ood',
    '28_chains',
    '29_variants',
    '32_costs',
    '33_full_scale',
    '34_launch',
    '36_explore',
    '37_own_data',
}  # in `make test-slow`
# Per notebook: a hang fails instead of stopping the suite; processors without bfloat16 need minutes for chapter 14.
LIMIT_S = 900
RUN = """
import os, sys
from pathlib import Path
import matplotlib
from nbdev.test import test_nb
matplotlib.use('agg')
path = Path(sys.argv[1])
os.chdir(path.parent)
ok, seconds = test_nb(path, skip_flags=['notest', 'slow', 'cuda'])
sys.exit(not ok)
"""


def test_library_is_what_the_notebooks_export(copy):
    modules = {p.name: p.read_text() for p in (copy / 'vaebm').glob('*.py')}
    for name in modules.keys() - {'__init__.py'}:
        (copy / 'vaebm' / name).unlink()
    subprocess.run(
        [sys.executable, '-c', 'import nbdev; nbdev.nbdev_export()'], cwd=copy, check=True, capture_output=True
    )
    exported = {p.name: p.read_text() for p in (copy / 'vaebm').glob('*.py')}
    assert exported == modules


def test_notebooks_are_clean(copy):
    paths = sorted((copy / 'nbs').rglob('*.ipynb'))
    stored = [p.read_text() for p in paths]
    subprocess.run(
        [sys.executable, '-c', 'from nbdev.clean import nbdev_clean; nbdev_clean()'],
        cwd=copy,
        check=True,
        capture_output=True,
    )
    dirty = [p.name for p, text in zip(paths, stored) if p.read_text() != text]
    assert not dirty, f'run `make export`: {dirty}'


ATTEMPT = '''
def _attempt(cells):
    "What an answer and its check say: their printed text, or the message with which the check refuses the answer."
    from contextlib import redirect_stdout
    from io import StringIO
    said = StringIO()
    try:
        with redirect_stdout(said):
            for cell in cells: exec(cell, globals())
    except AssertionError as refusal: return f'refused: {refusal}'
    return said.getvalue()
'''
EXPECT = '''
_said = _attempt({cells!r})
assert {condition}, {problem!r} + repr(_said)
'''


def expect(cells, condition, problem):
    return nbformat.v4.new_code_cell(EXPECT.format(cells=cells, condition=condition, problem=problem))


STAGED = [
    '00_data',
    '01_energy',
    '02_langevin',
    '03_samplers',
    '04_relatives',
    '05_vae',
    '06_layers',
    '07_nvae',
    '08_model',  # two hints
    '09_training',
    '10_likelihood',
    '15_classifier',
    '20_stage_two',
    '21_image_chains',
    '27_ood',
    '28_chains',
    '38_after',
]  # for each exercise
FORMS = 'numpy.asarray', 'torch.as_tensor'


def other_forms(cells):
    """Cells that give a check the right answer, once it is there, as a NumPy number and as a
    tensor; none if no number is asked for.
    """
    function = re.search(r'def (\w+)\(.*\) -> float \| None:', cells[0].source)
    if not function and not cells[0].source.startswith(ANSWER):
        return []
    name, change = (
        ('answer', 'answer = {}(_right)')
        if not function
        else (function[1], function[1] + ' = lambda *a, **k: {}(_right(*a, **k))')
    )
    said, problem = (
        "not _said.startswith('refused: ') and 'not yet' not in _said",
        '{} of the right answer must pass, but the check said ',
    )
    tries = [
        expect(fill_gap(cells, 'import numpy, torch\n' + change.format(form)), said, problem.format(form))
        for form in FORMS
    ]
    return [
        nbformat.v4.new_code_cell(f'_right = {name}'),
        *tries,
        nbformat.v4.new_code_cell(f'{name} = _right'),
    ]


def solve(notebook, staged=False):
    """Try each exercise's gap as it stands, its common slips and its solution.

    An empty gap must be told so, a slip must be refused with a message, and the solution must pass.
    On `staged` pages it must also pass as another kind of number.
    """
    found = list(exercises(notebook.cells))
    for exercise in found:
        cells = exercise.cells
        tries = [
            expect(
                [c.source for c in cells],
                "'not yet' in _said",
                'an empty gap must print "not yet", but the check said ',
            )
        ]
        tries += [
            expect(
                fill_gap(cells, slip),
                "_said.startswith('refused: ') and len(_said) > 30",
                f'the slip {slip!r} must be refused with a message, but the check said ',
            )
            for slip in exercise.slips
        ]
        forms = other_forms(cells) if staged else []
        first, last = ([c is cell for c in notebook.cells].index(True) for cell in (cells[0], cells[-1]))
        for cell, source in zip(cells, fill_gap(cells, exercise.solution)):
            cell.source = source
        notebook.cells[last + 1 : last + 1] = forms
        notebook.cells[first:first] = [nbformat.v4.new_code_cell(ATTEMPT), *tries]


@pytest.mark.parametrize(
    'path', [pytest.param(p, id=p.stem, marks=[pytest.mark.slow] * (p.stem in LONG)) for p in NOTEBOOKS]
)
def test_notebook_runs_with_its_exercises_solved(path, copy, tmp_path):
    solved = copy / path.relative_to(ROOT)
    stored, notebook = solved.read_text(), nbformat.read(solved, as_version=4)
    solve(notebook, path.stem in STAGED)
    nbformat.write(notebook, solved)
    try:
        assert finish(start(RUN, str(solved), log=tmp_path / 'log', IN_TEST='1'), LIMIT_S) == 0, (
            tmp_path / 'log'
        ).read_text()
    finally:
        solved.write_text(stored)


WITHOUT_EXERCISES = {'index', 'contributing', 'teaching'}


@pytest.mark.parametrize('path', [pytest.param(p, id=p.stem) for p in NOTEBOOKS])
def test_every_exercise_is_complete(path):
    "Enough exercises, numbered, each with a title, its difficulty, its minutes and a common slip."
    cells = nbformat.read(path, as_version=4).cells
    found = list(exercises(cells))
    without = [e.number for e in found if not e.slips]
    fewest = (
        3 if path.stem[0].isdigit() else 0 if path.stem in WITHOUT_EXERCISES else 2
    )  # chapters, others, tools
    assert len(found) >= fewest, f'{len(found)} exercises, and {fewest} are wanted'
    numbers = [e.number for e in found]
    assert numbers == [*range(1, len(found) + 1)], (
        f'{len(found)} exercises, but the headings `**N. Title** (easy|medium|hard, M minutes)` have the'
        f' numbers {numbers}'
    )
    assert not without, f'exercises without a common slip: {without}'


HINTS = re.compile(
    r'<details><summary>Hint 1: where to begin</summary>\n\n(.+?)\n\n</details>\n'
    r'<details><summary>Hint 2: the next step</summary>\n\n(.+?)\n\n</details>',
    re.S,
)


@pytest.mark.parametrize('name', STAGED)
def test_every_exercise_has_two_hints_before_its_solution(name):
    """They stand in one cell between check and solution, are short, and do not hold the solution's
    last line.
    """
    cells = nbformat.read(ROOT / 'nbs' / f'{name}.ipynb', as_version=4).cells
    solutions = [i for i, c in enumerate(cells) if '<summary>Solution</summary>' in c.source]
    found = [HINTS.fullmatch(cells[i - 1].source) for i in solutions]
    answers = [e.solution.splitlines()[-1].strip() for e in exercises(cells)]
    assert len(found) == len(answers) and all(found), [
        cells[i].id for i, hints in zip(solutions, found) if not hints
    ]
    for hints, answer in zip(found, answers):
        assert all(
            30 < len(text) < 450 and '\n\n' not in text and answer not in text for text in hints.groups()
        ), hints[0]


OTHER_ANSWERS = {  # right answers in other words than the solution's
    ('05_vae', 2): [
        'def free_bits(kl, lam): return (kl.mean(0) - lam).clamp(min=0).sum()',
        'def free_bits(kl, lam): return sum(max(lam, k) for k in kl.mean(0).tolist())',
        'def free_bits(kl, lam): return torch.maximum(kl.mean(0), torch.tensor(lam)).sum()',
        'def free_bits(kl, lam): return np.maximum(kl.numpy().mean(0), lam).sum()',
    ],
    ('05_vae', 3): ['answer = 5.25', 'answer = torch.tensor(5.25)'],
    ('00_data', 4): ['answer = 2900'],
    ('06_layers', 2): ['answer = [.333, 1]', 'answer = np.array([1 / 3, 1])'],
}
NEAR_MISSES = {
    ('05_vae', 2): [
        'def free_bits(kl, lam): return kl.sum(1).mean().clamp(min=2 * lam)',
        'def free_bits(kl, lam): return (kl - lam).clamp(min=0).mean(0).sum()',
    ],
    ('05_vae', 3): ['answer = 5', 'answer = 5.5'],
    ('00_data', 4): ['answer = 3100'],
    ('06_layers', 2): ['answer = .3, 1'],
}


def check_answer(name, number, code):
    "Run exercise `number` of a page with `code` in its gap, without the rest of the page."
    found = list(exercises(nbformat.read(ROOT / 'nbs' / f'{name}.ipynb', as_version=4).cells))
    names = {'torch': torch, 'np': np, 'mu': 1.5}  # mu is a name of chapter 05
    for source in fill_gap(found[number - 1].cells, code):
        exec(source, names)


@pytest.mark.parametrize('name, number', OTHER_ANSWERS)
def test_right_answers_in_other_words_pass(name, number):
    for code in OTHER_ANSWERS[name, number]:
        check_answer(name, number, code)


@pytest.mark.parametrize('name, number', NEAR_MISSES)
def test_wrong_answers_near_the_right_one_are_refused(name, number):
    for code in NEAR_MISSES[name, number]:
        with pytest.raises(AssertionError, match='.{30}'):
            check_answer(name, number, code)


FOLDED = {'source_hidden': True}
SEEDS = 'seed = lambda', 'def seed(', 'torch.manual_seed('


def only_imports(source):
    lines = []
    for line in ast.parse(source).body:
        for_types = isinstance(line, ast.If) and ast.unparse(line.test) == 'TYPE_CHECKING'
        lines += line.body if for_types else [line]
    return all(
        isinstance(line, (ast.Import, ast.ImportFrom)) or ast.unparse(line).startswith((*SEEDS, 'import_extra('))
        for line in lines
    )


@pytest.mark.parametrize('path', [pytest.param(p, id=p.stem) for p in NOTEBOOKS])
def test_first_screen_is_no_list_of_imports(path):
    """Cells of more than 6 lines before the first section are folded, and no cell is that holds
    more than imports and seeds, but the one that installs the course (`test_one_click.py`).
    """
    cells = nbformat.read(path, as_version=4).cells
    head = takewhile(lambda c: not re.search('^## ', c.source, re.M), cells)
    shown = [
        c.id
        for c in head
        if c.cell_type == 'code' and len(c.source.splitlines()) > 6 and c.metadata.get('jupyter') != FOLDED
    ]
    hidden = [
        c.id
        for c in cells
        if 'jupyter' in c.metadata and (c.metadata.jupyter != FOLDED or not (c.id == 'setup' or only_imports(c.source)))
    ]
    assert not shown, f'fold these, or shorten them to 6 lines: {shown}'
    assert (
        not hidden
    ), f'imports, seeds and the set-up cell alone may be folded, by the metadata {{"jupyter": {FOLDED}}}: {hidden}'


@pytest.mark.parametrize('path', [pytest.param(p, id=p.stem) for p in NOTEBOOKS])
def test_slow_cells_are_skipped_by_all_tools(path):
    """`#| slow` is nbdev's word, the tag `skip-execution` that of nbclient and others: a cell has
    both or neither.
    """
    cells = [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == 'code']
    differ = [
        c.id
        for c in cells
        if c.source.startswith('#| slow') != ('skip-execution' in c.metadata.get('tags', []))
    ]
    assert not differ, f'slow cells without the tag, or the reverse: {differ}'


@pytest.mark.parametrize('path', sorted((ROOT / 'nbs').rglob('[!.]*.ipynb')), ids=lambda p: p.stem)
def test_pages_run_in_any_folder_and_leave_the_library_alone(path):
    """Files of the repository are named from its root, which `repository` finds.

    Exporting is for `make export`, not for a reader who runs all cells.
    """
    sources = [c.source for c in nbformat.read(path, as_version=4).cells if c.cell_type == 'code']
    code = '\n'.join(re.sub('^[%!].*', '', source, flags=re.M) for source in sources)
    texts = [
        node.value
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    assert not [text for text in texts if re.match(r'(\.\./|figures/|experiments/|\d\d_\w+\.ipynb)', text)]
    assert 'nbdev_export()' not in code


@pytest.mark.parametrize('path', sorted((ROOT / 'nbs').rglob('[!.]*.ipynb')), ids=lambda p: p.stem)
def test_no_stored_output_is_an_error(path):
    cells = [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == 'code']
    failed = [c.id for c in cells if any(o.output_type == 'error' for o in c.outputs)]
    assert not failed, f'run these again, or clear their outputs: {failed}'


@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda p: p.stem)
def test_outputs_say_what_they_are(path):
    "A cell does not end in a bare tuple, list or dict, whose numbers the reader must count."
    bare = []
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == 'code' and 'skip-execution' not in cell.metadata.get('tags', []):
            shown = [o.data for o in cell.outputs if o.output_type == 'execute_result']
            bare += [cell.id for data in shown if 'text/html' not in data and data.get('text/plain', '')[:1] in '([{']
    assert not bare, f'print these with names and units: {bare}'


@pytest.mark.parametrize('path', sorted((ROOT / 'vaebm').glob('[!_]*.py')), ids=lambda p: p.stem)
def test_chapters_of_one_module_take_no_names_from_each_other(path):
    found = []
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            typed_only = any(ast.unparse(d) == 'overload' for d in node.decorator_list)
            found += [] if typed_only else [node.name]
        elif isinstance(node, ast.Assign):
            found += [t.id for t in node.targets if isinstance(t, ast.Name)]
    assert not {name for name in found if found.count(name) > 1 and name not in ('_', '__all__')}


def test_nbdev_test_runs_the_pages_alone():
    from nbdev.test import _keep_file, nbglob

    assert (
        sorted(
            p.absolute() for p in nbglob(str(ROOT / 'nbs'), as_path=True) if _keep_file(p.absolute(), '.notest')
        )
        == NOTEBOOKS
    )


NOTEBOOK = ROOT / 'nbs' / 'experiments' / '25_gaussians.ipynb'
ONE_THREAD = os.environ | {
    'OMP_NUM_THREADS': '1'
}  # tests run side by side, and two thread pools on two cores crawl


def vaebm_run(*args, notebook=NOTEBOOK, **env):
    return subprocess.run(
        [sys.executable, '-c', 'from vaebm.cli import main; main()', str(notebook), *args],
        env=ONE_THREAD | env,
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_smoke_tier_writes_a_whole_run_folder(tmp_path):
    done = vaebm_run('tier=smoke', f'run_dir={tmp_path}')
    assert done.returncode == 0, done.stderr[-3000:]
    assert 'minus truth' in done.stdout
    assert {
        'config.json',
        'metrics.json',
        'weights.safetensors',
        'notebook.ipynb',
        'figure4.png',
        'training.png',
    } <= {p.name for p in tmp_path.iterdir()}
    record, notebook = (
        json.loads((tmp_path / 'metrics.json').read_text()),
        (tmp_path / 'notebook.ipynb').read_bytes(),
    )
    assert abs(record['metrics']['likelihood']['truth'] + 1.10) < 0.02
    assert (
        record['status'] == 'finished'
        and record['data_sets']['train']['count'] == 2000
        and 0 < record['metrics']['train_s'] < record['metrics']['wall_s']
    )
    again = vaebm_run('tier=smoke', 'seed=1', f'run_dir={tmp_path}')
    assert (
        again.returncode == 2
        and 'belongs to another configuration' in again.stderr
        and again.stderr.count('\n') == 1
    )
    assert (tmp_path / 'notebook.ipynb').read_bytes() == notebook and {
        p.name for p in tmp_path.glob('*.ipynb')
    } == {'notebook.ipynb'}


def test_a_first_stage_that_stops_ends_the_run_with_its_reason(tmp_path):
    "The weights before the update that went wrong are on disk, and no weights are handed on."
    done = vaebm_run('tier=smoke', 'stage1={"lr": 600.0}', f'run_dir={tmp_path}')
    assert done.returncode == 1 and 'Traceback' not in done.stderr
    assert (
        done.stderr.splitlines()[-1].startswith('error: stage 1 stopped: ')
        and 'is not finite at update' in done.stderr
    )
    record = json.loads((tmp_path / 'metrics.json').read_text(), parse_constant=pytest.fail)
    assert record['status'].startswith('stage 1 stopped: ') and '"lr": 600.0' in record['command']
    assert not (tmp_path / 'weights.safetensors').exists() and (tmp_path / 'notebook.ipynb').exists()


@pytest.mark.slow
def test_a_second_stage_that_stops_is_told_at_the_end(tmp_path):
    """The run is evaluated with the restored weights.

    Running it again changes neither that nor the seconds of training.
    """
    records = []
    for _ in range(2):
        done = vaebm_run('tier=smoke', 'stage2={"lr": 1000.0}', f'run_dir={tmp_path}')
        assert done.returncode == 1 and done.stderr.splitlines()[-1].startswith('error: stopped: ')
        records.append(json.loads((tmp_path / 'metrics.json').read_text(), parse_constant=pytest.fail))
    first, second = records
    assert (
        first['status'].startswith('stopped: ')
        and first['status'] == first['metrics']['status'] == second['status']
    )
    assert (
        first['digest'] == second['digest']
        and second['metrics']['train_s'] >= 0.9 * first['metrics']['train_s']
    )
    assert all(v.isfinite().all() for v in load_checkpoint(tmp_path / 'weights.safetensors').values())


def record_without_data(tmp_path, name):
    "What a smoke run of an experiment records that has an empty folder of data."
    (tmp_path / 'no data').mkdir()
    done = vaebm_run(
        'tier=smoke',
        f'run_dir={tmp_path}/run',
        notebook=NOTEBOOK.with_name(f'{name}.ipynb'),
        VAEBM_DATA=str(tmp_path / 'no data'),
    )
    assert done.returncode == 0, done.stderr[-3000:]
    record = json.loads((tmp_path / 'run' / 'metrics.json').read_text())
    return record


@pytest.mark.slow
@pytest.mark.parametrize('name', ['fashion_mnist', 'stacked_mnist'])
def test_image_experiments_need_nothing_but_the_packages(tmp_path, name):
    record = record_without_data(tmp_path, name)
    assert record['command'] == f'vaebm-run nbs/experiments/{name}.ipynb tier=smoke seed=0'
    assert record['metrics']['n_train'] == (
        10_000 if name == 'fashion_mnist' else 4500
    )  # the images of the package
    assert {
        'training.png',
        'samples.png',
        'strips.png',
        'neighbours.png',
        'energies.png',
        'report.md',
        'weights.safetensors',
    } <= {p.name for p in (tmp_path / 'run').iterdir()}
    rows = record['metrics']['rows']
    assert {
        'test images',
        'VAE, re-adjusted',
        'VAE, picked by global moves alone',
        'VAEBM, Eq. 7 on means',
    } <= rows.keys()
    assert len(rows['VAEBM, Eq. 7 on means']) == 2 and any((tmp_path / 'run' / 'tensorboard').iterdir())


@pytest.mark.slow
@pytest.mark.parametrize('name', ['stacked_mnist_ratio', 'cifar10_ratio'])
def test_experiments_by_regression_need_nothing_but_the_packages(tmp_path, name):
    record = record_without_data(tmp_path, name)
    assert record['metrics']['status'] == 'finished' and len(record['lineage']) == 1
    assert name == 'cifar10_ratio' or record['metrics']['vae']['n_train'] == 4500
    assert {'training.png', 'weights.safetensors'} <= {p.name for p in (tmp_path / 'run').iterdir()}
    assert {'vae_samples.png', 'reconstructions.png', 'training.png', 'weights.safetensors'} <= {
        p.name for p in (tmp_path / 'run' / 'vae').iterdir()
    }


@pytest.mark.slow
def test_architectures_keep_finished_rows(tmp_path):
    def run():
        return vaebm_run(
            'tier=smoke', f'run_dir={tmp_path}', notebook=ROOT / 'nbs' / 'benchmarks' / 'architectures.ipynb'
        )

    assert run().returncode == 0
    record, rows = json.loads((tmp_path / 'metrics.json').read_text()), sorted(
        tmp_path.glob('????????????.json')
    )
    assert len(rows) == len(record['rows']) == 3 and all(
        r['status'] == 'finished' for r in record['rows'].values()
    )
    rows[0].unlink()
    written = {p: p.stat().st_mtime_ns for p in rows[1:]}
    assert run().returncode == 0 and rows[0].exists() and written == {p: p.stat().st_mtime_ns for p in rows[1:]}


def test_unknown_parameter_is_refused_under_plain_papermill(tmp_path):
    done = subprocess.run(
        [
            sys.executable,
            '-m',
            'papermill',
            str(NOTEBOOK),
            str(tmp_path / 'out.ipynb'),
            '-p',
            'stage3',
            '1',
            '-p',
            'tier',
            'smoke',
            '-k',
            'python3',
            '--cwd',
            str(tmp_path),
            '--no-progress-bar',
        ],
        env=ONE_THREAD,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode != 0 and "unknown parameter 'stage3'" in done.stderr


@pytest.mark.slow
def test_bench_in_miniature(tmp_path, monkeypatch):
    monkeypatch.setenv('OMP_NUM_THREADS', '1')  # other tests run beside this one
    execute(
        ROOT / 'nbs' / 'benchmarks' / 'bench.ipynb',
        {'tier': 'smoke', 'run_dir': str(tmp_path)},
        tmp_path / 'notebook.ipynb',
    )
    result = json.loads((tmp_path / 'bench.json').read_text())
    assert (
        result['float32']['ratio'] > 1.3
        and result['bfloat16']['ratio'] > 0
        and result['gradient difference']['float32'] < 1e-6
    )
    peak = {how: modes['default']['peak MB'] for how, modes in result['fresh'].items()}
    assert peak['float32'] <= peak['plain'] <= peak['published']
    assert {
        'memory kept',
        'allocator',
        'processes',
        'share of peak',
        'torchebm',
        'update',
        'stage 1 cifar10',
        'stage 1 fashion_mnist',
    } <= result.keys()


def course(root, folder):
    execute(
        root / 'nbs' / 'benchmarks' / 'course.ipynb',
        {'tier': 'smoke', 'run_dir': str(folder)},
        folder / 'notebook.ipynb',
    )
    return json.loads((folder / 'course.json').read_text())


@pytest.mark.slow
def test_course_in_miniature(tmp_path):
    result = course(ROOT, tmp_path)
    assert list(result['seconds']) == ['index', '00_data'] and all(s > 1 for s in result['seconds'].values())
    assert (
        result['total'] == pytest.approx(sum(result['seconds'].values()))
        and result['environment']['threads'] >= 1
    )
    assert (
        result['command'] == 'vaebm-run nbs/benchmarks/course.ipynb tier=smoke'
        and (tmp_path / 'course.png').exists()
    )


@pytest.mark.slow
def test_a_page_that_fails_is_named_with_its_cell(copy, tmp_path):
    page = copy / 'nbs' / 'index.ipynb'
    content = json.loads(page.read_text())
    content['cells'] = [
        {
            'cell_type': 'code',
            'id': f'cell{i}',
            'metadata': {'tags': tags},
            'execution_count': None,
            'outputs': [],
            'source': source,
        }
        for i, (tags, source) in enumerate([(['skip-execution'], '1 / 0'), ([], 'x = 1'), ([], 'x / 0')])
    ]
    page.write_text(json.dumps(content))
    with pytest.raises(PapermillExecutionError, match='index.ipynb, cell cell2: ZeroDivisionError'):
        course(copy, tmp_path)
    assert not (tmp_path / 'course.json').exists()
