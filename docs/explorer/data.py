"""What the explorer page computes with: the published networks and pictures, written for a browser.

Everything lies in one folder beside the scripts, and nothing needs a server.
"""

import base64
import json
import shutil
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from vaebm.data import embedded_digits, gaussian_grid
from vaebm.explore import slerp
from vaebm.fast import fold
from vaebm.pretrained import load_pretrained

LIMIT = 5.5  # the plane that is drawn goes from -LIMIT to LIMIT
CAP = 12  # nats above the energy of a mode that are drawn darkest
POSITIONS = 9  # pictures on a way between two digits
MOVING = {'all': [1, 2, 3, 4], 'coarse': [1, 2], 'fine': [3, 4]}  # groups of `nvae_digits`, the first is 1


def layers(network):
    "Sizes of the linear layers, and all weights and biases as base64 of little-endian float32."
    linear = [m for m in network if isinstance(m, torch.nn.Linear)]
    numbers = [t.detach().flatten() for m in linear for t in (m.weight, m.bias)]
    floats = torch.cat(numbers).numpy().astype('<f4')
    return {
        'sizes': [linear[0].in_features, *(m.out_features for m in linear)],
        'floats': base64.b64encode(floats.tobytes()).decode(),
    }


def energy_map(energy, lowest, side=220):
    "A picture of the energy on the plane: white on a mode, purple from CAP nats above it."
    line = (torch.arange(side) + 0.5) / side * 2 * LIMIT - LIMIT
    x = torch.cartesian_prod(line, line)
    share = ((energy(x).view(side, side) - lowest) / CAP).clamp(0, 1)
    share = share.T.flip(0)[..., None].numpy()  # a row of pixels is a value of x2, the largest first
    white, purple = np.array([255, 255, 255]), np.array([118, 42, 131])
    return Image.fromarray((white + share * (purple - white)).round().astype(np.uint8))


def one_of_each_class():
    "Ten test digits of `nvae_digits`, 0 to 9, shape (10, 3, 16, 16): its last 500, as chapter 18 orders them."
    digits, labels = embedded_digits()
    order = torch.randperm(5000, generator=torch.Generator().manual_seed(0))[4500:]
    rows = torch.stack([order[labels[order] == k][0] for k in range(10)])
    small = F.pad(F.avg_pool2d(digits[rows], 2), (1, 1, 1, 1))
    return small.expand(-1, 3, -1, -1)


def ways(vae, a, b):
    """Pictures while parts of the noise go from `a` to `b`, both of shape (D,): for each part `POSITIONS`
    means of the decoder, shape (3 * POSITIONS, 16, 16).
    """
    noise = a.repeat(len(MOVING), POSITIONS, 1)
    part = torch.arange(len(vae.layout.sizes)).repeat_interleave(torch.tensor(vae.layout.sizes))
    for rows, moving in zip(noise, MOVING.values()):
        moved = torch.isin(part, torch.tensor(moving))
        if not a.equal(b):
            rows[:, moved] = slerp(a[moved], b[moved], torch.linspace(0, 1, POSITIONS))
    return vae.transform(noise.flatten(0, 1)).clamp(0, 1).mean(1)


def ways_between_digits(vae):
    "One picture of all ways: a row for each first and second digit, in it what `ways` gives."
    noise = vae.layout.center(vae.infer(one_of_each_class(), torch.Generator().manual_seed(0)))
    folded = fold(vae)
    rows = [torch.cat(list(ways(folded, a, b)), 1) for a in noise for b in noise]
    return Image.fromarray((torch.cat(rows) * 255).round().byte().numpy())


@torch.no_grad()
def write(folder):
    "Put scripts, networks and pictures of the explorer page into `folder`."
    folder.mkdir(parents=True, exist_ok=True)
    for path in Path(__file__).parent.glob('*.[jc]s*'):
        shutil.copy(path, folder)
    model, grid = load_pretrained('25_gaussians'), gaussian_grid()
    lowest = model.energy(grid.centres).median()
    data = {
        'limit': LIMIT,
        'modes': grid.centres.tolist(),
        'sigma': grid.sigma,
        'decoder': layers(model.vae.decoder),
        'energy': layers(model.energy.net),
    }
    (folder / 'data.js').write_text(f'const DATA = {json.dumps(data)};\n')
    energy_map(model.energy, lowest).save(folder / 'energy.png')
    ways_between_digits(load_pretrained('nvae_digits')).save(folder / 'digits.png', optimize=True)
