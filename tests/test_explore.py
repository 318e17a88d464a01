"""Explorers: what they compute, what their controls do without a browser, and what is stored of
them.
"""

import base64
import json
import random
import re
from datetime import datetime
from io import BytesIO
from pathlib import Path

import ipywidgets
import pytest
import torch
from PIL import Image

from vaebm.explore import (
    AlongChain,
    ChainByHand,
    Interpolation,
    Playground,
    Traversal,
    TwoSpaces,
    read_upload,
    slerp,
)
from vaebm.image_chains import along_chains
from vaebm.config import error_message
from vaebm.samplers import pcn_langevin
from vaebm.pretrained import load_pretrained
from vaebm.widgets import Explorer, as_png

ROOT = Path(__file__).parents[1]
(VIEW,) = ipywidgets.HTML()._repr_mimebundle_().keys() - {'text/plain'}  # the type of a reference to a widget
KINDS = [ChainByHand, TwoSpaces, Traversal, AlongChain, Interpolation, Playground]


@pytest.fixture(scope='module')
def explorers():
    made = {kind: Explorer(kind()) for kind in KINDS}
    made[TwoSpaces].controls['step'].value = 30  # at step 0 the chains are the same in both spaces
    made[Interpolation].controls['second'].value = 5  # two apart from the first in any move below
    return made


@pytest.fixture(params=KINDS, ids=lambda kind: kind.__name__)
def explorer(request, explorers):
    return explorers[request.param]


def picture_of(png):
    return Image.open(BytesIO(png))


def test_every_control_has_a_label_and_changes_the_picture(explorer):
    start = explorer.values()
    for name, control in explorer.controls.items():
        assert control.description
        if isinstance(control, ipywidgets.FileUpload):
            continue
        png = explorer.png
        text = explorer.text
        index = control.index
        control.index = (index + 1) % len(control.options)
        assert explorer.text != text, name
        assert explorer.png != png or name in ('sampler', 'step_size'), name  # these show at the next step
        control.index = index
    assert explorer.values() == start


def test_a_picture_depends_on_its_controls_alone(explorer):
    png, first = explorer.png, next(iter(explorer.controls.values()))
    index = first.index
    first.index = (index + 1) % len(first.options)
    first.index = index
    assert explorer.png == png


def test_picture_is_named_in_words_and_has_its_size(explorer):
    explorer.redraw()
    width, height = picture_of(explorer.png).size
    assert (
        f'width="{width}" height="{height}"' in explorer.image.value
        and 'alt="' in explorer.image.value
        and base64.b64encode(explorer.png).decode() in explorer.image.value
    )
    assert explorer.text.endswith('.') and width <= 900 and height <= 640
    bundle = explorer._repr_mimebundle_()
    assert (
        bundle['text/plain'] == explorer.text
        and base64.b64decode(bundle['image/png']) == explorer.png
        and VIEW in bundle
    )


def test_only_the_chosen_group_is_turned():
    t = Traversal('nvae_digits')
    x = t.images(3, 1, 1)
    assert x.shape == (9, 3, 16, 16) and torch.equal(
        x[4], t.images(1, 1, 2)[4]
    )  # the sample is the same in all groups and directions
    assert (
        not torch.equal(x[0], x[4]) and not torch.equal(x, t.images(3, 1, 2)) and 0 <= x.min() and x.max() <= 1
    )
    assert error_message(ValueError, Traversal, '25_gaussians').startswith("name must be that of an NVAE")


def test_chains_are_those_of_the_model(explorers):
    chains, model = explorers[AlongChain].picture, load_pretrained('fashion_mnist')
    assert (
        chains.x.shape == (13, 9, 1, 32, 32)
        and chains.energy.shape == (13, 9)
        and (chains.x[1:] != chains.x[0]).flatten(1).any(1).all()
    )
    assert torch.equal(
        chains.x[4],
        along_chains(model, 9, [4], pcn_langevin(0.1), generator=torch.Generator().manual_seed(6))[4].images[:],
    )


def test_ways_share_their_ends(explorers):
    x, energy = explorers[Interpolation].picture.paths(1, 2)
    assert (
        torch.equal(x[0, 0], x[1, 0])
        and torch.allclose(x[0, -1], x[1, -1])
        and torch.allclose(energy[0, [0, -1]], energy[1, [0, -1]], rtol=1e-4)
    )
    assert not torch.allclose(x[0, 4], x[1, 4])


def test_slerp_is_an_arc():
    a, b = torch.eye(3)[:2] * 2
    arc = slerp(a, b, torch.tensor([0.0, 1 / 3, 0.5, 1.0]))
    assert (
        torch.allclose(arc.norm(dim=1), torch.tensor(2.0))
        and torch.allclose(arc[0], a)
        and torch.allclose(arc[3], b, atol=1e-6)
        and torch.allclose(arc[2], (a + b) / 2**0.5)
    )
    assert torch.allclose(arc[1] @ a / 4, torch.tensor(3.0).sqrt() / 2)
    assert 'must not be parallel' in error_message(ValueError, slerp, a, -a, torch.zeros(1))


def test_scores_add_up(explorers):
    play = explorers[Playground].picture
    bound, energy, log_h = play.test.values()
    assert torch.allclose(log_h, bound - energy) and len(bound) == 200


def test_upload_is_shown_or_refused(explorers):
    play = explorers[Playground]

    def upload(content):
        play.controls['upload'].value = (
            {
                'name': 'x.png',
                'type': 'image/png',
                'size': len(content),
                'content': memoryview(content),
                'last_modified': datetime.now(),
            },
        )

    play.controls['set'].value = 'your image'
    assert 'role="alert"' in play.image.value and 'got none yet' in play.image.value
    upload(as_png(Image.new('RGB', (64, 48), (250, 0, 0))))
    assert play.text.startswith('Your image: bound on log p') and 'role="alert"' not in play.image.value
    upload(b'<b>no image</b>')
    assert 'role="alert"' in play.image.value and '<b>' not in play.image.value
    play.controls['set'].value = 'digits'
    assert play.text.startswith('Digits, number')


def test_files_that_are_no_images_are_refused():
    noise = as_png(Image.effect_noise((64, 64), 50))
    for content in (b'', b'GIF89a', noise[:200]):
        assert error_message(ValueError, read_upload, content, 32).startswith('upload must be an image')
    assert read_upload(noise, 16).shape == (1, 3, 16, 16)


@pytest.mark.parametrize('kind', ['avif', 'eps', 'pdf', 'ppm'])
def test_uploads_of_other_formats_are_refused_and_start_no_program(monkeypatch, kind):
    try:
        Image.new('RGB', (40, 50), 'red').save(file := BytesIO(), kind)
    except (KeyError, OSError):
        pytest.skip(f'this Pillow writes no {kind}')

    def program(*args, **kwargs):
        raise AssertionError('a program was started')

    monkeypatch.setattr('subprocess.Popen', program)  # Pillow draws EPS with another program
    assert (
        error_message(ValueError, read_upload, file.getvalue(), 32)
        == 'upload must be an image that is whole, of format PNG, JPEG, GIF, WEBP, BMP, TIFF, got none of them'
    )


@pytest.mark.filterwarnings('ignore:::PIL')
def test_uploads_are_limited_in_pixels_and_damaged_ones_refused(monkeypatch):
    monkeypatch.setattr('vaebm.explore.MAX_PIXELS', 64 * 48 - 1)
    assert (
        error_message(ValueError, read_upload, as_png(Image.new('RGB', (64, 48))), 32)
        == 'upload must have at most 3,071 pixels, got 3,072'
    )
    generator = random.Random(0)
    for kind in ('png', 'jpeg', 'gif', 'webp', 'bmp', 'tiff'):
        Image.effect_noise((40, 30), 50).save(file := BytesIO(), kind)
        for _ in range(40):
            damaged = bytearray(file.getvalue())
            for _ in range(4):
                damaged[generator.randrange(min(200, len(damaged)))] = generator.randrange(256)
            try:
                assert read_upload(bytes(damaged), 16).shape == (1, 3, 16, 16)
            except ValueError as error:
                assert str(error).startswith('upload must ')


def test_the_application_shows_explorers_and_no_other_output():
    cells = json.loads((ROOT / 'nbs' / '36_explore.ipynb').read_text(encoding='utf-8'))['cells']
    app = [cell for cell in cells if 'lab-only' not in cell['metadata'].get('tags', [])]
    shown = [out['data'] for cell in app for out in cell.get('outputs', [])]
    assert len(shown) == len(KINDS) and all(
        'image/png' in data and len(''.join(data['text/plain'])) > 30 for data in shown
    )
    text = '\n'.join(''.join(cell['source']) for cell in app if cell['cell_type'] == 'markdown')
    assert (
        re.findall(r'^## (.*)$', text, re.M)[-2:] == ['What we learned', 'References']
        and '## Exercises' not in text
        and '<details>' not in text
    )
