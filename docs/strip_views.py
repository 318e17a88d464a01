"""Take references to widgets, which live in a kernel, out of stored notebooks: `python
docs/strip_views.py [FOLDER]`, by default nbs.
"""

import json
import sys
from pathlib import Path

VIEW = 'application/vnd.jupyter.widget-view+json'


def strip(notebook):
    "Take out views and their state; returns whether there were any."
    outputs = [output for cell in notebook['cells'] for output in cell.get('outputs', [])]
    found = [
        notebook['metadata'].pop('widgets', None),
        *(output.get('data', {}).pop(VIEW, None) for output in outputs),
    ]
    return any(f is not None for f in found)


folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[1] / 'nbs'
for path in sorted(p for p in folder.rglob('*.ipynb') if '.ipynb_checkpoints' not in p.parts):
    notebook = json.loads(path.read_text(encoding='utf-8'))
    if not strip(notebook):
        continue
    path.write_text(json.dumps(notebook, sort_keys=True, indent=1, ensure_ascii=False) + '\n', encoding='utf-8')
    print(path.name)
