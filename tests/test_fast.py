"""Folded networks give the numbers of plain ones, wherever the library uses them."""
import pytest
import torch

from vaebm import training
from vaebm.energy import EnergyResNet
from vaebm.fast import fold
from vaebm.layers import data_dependent_init
from vaebm.model import VAEBM
from vaebm.nvae import NVAE, NVAEConfig
from vaebm.samplers import langevin, run
from vaebm.training import StageTwo, StageTwoConfig
from vaebm.vae import MLPVAE

VARIANTS = {'two scales, flows': {'scales': 2, 'groups': 2}, 'one group': {'groups': 1}, 'no squeeze': {'groups': 2, 'use_se': False}, 'two blocks': {'groups': 2, 'blocks_pre': 2, 'blocks_post': 2}}


def product(seed=0, **changes):
    "A VAEBM of a small NVAE, its batch norms filled, and a small energy."
    torch.manual_seed(seed)
    vae = NVAE(NVAEConfig(**{'latent': 3, 'channels_enc': 8, 'channels_dec': 8, 'cells_enc': 1, 'cells_dec': 1, 'scales': 1, 'flows': 1} | changes))
    with torch.no_grad(): vae.train(); [vae.sample(8, torch.Generator().manual_seed(s)) for s in range(20)]
    net = EnergyResNet(width=8)
    data_dependent_init(net, torch.rand(16, 3, 32, 32))
    return VAEBM(vae.eval().requires_grad_(False), net, langevin(1e-3), n_steps=4)


@pytest.mark.parametrize('changes', VARIANTS.values(), ids=VARIANTS)
def test_fold_changes_nothing(changes):
    model = product(**changes).double()
    model.vae.double(); folded = fold(model, torch.float64)
    eps = torch.randn(3, model.vae.layout.size, dtype=torch.float64)
    for group in (folded.vae.head, *[g.prior_head for g in folded.vae.groups if g.prior_head]): group.double()  # heads are float32 by default
    (value, grad), (plain, oracle) = folded.value_and_grad(eps), model.value_and_grad(eps)
    assert torch.allclose(value, plain, rtol=1e-7) and (grad - oracle).norm() < 1e-4 * (oracle - eps).norm()


def test_float32_and_bfloat16():
    model = product(groups=3)
    eps = torch.randn(8, model.vae.layout.size)
    (plain, oracle), results = model.value_and_grad(eps), {d: fold(model, d).value_and_grad(eps) for d in (torch.float32, torch.bfloat16)}
    error = {d: ((g - oracle).norm() / oracle.norm()).item() for d, (_, g) in results.items()}
    assert error[torch.float32] < 1e-6 and 1e-6 < error[torch.bfloat16] < 1e-2


def test_samples_from_the_same_noise():
    model = product(groups=3)
    generator = torch.Generator().manual_seed(1)
    eps = run(model.kernel, model, torch.randn(4, model.vae.layout.size, generator=generator), model.n_steps, generator).eps
    with torch.no_grad(): plain = model.vae.transform(eps)
    assert torch.allclose(model.sample(4, torch.Generator().manual_seed(1)), plain, atol=1e-5)


def test_stage_two_with_and_without_folding(monkeypatch):
    weights = []
    for how in (fold, lambda module: module):
        monkeypatch.setattr(training, 'fold', how)
        model = product(groups=2)
        config = StageTwoConfig(n_steps=20, batch_size=4, lr=1e-4, kernel='langevin', kernel_options={'step_size': 1e-3}, chain_steps=3, buffer_size=16, replay=.6, keep_eps_x=False, clip=True)
        stage = StageTwo(model, torch.rand(32, 3, 32, 32, generator=torch.Generator().manual_seed(2)), config)
        assert training.fit(stage, progress=False) == 'finished'
        weights.append(torch.nn.utils.parameters_to_vector(model.energy.parameters()))
    start = torch.nn.utils.parameters_to_vector(product(groups=2).energy.parameters())
    assert (weights[0] - weights[1]).abs().max() < 1e-4 < (weights[0] - start).abs().max()


def test_fold_leaves_its_argument_alone_and_can_be_repeated():
    model = product(groups=2)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    folded = fold(model)
    assert fold(folded.vae) is folded.vae and fold(folded.energy) is folded.energy
    assert model.vae.encoder and all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert not any(p.requires_grad for p in folded.parameters())
    mlp = MLPVAE()
    assert fold(mlp) is mlp
