"""Records and reports of runs on images, and weights stored as a change of others."""

import json

import pytest
import torch

import small

from vaebm.checkpoints import CheckpointError, read_weights, save_checkpoint, write_json
from vaebm.config import configure, error_message
from vaebm.experiment import Evaluator, Run, image_run, images_for
from vaebm.pipeline import bound_of, energy_images, fair_bases, train_energy, train_vae
from vaebm.report import PAPER_TABLES, changed, energy_histogram, launches, record_run, write_report
from vaebm.energy_nets import EnergyResNet
from vaebm.model import VAEBM
from vaebm.rows import method
from vaebm.runs import publish


def seeded(k):
    return torch.Generator().manual_seed(k)


def small_judge():
    return Evaluator('digit_classifier', 'stacked_mnist', images_for('stacked_mnist', 'train', download=False), 50)


def test_weights_can_be_a_change_of_others(tmp_path, monkeypatch):
    monkeypatch.setattr('vaebm.checkpoints.checkpoint_folder', lambda: tmp_path)
    state = small.tiny().state_dict()
    new = {name: t + 1 if name.endswith('running_mean') else t for name, t in state.items()}
    assert set(changed(new, state)) == {name for name in state if name.endswith('running_mean')}

    def put(name, tensors, **more):
        folder = tmp_path / f'run-{name}'
        folder.mkdir()
        save_checkpoint(folder / 'weights.safetensors', tensors)
        from vaebm.runs import write_record

        write_record(folder, 'fashion_mnist', {}, 'nvae', small.TINY, {}, **more)
        return publish(folder, name, tmp_path)['digest']

    digest = put('plain', state)
    put('moved', changed(new, state), base={'name': 'plain', 'digest': digest})
    found = read_weights('moved')[1]
    assert found.keys() == state.keys() and all(torch.equal(found[name], new[name]) for name in new)
    manifest = json.loads((tmp_path / 'manifest.json').read_text())
    manifest['moved']['base']['digest'] = 'f00'
    write_json(tmp_path / 'manifest.json', manifest)
    assert 'is a change of plain' in error_message(CheckpointError, read_weights, 'moved')


@pytest.mark.slow
def test_a_published_product_is_trained_on(tmp_path):
    """Its VAE is taken as it was published, on a machine whose batch norms would come out otherwise,
    too, and the record has the updates of both runs.
    """
    overrides = {'start': 'stacked_mnist_nvae_readjusted', 'start_energy': 'stacked_mnist'}
    few = {'n_steps': 1, 'batch_size': 2}
    overrides |= {'stage1': {'n_steps': 0}, 'stage2': few, 'ratio': few}
    sizes = {
        'data': {'n_projected': 10},
        'evaluation': {'eval_every': 1, 'eval_samples': 4, 'n_samples': 4},
    }
    config = configure(image_run('stacked_mnist', 'cpu', overrides), sizes)
    train, evaluator = images_for('stacked_mnist', 'train', download=False), small_judge()
    run = Run(config, tmp_path, 'stacked_mnist', overrides, 'again')
    vae = train_vae(run, train)
    bases = fair_bases(run, vae, train)
    published, state = read_weights('stacked_mnist_nvae_readjusted')
    assert all(torch.equal(v, state[k]) for k, v in bases['re-adjusted'].state_dict().items())
    assert read_weights('stacked_mnist_nvae')[0]['digest'] == published['base']['digest']
    model, result = train_energy(run, bases['re-adjusted'], energy_images(run, vae, train), evaluator)
    assert result.outcome == 'finished'
    assert method(config) == 'regression, then Eq. 7 on means'
    bound = bound_of(bases, train.sample(2, seeded(0)), 0.15, 0)
    found = record_run(run, result, {'bound': bound, 'rows': {}})
    assert [r['step'] for r in found['evaluations']] == [0, 1] and found['updates']['stage2'] == 1
    assert write_report(run, found).startswith('# stacked_mnist, tier cpu')
    record = json.loads((tmp_path / 'metrics.json').read_text())
    assert record['vae'] == {'name': 'stacked_mnist_nvae_readjusted', 'digest': published['digest']}
    before = read_weights('stacked_mnist')[0]['lineage']
    assert record['lineage'][:-1] == before and len(record['lineage']) == len(before) + 1
    assert not (tmp_path / 'vae' / 'metrics.json').exists()


def test_an_energy_that_knows_nothing_tells_nothing_apart(tmp_path):
    torch.manual_seed(8)
    model = VAEBM(small.tiny(), EnergyResNet(4, 'd1 d1', 1).requires_grad_(False))
    x = torch.rand(6, 1, 32, 32, generator=seeded(9))
    found = energy_histogram(model, x, x, tmp_path / 'energies.png')
    assert found['auroc'] == pytest.approx(0.5) and found['train'] == found['test']
    assert (tmp_path / 'energies.png').exists()


def test_processes_that_were_started_are_listed(tmp_path):
    assert launches(tmp_path) == []
    write_json(tmp_path / 'launches.json', [{'processes': 2}])
    assert launches(tmp_path) == [{'processes': 2}]


def test_tables_of_the_paper_have_a_row_for_the_vaebm_and_its_nvae():
    for where, rows in PAPER_TABLES.values():
        fid = {name: value for name, value, _ in rows}
        ours = min(value for name, value in fid.items() if name.startswith('VAEBM'))
        assert where.startswith(('Table', 'Sec.')) and ours < fid['NVAE']
