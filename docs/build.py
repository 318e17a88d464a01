"""Build the website: `python docs/build.py [FOLDER]`.

The site is FOLDER/html, by default _site/html.
"""

import sys
from pathlib import Path

from collected import cite, results
from explorer.data import write
from pages import ROOT, stage
from sphinx.cmd.build import build_main

out = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / '_site'
explorer = (ROOT / 'docs' / 'explorer' / 'page.md').read_text(encoding='utf-8')
stage(out / 'pages', {'explorer.md': explorer, 'results.ipynb': results(), 'cite.ipynb': cite()})
code = build_main(
    [
        '-q',
        '-W',
        '--keep-going',
        '-c',
        str(ROOT / 'docs'),
        '-d',
        str(out / 'doctrees'),
        str(out / 'pages'),
        str(out / 'html'),
    ]
)
if code == 0:
    write(out / 'html' / 'explorer')
    print(f'open {out / "html" / "index.html"}')
sys.exit(code)
