"""Image sets: found in the stated order, verified, and read the same whatever the source."""
import os

import numpy as np
import pytest
import torch

from vaebm.data import IMAGE_SETS, Images, StackedDigits, load_images
from vaebm.metrics import class_report, load_classifier
from vaebm.runs import message

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
    from vaebm.data import _embedded
    return _embedded('train').pixels


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
