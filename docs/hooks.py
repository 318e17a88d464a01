"""What Sphinx is told about pictures and parameters: a picture's text alternative is in its output,
a parameter's description behind it.
"""

import ast
import inspect
import io
import re
import sys
import tokenize
from binascii import a2b_base64
from functools import cache
from hashlib import sha256
from pathlib import Path

import nbformat
from docutils import nodes


def describe_images(app, doctree):
    """Give each picture of a notebook the text of its output as text alternative.

    Myst-nb names pictures by their content.
    """
    path = Path(app.env.doc2path(app.env.docname))
    if path.suffix != '.ipynb':
        return
    texts = {}
    for cell in nbformat.read(path, as_version=4).cells:
        for data in (output.get('data', {}) for output in cell.get('outputs', [])):
            if 'image/png' in data:
                texts[sha256(a2b_base64(data['image/png'])).hexdigest()] = data.get('text/plain', '')
    for image in doctree.findall(nodes.image):
        image['alt'] = image.get('alt') or texts.get(Path(image['uri']).stem, '')


def anchor(title):
    "The name by which Jupyter links to a heading."
    return title.replace(' ', '-')


@cache
def source_of(module):
    "The definitions in a module by qualified name, and its comments by line number."
    source = inspect.getsource(sys.modules[module])
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return dict(definitions(ast.parse(source))), {
        t.start[0]: t.string.lstrip('# ') for t in tokens if t.type == tokenize.COMMENT
    }


def definitions(tree, prefix=''):
    "Each class and function in `tree` with its qualified name; later ones of the same name last."
    for node in tree.body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
            yield prefix + node.name, node
        if isinstance(node, ast.ClassDef):
            yield from definitions(node, f'{prefix}{node.name}.')


def fields(definition, comment):
    "Name and comment of each annotated field of a class."
    for node in definition.body:
        if isinstance(node, ast.AnnAssign):
            yield node.target.id, comment.get(node.end_lineno)


def parameters(definition, comment):
    """Name and comment of each parameter of a function, and of what it returns.

    Of several on a line, the comment is the last one's.
    """
    a = definition.args
    args = [
        arg
        for arg in [*a.posonlyargs, *a.args, a.vararg, *a.kwonlyargs, a.kwarg]
        if arg and arg.arg not in ('self', 'cls')
    ]
    by_line = {arg.end_lineno: arg.arg for arg in args}
    if definition.returns and (len(args) != 1 or definition.returns.end_lineno not in by_line):
        by_line[definition.returns.end_lineno] = 'return'
    return [(name, comment.get(line)) for line, name in by_line.items()]


def described(obj):
    """What the comments in the source of a function or class say: (name, comment) of its parameters
    or fields, and of what it returns.
    """
    known, comment = source_of(obj.__module__)
    definition = known.get(obj.__qualname__)
    if isinstance(definition, ast.ClassDef):
        init = known.get(f'{obj.__qualname__}.__init__')
        found = parameters(init, comment) if init else fields(definition, comment)
    else:
        found = parameters(definition, comment) if definition else []
    return [(name, text) for name, text in found if text]


def as_rst(text):
    "Docstrings are plain text with `code`."
    pieces = text.split('`')
    return ''.join(
        f'``{piece}``' if i % 2 else re.sub(r'([\\*|_])', r'\\\1', piece) for i, piece in enumerate(pieces)
    )


def describe_parameters(app, what, name, obj, options, lines):
    "Turn a docstring into reStructuredText and add the comments as its field list."
    lines[:] = [as_rst(line) for line in lines]
    if what not in ('function', 'method', 'class', 'exception'):
        return
    found = described(obj)
    lines += [
        '',
        *(
            f':returns: {as_rst(text)}' if arg == 'return' else f':param {arg}: {as_rst(text)}'
            for arg, text in found
        ),
        '',
    ]


def skip_fields(app, what, name, obj, skip, options):
    "A named tuple's fields are described with its parameters."
    return True if str(getattr(obj, '__doc__', '')).startswith('Alias for field number') else None
