"""What several test files share: a small NVAE, a small training on points, one kernel of every kind, an old file."""

import hashlib
import json
from dataclasses import replace

import safetensors.torch
import torch
from torch import nn

from vaebm import samplers
from vaebm.config import configure
from vaebm.images import Images
from vaebm.nvae import NVAE, NVAEConfig
from vaebm.training import Config

SIZES = NVAEConfig(
    image_size=8,
    groups=2,
    latent=2,
    channels_enc=4,
    channels_dec=4,
    cells_pre=1,
    cells_post=1,
    cells_enc=1,
    cells_dec=1,
)
TINY = replace(SIZES, image_size=32, blocks_pre=3, blocks_post=3, flows=0, channels=1)  # images of clothes
KERNELS = {
    'langevin': samplers.langevin(0.01),
    'mala': samplers.mala(0.01),
    'pcn_langevin': samplers.pcn_langevin(0.1, adjust=True),
    'underdamped': samplers.underdamped(0.1, 2.0),
    'hmc': samplers.hmc(0.1, 3),
    'independence': samplers.independence(2),
    'split_hmc': samplers.split_hmc(0.1, 2),
    'clipped_descent': samplers.clipped_descent(1.0, 0.1, 0.01),
    'cycle': samplers.cycle(samplers.mala(0.01), samplers.independence(2)),
}
SMALL = configure(
    Config(),
    {
        'network': {'width': 8},
        'stage1': {'n_steps': 3, 'batch_size': 8},
        'stage2': {'n_steps': 3, 'batch_size': 8, 'buffer_size': 8},
    },
)


def tiny(seed: int = 0) -> NVAE:
    "An untrained NVAE of clothes."
    torch.manual_seed(seed)
    return NVAE(TINY).eval().requires_grad_(False)


def seed(k):
    return torch.Generator().manual_seed(k)


def model_of(channels=3):
    "A small NVAE whose batch-norm statistics are far from any data."
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = NVAE(replace(SIZES, channels=channels))
    for m in norms(model):
        m.running_mean.fill_(3.0)
        m.running_var.fill_(5.0)
    return model.eval()


def images_of(channels=3):
    return Images(torch.randint(0, 256, (40, channels, 8, 8), generator=seed(1), dtype=torch.uint8))


def norms(model):
    return [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]


def former_file(path, state):
    """A file as the first version of the library wrote it: two entries of metadata, names joined by
    slashes.
    """

    def pack(node, tensors, name):
        if isinstance(node, torch.Tensor):
            tensors[name] = node.clone()
            return {'tensor': name}
        if isinstance(node, dict):
            return {'dict': [[k, pack(v, tensors, f'{name}/{k}')] for k, v in node.items()]}
        if isinstance(node, list):
            return {'list': [pack(v, tensors, f'{name}/{i}') for i, v in enumerate(node)]}
        return node

    tensors = {}
    tree = json.dumps(pack(state, tensors, ''))
    h = hashlib.sha256(tree.encode())
    for name in sorted(tensors):
        h.update(name.encode())
        h.update(tensors[name].reshape(-1).view(torch.uint8).numpy())
    safetensors.torch.save_file(tensors, path, {'tree': tree, 'sha256': h.hexdigest()})
