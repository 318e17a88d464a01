"""Classifiers: as good as their records, and features that are what the last layer reads."""

import json
from pathlib import Path

import pytest
import torch

from vaebm.classifier import (
    CLASSIFIERS,
    Classifier,
    ClassifierConfig,
    class_report,
    load_classifier,
    train_classifier,
)
from vaebm.config import error_message
from vaebm.frechet import feature_distance, statistics
from vaebm.images import Images, StackedDigits, load_images

CHECKPOINTS = Path(__file__).parents[1] / 'data' / 'checkpoints'
MANIFEST = json.loads((CHECKPOINTS / 'manifest.json').read_text())


def test_images(name, n=None):
    images = load_images(CLASSIFIERS[name][0], 'test', download=False).padded(2)
    return Images(images.pixels[:n], images.labels[:n])


test_images.__test__ = False


@pytest.mark.parametrize('name', CLASSIFIERS)
def test_accuracy_is_that_of_the_record(name):
    images = test_images(name, 1000)
    classes = class_report(load_classifier(name), images[:])['classes'][:, 0]
    accuracy, recorded = (classes == images.labels).float().mean().item(), MANIFEST[name]['metrics'][
        'test_accuracy'
    ]
    assert abs(accuracy - recorded) < 4 * (recorded * (1 - recorded) / len(images)) ** 0.5 + 0.002


def test_evaluators_are_of_another_kind_than_those_that_choose():
    for evaluator, chooser in (('digit_judge', 'digit_classifier'), ('fashion_judge', 'fashion_classifier')):
        (data, a), (same, b) = CLASSIFIERS[evaluator], CLASSIFIERS[chooser]
        assert data == same and a.architecture != b.architecture and a.seed != b.seed
        assert load_classifier(evaluator)[-1].in_features == 96 and load_classifier(chooser)[-1].in_features == 128


@pytest.mark.parametrize('name', CLASSIFIERS)
def test_features_are_what_the_last_layer_reads(name):
    net = load_classifier(name)
    x = test_images(name, 12)[:].view(4, 3, 32, 32)
    f, d = net.features(x), net[-1].in_features
    assert isinstance(net, Classifier) and f.shape == (4, 3 * d) and not f.requires_grad
    for c in range(3):
        assert torch.allclose(net[-1](f[:, c * d : (c + 1) * d]), net(x[:, c : c + 1]), atol=1e-4)
    assert torch.equal(net.features(3 * x - 1), net.features((3 * x - 1).clamp(0, 1)))
    assert (
        error_message(ValueError, net.features, x[:, :, :28, :28])
        == 'images must have shape (n, C, 32, 32), got (4, 3, 28, 28)'
    )


@pytest.mark.parametrize('name', CLASSIFIERS)
def test_damage_grows_the_distance_in_every_feature_space(name):
    net, images = load_classifier(name), test_images(name, 500)
    reference = statistics(net.features, [images[:250]])
    noise = torch.randn(250, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    x = images[250:]
    distances = [feature_distance(reference, net.features(y)) for y in (x, x + 0.1 * noise, x + 0.3 * noise)]
    assert distances == sorted(distances) and distances[2] > 3 * distances[0]


def test_distance_of_stacks_takes_the_features_of_all_channels():
    net, stacked = load_classifier(), StackedDigits(load_images('mnist', 'test', download=False))
    x, same = stacked.sample(600, torch.Generator().manual_seed(0)), stacked.sample(
        600, torch.Generator().manual_seed(1)
    )
    reference = statistics(net.features, x.split(200))
    grey = same[:, :1].expand(-1, 3, -1, -1)  # every channel holds digits, but always the same one
    assert reference.mean.shape == (384,)
    assert feature_distance(reference, net.features(grey)) > 3 * feature_distance(reference, net.features(same))


def test_clothes_of_one_channel_are_reported():
    images = test_images('fashion_judge', 1000)
    report = class_report(load_classifier('fashion_judge'), images[:])
    assert (
        report['classes'].shape == (1000, 1)
        and (report['classes'][:, 0] == images.labels).float().mean() > 0.88
    )
    assert (
        abs(report['shares'].sum() - 1) < 1e-6
        and report['share_kl'] < 0.02
        and 0.85 < report['confidence'] <= 1
    )
    only = class_report(load_classifier('fashion_judge'), images[images.labels == 1])  # trousers
    assert only['shares'].argmax() == 1 and only['shares'][1] > 0.95


def test_unknown_names_and_networks_are_refused():
    names = 'digit_classifier, digit_judge, fashion_classifier, fashion_judge'
    assert (
        error_message(ValueError, load_classifier, 'stacked_mnist')
        == f"name must be one of {names}, got 'stacked_mnist'"
    )
    assert (
        error_message(ValueError, ClassifierConfig, architecture='deep')
        == "architecture must be one of plain, residual, got 'deep'"
    )


@pytest.mark.parametrize('architecture', ['plain', pytest.param('residual', marks=pytest.mark.slow)])
def test_training_repeats_and_learns(architecture):
    images = load_images('fashion_mnist', 'train', download=False)
    few = Images(images.pixels[:512], images.labels[:512]).padded(2)
    config = ClassifierConfig(architecture, width=8, epochs=6, batch_size=32, seed=3)
    net, again = train_classifier(few, config), train_classifier(few, config)
    assert all(torch.equal(a, b) for a, b in zip(net.state_dict().values(), again.state_dict().values()))
    assert not net.training and not any(p.requires_grad for p in net.parameters())
    assert (net(few[:]).argmax(1) == few.labels).float().mean() > 0.5
