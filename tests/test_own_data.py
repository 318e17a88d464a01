"""Your own data: what is refused and how it is said, and fits of three inputs that no page has seen."""

import numpy as np
import pytest
import torch
from PIL import Image

from small import seed

import vaebm
from vaebm.config import error_message
from vaebm.images import Images
from vaebm.own_data import own_data, read_photographs
from vaebm.runs import RunFolderError


def photographs(folder, n, mode='RGB', size=(40, 50), start=0):
    "Noise on grounds of one colour, as PNG files."
    draw = np.random.default_rng(start)
    folder.mkdir(exist_ok=True)
    for k in range(start, start + n):
        shape = (*size, 3) if mode == 'RGB' else size
        pixels = draw.integers(0, 200, shape[2:]) + draw.integers(0, 56, shape)
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f'{k:04}.png')
    return folder


def test_points_in_five_dimensions(tmp_path):
    "An array of NumPy: two clusters on a line in five dimensions, learned, saved, read again."
    draw = np.random.default_rng(0)
    sign = draw.choice([-1.0, 1.0], (1500, 1))
    x = sign * np.linspace(0.5, 1.5, 5) + 0.15 * draw.standard_normal((1500, 5))
    model = vaebm.VAEBM.fit(x, updates=(100, 20), seed=1)
    samples = model.sample(400, seed(0))
    assert samples.shape == (400, 5) and not any(p.requires_grad for p in model.parameters())
    near = (samples.abs().mean(1) - 1).abs() < 0.5
    assert near.float().mean() > 0.6
    inside = torch.as_tensor(x[:50]).float()
    outside = inside * torch.tensor([1, -1, 1, -1, 1.0])
    ours, theirs = (model.log_h(points, 20, seed(0)).mean() for points in (inside, outside))
    assert ours > theirs + 5
    model.save(tmp_path / 'mine.safetensors')
    again = vaebm.VAEBM.load(tmp_path / 'mine.safetensors')
    assert torch.equal(again.sample(9, seed(2)), model.sample(9, seed(2)))


@pytest.mark.slow
def test_a_folder_of_grey_photographs_is_fitted_and_resumed(tmp_path):
    folder = photographs(tmp_path / 'photos', 110, 'L')
    assert read_photographs(folder, 16).pixels.shape == (110, 1, 16, 16)
    model = vaebm.VAEBM.fit(str(folder), updates=(3, 2), folder=tmp_path / 'fit', size=16)
    drawn = model.sample(3, seed(0))
    assert drawn.shape == (3, 1, 16, 16) and 0 <= drawn.min() and drawn.max() <= 1
    assert torch.isfinite(model.energy(drawn)).all()
    with pytest.raises(ValueError, match='its images have no density'):
        model.log_h(drawn)
    (tmp_path / 'fit' / 'stage2.safetensors').unlink()  # killed between the stages
    again = vaebm.VAEBM.fit(folder, updates=(3, 2), folder=tmp_path / 'fit', size=16)
    assert torch.equal(again.sample(3, seed(0)), drawn)
    again.save(tmp_path / 'mine.safetensors')
    loaded = vaebm.load_pretrained(tmp_path / 'mine.safetensors')
    assert torch.equal(loaded.sample(3, seed(0)), drawn)
    with pytest.raises(RunFolderError, match='belongs to another configuration'):
        vaebm.VAEBM.fit(folder, updates=(4, 2), folder=tmp_path / 'fit', size=16)
    photographs(folder, 5, 'L', start=500)
    with pytest.raises(RunFolderError, match='began with other data'):
        vaebm.VAEBM.fit(folder, updates=(3, 2), folder=tmp_path / 'fit', size=16)


def test_a_broken_folder_is_told_at_once(tmp_path):
    folder = photographs(tmp_path / 'photos', 60)
    photographs(folder, 4, 'L', start=100)
    photographs(folder, 5, size=(20, 90), start=200)
    (folder / 'cut.jpg').write_bytes(b'\xff\xd8\xff nothing more')
    (folder / 'notes.txt').write_text('no image')
    assert error_message(ValueError, vaebm.VAEBM.fit, folder).splitlines() == [
        f'{folder} cannot be trained on:',
        '- files that cannot be read: cut.jpg',
        '- images with a side of less than 32 pixels: 0200.png, 0201.png, 0202.png and 2 more',
        '- grey images among coloured ones: 0100.png, 0101.png, 0102.png and 1 more',
        '- too few images: 64 can be used, and a training needs 100',
    ]
    with pytest.raises(FileNotFoundError, match='image below'):
        vaebm.VAEBM.fit(tmp_path / 'nowhere')


WRONG = {
    'a word': ({'a': 1}, 'data must be a tensor, an array, `Images` or a folder, got dict'),
    'a row': (torch.zeros(200), r'points \(n, d\) or images \(n, C, H, W\), got shape \(200,\)'),
    'few points': (torch.randn(20, 2), 'at least 100 points, got 20'),
    'metres': (torch.randn(200, 2) * 1000, 'got 2 others, the first at index 0'),
    'constant': (torch.zeros(200, 2), r'standard deviation 0: give \(x - x.mean\(0\)\) / x.std\(0\)'),
    'NaN': (torch.full((200, 2), torch.nan), 'data must be finite'),
    'bytes as floats': (torch.rand(200, 3, 32, 32) * 255, r'images in \[0, 1\], got values from'),
    'no square': (torch.rand(200, 3, 32, 64), 'with s one of 16, 32, 64, got'),
    'two channels': (torch.rand(200, 2, 32, 32), 'shape \\(n, 1 or 3, s, s\\)'),
    'few images': (Images(torch.zeros(9, 3, 32, 32, dtype=torch.uint8)), 'at least 100 images, got 9'),
}


@pytest.mark.parametrize(('data', 'text'), WRONG.values(), ids=WRONG)
def test_wrong_data_is_refused_by_name(data, text):
    with pytest.raises(ValueError, match=text):
        vaebm.VAEBM.fit(data)


@pytest.mark.parametrize('updates', [5, (1, 2, 3), (0, 5), (5, 1.5)])
def test_updates_are_two_whole_numbers(updates):
    with pytest.raises(ValueError, match='updates must be'):
        vaebm.VAEBM.fit(torch.randn(200, 2), updates)


def test_bytes_and_floats_are_the_same_images():
    pixels = torch.randint(0, 256, (120, 3, 16, 16), dtype=torch.uint8)
    assert torch.equal(own_data(pixels).pixels, own_data(pixels / 255).pixels)
    assert torch.equal(own_data(pixels.numpy()).pixels, pixels)


def test_a_training_that_stops_by_itself_warns(monkeypatch):
    from vaebm import loop, own_data

    def stop(stage, *_):
        return loop.FitResult('stopped', 0, 'the loss is not finite at update 7')

    monkeypatch.setattr(own_data, 'fit', stop)
    with pytest.warns(UserWarning, match='stage1 stopped: the loss is not finite at update 7; weights of update 0'):
        vaebm.VAEBM.fit(torch.randn(200, 2))
