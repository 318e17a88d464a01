"""The start page: its map is complete, its links lead somewhere, and the paper's equations are
where it says.
"""

import ast
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NBS = ROOT / 'nbs'
LINK = re.compile(r'\]\(([^)\s]+)\)')
SECONDS = {'s': 1, 'second': 1, 'minute': 60}


def cells(page):
    return json.loads(page.read_text(encoding='utf-8'))['cells']


def text(page, kind='markdown'):
    return '\n\n'.join(''.join(c['source']) for c in cells(page) if kind in (c['cell_type'], ''))


def anchors(file):
    """Fragments of a file's headings: of a notebook as JupyterLab makes them, of a text as GitHub
    does.
    """
    notebook = file.suffix == '.ipynb'
    titles = re.findall(r'^#+ (.*)$', text(file) if notebook else file.read_text(encoding='utf-8'), re.M)
    if notebook:
        return {re.sub('[`*]', '', title).strip().replace(' ', '-') for title in titles}
    return {re.sub(r'[^\w\- ]', '', title.lower()).replace(' ', '-') for title in titles}


def section(title):
    "The part of the start page under a heading of the second level."
    return re.search(rf'^## {re.escape(title)}$(.*?)(?=^## |\Z)', text(NBS / 'index.ipynb'), re.M | re.S)[1]


def rows(title, width):
    "Rows of the tables of a section without their heads, as lists of `width` cells."
    lines = section(title).splitlines()
    found = [
        [cell.strip() for cell in line.strip('|').split(' | ')]
        for line, after in zip(lines, lines[1:] + [''])
        if line.startswith('| ') and not after.startswith('|--')
    ]
    assert found and all(len(r) == width for r in found), [r for r in found if len(r) != width]
    return found


def numbers(source):
    "Equations that a text mentions: Eq. 5, Eq. 4–9, Eq. 14, 16, or a tag."
    found = set()
    for tags in re.findall(r'\\tag\{([\d, ]+)\}', source):
        found |= {int(n) for n in tags.split(',')}
    for listed in re.findall(r'Eqs?\. ?(\d+(?:(?:, | and |–|-)(?:Eq\. )?\d+)*)', source):
        for part in re.split(r', | and ', listed):
            ends = [int(n) for n in re.findall(r'\d+', part)]
            found |= set(range(ends[0], ends[-1] + 1))
    return found


def pages():
    return {
        p for p in NBS.rglob('*.ipynb') if not any(part[0] in '._' for part in p.relative_to(NBS).parts)
    } - {NBS / 'index.ipynb'}


def test_every_page_is_in_the_map():
    shown = {NBS / target for target in LINK.findall(section('Course map'))}
    assert not pages() - shown, f'not in the map: {sorted(p.name for p in pages() - shown)}'


@pytest.mark.parametrize(
    'file',
    [
        NBS / 'index.ipynb',
        NBS / 'tools' / 'contributing.ipynb',
        NBS / 'tools' / 'teaching.ipynb',
        ROOT / 'README.md',
    ],
    ids=lambda p: p.name,
)
def test_links_lead_to_files_and_headings(file):
    source, broken = text(file) if file.suffix == '.ipynb' else file.read_text(encoding='utf-8'), []
    for target in LINK.findall(source):
        if target.startswith('http'):
            continue
        path, _, anchor = target.partition('#')
        there = file.parent / path if path else file
        if not there.exists() or anchor and anchor not in anchors(there):
            broken.append(target)
    assert not broken, broken


def test_minutes_and_needs_are_those_of_the_headers():
    checked = 0
    for line in section('Course map').splitlines():
        if not (match := re.match(r'\| \[.*?\]\(([\w./]+)\) \| ([\d.]+)(?: \(([\d.]+)\))? \| (.*?) \|', line)):
            continue
        name, minutes, full, needs = match.groups()
        header = ''.join(cells(NBS / name)[1]['source'])
        needed, times = (
            re.search(rf'\*\*{word}\*\*(.*?)(?=\*\*|\Z)', header, re.S)[1] for word in ('Needs', 'Time')
        )
        linked = {(NBS / target).resolve() for target in LINK.findall(needs)}
        there = {((NBS / name).parent / target.partition('#')[0]).resolve() for target in LINK.findall(needed)}
        assert linked == there, name
        if first := re.match(r'\s*(\d+) (s|second|minute)', times):
            assert float(minutes) == max(round(int(first[1]) * SECONDS[first[2]] / 60, 1), 0.1), (name, times)
        if full:
            assert re.search(rf' {full} minutes with the cells? marked slow', times), (name, times)
        checked += bool(first)
    assert checked > 20


def test_minutes_are_near_those_that_were_measured():
    record = json.loads((ROOT / 'data' / 'results' / 'course.json').read_text())
    every = [p for folder in (NBS, NBS / 'tools') for p in folder.glob('*.ipynb')]
    with_code = {p.stem for p in every if any(c['cell_type'] == 'code' for c in cells(p))}
    assert with_code <= {*record['seconds']} <= {p.stem for p in every}
    for name, minutes in re.findall(
        r'^\| \[.*?\]\((?:tools/)?(\w+)\.ipynb\) \| ([\d.]+)', section('Course map'), re.M
    ):
        measured = record['seconds'][name] / 60
        assert abs(float(minutes) - measured) < max(0.2, 0.4 * measured), (name, minutes, measured)
    assert f"together take {record['total'] / 60:.0f} minutes" in section('Course map')


def test_homework_is_named_as_on_its_pages():
    "Each row of the lecturer's page: chapter, number and title of an exercise, its difficulty, its minutes."
    heading = r'^\*\*{}\. {}\*\* \({}, {} minutes\)'
    row = r'^\| \[\d\d\]\(\.\./(\w+\.ipynb)#Exercises\), (\d)\. (.*?) \| (\w+) \| (\d+) \|'
    set_ = re.findall(row, text(NBS / 'tools' / 'teaching.ipynb'), re.M)
    assert len(set_) == 10
    for page, *named in set_:
        assert re.search(heading.format(*map(re.escape, named)), text(NBS / page), re.M), (page, *named)


def test_lectures_take_ninety_minutes_without_a_gap():
    found = re.findall(r'^\| (\d+)–(\d+) \|', text(NBS / 'tools' / 'teaching.ipynb'), re.M)
    spans = [tuple(map(int, span)) for span in found]
    starts = [i for i, (first, _) in enumerate(spans) if first == 0] + [len(spans)]
    assert len(starts) == 3
    for a, b in zip(starts, starts[1:]):
        lecture = spans[a:b]
        assert all(before[1] == after[0] for before, after in zip(lecture, lecture[1:])) and lecture[-1][1] == 90


def test_every_figure_table_and_equation_has_one_row():
    first = [r[0] for r in rows('Every figure, table and equation of the paper', 4)]
    for kind, last in (('Fig.', 19), ('Table', 8), ('Eq.', 25)):
        assert [name for name in first if name.startswith(kind)] == [f'{kind} {n}' for n in range(1, last + 1)]


def test_pages_hold_what_the_table_says_of_them():
    for name, _, where, state in rows('Every figure, table and equation of the paper', 4):
        named = [NBS / target.partition('#')[0] for target in LINK.findall(where)]
        if name.startswith('Eq. '):
            assert named and all(int(name[4:]) in numbers(text(p, '')) for p in named), name
        if state.startswith('re'):
            assert name[:4] != 'Fig.' or any(
                re.search(rf'Fig(\.|ure) {name[5:]}\b', text(p, '')) for p in named
            ), f'{name} is said to be {state}, but its page does not mention it'
        assert named or state.startswith('not reproduced'), name


def test_notation_names_things_that_exist():
    library = '\n'.join(p.read_text(encoding='utf-8') for p in (ROOT / 'vaebm').glob('*.py'))
    for symbol, code, *_ in rows('Notation', 4):
        for name in re.findall(r'`([\w.]+)`', code):
            assert re.search(rf'\b{name.split(".")[-1]}\b', library), f'{symbol}: no {name}'


def test_glossary_terms_are_in_their_chapters():
    terms = rows('Glossary', 3)
    assert len({t[0] for t in terms}) == len(terms)
    for term, _, chapter in terms:
        said = text(NBS / LINK.search(chapter)[1], '').lower()
        assert any(
            name.strip() in said for name in re.split(r'[()]', term.strip('*').lower()) if name.strip()
        ), (term, chapter)


def test_stored_results_are_those_of_the_records(monkeypatch):
    monkeypatch.chdir(NBS)
    page = cells(NBS / 'index.ipynb')
    names = {}
    compared = 0
    start = next(i for i, c in enumerate(page) if 'def record(name)' in ''.join(c['source']))
    for cell in (c for c in page[start:] if c['cell_type'] == 'code'):
        *body, last = ast.parse(''.join(cell['source'])).body
        stored = [
            ''.join(o['data']['text/markdown']) for o in cell['outputs'] if 'text/markdown' in o.get('data', {})
        ]
        exec(compile(ast.Module(body if stored else [*body, last], []), 'index', 'exec'), names)
        if not stored:
            continue
        assert eval(compile(ast.Expression(last.value), 'index', 'eval'), names).data == stored[0]
        compared += 1
        if compared == 4:
            return
    raise AssertionError('the page does not show four tables: results, the rest, commands, weights')
