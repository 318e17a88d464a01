"""Released checkpoints: configurations, files instead of dicts, and what must be refused."""

import argparse

import pytest
import torch
from torch import nn

from vaebm.checkpoints import CheckpointError
from vaebm.config import error_message
from vaebm.energy_nets import ENERGY_NETWORKS, EnergyResNet
from vaebm.layers import WNConv2d, data_dependent_init
from vaebm.model import VAEBM
from vaebm.nvae import NVAE
from vaebm.released import load_released_energy, load_released_nvae, published_config, published_names
from vaebm.samplers import langevin

ARGS = {
    'dataset': 'cifar10',
    'use_se': True,
    'res_dist': True,
    'num_latent_scales': 1,
    'num_groups_per_scale': 2,
    'num_latent_per_group': 2,
    'ada_groups': False,
    'min_groups_per_scale': 1,
    'num_channels_enc': 8,
    'num_channels_dec': 8,
    'num_preprocess_blocks': 1,
    'num_preprocess_cells': 2,
    'num_postprocess_blocks': 1,
    'num_postprocess_cells': 2,
    'num_cell_per_cond_enc': 1,
    'num_cell_per_cond_dec': 1,
    'num_mixture_dec': 1,
    'num_nf': 0,
    'arch_instance': 'res_mbconv',
}
VARIANTS = {
    'no flow': {},
    'one flow': {'num_nf': 1},
    'two flows': {'num_nf': 2},
    'one group': {'num_groups_per_scale': 1},
    'no squeeze': {'use_se': False},
    'not residual': {'res_dist': False},
    'three blocks': {'num_preprocess_blocks': 3, 'num_postprocess_blocks': 3},
    'one cell, three cells': {'num_preprocess_cells': 1, 'num_postprocess_cells': 3},
    'wide encoder': {'num_channels_enc': 12},
    'two scales': {'num_latent_scales': 2},
    'four scales': {'num_latent_scales': 4, 'dataset': 'celeba_64', 'num_groups_per_scale': 1},
    'five scales': {'num_latent_scales': 5, 'dataset': 'celeba_64', 'num_groups_per_scale': 1},
    'adaptive': {'num_latent_scales': 3, 'num_groups_per_scale': 4, 'ada_groups': True},
    'adaptive, at least two': {
        'num_latent_scales': 3,
        'num_groups_per_scale': 4,
        'ada_groups': True,
        'min_groups_per_scale': 2,
    },
}
PAPER = {
    'CIFAR-10': (
        {'num_groups_per_scale': 30, 'num_nf': 1, 'num_channels_enc': 128, 'num_channels_dec': 128},
        3838,
        180,
    ),
    'CelebA 64': (
        {
            'dataset': 'celeba_64',
            'num_latent_scales': 3,
            'num_groups_per_scale': 5,
            'num_nf': 1,
            'num_channels_enc': 48,
            'num_channels_dec': 48,
        },
        2076,
        96,
    ),
    'CelebA-HQ 256': (
        {
            'dataset': 'celeba_256',
            'num_latent_scales': 5,
            'num_groups_per_scale': 4,
            'num_nf': 2,
            'num_channels_enc': 32,
            'num_channels_dec': 32,
        },
        3114,
        132,
    ),
}


def published_state(model):
    """The state of `model` under the published names, second copies of plain convolutions' weights
    included.
    """
    ours, state = model.state_dict(), {}
    for theirs, name in published_names(model).items():
        if name in ours:
            state[theirs] = ours[name]
            continue
        module = model.get_submodule(name)
        for leaf in [k for k in module.state_dict() if '.' not in k]:
            state[f'{theirs}.{leaf.replace("log_norm", "log_weight_norm")}'] = ours[f'{name}.{leaf}']
        if isinstance(module, nn.Conv2d) and not isinstance(module, WNConv2d):
            state[f'{theirs}.weight_normalized'] = module.weight
    return state


@pytest.mark.parametrize('name', PAPER)
def test_state_has_as_many_entries_as_the_released_one(name):
    changes, entries, copies = PAPER[name]
    args = ARGS | {'num_latent_per_group': 20, 'num_cell_per_cond_enc': 2, 'num_cell_per_cond_dec': 2} | changes
    with torch.device('meta'):
        state = published_state(NVAE(published_config(args)))
    assert len(state) == entries and sum(k.endswith('weight_normalized') for k in state) == copies


# parameters of: top, stem, pre, encoder with its combiners, neck, posterior heads, prior heads, flows, decoder,
# post, head
PARTS = {
    'CIFAR-10': [
        65_536,
        3_712,
        1_226_392,
        73_324_992,
        66_048,
        2_767_200,
        299_280,
        1_636_800,
        50_881_952,
        465_168,
        6_924,
    ],
    'CelebA 64': [
        24_576,
        1_392,
        173_434,
        38_574_792,
        148_224,
        1_210_800,
        120_160,
        818_400,
        23_857_158,
        73_832,
        2_604,
    ],
    'CelebA-HQ 256': [
        65_536,
        928,
        77_480,
        226_913_112,
        1_050_624,
        2_858_560,
        278_000,
        2_182_400,
        131_907_740,
        35_912,
        1_740,
    ],
}
SIZES = {
    'CIFAR-10': [16] * 30,
    'CelebA 64': [8] * 5 + [16] * 5 + [32] * 5,
    'CelebA-HQ 256': [8] * 4 + [16] * 4 + [32] * 4 + [64] * 4 + [128] * 4,
}


@pytest.mark.parametrize('name', PAPER)
def test_parts_have_as_many_parameters_as_the_released_ones(name):
    args = (
        ARGS
        | {'num_latent_per_group': 20, 'num_cell_per_cond_enc': 2, 'num_cell_per_cond_dec': 2}
        | PAPER[name][0]
    )
    with torch.device('meta'):
        m = NVAE(published_config(args))

    def count(*modules):
        return sum(p.numel() for part in modules if part is not None for p in part.parameters())

    def each(*names):
        return [getattr(g, n) for g in m.groups for n in names]

    assert [
        m.top.numel(),
        count(m.stem),
        count(m.pre),
        count(m.encoder, *each('merge')),
        count(m.neck),
        count(*each('posterior_head')),
        count(*each('prior_head')),
        count(*each('flows')),
        count(*each('cells', 'combine')),
        count(m.post),
        count(m.head),
    ] == PARTS[name]
    assert m.layout.shapes == [(3, m.config.image_size, m.config.image_size)] + [
        (20, n, n) for n in SIZES[name]
    ]


@pytest.mark.parametrize('name', VARIANTS)
@torch.no_grad()
def test_checkpoint_file_round_trip(name, tmp_path):
    args = ARGS | VARIANTS[name]
    torch.manual_seed(0)
    model = NVAE(published_config(args)).eval()
    torch.save(
        {'epoch': 7, 'state_dict': published_state(model), 'args': argparse.Namespace(**args, batch_size=8)},
        tmp_path / 'checkpoint.pt',
    )
    read = load_released_nvae(tmp_path / 'checkpoint.pt')
    x = torch.rand(2, 3, model.config.image_size, model.config.image_size)
    eps = model.infer(x, torch.Generator().manual_seed(1))
    assert torch.equal(read.transform(eps), model.transform(eps)) and torch.allclose(
        read.transform(eps), x, atol=1e-5
    )
    assert torch.equal(
        read.elbo(x, generator=torch.Generator().manual_seed(2)),
        model.elbo(x, generator=torch.Generator().manual_seed(2)),
    )
    assert len(model.groups) == len(published_config(args).scale_of_groups())


def test_older_checkpoints_lack_two_arguments():
    old = {k: v for k, v in ARGS.items() if k not in ('ada_groups', 'min_groups_per_scale')}
    assert published_config(old) == published_config(ARGS)


def test_damaged_or_foreign_states_are_refused(tmp_path):
    state = published_state(NVAE(published_config(ARGS)))

    def refuse(state, **changes):
        return error_message(CheckpointError, load_released_nvae, {'state_dict': state, 'args': ARGS | changes})

    assert "lacks 'stem.bias'" in refuse({k: v for k, v in state.items() if k != 'stem.bias'})
    assert "unexpected 'stem.extra'" in refuse(state | {'stem.extra': state['stem.bias']})
    assert 'does not fit' in refuse(state | {'stem.bias': torch.zeros(9)})
    assert 'num_mixture_dec must be 1' in refuse(state, num_mixture_dec=10)
    torch.save({'state_dict': state, 'args': ARGS}, tmp_path / 'whole.pt')
    (tmp_path / 'short.pt').write_bytes((tmp_path / 'whole.pt').read_bytes()[:-1000])
    assert 'is not a checkpoint that can be read safely' in error_message(
        CheckpointError, load_released_nvae, tmp_path / 'short.pt'
    )
    assert 'is not a checkpoint' in error_message(CheckpointError, load_released_nvae, tmp_path / 'absent.pt')


def test_product_of_nvae_and_energy():
    torch.manual_seed(0)
    vae = NVAE(published_config(ARGS)).eval().double()
    net = EnergyResNet(width=8).double()
    data_dependent_init(net, torch.rand(8, 3, 32, 32, dtype=torch.float64))
    model = VAEBM(vae, net, langevin(1e-4), n_steps=3)
    eps = torch.randn(2, vae.layout.size, dtype=torch.float64)
    value, grad = model.value_and_grad(eps)
    direction = torch.randn_like(eps)
    with torch.no_grad():
        numeric = (model.potential(eps + 1e-5 * direction) - model.potential(eps - 1e-5 * direction)) / 2e-5
    assert torch.allclose((grad * direction).sum(1), numeric, rtol=1e-4)
    assert torch.allclose(value, net(vae.transform(eps)) + 0.5 * eps.square().sum(1))
    x = VAEBM(vae.float(), net.float(), langevin(1e-4), n_steps=3).sample(2, torch.Generator().manual_seed(1))
    assert x.shape == (2, 3, 32, 32) and x.isfinite().all() and model.log_h(x, 2).shape == (2,)


def energy_state(net):
    "The state of `net` under the published names."
    return {
        k.replace('skip', 'skip.0').replace('log_norm', 'log_weight_norm'): v
        for k, v in net.state_dict().items()
    }


@pytest.mark.parametrize('prefix', ['', 'module.'], ids=['one GPU', 'several GPUs'])
@pytest.mark.parametrize('held', ['state_dict', 'model'])
def test_energies_are_read_as_training_scripts_save_them(tmp_path, held, prefix):
    net = EnergyResNet(8, ENERGY_NETWORKS['cifar10']['blocks'])
    state = {prefix + k: v for k, v in energy_state(net).items()}
    torch.save(
        {held: state, 'optimizer': torch.optim.Adam(net.parameters()).state_dict(), 'args': None},
        tmp_path / 'EBM.pth',
    )
    read = load_released_energy(tmp_path / 'EBM.pth', 'cifar10')
    x = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(read(x), net(x))


def test_an_nvae_of_several_gpus_is_read():
    model = NVAE(published_config(ARGS)).eval()
    state = {f'module.{k}': v for k, v in published_state(model).items()}
    x = torch.rand(1, 3, 32, 32)
    assert torch.equal(
        load_released_nvae({'state_dict': state, 'args': argparse.Namespace(**ARGS)}).infer(
            x, torch.Generator().manual_seed(0)
        ),
        model.infer(x, torch.Generator().manual_seed(0)),
    )


def test_what_is_no_checkpoint_is_refused_by_name(tmp_path):
    state = {'state_dict': published_state(NVAE(published_config(ARGS)))}
    for args, said in (
        (None, "args lack"),
        ([1, 2], 'must be a dict or a Namespace, got list'),
        ('cifar10', 'must be a dict or a Namespace, got str'),
        (ARGS | {'num_groups_per_scale': 'many'}, "groups must be int, got 'many'"),
        (ARGS | {'dataset': None}, 'dataset must be'),
    ):
        assert said in error_message(CheckpointError, load_released_nvae, state | {'args': args}), args
    for content in (
        {'state_dict': None, 'args': ARGS},
        {'state_dict': {}, 'args': ARGS},
        {'state_dict': {'a': 1.0}},
        {'weights': {}},
        {},
    ):
        assert 'must be a dict with a state_dict, or a model' in error_message(
            CheckpointError, load_released_nvae, content
        )
    (tmp_path / 'text.pt').write_text('hello world')
    torch.save([torch.ones(2)], tmp_path / 'list.pt')
    for name, said in (
        ('text.pt', 'is not a checkpoint that can be read safely'),
        ('list.pt', 'must be a dict with a state_dict, got list'),
        ('absent.pt', 'there is no such file'),
        ('.', 'is not a checkpoint'),
    ):
        text = error_message(CheckpointError, load_released_energy, tmp_path / name, 'cifar10')
        assert str(tmp_path / name) in text and said in text and 'weights_only' not in text
    flat = energy_state(EnergyResNet(8, ENERGY_NETWORKS['cifar10']['blocks'])) | {'conv1.weight': torch.ones(3)}
    assert 'conv1.weight must be kernels' in error_message(
        CheckpointError, load_released_energy, {'model': flat}, 'cifar10'
    )


@pytest.mark.parametrize(
    'content',
    [
        {'state_dict': None},
        {'state_dict': {}, 'args': None},
        {'state_dict': {}, 'args': ['a']},
        {'state_dict': {}, 'args': {}},
        {},
        {'weights': {}},
    ],
    ids=repr,
)
def test_contents_that_are_no_published_checkpoint_are_refused(content):
    assert error_message(CheckpointError, load_released_nvae, content)
