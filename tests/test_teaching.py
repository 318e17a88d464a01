"""Slides, exercises without solutions, and marks: full points for the course's solutions, none for its slips."""

import re
import zipfile

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from vaebm import teaching
from vaebm.teaching import (
    chapters,
    exercises,
    fill_gap,
    find_chapter,
    grade,
    main,
    report,
    slides_of,
    student_notebook,
    write_exercises,
    write_slides,
)

HEADING = '**{}. {}** ({}, 5 minutes). What is it?'
CHECK = "if answer is None: print('not yet')\nelse: assert answer == {}, 'think again'"
SOLUTION = (
    '<details><summary>Solution</summary>\n\n```python\n{}\n```\n\n'
    '**A common slip.** Not this.\n\n```python\n{}\n```\n\n</details>'
)


def cell(name, source):
    make = new_markdown_cell if source.startswith(('*', '#', '<')) else new_code_cell
    return make(source, id=name)


@pytest.fixture
def chapter(tmp_path, monkeypatch):
    "A clone whose only chapter has three exercises: a number, a function, a number."
    cells = [
        cell('title', '# Small\n\n> Three exercises.'),
        cell('start', 'one = 1'),
        cell('task1', '## Exercises\n\n' + HEADING.format(1, 'Two', 'easy')),
        cell('gap1', 'answer = None  # a number\n' + CHECK.format('one + 1')),
        cell('solution1', SOLUTION.format('answer = 2', 'answer = 3') + '\n\n' + HEADING.format(2, 'Twice', 'medium')),
        cell('gap2', 'def twice(x):\n    "2 x"\n    # your code here'),
        cell('check2', 'answer = twice(4)\n' + CHECK.format('8')),
        cell('solution2', SOLUTION.format('def twice(x): return 2 * x', 'def twice(x): return x * x')),
        cell('task3', HEADING.format(3, 'Five', 'hard')),
        cell('gap3', 'answer = None'),
        cell('check3', CHECK.format('5')),
        cell('solution3', SOLUTION.format('answer = 5', 'answer = 6') + '\n\n## What we learned\n\nA lot.'),
        cell('broken', '1 / 0'),  # after the last check: not executed
    ]
    path = tmp_path / 'nbs' / '00_small.ipynb'
    path.parent.mkdir()
    nbformat.write(new_notebook(cells=cells), path)
    monkeypatch.setattr(teaching, 'repository', lambda: tmp_path)
    return path


def answered(path, *answers):
    "A student's notebook with answers to the first exercises."
    notebook = student_notebook(path)
    cells = {c.id: c for c in notebook.cells}
    for exercise, answer in zip(exercises(nbformat.read(path, as_version=4).cells), answers):
        if answer:
            gap = cells[exercise.cells[0].id]
            gap.source = fill_gap([gap], answer)[0]
    return notebook


def found(notebook, **options):
    return [(mark.verdict, mark.points, mark.changed) for mark in grade(notebook, **options)]


def test_answers_are_right_wrong_crashed_or_missing(chapter):
    right = ('right', 1, False), ('right', 2, False), ('right', 3, False)
    assert found(answered(chapter, 'answer = 2', 'def twice(x): return x + x', 'answer = 5')) == [*right]
    assert found(answered(chapter)) == [('missing', 0, False)] * 3
    marks = grade(answered(chapter, 'answer = 3', 'def twice(x): return x.double()'))
    assert [(m.verdict, m.reason) for m in marks] == [
        ('wrong', 'think again'),
        ('crashed', "AttributeError: 'int' object has no attribute 'double'"),
        ('missing', ''),
    ]
    assert report(marks).splitlines()[0] == '1. Two, easy: 0 of 1, wrong: think again'
    assert report(marks).splitlines()[-1] == '0 of 6 points'


def test_an_answer_that_hangs_or_kills_the_kernel_costs_its_own_points_alone(chapter):
    hanging = grade(answered(chapter, 'import time\ntime.sleep(60)', 'def twice(x): return 2 * x', 'answer = 5'), 2)
    assert [m.points for m in hanging] == [0, 2, 3] and hanging[0].reason == 'it took longer than 2 seconds'
    killing = grade(answered(chapter, 'answer = 2', 'import os\nos._exit(3)', 'answer = 5'))
    assert [m.points for m in killing] == [1, 0, 3] and killing[1].reason == 'it ended the kernel'


def test_checks_of_students_do_not_count(chapter):
    notebook = answered(chapter, 'answer = 7', 'def twice(x): return 0')
    cells = {c.id: c for c in notebook.cells}
    cells['gap1'].source = "answer = 7\nif answer is None: print('not yet')\nelse: pass"
    cells['check2'].source = 'pass'
    notebook.cells.remove(cells['check3'])
    assert found(notebook) == [('wrong', 0, True), ('wrong', 0, True), ('missing', 0, True)]
    assert report(grade(notebook)).count("The course's own was used.") == 3


def test_cells_that_a_student_adds_belong_to_the_answer(chapter):
    notebook = answered(chapter, 'answer = one + helper')
    names = [c.id for c in notebook.cells]
    notebook.cells.insert(names.index('check2'), new_code_cell('def twice(x): return helper * x'))
    notebook.cells.insert(names.index('gap1'), new_code_cell('helper = 1'))
    notebook.cells.insert(0, new_code_cell('helper = 2; one = 100'))  # far from a gap: the chapter's own cells run
    assert [m.verdict for m in grade(notebook)] == ['right', 'wrong', 'missing']


def test_the_command_grades_and_refuses(chapter, tmp_path, capsys):
    path = tmp_path / 'ann.ipynb'
    nbformat.write(answered(chapter, 'answer = 2'), path)
    main(['grade', str(path)])
    assert capsys.readouterr().out.splitlines()[0] == f'{path}, 00_small'
    nbformat.write(new_notebook(cells=[new_code_cell('1')]), path)
    for words, text in (
        (['grade', str(path)], 'notebook must be made from a chapter'),
        (['grade', str(tmp_path / 'bob.ipynb')], 'bob.ipynb'),
        (['slides', '01_energy'], "chapter must be one of 00_small, got '01_energy'"),
    ):
        with pytest.raises(SystemExit, match='2'):
            main(words)
        assert text in capsys.readouterr().err


def test_a_chapter_that_fails_by_itself_is_no_fault_of_the_student(chapter):
    notebook = nbformat.read(chapter, as_version=4)
    notebook.cells[1].source = 'one = 1 / 0'
    nbformat.write(notebook, chapter)
    with pytest.raises(RuntimeError, match='00_small itself fails in its cell start: ZeroDivisionError'):
        grade(answered(chapter, 'answer = 2'))


def test_students_get_every_chapter_with_its_checks_and_no_solution(tmp_path):
    names = {f'exercises/{path.name}' for path in chapters()}
    with zipfile.ZipFile(write_exercises(tmp_path / 'new' / 'exercises.zip')) as file:
        assert {*file.namelist()} == names and len(names) > 38
        for path in chapters():
            text = file.read(f'exercises/{path.name}').decode()
            given = nbformat.reads(text, as_version=4)
            cells = {c.id: c for c in given.cells}
            assert '<summary>Solution' not in text and not any(c.get('outputs') for c in given.cells)
            for exercise in exercises(nbformat.read(path, as_version=4).cells):
                assert all(cells[c.id].source == c.source for c in exercise.cells)
    hints = student_notebook(find_chapter('01_energy')).cells
    assert sum('<details><summary>Hint 1' in c.source for c in hints) == 4


@pytest.mark.parametrize('name', ['01_energy', '08_model'])
def test_slides_have_every_section_and_figure_and_no_exercises(name, tmp_path):
    path = find_chapter(name)
    cells = nbformat.read(path, as_version=4).cells
    html = write_slides(path, tmp_path / 'slides.html', 'reveal.js').read_text()
    text = '\n'.join(c.source for c in cells if c.cell_type == 'markdown')
    sections = re.findall('^## (.*)$', text, re.M)
    kinds = [c.metadata.slideshow.slide_type for c in slides_of(path).cells]
    assert 'Exercises' in sections and kinds.count('slide') == len(sections)  # the title in place of the exercises
    assert html.count('<section') == 2 * kinds.count('slide') + kinds.count('subslide')
    images = [re.search('alt="([^"]*)"', tag)[1] for tag in re.findall('<img[^>]*data:image/png[^>]*>', html)]
    drawn = [o for c in cells for o in c.get('outputs', []) if 'image/png' in o.get('data', {})]
    assert len(images) == len(drawn) > 2 and all(len(alt.split()) > 5 for alt in images)
    assert 'your code here' not in html and '#|' not in re.sub('<style.*?</style>', '', html, flags=re.S)
    assert not re.findall('(?:src|href)="https?:[^"]*(?:js|css)"', html)
    assert 'src="tex-svg-full.js"' in html and (tmp_path / 'tex-svg-full.js').stat().st_size > 1e6


@pytest.mark.slow
@pytest.mark.parametrize('name', ['00_data', '01_energy'])
def test_solutions_of_the_course_get_all_points_and_its_slips_none(name):
    path = find_chapter(name)
    known = list(exercises(nbformat.read(path, as_version=4).cells))
    marks = grade(answered(path, *(e.solution for e in known)))
    assert [m.points for m in marks] == [e.points for e in known]
    marks = grade(answered(path, *(e.slips[0] for e in known)))
    assert [m.verdict for m in marks] == ['wrong'] * len(known) and all(len(m.reason) > 30 for m in marks)
