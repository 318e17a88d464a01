"""Batch-norm statistics taken from images or from samples."""

import copy

import pytest
import torch

from small import images_of, model_of, norms, seed

from vaebm.batch_norm import readjust_batch_norm, update_batch_norm
from vaebm.config import error_message


def statistics(model):
    "Copies of all running statistics and counts, by name."
    return {
        name: v.clone() for name, v in model.state_dict().items() if 'running' in name or 'num_batches' in name
    }


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(v, b[k]) for k, v in a.items())


@pytest.mark.parametrize('channels', [1, 3])
def test_statistics_are_those_of_the_same_batches_by_hand(channels):
    "Means and unbiased variances of every batch norm's inputs, averaged over the batches."
    model, images = model_of(channels), images_of(channels)
    update_batch_norm(model, images, n_batches=3, batch_size=8, noise=0.1, generator=seed(2))
    other = model_of(channels).train()
    g = seed(2)
    inputs = {}
    for m in norms(other):
        m.register_forward_pre_hook(lambda m, args: inputs.setdefault(m, []).append(args[0]))
    with torch.no_grad():
        for _ in range(3):
            x = images.sample(8, g)
            other.reconstruct(x + 0.1 * torch.randn(x.shape, generator=g), generator=g)
    assert len(norms(model)) == len(inputs) > 10
    for ours, theirs in zip(norms(model), norms(other)):
        mean, var = (
            torch.stack([f(x, (0, 2, 3)) for x in inputs[theirs]]).mean(0) for f in (torch.mean, torch.var)
        )
        assert torch.allclose(ours.running_mean, mean, atol=1e-5)
        assert torch.allclose(ours.running_var, var, rtol=1e-4, atol=1e-6)


def test_nothing_else_changes():
    model = model_of()
    before, kept = copy.deepcopy(model.state_dict()), [(m.momentum, m.training) for m in norms(model)]
    update_batch_norm(model, images_of(), n_batches=2, batch_size=8, generator=seed(3))
    changed = {name for name, v in model.state_dict().items() if not torch.equal(v, before[name])}
    assert changed == set(statistics(model)) and kept == [(m.momentum, m.training) for m in norms(model)]


class Failing:
    "Images that cannot be drawn a second time."

    def __init__(self, images):
        self.images, self.calls = images, 0

    def sample(self, n, generator):
        self.calls += 1
        if self.calls > 1:
            raise OSError('the file is gone')
        return self.images.sample(n, generator)


def test_errors_restore_the_old_statistics():
    model, images = model_of(), images_of()
    before, kept = statistics(model), [(m.momentum, m.training) for m in norms(model)]
    assert (
        error_message(ValueError, update_batch_norm, model, images, 0)
        == 'n_batches must be a whole number >= 1, got 0'
    )
    assert error_message(OSError, update_batch_norm, model, Failing(images), 2, 8) == 'the file is gone'
    assert same(statistics(model), before) and kept == [(m.momentum, m.training) for m in norms(model)]
    with torch.no_grad():
        model.stem.weight[0, 0] = float('inf')
    text = error_message(FloatingPointError, update_batch_norm, model, images, 2, 8)
    assert text == 'batch-norm statistics of the images are not finite; the old ones are kept'
    assert same(statistics(model), before)


def test_decoder_alone_is_readjusted_to_samples():
    model = model_of()
    before = statistics(model)
    readjust_batch_norm(model, 0.7, n_batches=2, batch_size=8, generator=seed(4))
    changed = {name.split('.')[0] for name, v in statistics(model).items() if not torch.equal(v, before[name])}
    assert changed <= {'groups', 'post'} and 'post' in changed
