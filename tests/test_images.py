"""Image sets: found in the stated order, verified, and read the same whatever the source."""

import hashlib
import os
import subprocess
import sys
from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

import vaebm
from vaebm import images
from vaebm.data import as_images, to_bytes
from vaebm.files import center_square, decode, image_files, lmdb_images, read_image
from vaebm.images import (
    FASHION_CLASSES,
    IMAGE_SETS,
    Images,
    StackedDigits,
    load_images,
    pixels_sha256,
    read_folder,
    read_lmdb,
    read_npz,
)
from vaebm.energy_nets import EnergyResNet
from vaebm.full_scale import prepare, write_example
from vaebm.classifier import class_report, load_classifier
from vaebm.checkpoints import package_folder
from vaebm.config import error_message
from vaebm.stage_one import ImageStageOne, ImageStageOneConfig

LOCAL = [
    (name, split)
    for name, known in IMAGE_SETS.items()
    for split in known.counts
    if os.environ.get('VAEBM_DATA')
    and os.path.exists(os.path.join(os.environ['VAEBM_DATA'], f'{name}_{split}.npz'))
]


@pytest.mark.skipif(not LOCAL, reason='VAEBM_DATA names no image files')
@pytest.mark.parametrize('name,split', LOCAL)
def test_local_sets_are_what_they_should_be(name, split):
    images = load_images(name, split, download=False)
    assert (
        len(images) == IMAGE_SETS[name].counts[split]
        and tuple(images.pixels.shape[1:]) == IMAGE_SETS[name].shape
    )
    assert images.labels.unique().numel() == (100 if name == 'cifar100' else 10)


@pytest.mark.skipif(('cifar10', 'train') not in LOCAL, reason='no local CIFAR-10')
def test_cifar10_has_its_published_channel_means():
    pixels = load_images('cifar10', 'train', download=False).pixels
    mean = torch.tensor([pixels[:, c].double().mean() / 255 for c in range(3)])
    assert torch.allclose(mean, torch.tensor([0.4914, 0.4822, 0.4465]).double(), atol=1e-4)


def test_files_come_before_the_embedded_digits(tmp_path, monkeypatch):
    monkeypatch.setenv('VAEBM_DATA', str(tmp_path))
    assert len(load_images('mnist', 'train', download=False)) == 4500
    np.savez(
        tmp_path / 'mnist_train.npz',
        images=np.zeros((60_000, 28, 28), np.uint8),
        labels=np.zeros(60_000, np.uint8),
    )
    assert 'checksum differs' in error_message(ValueError, load_images, 'mnist', 'train', False)
    assert not {tuple(r.tolist()) for r in load_images('mnist', 'test', False).pixels.flatten(1)} & {
        tuple(r.tolist()) for r in _embedded_train().flatten(1)
    }


def _embedded_train():
    from vaebm.images import _embedded_mnist

    return _embedded_mnist('train').pixels


# per split: images of each class, SHA-256 of pixels (N, 28, 28) and of labels, as bytes
EMBEDDED_FASHION = {
    'train': (
        1000,
        'e1427044c614fabc29feeff0f27e6b68f88a9ee2f2cfe7d783b9157159864883',
        '2c02745d4ad8b4511333d0eca662ac5664a371860abaa4588b1670e7be59fbdf',
    ),
    'test': (
        200,
        '96315b1732ab731e68b8def3c284f34b605f7deb7a61e683c7d786265c827c83',
        'b2095bc797d1201e84da76c94012c02d0e6f07af0938df4e00120a3b42d1aa4c',
    ),
}


def sha256(x):
    return hashlib.sha256(x.byte().numpy().tobytes()).hexdigest()


@pytest.fixture
def no_files(tmp_path, monkeypatch):
    monkeypatch.setenv('VAEBM_DATA', str(tmp_path))
    return tmp_path


@pytest.mark.parametrize('split', EMBEDDED_FASHION)
def test_embedded_fashion_has_its_counts_and_checksum(split, no_files):
    per_class, pixels, labels = EMBEDDED_FASHION[split]
    images = load_images('fashion_mnist', split, download=False)
    assert images.pixels.shape == (10 * per_class, 1, 28, 28) and images.labels.dtype == torch.int64
    assert images.labels.bincount().tolist() == [per_class] * 10
    assert (sha256(images.pixels), sha256(images.labels)) == (pixels, labels)


def test_embedded_fashion_is_used_where_there_is_no_network(no_files, monkeypatch):
    def refuse(cls, folder, split, download):
        raise OSError('no network')

    monkeypatch.setattr(images, '_from_torchvision', refuse)
    assert (
        len(load_images('fashion_mnist', 'train')) == 10_000
        and len(load_images('fashion_mnist', 'test')) == 2_000
    )
    np.savez(
        no_files / 'fashion_mnist_test.npz',
        images=np.zeros((10_000, 28, 28), np.uint8),
        labels=np.zeros(10_000, np.uint8),
    )
    assert 'not those of fashion_mnist (test)' in error_message(ValueError, load_images, 'fashion_mnist', 'test')


@pytest.mark.skipif(
    ('fashion_mnist', 'train') not in LOCAL or ('fashion_mnist', 'test') not in LOCAL,
    reason='no local Fashion-MNIST',
)
@pytest.mark.parametrize('split', EMBEDDED_FASHION)
def test_embedded_fashion_is_the_start_of_each_class(split, tmp_path, monkeypatch):
    full = load_images('fashion_mnist', split, download=False)
    monkeypatch.setenv('VAEBM_DATA', str(tmp_path))
    part = load_images('fashion_mnist', split, download=False)
    per_class = EMBEDDED_FASHION[split][0]
    first = torch.cat([(full.labels == c).nonzero()[:per_class, 0] for c in range(10)]).sort().values
    assert torch.equal(part.pixels, full.pixels[first]) and torch.equal(part.labels, full.labels[first])


def test_names_of_the_clothes_are_those_of_their_labels(no_files):
    images = load_images('fashion_mnist', 'train', download=False)
    mean = torch.stack([images[images.labels == c].mean(0)[0] for c in range(10)])
    ink = dict(zip(FASHION_CLASSES, mean.mean((1, 2)).tolist()))
    assert sorted(ink, key=ink.get)[:2] == ['sandal', 'sneaker'] and max(ink, key=ink.get) in (
        'pullover',
        'coat',
    )
    between_legs = mean[:, 20:27, 13:15].mean((1, 2)) / mean.mean((1, 2))
    upright = [0, 1, 2, 3, 4, 6]
    assert FASHION_CLASSES[upright[between_legs[upright].argmin()]] == 'trousers'


def test_files_of_an_installed_package_lie_inside_it(tmp_path, monkeypatch):
    assert (package_folder('sets') / 'fashion_mnist.npz').stat().st_size < 6e6
    monkeypatch.setattr(vaebm, '__file__', str(tmp_path / 'vaebm' / '__init__.py'))
    assert package_folder('sets') == tmp_path / 'data' / 'sets'
    (tmp_path / 'vaebm' / 'sets').mkdir(parents=True)
    assert package_folder('sets') == tmp_path / 'vaebm' / 'sets'


def test_stacked_digits_are_read_by_the_classifier():
    stacked, classifier = StackedDigits(load_images('mnist', 'test', download=False)), load_classifier()
    x, y = stacked.draw(400, torch.Generator().manual_seed(0))
    report = class_report(classifier, x)
    digits = torch.stack([y // 100, y // 10 % 10, y % 10], 1)
    assert (report['classes'] == digits).float().mean() > 0.98 and report['confidence'] > 0.98
    assert abs(report['shares'].sum() - 1) < 1e-6 and report['share_kl'] < 0.03


def test_stacked_digits_need_labels_and_one_channel():
    for bad in (
        Images(torch.zeros(3, 1, 28, 28, dtype=torch.uint8)),
        Images(torch.zeros(3, 3, 28, 28, dtype=torch.uint8), torch.zeros(3)),
    ):
        assert error_message(ValueError, StackedDigits, bad) == 'digits must have one channel and labels'


def picture(mode='RGB', size=(60, 40), seed=0):
    "Noise as a PIL image."
    channels = len(Image.new(mode, (1, 1)).getbands())
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], channels), dtype=np.uint8)
    return Image.frombytes(mode, size, pixels.tobytes())


def test_sixteen_bits_of_grey_keep_their_ramp(tmp_path):
    ramp = np.tile(np.linspace(0, 65535, 64).astype(np.uint16), (64, 1))
    Image.fromarray(ramp).save(tmp_path / 'ramp.png')
    Image.fromarray(ramp).save(tmp_path / 'ramp.tif')
    pixels = read_folder(tmp_path, 64).pixels
    assert torch.equal(pixels[0], pixels[1]) and pixels[0, 0, 0].tolist() == (ramp[0] >> 8).tolist()
    wide = Image.fromarray(ramp.astype(np.int32))  # as Pillow reads 16 bits of some formats
    assert np.array_equal(center_square(wide, 64)[0, :, 0], ramp[0] >> 8)
    for bad in (Image.fromarray(ramp.astype(np.float32)), Image.fromarray(ramp.astype(np.int32) * 2)):
        assert error_message(ValueError, center_square, bad, 16).startswith(
            'pixels must have 8 or 16 bits per channel'
        )


def test_the_box_of_celeba_is_that_of_the_released_code():
    rows, columns = np.mgrid[:218, :178]
    image = Image.fromarray(np.stack([columns, rows, np.zeros_like(rows)], -1).astype(np.uint8))
    pixels = center_square(image, 148, images.CROPS['celeba64'])
    assert pixels[0, 0].tolist() == [15, 40, 0] and pixels[-1, -1].tolist() == [162, 187, 0]
    for box in ((-1, 0, 10, 11), (0, 0, 179, 179), (0, 0, 10, 11), (10, 10, 10, 10)):
        assert 'crop must be a square box (left, top, right, bottom) within 178 x 218 pixels' in error_message(
            ValueError, center_square, image, 16, box
        )


@pytest.mark.parametrize('turn', range(1, 9))
def test_photographs_are_upright(tmp_path, turn):
    image, tag = picture(size=(48, 48)), Image.Exif()
    tag[0x0112] = turn
    image.save(tmp_path / 'a.png', exif=tag)
    shown = np.asarray(ImageOps.exif_transpose(Image.open(tmp_path / 'a.png')))  # as a viewer turns it
    assert np.array_equal(read_image(tmp_path / 'a.png', 48), shown)


def test_transparent_parts_are_white(tmp_path):
    clear = Image.new('RGBA', (32, 32), (0, 0, 0, 0))
    clear.paste((255, 0, 0, 255), (8, 8, 24, 24))
    half = Image.new('LA', (32, 32), (0, 128))
    palette = Image.new('P', (32, 32), 0)
    palette.putpalette([0, 0, 255] + [0] * 765)
    clear.save(tmp_path / 'a.png')
    half.save(tmp_path / 'b.png')
    palette.save(tmp_path / 'c.png', transparency=0)
    a, b, c = read_folder(tmp_path, 32).pixels
    assert a[:, 0, 0].tolist() == [255, 255, 255] and a[:, 16, 16].tolist() == [255, 0, 0]
    assert b.unique().tolist() == [127] and c.unique().tolist() == [255]


def test_what_lies_beside_images_is_not_read(tmp_path):
    folder, other = tmp_path / 'set', tmp_path / 'other'
    (folder / '.ipynb_checkpoints').mkdir(parents=True)
    (folder / 'b.png').mkdir()
    other.mkdir()
    picture().save(folder / 'a.png')
    picture().save(folder / '.ipynb_checkpoints' / 'a-checkpoint.png')
    (folder / '._a.png').write_bytes(b'\0\5\26\7' + b'\0' * 80)
    assert [f.name for f in image_files(folder)] == ['a.png']
    picture(seed=1).save(other / 'z.png')
    os.symlink(other, folder / 'linked')
    os.symlink(folder, other / 'back')
    assert [f.name for f in image_files(folder)] == ['a.png', 'z.png'] and len(read_folder(folder, 16)) == 2


@pytest.mark.parametrize('suffix', ['jpg', 'png', 'webp', 'tif'])
def test_a_damaged_file_is_named(tmp_path, suffix):
    for k in range(3):
        picture(size=(90, 90), seed=k).save(tmp_path / f'{k}.{suffix}')
    file = tmp_path / f'1.{suffix}'
    file.write_bytes(file.read_bytes()[:3000])
    assert error_message(ValueError, read_folder, tmp_path, 32).startswith(f'{file} must be an image that is whole')


def lmdb_of(place, contents):
    lmdb = pytest.importorskip('lmdb')
    with lmdb.open(str(place), map_size=2**24) as store, store.begin(write=True) as view:
        for k, content in enumerate(contents):
            view.put(f'key{k}'.encode(), content)


def encoded(image, kind='jpeg'):
    image.save(buffer := BytesIO(), kind)
    return buffer.getvalue()


def test_the_key_of_a_damaged_image_is_named(tmp_path):
    whole = encoded(picture(size=(90, 90)))
    lmdb_of(tmp_path, [whole, whole[:2000], whole])
    assert error_message(ValueError, read_lmdb, tmp_path, 32).startswith(
        f'key key1 of {tmp_path} must be an image that is whole'
    )


def test_a_cut_lmdb_does_not_end_the_interpreter(tmp_path):
    lmdb_of(tmp_path / 'store', [encoded(picture(size=(90, 90), seed=k)) for k in range(12)])
    code = """
import sys
from pathlib import Path
from vaebm.images import read_lmdb
file, whole = Path(sys.argv[1], 'data.mdb'), Path(sys.argv[1], 'data.mdb').read_bytes()
print(len(read_lmdb(file.parent, 16)))
for n in [*range(0, len(whole), 3000), len(whole) - 1]:
    file.write_bytes(whole[:n])
    try: read_lmdb(file.parent, 16)
    except ValueError as error: assert str(file) in str(error), error
    else: sys.exit(f'{n} bytes of {len(whole)} were read')
"""
    done = subprocess.run([sys.executable, '-c', code, str(tmp_path / 'store')], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout == '12\n', done.stderr


@pytest.fixture
def little_sets(tmp_path, monkeypatch):
    "Sets of a few images: where they lie."
    monkeypatch.setenv('VAEBM_DATA', str(tmp_path))
    for name in ('mnist', 'cifar10', 'church64'):
        monkeypatch.setitem(
            IMAGE_SETS, name, IMAGE_SETS[name]._replace(counts={'train': 20, 'test': 10}, sha256={})
        )
    monkeypatch.delitem(images.CHANNEL_MEANS, ('cifar10', 'train'))
    return tmp_path


def test_folders_have_the_count_channels_and_classes_of_their_set(little_sets):
    for k in range(20):
        place = little_sets / 'mnist' / 'train' / str(k % 10)
        place.mkdir(parents=True, exist_ok=True)
        Image.new('L', (28, 28), k).save(place / f'{k}.png')
    images = load_images('mnist', 'train', download=False)
    assert images.pixels.shape == (20, 1, 28, 28) and torch.equal(
        images.pixels[:, 0, 0, 0] % 10, images.labels.to(torch.uint8)
    )
    (place / '99.png').write_bytes((place / '19.png').read_bytes())
    assert 'must hold the 20 images of mnist (train), got 21' in error_message(
        ValueError, load_images, 'mnist', 'train', False
    )
    (place / '99.png').unlink()
    picture(size=(28, 28)).save(place / '19.png')
    assert 'must hold grey images' in error_message(ValueError, load_images, 'mnist', 'train', False)


def test_a_folder_without_classes_is_no_set_with_classes(little_sets):
    place = little_sets / 'cifar10' / 'train'
    place.mkdir(parents=True)
    for k in range(20):
        picture(size=(32, 32), seed=k).save(place / f'{k}.png')
    assert 'must hold a folder for each of its 10 classes, got 0' in error_message(
        ValueError, load_images, 'cifar10', 'train', False
    )


def test_arrays_have_the_labels_of_their_set(little_sets):
    x = np.zeros((20, 32, 32, 3), np.uint8)
    np.savez(little_sets / 'cifar10_train.npz', images=x)
    assert (
        error_message(ValueError, load_images, 'cifar10', 'train', False)
        == 'cifar10_train.npz must hold labels from 0 to 9, got none'
    )
    np.savez(little_sets / 'cifar10_train.npz', images=x, labels=np.arange(20))
    assert 'got some from 0 to 19' in error_message(ValueError, load_images, 'cifar10', 'train', False)
    np.savez(little_sets / 'cifar10_train.npz', images=x, labels=np.arange(20) % 10)
    assert load_images('cifar10', 'train', download=False).labels.tolist() == [k % 10 for k in range(20)]


@pytest.mark.parametrize('name, split', [key for key in images.CHANNEL_MEANS if key[1] == 'test'])
def test_black_images_are_none_of_the_known_sets(tmp_path, monkeypatch, name, split):
    monkeypatch.setenv('VAEBM_DATA', str(tmp_path))
    n = IMAGE_SETS[name].counts[split]
    np.savez_compressed(
        tmp_path / f'{name}_{split}.npz',
        images=np.zeros((n, 32, 32, 3), np.uint8),
        labels=np.zeros(n, np.uint8),
    )
    assert 'whose channels have the means' in error_message(ValueError, load_images, name, split, False)


def test_a_part_that_says_so_is_used_and_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv('VAEBM_DATA', str(tmp_path))
    part = {'images': np.zeros((2000, 32, 32, 3), np.uint8), 'labels': np.arange(2000) % 10}
    np.savez(tmp_path / 'svhn_test.npz', **part)
    assert 'must hold svhn as (26032, 3, 32, 32), got (2000, 3, 32, 32); a part of the set says so' in error_message(
        ValueError, load_images, 'svhn', 'test', False
    )
    np.savez(tmp_path / 'svhn_test.npz', **part, subset='the first 2,000')
    with pytest.warns(
        UserWarning,
        match=r'svhn_test.npz holds a part of svhn \(test\), 2,000 of 26,032 images: the first 2,000',
    ):
        images = load_images('svhn', 'test', download=False)
    assert len(images) == 2000 and images.labels[13] == 3
    (tmp_path / 'celeba64' / 'test').mkdir(parents=True)
    for k in range(3):
        picture(size=(178, 218), seed=k).save(tmp_path / 'celeba64' / 'test' / f'{k}.jpg')
    assert 'must hold the 19,962 images of celeba64 (test), got 3' in error_message(
        ValueError, load_images, 'celeba64', 'test'
    )
    (tmp_path / 'celeba64' / 'test' / 'subset.txt').write_text('three of them\n')
    with pytest.warns(UserWarning, match='3 of 19,962 images: three of them'):
        assert load_images('celeba64', 'test').pixels.shape == (3, 3, 64, 64)


@pytest.mark.parametrize(
    'where', ['church64/train', 'church64/train/church_outdoor_train_lmdb', 'church_outdoor_train_lmdb']
)
def test_lsun_is_found_as_it_is_shipped(little_sets, where):
    (little_sets / where).mkdir(parents=True)
    lmdb_of(little_sets / where, [encoded(picture(seed=k), 'webp') for k in range(20)])
    assert load_images('church64', 'train').pixels.shape == (20, 3, 64, 64)
    assert np.load(prepare('church64', 'train', 32, 20))['images'].shape == (20, 32, 32, 3)


def test_without_the_package_an_lmdb_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'lmdb', None)
    (tmp_path / 'data.mdb').touch()
    for call in (lambda: read_lmdb(tmp_path, 32), lambda: write_example('church64', 'test', 2, tmp_path)):
        assert error_message(ImportError, call).endswith("pip install 'vaebm[run]'")


def test_files_that_hold_no_images_are_named_and_no_unsafe_advice_is_given(tmp_path):
    (tmp_path / 'junk.npz').write_bytes(b'junk')
    np.savez(tmp_path / 'objects.npz', images=np.array([{}], dtype=object))
    np.savez(tmp_path / 'deep.npz', images=np.zeros((2, 8, 8), np.uint16))
    for name in ('junk', 'objects', 'deep'):
        text = error_message(ValueError, read_npz, tmp_path / f'{name}.npz')
        assert f'{name}.npz' in text and 'pickle' not in text
    assert 'got uint16 of shape (2, 8, 8)' in text


def test_bytes_and_floats_are_the_same_images_and_nothing_else_is_one():
    x = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert (
        torch.equal(as_images(x), x / 255) and torch.equal(to_bytes(x / 255), x) and torch.equal(to_bytes(x), x)
    )
    noisy = x / 255 + 0.3 * torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    assert as_images(noisy) is noisy
    broken = noisy.clone()
    broken[1, 0, 0, 0] = float('nan')
    assert error_message(ValueError, as_images, x.float()).startswith('x must be images in [0, 1], got values from')
    assert (
        error_message(ValueError, as_images, broken, 'samples')
        == 'samples must be finite, but 1 of 2 rows hold NaN or infinity, the first at index 1'
    )
    assert (
        error_message(ValueError, as_images, x.short())
        == 'x must be bytes (torch.uint8) or floats in [0, 1], got torch.int16'
    )
    assert 'got values from -1 to 1' in error_message(
        ValueError,
        ImageStageOne,
        vaebm.load_pretrained('nvae_digits'),
        2 * (x > 99).float() - 1,
        ImageStageOneConfig(),
    )


def test_the_models_take_bytes_as_images():
    model = vaebm.load_pretrained('nvae_digits')
    x = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    for call in (model.infer, model.elbo, lambda x, generator: model.iwae(x, 2, generator)):
        assert torch.equal(
            call(x, generator=torch.Generator().manual_seed(1)),
            call(x / 255, generator=torch.Generator().manual_seed(1)),
        )
    net = EnergyResNet(4, 'd1')
    assert torch.equal(net(x), net(x / 255)) and error_message(ValueError, net, x.float()).startswith(
        'x must be images in [0, 1]'
    )


def test_a_mapped_file_gives_the_same_batches(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (30, 8, 8, 3), np.uint8)
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / 'set.npz', labels=np.arange(30), images=pixels)
        whole, mapped = read_npz(tmp_path / 'set.npz'), read_npz(tmp_path / 'set.npz', mapped=True)
        assert torch.equal(whole.labels, mapped.labels) and pixels_sha256(whole) == pixels_sha256(mapped)
        for rows in (3, slice(4, 9), torch.tensor([5, 2, 2])):
            assert torch.equal(whole[rows], mapped[rows]) and whole[rows].stride() == mapped[rows].stride()
    grey = pixels[..., 0]
    np.savez(tmp_path / 'grey.npz', images=grey)
    mapped = read_npz(tmp_path / 'grey.npz', mapped=True)
    mapped.pixels[0] = 0  # in memory alone
    assert np.array_equal(np.load(tmp_path / 'grey.npz')['images'], grey)
    np.savez(tmp_path / 'floats.npz', images=pixels / 255)
    text = error_message(ValueError, read_npz, tmp_path / 'floats.npz', mapped=True)
    assert text.startswith('floats.npz must hold `images` as bytes')


def test_decoding_is_taken_up_where_an_error_ended_it(tmp_path):
    folder, parts = tmp_path / 'photos', tmp_path / 'parts'
    folder.mkdir()
    for k in range(10):
        picture(seed=k).save(folder / f'{k}.png')
    good = (folder / '7.png').read_bytes()
    (folder / '7.png').write_bytes(good[:40])
    for workers in (1, 2):
        text = error_message(ValueError, decode, folder, 8, parts, each=2, workers=workers)
        assert text.startswith(f'{folder / "7.png"} must be an image that is whole')
    done = {file.name for file in parts.iterdir()}
    assert len(done) == 4
    (folder / '7.png').write_bytes(good)
    one_by_one = np.stack([read_image(folder / f'{k}.png', 8) for k in range(10)])
    assert np.array_equal(decode(folder, 8, parts, each=2), one_by_one)
    assert len(decode(folder, 4, parts, each=2)[0]) == 4  # another size, other parts


def test_decoding_an_lmdb_gives_its_images(tmp_path):
    (tmp_path / 'church').mkdir()
    lmdb_of(tmp_path / 'church', [encoded(picture(seed=k), 'webp') for k in range(7)])
    pixels = decode(tmp_path / 'church', 16, tmp_path / 'parts', each=3, workers=2)
    assert np.array_equal(pixels, lmdb_images(tmp_path / 'church', 16))
