"""From notebooks to pages: Sphinx reads copies of `nbs/` without hidden cells and directives, and
one page per module.
"""

import os
import re
from configparser import ConfigParser
from pathlib import Path

import nbformat

ROOT = Path(__file__).parents[1]
SETTINGS = ConfigParser(delimiters=['='])
SETTINGS.read(ROOT / 'settings.ini', encoding='utf-8')
SHOWN = {'image/png', 'text/html', 'text/markdown', 'text/plain'}

TOCTREE = '''```{{toctree}}
:hidden:
:caption: {caption}

{pages}
```
'''
MODULE = '''{name}
{line}

Exported by {chapters}.

.. automodule:: {name}
   :members:
   :show-inheritance:
'''
API = '''# API

What the notebooks export, module by module. Each page is made of the docstrings,
and of the comments behind parameters and fields.

| module | what it holds |
|---|---|
{rows}

```{{toctree}}
:hidden:

{pages}
```
'''


FOLDERS = 'tools', 'experiments', 'benchmarks'


def notebooks():
    """All notebooks in reading order: the start page, the chapters by number, the folders of the
    rest.
    """
    top = sorted((ROOT / 'nbs').glob('*.ipynb'), key=lambda p: (p.stem != 'index', p.stem))
    return top + [p for folder in FOLDERS for p in sorted((ROOT / 'nbs' / folder).glob('*.ipynb'))]


def modules():
    "The library's modules that notebooks export, by name."
    return sorted(p for p in (ROOT / 'vaebm').glob('*.py') if not p.stem.startswith('_'))


def link(match, folder):
    "A Markdown link, or the text and path of a file of the repository that is no page."
    text, target = match.groups()
    if re.match(r'\w+:|#', target) or '.ipynb' in target:
        return match[0]
    path = os.path.normpath(folder / target)
    if path == 'docs/explorer/page.md':
        return f'[{text}]({os.path.relpath("nbs/explorer.md", folder)})'
    return f'`{path}`' if path.endswith(text.strip('`')) else f'{text} (`{path}`)'


def shown_outputs(cell):
    "A cell's outputs in forms that need no kernel."
    for output in cell.outputs:
        if 'data' in output:
            output.data = {mime: data for mime, data in output.data.items() if mime in SHOWN}
            if not output.data:
                continue
        yield output


def folded(cell):
    """Is the code of a cell shown only on demand? The tag says so to the site alone,
    `source_hidden` to JupyterLab as well.
    """
    return 'hide-input' in cell.metadata.get('tags', ()) or cell.metadata.get('jupyter', {}).get(
        'source_hidden', False
    )


def open_links(path, notebook):
    """Links that open a page where nothing is installed, made from `git_url` and `branch` of `settings.ini`.

    Binder makes a clone. Colab and Kaggle have the page alone, so it must bring its set-up cell.
    """
    git_url, branch = (SETTINGS['DEFAULT'][name] for name in ('git_url', 'branch'))
    place, file = git_url.removeprefix('https://github.com/'), path.relative_to(ROOT)
    links = [f'[Binder](https://mybinder.org/v2/gh/{place}/{branch}?labpath={file})']
    if any(cell.id == 'setup' for cell in notebook.cells):
        links = [
            f'[Colab](https://colab.research.google.com/github/{place}/blob/{branch}/{file})',
            f'[Kaggle](https://kaggle.com/kernels/welcome?src={git_url}/blob/{branch}/{file})',
            *links,
        ]
    return nbformat.v4.new_markdown_cell(f'Open this page in {" · ".join(links)}', id='open')


def page(path):
    "The notebook at `path` as readers of the site see it."
    notebook = nbformat.read(path, as_version=4)
    links = open_links(path, notebook)
    notebook.metadata = {
        'kernelspec': notebook.metadata.kernelspec,
        'language_info': {'name': 'python', 'pygments_lexer': 'ipython3'},
    }
    cells = []
    for cell in notebook.cells:
        if cell.cell_type == 'code':
            lines = cell.source.split('\n')
            directives = {line[2:].split()[0] for line in lines if line.startswith('#|')}
            cell.source = '\n'.join(line for line in lines if not line.startswith('#|')).strip('\n')
            cell.outputs = list(shown_outputs(cell))
            cell.metadata = {
                'tags': sorted(directives & {'export', 'slow'} | ({'hide-input'} if folded(cell) else set()))
            }
            if 'hide' in directives or not cell.source:
                continue
        else:
            cell.source = re.sub(
                r'(?<!!)\[([^\]]+)\]\(([^)\s]+)\)',
                lambda m: link(m, path.parent.relative_to(ROOT)),
                cell.source,
            )
        cells.append(cell)
    number = re.match(r'(\d+)_', path.stem)
    if number and path.parent.name == 'nbs':
        cells[0].source = cells[0].source.replace('# ', f'# {number[1]} ', 1)
    notebook.cells = [cells[0], links, *cells[1:]]
    return notebook


def contents(paths, own):
    "The tables of contents of the start page."
    names = [str(p.relative_to(ROOT / 'nbs').with_suffix('')) for p in paths]
    groups = {'At a glance': [name.partition('.')[0] for name in own], 'Chapters': [n for n in names if n[0].isdigit()]}
    groups |= {folder.capitalize(): [n for n in names if n.startswith(f'{folder}/')] for folder in FOLDERS}
    groups['Library'] = ['api/index']
    return '\n'.join(
        TOCTREE.format(caption=caption, pages='\n'.join(pages)) for caption, pages in groups.items()
    )


def module_page(path):
    "A module's page, in reStructuredText."
    name = f'vaebm.{path.stem}'
    chapters = dict.fromkeys(re.findall(r'^# %% \.\./nbs/(\S+)\.ipynb', path.read_text(encoding='utf-8'), re.M))
    return MODULE.format(name=name, line='=' * len(name), chapters=', '.join(f':doc:`/{c}`' for c in chapters))


def api_page(paths):
    "The page that lists all modules, in Markdown."
    rows = []
    for path in paths:
        summary = path.read_text(encoding='utf-8').split('"""')[1]
        rows.append(f'| [vaebm.{path.stem}](vaebm.{path.stem}.rst) | {summary} |')
    return API.format(rows='\n'.join(rows), pages='\n'.join(f'vaebm.{p.stem}' for p in paths))


def write(path, text):
    "Write a page unless it is there already: Sphinx rereads what has a new date."
    if path.exists() and path.read_text(encoding='utf-8') == text:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding='utf-8')


def stage(folder, own):  # own: names of the pages that are the site's alone, and their texts
    "Write all pages of the site to `folder`, and remove those that are no more."
    pages = {folder / name: text for name, text in own.items()}
    for path in notebooks():
        notebook = page(path)
        if path.stem == 'index':
            notebook.cells.append(nbformat.v4.new_markdown_cell(contents(notebooks(), own), id='contents'))
        pages[folder / path.relative_to(ROOT / 'nbs')] = nbformat.writes(notebook)
    for path in modules():
        pages[folder / 'api' / f'vaebm.{path.stem}.rst'] = module_page(path)
    pages[folder / 'api' / 'index.md'] = api_page(modules())
    for path, text in pages.items():
        write(path, text)
    for path in folder.rglob('*.*'):
        if path.is_file() and path not in pages:
            path.unlink()
