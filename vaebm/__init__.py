"""VAEBM: a product of a variational autoencoder and an energy-based model (Xiao et al., ICLR 2021).

    model = vaebm.load_pretrained('fashion_mnist')
    images = model.sample(16, torch.Generator().manual_seed(0), mean=True)

The names below are imported when they are first used, so `import vaebm.data` loads no networks and no figures."""
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vaebm import samplers
    from vaebm.energy import EnergyResNet, MLPEnergy
    from vaebm.fast import fold
    from vaebm.model import VAEBM
    from vaebm.nvae import NVAE, NVAEConfig
    from vaebm.training import list_pretrained, load_pretrained
    from vaebm.vae import MLPVAE

__version__ = "0.1.0"
__all__ = ["EnergyResNet", "MLPEnergy", "MLPVAE", "NVAE", "NVAEConfig", "VAEBM",
           "fold", "list_pretrained", "load_pretrained", "samplers"]

_MODULES = {"EnergyResNet": "energy", "MLPEnergy": "energy", "MLPVAE": "vae", "NVAE": "nvae", "NVAEConfig": "nvae",
            "VAEBM": "model", "fold": "fast", "list_pretrained": "training", "load_pretrained": "training"}


def __getattr__(name: str):
    if name == "samplers": return import_module("vaebm.samplers")
    if name not in _MODULES: raise AttributeError(f"module 'vaebm' has no attribute {name!r}")
    return getattr(import_module(f"vaebm.{_MODULES[name]}"), name)


def __dir__() -> list[str]: return sorted({*globals(), *__all__})
