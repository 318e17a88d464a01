"""README.md: its rows are the start page's, its pictures are those of committed runs, its examples run; it is short."""

import json
import re
from base64 import b64decode
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]
README = (ROOT / 'README.md').read_text(encoding='utf-8')
INDEX = json.loads((ROOT / 'nbs' / 'index.ipynb').read_text(encoding='utf-8'))['cells']


def source(cell_id):
    return ''.join(next(c for c in INDEX if c['id'] == cell_id)['source'])


def test_it_is_read_in_minutes():
    "Two minutes at about 400 words a minute, the table included; both commands that a newcomer needs are there."
    assert len(README.split()) < 950 and 'make run' in README and 'make test' in README


def test_the_table_is_that_of_the_start_page():
    "The start page computes its rows from the records; README repeats the main ones word for word, in its order."
    (cell,) = [c for c in INDEX if c['id'] == 'index029']
    there = ''.join(cell['outputs'][0]['data']['text/markdown']).splitlines()[2:]
    lines = re.search(r'^\| \| VAE \|.*\n\|[-|]+\n((?:\|.*\n)+)', README, re.M)[1].splitlines()
    there = [line.replace('|  |', '| |') for line in there]
    assert len(lines) >= 5 and lines == [line for line in there if line in lines], '\n'.join(there)


@pytest.mark.parametrize(
    ('experiment', 'cell'), [('25_gaussians', '25gaussians014'), ('fashion_mnist', 'fashionmnist015')]
)
def test_pictures_are_outputs_of_committed_runs(experiment, cell):
    page = json.loads((ROOT / 'nbs' / 'experiments' / f'{experiment}.ipynb').read_text(encoding='utf-8'))
    output = next(c for c in page['cells'] if c['id'] == cell)['outputs'][-1]['data']
    picture = (ROOT / 'nbs' / 'figures' / f'{experiment}.png').read_bytes()
    assert picture == b64decode(output['image/png']) and len(picture) < 150_000
    told, file = ''.join(output['text/plain']), f'nbs/figures/{experiment}.png'
    assert f'![{told}]({file})' in README or re.search(
        rf'<img src="{file}" width="\d+" alt="{re.escape(told)}">', README
    )


def test_example_runs():
    "That of README, then those of the start page, which goes on from there."
    (code,) = re.findall(r'```python\n(.*?)```', README, re.S)
    names = {}
    exec(code, names)
    assert names['x'].shape == (1000, 2) and names['clothes'].shape == (16, 1, 32, 32)
    for cell in ('index042', 'index044'):
        exec(source(cell), names)
    assert torch.isfinite(names['fast'].potential(names['eps'][:1])).all()


def test_citation_names_authors_and_place():
    "README leads to the file that GitHub reads, and to the start page's BibTeX."
    settings = (ROOT / 'settings.ini').read_text(encoding='utf-8')
    cited = (ROOT / 'CITATION.cff').read_text(encoding='utf-8')
    assert '(CITATION.cff)' in README and '(nbs/index.ipynb#How-to-cite)' in README
    for field in ('author', 'git_url'):
        value = re.search(rf'^{field} = (.*)$', settings, re.M)[1]
        assert value in cited and value in source('index046')
