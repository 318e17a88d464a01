"""Folded networks give the numbers of plain ones, wherever the library uses them."""

from types import SimpleNamespace

import pytest
import torch

from vaebm import loop, training
from vaebm.energy import MLPEnergy
from vaebm.energy_nets import EnergyResNet
from vaebm.costs import _seconds
from vaebm.fast import benchmark, calibrate, compiled, fold, published_step
from vaebm.layers import data_dependent_init
from vaebm.model import VAEBM
from vaebm.nvae import NVAE, NVAEConfig
from vaebm.checkpoints import load_checkpoint
from vaebm.samplers import langevin, run
from vaebm.training import StageTwo, StageTwoConfig
from vaebm.vae import MLPVAE

VARIANTS = {
    'two scales, flows': {'scales': 2, 'groups': 2},
    'one group': {'groups': 1},
    'no squeeze': {'groups': 2, 'use_se': False},
    'two blocks': {'groups': 2, 'blocks_pre': 2, 'blocks_post': 2},
}


def product(seed=0, **changes):
    "A VAEBM of a small NVAE, its batch norms filled, and a small energy."
    torch.manual_seed(seed)
    vae = NVAE(
        NVAEConfig(
            **{
                'latent': 3,
                'channels_enc': 8,
                'channels_dec': 8,
                'cells_enc': 1,
                'cells_dec': 1,
                'scales': 1,
                'flows': 1,
            }
            | changes
        )
    )
    with torch.no_grad():
        vae.train()
        [vae.sample(8, torch.Generator().manual_seed(s)) for s in range(20)]
    net = EnergyResNet(width=8)
    data_dependent_init(net, torch.rand(16, 3, 32, 32))
    return VAEBM(vae.eval().requires_grad_(False), net, langevin(1e-3), n_steps=4)


@pytest.mark.parametrize('changes', VARIANTS.values(), ids=VARIANTS)
def test_fold_changes_nothing(changes):
    model = product(**changes).double()
    eps = torch.randn(3, model.vae.layout.size, dtype=torch.float64)
    (value, grad), (plain, oracle) = fold(model, torch.float64).value_and_grad(eps, 0.7), model.value_and_grad(
        eps, 0.7
    )
    assert torch.allclose(value, plain, rtol=1e-10) and (grad - oracle).norm() < 1e-10 * (oracle - eps).norm()


@pytest.mark.slow
def test_float32_and_bfloat16():
    model = product(groups=3)
    eps = torch.randn(8, model.vae.layout.size)
    (_, oracle), results = model.value_and_grad(eps), {
        d: fold(model, d).value_and_grad(eps) for d in (torch.float32, torch.bfloat16)
    }
    error = {d: ((g - oracle).norm() / oracle.norm()).item() for d, (_, g) in results.items()}
    assert error[torch.float32] < 1e-6 and 1e-6 < error[torch.bfloat16] < 1e-2


def test_samples_from_the_same_noise():
    model = product(groups=3)
    generator = torch.Generator().manual_seed(1)
    eps = run(
        model.kernel,
        model,
        torch.randn(4, model.vae.layout.size, generator=generator),
        model.n_steps,
        generator,
    ).eps
    with torch.no_grad():
        x = model.vae.transform(eps).clamp(0, 1)
    assert torch.allclose(model.sample(4, torch.Generator().manual_seed(1)), x, atol=1e-5)


@pytest.mark.slow
def test_stage_two_with_and_without_folding(monkeypatch):
    weights = []
    for how in (fold, lambda module, *_: module):
        monkeypatch.setattr(training, 'fold', how)
        model = product(groups=2)
        config = StageTwoConfig(
            n_steps=20,
            batch_size=4,
            lr=1e-4,
            kernel='langevin',
            kernel_options={'step_size': 1e-3},
            chain_steps=3,
            buffer_size=16,
            replay=0.6,
            keep_eps_x=False,
            clip=True,
        )
        stage = StageTwo(model, torch.rand(32, 3, 32, 32, generator=torch.Generator().manual_seed(2)), config)
        assert loop.fit(stage, progress=False).outcome == 'finished'
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


def test_compiled_step_is_one_graph_and_the_same():
    model = fold(product(groups=2))
    eps = torch.randn(2, model.vae.layout.size)
    fast = compiled(model, backend='aot_eager', fullgraph=True)
    for ours, plain in zip(fast.value_and_grad(eps, 0.5), model.value_and_grad(eps, 0.5)):
        assert torch.allclose(ours, plain, rtol=1e-5, atol=1e-6)


def test_clocks_are_read_when_the_device_is_done(monkeypatch):
    said = []
    monkeypatch.setattr('torch.accelerator.is_available', lambda: True)
    monkeypatch.setattr('torch.accelerator.synchronize', lambda: said.append('wait'))
    monkeypatch.setattr('time.perf_counter', lambda: said.append('clock') or 0.0)
    benchmark({'a': lambda: said.append('a'), 'b': lambda: said.append('b')}, 1, warm_up=False)
    stage = SimpleNamespace(step=lambda: said.append('update'), done=0)
    _seconds(stage, 1)
    assert said == [
        word for name in ('a', 'b', 'update', 'update') for word in ('wait', 'clock', name, 'wait', 'clock')
    ]


def test_calibration_restores_the_threads_and_covers_its_grid():
    before, model = torch.get_num_threads(), fold(product(groups=1))
    rows = calibrate(model, (1, 2), (1,), rounds=1)
    assert torch.get_num_threads() == before and {(r['threads'], r['batch_size']) for r in rows} == {
        (1, 1),
        (1, 2),
    }
    assert rows[0]['seconds_per_chain'] <= rows[1]['seconds_per_chain']


def test_published_step_is_the_same_function():
    model = product(groups=3)
    eps = torch.randn(2, model.vae.layout.size)
    for how in ({}, {'frozen': True}, {'swish': torch.nn.functional.silu}):
        for theirs, ours in zip(published_step(model, eps, **how), model.value_and_grad(eps)):
            assert torch.allclose(theirs, ours, rtol=1e-4, atol=1e-5)


def test_torchebm_takes_the_same_chain():
    samplers = pytest.importorskip('torchebm.samplers')
    from torchebm.core import BaseModel

    class Wrapped(BaseModel):
        def forward(self, x):
            return potential(x)

    def potential(x):
        return 0.5 * (x**4).sum(-1)

    x = torch.randn(64, 5, generator=torch.Generator().manual_seed(0))
    theirs = samplers.LangevinDynamics(Wrapped(), step_size=0.005).sample(
        x=x.clone(), n_steps=30, generator=torch.Generator().manual_seed(1)
    )
    assert torch.allclose(
        run(langevin(0.01), potential, x, 30, torch.Generator().manual_seed(1)).eps, theirs, atol=1e-5
    )


@pytest.mark.parametrize('changes', [{'half_buffer': True}, {}], ids=['half precision', 'on disk'])
def test_stage_two_with_other_buffers(changes, tmp_path):
    model = product(groups=1)
    config = StageTwoConfig(
        n_steps=3,
        batch_size=4,
        kernel='langevin',
        kernel_options={'step_size': 1e-3},
        chain_steps=1,
        buffer_size=8,
        keep_eps_x=False,
        **changes
    )
    stage = StageTwo(
        model, torch.rand(8, 3, 32, 32), config, buffer_path=None if changes else tmp_path / 'buffer'
    )
    assert loop.fit(stage, tmp_path / 'stage.safetensors', progress=False).outcome == 'finished'
    again = StageTwo(product(groups=1), torch.rand(8, 3, 32, 32), config)
    again.load_state_dict(load_checkpoint(tmp_path / 'stage.safetensors'))
    assert torch.equal(again.buffer.noise, stage.buffer.noise) and again.buffer.noise.dtype == (
        torch.float16 if changes else torch.float32
    )
    assert (
        changes
        or (tmp_path / 'buffer').stat().st_size == 8 * (model.vae.layout.size - model.vae.layout.size_x) * 4
    )


def counting():
    """A backend of `torch.compile` that runs the graphs as they are, and the number of times that
    it has run one.
    """
    calls = []

    def backend(graph, inputs):
        def call(*args):
            calls.append(len(args))
            return graph(*args)

        return call

    return backend, calls


@pytest.mark.parametrize('folded', [False, True], ids=['plain', 'folded'])
def test_samples_of_a_compiled_model_go_through_the_compiled_step(folded):
    model = product(groups=2)
    backend, calls = counting()
    fast = compiled(fold(model) if folded else model, backend=backend)
    x = fast.sample(2, torch.Generator().manual_seed(1), n_steps=3)
    assert len(calls) >= 3  # once a step at least
    assert torch.allclose(x, model.sample(2, torch.Generator().manual_seed(1), n_steps=3), atol=1e-5)
    before = len(calls)
    run(langevin(1e-3), fast, torch.randn(2, model.vae.layout.size), 2)
    assert len(calls) >= before + 2
    before = len(calls)
    model.sample(2, n_steps=1)
    assert len(calls) == before  # the model itself is not changed


def test_a_model_with_nothing_to_fold_is_compiled_too():
    model, (backend, calls) = VAEBM(MLPVAE(2, 3, 8), MLPEnergy(2, 8), langevin(0.01), 4), counting()
    assert (
        torch.allclose(
            compiled(model, backend=backend).sample(5, torch.Generator().manual_seed(0)),
            model.sample(5, torch.Generator().manual_seed(0)),
            atol=1e-6,
        )
        and len(calls) >= 4
    )
    assert fold(model) is model and fold(fold(product(groups=1))).vae.pixel_noise
