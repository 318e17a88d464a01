"""Pages that collect cells of several notebooks: results with their figures, and how to cite.

A number or a figure there is what its notebook stores.
"""

import nbformat
from nbformat.v4 import new_markdown_cell
from pages import ROOT, SETTINGS, page

TABLES = 'index029', 'index036', 'index037', 'index030'  # cells of the start page
FIGURES = {  # heading and experiment: the cells that show its figures
    ('25 Gaussians', '25_gaussians'): ['25gaussians014'],
    ('Fashion-MNIST', 'fashion_mnist'): ['fashionmnist015', 'fashionmnist017'],
    ('StackedMNIST', 'stacked_mnist'): ['stackedeq7015', 'stackedeq7017'],
    ('CIFAR-10', 'cifar10'): ['cifareq7015', 'cifareq7017'],
    ('Ablations on pairs of digits', 'ablations'): ['ablations008', 'ablations009'],
}
RESULTS = '''# Results

What the trained models of this course reach, beside the paper's figures, and what their samples look like.
Every table is computed from the records in `data/results` by [the start page](index.ipynb#Results), which also has the
command of each row and says what is not reproduced. Every figure is the one that its experiment stored.

Read a table within a row, not across columns: the rows have different evaluators.
'''
EXPERIMENT = '''## {heading}

[The experiment](experiments/{name}.ipynb) has the run and its controls.
'''
CITE = '''# Cite

This is version {version} of the course and its library. Please cite both the paper and the course;
the file `CITATION.cff` of the repository has the same in a form for programs.
'''


def pick(name, ids):
    "Cells of a notebook by their ids, without code and printed lines; of text the part before a next heading."
    cells = {cell.id: cell for cell in page(ROOT / 'nbs' / f'{name}.ipynb').cells}
    for cell in map(cells.get, ids):
        if cell.cell_type == 'code':
            cell.metadata = {'tags': ['remove-input']}
            cell.outputs = [o for o in cell.outputs if o.output_type != 'stream']
        cell.source = cell.source.partition('\n### ')[0]
        yield cell


def notebook(cells):
    "A notebook of these cells, as text, in the language of the start page."
    found = page(ROOT / 'nbs' / 'index.ipynb')
    found.cells = cells
    for number, cell in enumerate(cells):
        cell.id = f'cell{number}'
    return nbformat.writes(found)


def results():
    "The page of results: the tables of the start page, then each experiment's figures with their captions."
    cells = [new_markdown_cell(RESULTS), *pick('index', TABLES)]
    for (heading, name), ids in FIGURES.items():
        cells.append(new_markdown_cell(EXPERIMENT.format(heading=heading, name=name)))
        for cell in pick(f'experiments/{name}', ids):
            cells.append(cell)
            cells += [new_markdown_cell(output.data['text/plain']) for output in cell.outputs]
    return notebook(cells)


def cite():
    "The page on how to cite: the version, and the entries of the start page."
    text = CITE.format(version=SETTINGS['DEFAULT']['version'])
    return notebook([new_markdown_cell(text), *pick('index', ['index046'])])
