"""Metrics count features that are not finite."""

import torch

from small import seed

from vaebm.config import error_message
from vaebm.data import NotFinite
from vaebm.frechet import Statistics, feature_distance, frechet_distance, inception_score, statistics
from vaebm.likelihood import weight_report
from vaebm.metrics import frechet_limit, kernel_distance, precision_recall


def test_features_that_are_not_finite_are_counted():
    f, reference = torch.randn(20, 4, generator=seed(0)), statistics(
        torch.nn.Identity(), [torch.randn(30, 4, generator=seed(1))]
    )
    f[[3, 7, 8], 1] = float('nan')
    said = {
        'statistics': lambda: statistics(torch.nn.Identity(), [f]),
        'feature_distance': lambda: feature_distance(reference, f),
        'frechet_limit': lambda: frechet_limit(reference, f),
        'kernel_distance': lambda: kernel_distance(f, f),
        'precision_recall': lambda: precision_recall(f, f),
        'inception_score': lambda: inception_score(f),
    }
    for name, call in said.items():
        assert '3 of 20 rows hold NaN or infinity, the first at index 3' in error_message(NotFinite, call), name
    assert 'the moments b must be finite' in error_message(
        NotFinite,
        frechet_distance,
        reference,
        Statistics(9, torch.full((4,), float('inf')).double(), torch.eye(4).double()),
    )
    log_w = torch.zeros(9)
    log_w[4] = float('nan')
    log_w[5] = float('inf')
    assert (
        error_message(NotFinite, weight_report, log_w)
        == 'log_w must be below infinity, but 2 of 9 are not, the first at index 4'
    )
    assert weight_report(torch.tensor([0.0, -float('inf')]))['ess'] == 0.5
