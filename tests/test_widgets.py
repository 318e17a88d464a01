"""What explorers are made of: words that cannot inject markup, redraws that leave controls alone, what is stored."""

import json
import subprocess
import sys
from pathlib import Path

import ipywidgets
import torch

from vaebm.config import error_message
from vaebm.plot import axes
from vaebm.widgets import Canvas, Explorer, Mark, Nine, Picture, check_times, redraw_times

ROOT = Path(__file__).parents[1]
(VIEW,) = ipywidgets.HTML()._repr_mimebundle_().keys() - {'text/plain'}  # the type of a reference to a widget


class Fails(Picture):
    controls = {'word': ['<good>', '<bad>']}

    def __init__(self):
        fig, (ax,) = axes(['x'], size=1.0)
        self.canvas = Canvas(fig, ax.text(0, 0, ''))

    def move(self, word):
        if word == '<bad>':
            raise ValueError('not <bad>')
        return f'A {word} word.'


def test_errors_and_texts_cannot_inject_markup():
    e = Explorer(Fails())
    assert 'A &lt;good&gt; word.' in e.image.value and '<good>' not in e.image.value
    e.controls['word'].value = '<bad>'
    assert e.image.value == '<p role="alert">not &lt;bad&gt;</p>'
    e.controls['word'].value = '<good>'
    assert 'A &lt;good&gt; word.' in e.image.value


class Slope(Picture):
    controls = {'slope': range(3), 'side': ['left', 'right']}

    def __init__(self):
        fig, (ax,) = axes(['a line'], size=1.0)
        (self.line,) = ax.plot([0, 1], [0, 1])
        self.canvas = Canvas(fig, self.line)
        self.buttons = {'flip': self.flip}
        self.sign = 1

    def flip(self, slope, side):
        self.sign = -self.sign

    def move(self, slope, side):
        self.line.set_ydata([0, self.sign * slope])
        return f'A line with slope {self.sign * slope} on the {side}.'


def test_redraw_times_leave_the_controls_alone(capsys):
    e = Explorer(Slope())
    values = e.values()
    assert redraw_times(e, 1).keys() == {*e.controls, *e.buttons} and e.values() == values
    assert error_message(ValueError, redraw_times, e, 0) == 'n must be a whole number >= 1, got 0'
    check_times(e)
    assert capsys.readouterr().out.startswith('ms per redraw: slope ')


def test_a_button_acts_before_the_picture_moves():
    e = Explorer(Slope())
    e.controls['slope'].value = 2
    before = e.png
    e.buttons['flip'].click()
    assert e.text == 'A line with slope -2 on the left.' and e.png != before
    e.buttons['flip'].click()
    assert e.png == before


def test_what_stands_still_is_not_drawn_again():
    fig, (ax,) = axes(['a line'], size=1.0)
    (line,) = ax.plot([0, 1], [0, 1])
    canvas = Canvas(fig, Mark(ax))
    before = canvas.png()
    line.set_ydata([1, 0])
    assert canvas.png() == before


def test_nine_images_stand_row_by_row_with_one_in_a_frame():
    fig, (ax,) = axes(['nine'], size=1.0)
    nine = Nine(ax, 4)
    nine.place(torch.arange(9.0).view(9, 1, 1, 1).expand(9, 3, 4, 4) / 9, 5)
    assert nine.frame.get_visible() and nine.frame.get_xy() == (9, 4)
    nine.place(torch.zeros(9, 3, 4, 4))
    assert not nine.frame.get_visible()


def test_stored_pages_hold_pictures_with_words_and_no_widgets():
    for path in (ROOT / 'nbs').rglob('*.ipynb'):
        page = json.loads(path.read_text(encoding='utf-8'))
        assert 'widgets' not in page['metadata'] and not any(
            VIEW in out.get('data', {}) for cell in page['cells'] for out in cell.get('outputs', [])
        ), path.name


def strip(folder):
    return subprocess.run(
        [sys.executable, str(ROOT / 'docs' / 'strip_views.py'), str(folder)],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()


def test_views_are_stripped_and_the_rest_is_left(tmp_path):
    page = {
        'cells': [
            {
                'outputs': [
                    {'data': {VIEW: {'model_id': 'f00'}, 'text/plain': 'é'}},
                    {'name': 'stdout', 'text': 'x'},
                ]
            },
            {'source': ''},
        ],
        'metadata': {'widgets': {}},
    }
    (tmp_path / 'a.ipynb').write_text(json.dumps(page))
    (tmp_path / 'b.ipynb').write_text('{"cells": [],   "metadata": {}}')
    assert (
        strip(tmp_path) == ['a.ipynb']
        and strip(tmp_path) == []
        and (tmp_path / 'b.ipynb').read_text() == '{"cells": [],   "metadata": {}}'
    )
    assert json.loads((tmp_path / 'a.ipynb').read_text(encoding='utf-8')) == {
        'cells': [
            {'outputs': [{'data': {'text/plain': 'é'}}, {'name': 'stdout', 'text': 'x'}]},
            {'source': ''},
        ],
        'metadata': {},
    }
