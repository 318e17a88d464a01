"""Stage 2 by regression serves other energies than those of images."""

import torch

from vaebm.data import gaussian_grid
from vaebm.energy import MLPEnergy
from vaebm.model import VAEBM
from vaebm.ratio import DensityRatio
from vaebm.stage_two import RatioConfig
from vaebm.loop import fit
from vaebm.vae import MLPVAE


def test_regression_serves_any_energy_that_is_not_sharpened():
    points = DensityRatio(
        VAEBM(MLPVAE(2, 3, 8), MLPEnergy(2, 8)),
        gaussian_grid().sample(64),
        RatioConfig(n_steps=2, batch_size=8),
    )
    before = points.energy(torch.ones(1, 2))
    assert fit(points, progress=False).outcome == 'finished' and not torch.equal(
        points.energy(torch.ones(1, 2)), before
    )
    after = points.energy(torch.ones(1, 2))
    points.sharpen()
    assert torch.equal(points.energy(torch.ones(1, 2)), after)
