"""Recorded numbers of the published reference implementation on tiny random models (tests/fixtures)."""

import json
from pathlib import Path

import numpy as np
import torch

from vaebm.released import load_released_energy, load_released_nvae

FIXTURES = Path(__file__).parent / 'fixtures'
DTYPES = [torch.float32, torch.float64]
EBMS = {'ebm_CIFAR32': 'cifar10', 'ebm_CelebA64': 'celeba64', 'ebm_MNIST': 'mnist'}


def arrays(name, dtype=torch.float32):
    "All arrays of a fixture as tensors, floats in `dtype`."
    with np.load(FIXTURES / f'{name}.npz') as f:
        tensors = {k: torch.from_numpy(f[k]) for k in f.files}
    return {k: t.to(dtype) if t.is_floating_point() else t for k, t in tensors.items()}


def part(tensors, prefix):
    return {k[len(prefix) + 1 :]: t for k, t in tensors.items() if k.startswith(prefix + '/')}


def series(tensors, prefix):
    "prefix/0, prefix/1, ... as a list."
    found = part(tensors, prefix)
    return [found[str(i)] for i in range(len(found))]


def nvae(name, dtype=torch.float32):
    t = arrays(name, dtype)
    args = json.loads((FIXTURES / f'{name}.json').read_text())['args']
    return load_released_nvae({'state_dict': part(t, 'sd'), 'args': args}).to(dtype), t


def energy(name, state='sd', dtype=torch.float32):
    t = arrays(name, dtype)
    return load_released_energy({'state_dict': part(t, state)}, EBMS[name]).to(dtype), t


def close(ours, theirs, tolerance=1e-4):
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().max() <= tolerance


def same_magnitude(ours, theirs, scale=None, tolerance=1e-6):
    "Equal up to `tolerance` of the magnitude, that of `theirs` unless given."
    close(ours, theirs, tolerance * (theirs.abs().max() if scale is None else scale))


def recorded_names(state):
    "Our parameter names for the state of an energy network."
    return {k.replace('skip.0', 'skip').replace('log_weight_norm', 'log_norm'): v for k, v in state.items()}
