"""VAEBM: a product of a variational autoencoder and an energy-based model (Xiao et al., ICLR 2021)."""
__version__ = "0.1.0"

from vaebm.model import VAEBM
from vaebm.training import list_pretrained, load_pretrained

__all__ = ["VAEBM", "list_pretrained", "load_pretrained"]
