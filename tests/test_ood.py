"""Out of distribution: paired differences of areas, and scores that need no training."""

import io
import math

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import gaussian_kde
from sklearn.metrics import roc_auc_score

from vaebm.ood import auroc, auroc_difference, density_of_states, energy_slope, png_nats


def scores(n, shift, k):
    "Two scores of the same images that share most of their noise."
    g = torch.Generator().manual_seed(k)
    shared = torch.randn(n, generator=g)
    return torch.stack([shared + shift + 0.5 * torch.randn(n, generator=g) for _ in range(2)])


def test_a_difference_is_that_of_two_areas_and_its_sign_follows_the_order():
    inside, outside = scores(80, 0.5, 0), scores(60, 0.0, 1)
    found = auroc_difference(inside, outside, 200, torch.Generator().manual_seed(2))
    labels = [1] * 80 + [0] * 60
    areas = [roc_auc_score(labels, torch.cat([i, o])) for i, o in zip(inside, outside)]
    assert abs(found['difference'] - (areas[0] - areas[1])) < 1e-9
    swapped = auroc_difference(inside.flip(0), outside.flip(0), 200, torch.Generator().manual_seed(2))
    assert swapped['difference'] == -found['difference']
    assert swapped['interval'] == pytest.approx([-v for v in reversed(found['interval'])])


def test_a_score_does_not_differ_from_itself_however_few_images():
    s = scores(5, 0.0, 3)[:1].expand(2, -1)
    assert auroc_difference(s, s + 0.1, 50) == {'difference': 0.0, 'interval': [0.0, 0.0]}


def test_paired_intervals_hold_the_difference_nineteen_times_of_twenty_and_are_narrower():
    "The true areas are equal; the difference of single intervals would be far wider."
    held, widths, single = 0, [], []
    for k in range(60):
        inside, outside = scores(100, 1.0, 2 * k), scores(100, 0.0, 2 * k + 1)
        low, high = auroc_difference(inside, outside, 200, torch.Generator().manual_seed(k))['interval']
        held += low <= 0 <= high
        widths.append(high - low)
        a, b = auroc(inside[0], outside[0], 200, torch.Generator().manual_seed(k))['interval']
        single.append(b - a)
    assert held > 50 and np.mean(widths) < 0.8 * 2**0.5 * np.mean(single)


@pytest.mark.parametrize(
    'inside, outside, text',
    [
        (torch.zeros(3), torch.zeros(2, 3), r'inside must be finite scores of shape \(2, n\), got shape \(3,\)'),
        (torch.zeros(3, 4), torch.zeros(3, 4), 'must hold two scores, got 3 and 3'),
        (torch.zeros(2, 3), torch.full((2, 3), math.nan), 'outside must be finite .* 6 not finite'),
        (torch.zeros(2, 0), torch.zeros(2, 3), 'inside must be finite'),
    ],
)
def test_other_shapes_are_refused(inside, outside, text):
    with pytest.raises(ValueError, match=text):
        auroc_difference(inside, outside)


@pytest.mark.parametrize('channels', [1, 3])
def test_nats_of_a_png_file(channels):
    x = torch.rand(3, channels, 16, 16, generator=torch.Generator().manual_seed(0))
    x[1] = 0.5
    found = png_nats(x)
    file = io.BytesIO()
    pixels = (x[0] * 255).round().byte().permute(1, 2, 0).numpy()
    Image.fromarray(pixels[..., 0] if channels == 1 else pixels).save(file, 'png', optimize=True)
    assert found.shape == (3,) and found[0] == pytest.approx(8 * math.log(2) * file.tell())
    assert found[1] < found[0] / 2


def test_slope_of_a_quadratic_energy():
    x = torch.rand(5, 3, 4, 4)
    torch.testing.assert_close(energy_slope(lambda v: 0.5 * v.square().sum((1, 2, 3)), x, 2), x.flatten(1).norm(dim=1))


def test_density_of_states_is_the_sum_of_kernel_estimates():
    familiar = {'a': torch.randn(50), 'b': 3 * torch.randn(50)}
    mine = {'a': torch.tensor([0.0, 9.0]), 'b': torch.tensor([0.0, 0.0])}
    found = density_of_states(familiar, mine)
    expected = sum(gaussian_kde(familiar[k].double().numpy()).logpdf(mine[k].double().numpy()) for k in 'ab')
    assert torch.allclose(found, torch.from_numpy(expected)) and found[1] < found[0] - 5
    with pytest.raises(KeyError):
        density_of_states({'a': familiar['a']}, mine)
