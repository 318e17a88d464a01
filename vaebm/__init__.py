"""VAEBM: a product of a variational autoencoder and an energy-based model (Xiao et al., ICLR 2021).

    model = vaebm.load_pretrained('fashion_mnist')
    images = model.sample(16, torch.Generator().manual_seed(0), mean=True)

The names below are imported when they are first used, so `import vaebm.data` loads no networks and no figures."""
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vaebm import samplers
    from vaebm.energy import Energy, MLPEnergy
    from vaebm.energy_nets import EnergyResNet
    from vaebm.fast import fold
    from vaebm.model import VAEBM
    from vaebm.nvae import NVAE, NVAEConfig
    from vaebm.pretrained import list_pretrained, load_pretrained
    from vaebm.vae import MLPVAE, NoiseVAE

__version__ = "0.1.0"
__all__ = ["Energy", "EnergyResNet", "MLPEnergy", "MLPVAE", "NVAE", "NVAEConfig", "NoiseVAE", "VAEBM",
           "fold", "list_pretrained", "load_pretrained", "samplers"]

# `fast` has VAEBM and fold together with the rules by which `VAEBM.sample` folds networks.
_MODULES = {"Energy": "energy", "EnergyResNet": "energy_nets", "MLPEnergy": "energy", "MLPVAE": "vae", "NVAE": "nvae",
            "NVAEConfig": "nvae", "NoiseVAE": "vae", "VAEBM": "fast", "fold": "fast",
            "list_pretrained": "pretrained", "load_pretrained": "pretrained"}


def __getattr__(name: str):
    if name == "samplers":
        return import_module("vaebm.samplers")
    if name not in _MODULES:
        raise AttributeError(f"module 'vaebm' has no attribute {name!r}")
    return getattr(import_module(f"vaebm.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
