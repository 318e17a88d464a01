"""VAEs draw their noise where their weights are."""

import torch

from small import seed

from vaebm import samplers
from vaebm.energy import MLPEnergy
from vaebm.model import VAEBM
from vaebm.vae import MLPVAE


def test_noise_is_drawn_where_the_weights_are():
    vae = MLPVAE(2, 3, 8).to('meta')
    x = torch.empty(4, 2, device='meta')
    assert {t.device.type for t in (vae.infer(x), vae.elbo(x), vae.iwae(x, 3))} == {'meta'}
    model = VAEBM(vae, MLPEnergy(2, 8).to('meta'))
    assert (
        model.like.device.type == 'meta'
        and next(vae.layout.noise(2, 2, None, model.like)).device.type == 'meta'
    )
    assert (
        samplers.normal_like(torch.empty(2, 3, device='meta'), seed(0)).device.type == 'meta'
    )  # a generator of another device serves as well
