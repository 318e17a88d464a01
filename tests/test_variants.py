"""The methods that VAEBM is compared with: their networks can be saved, their stages move what they should."""

import pickle

import pytest
import torch

from small import seed

from vaebm import samplers
from vaebm.config import error_message
from vaebm.images import Images
from vaebm.model import VAEBM
from vaebm.samplers import langevin, run
from vaebm.variants import DigitPairs, JointSpace, PairVAE, Pixels, PlainEnergy, ReleasedPotential, colour, generative


def test_images_without_a_decoder_can_be_pickled_and_saved(tmp_path):
    model = VAEBM(Pixels((3, 8, 8)), PlainEnergy(4, 'd1', 'none', 'swish', 3), samplers.langevin(0.01), 2)
    model.save(tmp_path / 'pixels.safetensors')
    for again in (pickle.loads(pickle.dumps(model)), VAEBM.load(tmp_path / 'pixels.safetensors')):
        assert torch.equal(again.sample(2, seed(0)), model.sample(2, seed(0)))
    assert PairVAE(latent=3, width=8).arguments == {'latent': 3, 'width': 8, 'learned': False}


def test_pairs_have_two_digits_and_are_shown_in_three_colours():
    digits = Images(torch.full((10, 1, 28, 28), 255, dtype=torch.uint8), torch.arange(10))
    x, y = DigitPairs(digits, noise=0.0).draw(5, seed(0))
    assert x.shape == (5, 2, 16, 16) and y.shape == (5, 2)
    assert colour(x).shape == (5, 3, 16, 16) and not colour(x)[:, 2].any()
    unlabelled = Images(torch.zeros(3, 1, 28, 28, dtype=torch.uint8))
    assert error_message(ValueError, DigitPairs, unlabelled) == 'digits must have one channel and labels'


def test_only_the_decoder_is_generative():
    vae = PairVAE(latent=3, width=8)
    weights = {id(w) for w in generative(vae)}
    names = {name.partition('.')[0] for name, w in vae.named_parameters() if id(w) in weights}
    assert names == {'decoder'} and all(w.requires_grad == (id(w) in weights) for w in vae.parameters())


@pytest.fixture
def model():
    torch.manual_seed(0)
    return VAEBM(PairVAE(3, 8), PlainEnergy(4, 'd1', 'none', 'swish'), langevin(0.01), 2).requires_grad_(False)


def test_potentials_of_both_spaces_differ_by_the_jacobian(model):
    joint, eps = JointSpace(model), torch.randn(4, model.vae.layout.size, generator=seed(1))
    log_scale = model.vae.decode(model.vae.layout.split(eps)[1]).scale.log().sum(1)
    gap = joint(joint.from_noise(eps)) - model.potential(eps) - log_scale
    assert torch.allclose(gap, gap[:1].expand(4), atol=0.01)


def test_the_released_potential_leaves_the_jacobian_in(model):
    released = ReleasedPotential(model.vae, model.energy, model.kernel, 2)
    eps = torch.randn(4, model.vae.layout.size, generator=seed(2))
    p = model.vae.decode(model.vae.layout.split(eps)[1])
    assert (p.scale > 0.08).all()  # nothing is below the limit of the released code
    gap = released.potential(eps) - model.potential(eps)
    assert torch.allclose(gap, p.scale.log().sum(1), atol=0.01)


def test_clipped_descent_makes_steps_of_one_length():
    def steep(eps):  # pixels are pulled to 0.2; the base is left out
        return 50 * ((1 + eps) / 2 - 0.2).square().sum(1) + 0.5 * eps.square().sum(1)

    start = torch.ones(6, 3)
    end = run(samplers.clipped_descent(10.0, 0.01, 0.0), steep, start, 3, seed(3)).eps
    assert torch.allclose((start - end) / 2, torch.full((6, 3), 0.3), atol=1e-5)
