"""Both trainings of a run on images: bounds of its VAEs, and the evaluations of its energy."""

import copy
import math

import torch

import small

from vaebm.checkpoints import write_json
from vaebm.experiment import Run, image_run
from vaebm.images import Images
from vaebm.pipeline import FewBits, bound_of, evaluations_of, fingerprint, former_fingerprint, kept_evaluation


def seeded(k):
    return torch.Generator().manual_seed(k)


def test_bounds_of_equal_models_differ_by_nothing():
    vae, x = small.tiny(), torch.rand(20, 1, 32, 32, generator=seeded(2))
    found = bound_of({'a': vae, 'b': copy.deepcopy(vae)}, x, 0.1, 0)
    assert found['b']['difference'] == found['b']['difference_se'] == 0
    assert abs(found['a']['bits_pixel'] - found['a']['bits_density'] - 6.9944) < 1e-3  # log2(255 / 2)
    assert (
        abs(found['a']['elbo'] + found['a']['bits_density'] * 1024 * torch.log(torch.tensor(2.0)).item()) < 1e-2
    )


def test_evaluations_that_are_not_finite_or_were_written_before_are_read(tmp_path):
    written = [{'step': 0, 'distance': 5.0, 'score': -5.0}, {'step': 2, 'frechet': None, 'score': None}]
    write_json(tmp_path / 'evaluations.json', [*written, {'step': 4, 'score': None}, {'step': 6, 'frechet': 3.0}])
    run = Run(image_run('fashion_mnist', 'smoke', {}), tmp_path)
    assert [r['frechet'] for r in evaluations_of(run)] == [5.0, math.inf, math.inf, 3.0]
    assert kept_evaluation(run)['step'] == 6


def test_few_bits_keep_the_order_and_both_ends():
    ramp = Images(torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16))
    shown = FewBits(ramp, 5)[:].flatten()
    assert len(shown.unique()) == 32 and shown[0] == 0 and shown[-1] == 1 and (shown.diff() >= 0).all()
    assert torch.equal(FewBits(ramp, 8)[:], ramp[:])


def test_fingerprints_tell_weights_apart():
    a, b = small.tiny(), small.tiny()
    assert fingerprint(a) == fingerprint(b) and former_fingerprint(a) == former_fingerprint(b)
    b.get_parameter('top').data.view(-1)[0] += 1e-6
    assert fingerprint(a) != fingerprint(b) and former_fingerprint(a) != former_fingerprint(b)
