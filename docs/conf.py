"""Sphinx settings of the website; `build.py` calls Sphinx, `pages.py` writes what it reads."""

import sys
from importlib.util import find_spec
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import hooks
from pages import SETTINGS

project = 'vaebm'
author = copyright = 'The vaebm authors'
extensions = ['myst_nb', 'sphinx.ext.autodoc', 'sphinx.ext.mathjax']
templates_path = []
html_copy_source = False
html_show_sourcelink = False

nb_execution_mode, nb_render_markdown_format = 'off', 'myst'  # tables and formulas of outputs are rendered
nb_code_prompt_show, nb_code_prompt_hide = 'Show the code', 'Hide the code'
myst_enable_extensions = ['dollarmath', 'amsmath']
myst_heading_anchors, myst_heading_slug_func = 4, 'hooks.anchor'
suppress_warnings = ['myst.header']  # chapters go from H2, a concept, to H4, an API entry

autodoc_member_order = 'bysource'
python_maximum_signature_line_length = 80

html_theme = 'furo'
version = release = SETTINGS['DEFAULT']['version']
html_title = f'vaebm {version}'
html_use_index = html_domain_indices = False
smartquotes_action = 'D'  # dashes only
MATHJAX = Path(find_spec('sphinx-mathjax-offline').origin).parent / 'static' / 'mathjax' / 'tex-svg-full.js'
html_static_path = ['style.css', str(MATHJAX)]
html_css_files, html_favicon = ['style.css'], 'favicon.svg'
mathjax_path = MATHJAX.name


def setup(app):
    app.connect('doctree-read', hooks.describe_images)
    app.connect('autodoc-process-docstring', hooks.describe_parameters)
    app.connect('autodoc-skip-member', hooks.skip_fields)
