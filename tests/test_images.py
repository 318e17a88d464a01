"""Image sets: found in the stated order, verified, and read the same whatever the source."""
import hashlib
import os

import numpy as np
import pytest
import torch

import vaebm
from vaebm import data
from vaebm.data import FASHION_CLASSES, IMAGE_SETS, Images, StackedDigits, load_images
from vaebm.metrics import class_report, load_classifier
from vaebm.runs import message, package_folder

LOCAL = [(name, split) for name, known in IMAGE_SETS.items() for split in known.counts if os.environ.get('VAEBM_DATA') and os.path.exists(os.path.join(os.environ['VAEBM_DATA'], f'{name}_{split}.npz'))]


@pytest.mark.skipif(not LOCAL, reason='VAEBM_DATA names no image files')
@pytest.mark.parametrize('name,split', LOCAL)
def test_local_sets_are_what_they_should_be(name, split):
    images = load_images(name, split, download=False)
    assert len(images) == IMAGE_SETS[name].counts[split] and tuple(images.pixels.shape[1:]) == IMAGE_SETS[name].shape
    assert images.labels.unique().numel() == (100 if name == 'cifar100' else 10)


@pytest.mark.skipif(('cifar10', 'train') not in LOCAL, reason='no local CIFAR-10')
def test_cifar10_has_its_published_channel_means():
    pixels = load_images('cifar10', 'train', download=False).pixels
    mean = torch.tensor([pixels[:, c].double().mean() / 255 for c in range(3)])
    assert torch.allclose(mean, torch.tensor([.4914, .4822, .4465]).double(), atol=1e-4)


def test_files_come_before_the_embedded_digits(tmp_path, monkeypatch):
    monkeypatch.setenv('VAEBM_DATA', str(tmp_path))
    assert len(load_images('mnist', 'train', download=False)) == 4500
    np.savez(tmp_path / 'mnist_train.npz', images=np.zeros((60_000, 28, 28), np.uint8), labels=np.zeros(60_000, np.uint8))
    assert 'checksum differs' in message(ValueError, load_images, 'mnist', 'train', False)
    assert not {tuple(r.tolist()) for r in load_images('mnist', 'test', False).pixels.flatten(1)} & {tuple(r.tolist()) for r in _embedded_train().flatten(1)}


def _embedded_train():
    from vaebm.data import _embedded_mnist
    return _embedded_mnist('train').pixels


# per split: images of each class, SHA-256 of pixels (N, 28, 28) and of labels, as bytes
EMBEDDED_FASHION = {
    'train': (1000, 'e1427044c614fabc29feeff0f27e6b68f88a9ee2f2cfe7d783b9157159864883',
              '2c02745d4ad8b4511333d0eca662ac5664a371860abaa4588b1670e7be59fbdf'),
    'test': (200, '96315b1732ab731e68b8def3c284f34b605f7deb7a61e683c7d786265c827c83',
             'b2095bc797d1201e84da76c94012c02d0e6f07af0938df4e00120a3b42d1aa4c'),
}


def sha256(x): return hashlib.sha256(x.byte().numpy().tobytes()).hexdigest()


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
    def refuse(cls, folder, split, download): raise OSError('no network')
    monkeypatch.setattr(data, '_from_torchvision', refuse)
    assert len(load_images('fashion_mnist', 'train')) == 10_000 and len(load_images('fashion_mnist', 'test')) == 2_000
    np.savez(no_files / 'fashion_mnist_test.npz', images=np.zeros((10_000, 28, 28), np.uint8))
    assert 'not those of fashion_mnist (test)' in message(ValueError, load_images, 'fashion_mnist', 'test')


@pytest.mark.skipif(('fashion_mnist', 'train') not in LOCAL or ('fashion_mnist', 'test') not in LOCAL, reason='no local Fashion-MNIST')
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
    assert sorted(ink, key=ink.get)[:2] == ['sandal', 'sneaker'] and max(ink, key=ink.get) in ('pullover', 'coat')
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
    assert (report['classes'] == digits).float().mean() > .98 and report['confidence'] > .98
    assert abs(report['shares'].sum() - 1) < 1e-6 and report['share_kl'] < .03


def test_stacked_digits_need_labels_and_one_channel():
    for bad in (Images(torch.zeros(3, 1, 28, 28, dtype=torch.uint8)), Images(torch.zeros(3, 3, 28, 28, dtype=torch.uint8), torch.zeros(3))):
        assert message(ValueError, StackedDigits, bad) == 'digits must have one channel and labels'
