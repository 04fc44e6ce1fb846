"""A plan from end to end on eight fake devices: FLOPs, wire bytes and memory against what they should be, codes, refusals."""
import json
import math
import os
import pathlib
import subprocess
import sys
import types

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigjax import cli
from bigjax import config as configs
from bigjax.data.sources import ArraySource
from bigjax.experiment import Data, Experiment
from bigjax.models import gpt, mlp
from bigjax.plan import advice, compile, figures, report, rooflines, run, topology, warn
from bigjax.tasks import classification, language
from bigjax.train import flops
from bigjax.train import settings as settings_module
from bigjax.train.program import Program
from tests import tiny

pytestmark = pytest.mark.slow  # whole train steps are compiled
ROOT = pathlib.Path(__file__).parents[2]
CPU8 = topology.parse('cpu:8')
GPT = dict(vocab_size=64, block_size=32, num_layers=2, num_heads=4, width=64)


def program(model, task, batch, optimizer=None, **changes):
    """The program of a model over made-up examples."""
    e = Experiment(model=model, task=task, data=Data(ArraySource(batch), {}), evaluators={},
                   optimizer=optimizer or dict(name='adamw', lr=1e-3), partition_rules=getattr(
                       __import__(type(model).__module__, fromlist=['x']), 'PARTITION_RULES', ()))
    config = tiny.config(**dict(dict(batch_size=16, ema=0.0, resident='no', steps=10, mesh='data:8'), **changes))
    return Program([e], settings_module.read(configs.Reader(config), len(e.data.train)), devices=jax.devices()[:8])


def language_model(model=(), **changes):
    tokens = np.zeros((32, 33), np.int32)
    return program(gpt.GPT(**{**GPT, **dict(model)}), language.next_token(), {'tokens': tokens}, **changes)


def by_kind(f):
    """{(kind, axes): wire bytes of a step} of large messages."""
    return {(c['kind'], '+'.join(c['axes'])): c['wire'] for c in f['collectives'] if c['wire'] > 2000}


def test_executed_flops_are_the_model_flops_and_those_the_textbook_s():
    p = language_model()
    f = figures.plan(p, CPU8, None)
    layers, T, W, V = 2, 32, 64, 64
    by_hand = 3 * 2 * (layers * 12 * W * W + V * W) * 16 * T + 3 * layers * 4 * T * T * W * 16
    assert f['flops']['model'] == by_hand
    assert f['flops']['executed'] == pytest.approx(by_hand, rel=0.01)
    assert f['parameters'] == p.parameters and f['unit'] == {'name': 'tokens', 'per_example': 32}
    assert f['fits'] and f['memory']['limit'] is None and not f['unknown_loops']


def test_loops_over_layers_and_micro_batches_count_in_full_and_remat_shows_as_overhead():
    whole = flops.model_flops(language_model())
    p = language_model(dict(scan=True, remat='full'), accumulate=2)
    f = figures.plan(p, CPU8, None)
    assert f['flops']['model'] == whole
    blocks = 2 * 2 * 8 * 64 * 64 * 16 * 32 + 2 * 4 * 32 * 32 * 64 * 16  # the forward pass again, but for the last product
    assert f['flops']['recomputed'] == pytest.approx(blocks / whole, rel=0.01)


def test_an_fsdp_step_sends_the_textbook_s_bytes_and_a_sum_in_the_place_of_a_scattered_one_is_named():
    p = language_model(mesh='fsdp:8')
    f = figures.plan(p, CPU8, None)
    split = sum(math.prod(q.shape) * 4 for q in p.layout.params.values() if any(q.spec))
    sent = by_kind(f)
    assert f['textbook'][0]['bytes'] == pytest.approx(3 * split * 7 / 8)
    # this compiler keeps what it has gathered for the backward pass, and has no reduce-scatter: twice its bytes
    assert sent['all-gather', 'fsdp'] == pytest.approx(split * 7 / 8, rel=0.05)
    assert sent['all-reduce', 'fsdp'] == pytest.approx(2 * split * 7 / 8, rel=0.05)


def test_data_parallel_sends_one_sum_of_gradients():
    p = language_model()
    sent = by_kind(figures.plan(p, CPU8, None))
    assert sent == {('all-reduce', 'data'): pytest.approx(2 * p.parameters * 4 * 7 / 8, rel=0.05)}


def test_each_axis_of_a_mesh_has_its_own_row():
    f = figures.plan(language_model(mesh='fsdp:4,tensor:2'), CPU8, None)
    assert {'fsdp', 'tensor'} <= {axes for _, axes in by_kind(f)}
    assert {'+'.join(t['axes']) for t in f['textbook']} >= {'fsdp', 'tensor'}


class Large(nn.Module):
    """Two layers, with a width that eight does not divide."""

    @nn.compact
    def __call__(self, x, *, train):
        return nn.Dense(3, name='head')(nn.relu(nn.Dense(1001, name='odd', use_bias=False)(x)))


def test_a_large_tensor_on_every_device_is_named():
    p = program(Large(), classification.softmax('x'),
                {'x': np.zeros((16, 1003), np.float32), 'label': np.zeros(16, np.int32)}, mesh='fsdp:8')
    (warning,) = figures.plan(p, CPU8, None)['warnings'][:1]
    assert "'odd/kernel' [1003, 1001]" in warning and 'whole on every device' in warning


@pytest.mark.parametrize(('vocabulary', 'warned'), [(63, True), (64, False)])
def test_a_vocabulary_that_the_mesh_does_not_divide_is_named(vocabulary, warned):
    found = warn.undivided(language_model({'vocab_size': vocabulary}, mesh='data:2,tensor:4'))
    assert [all(part in w for part in ('token_embed/embedding', '63', 'tensor:4', '64')) for w in found] == [True] * warned


def test_memory_is_the_compiler_s_and_that_of_a_run():
    p = language_model(mesh='fsdp:8')
    m = figures.plan(p, CPU8, None)['memory']
    analysis = p.compiled.lower(*p.arguments()).compile().memory_analysis()
    assert (m['temporaries'], m['arguments']) == (analysis.temp_size_in_bytes, analysis.argument_size_in_bytes)
    carry = p.init()
    one = jax.devices()[0]
    held = lambda tree: sum(s.data.nbytes for x in jax.tree.leaves(tree) if hasattr(x, 'addressable_shards')
                            and not jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
                            for s in x.addressable_shards if s.device == one)
    assert (m['parameters'], m['optimizer']) == (held(carry['state'].params), held(carry['state'].opt_state))


def test_members_of_a_population_are_counted_each():
    e = tiny.experiment()
    config = tiny.config(population=3, mesh='data:8', ema=0.0, batch_size=48)
    p = Program([e], settings_module.read(configs.Reader(config), 53), devices=jax.devices()[:8])
    f = figures.plan(p, CPU8, None)
    assert f['flops']['model'] == 3 * 48 * (2 * 2 * 5 * 16 + 3 * 2 * 16 * 3) and f['population'] == 3
    assert f['flops']['executed'] == pytest.approx(f['flops']['model'], rel=0.01)


def test_convolutions_and_what_stops_a_gradient_are_counted():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, image, *, train):
            x = nn.Conv(6, (3, 3), strides=2, padding='VALID', name='conv')(image)
            x = jax.lax.stop_gradient(x).reshape(x.shape[0], -1)
            return nn.Dense(3, name='head')(x)

    p = program(Net(), classification.softmax('image'),
                {'image': np.zeros((16, 9, 9, 2), np.float32), 'label': np.zeros(16, np.int32)})
    assert flops.model_flops(p) == 16 * (2 * 16 * 6 * 2 * 9 + 2 * 2 * 96 * 3)  # of the head alone also the gradient


def test_step_times_are_rooflines_and_a_recorded_run_moves_them(tmp_path):
    t = topology.parse('v5e-8')
    f = {'flops': {'executed': 8 * 197e12, 'model': 8 * 98.5e12}, 'hbm_bytes': 819e9 / 2, 'steps_per_call': 1,
         'batch_size': 10, 'population': 1, 'unit': {'per_example': 2}, 'steps': 3600}
    time = rooflines.step(f, [], t)
    assert time['step'] == [1.0, 1.5] and time['mfu'] == pytest.approx([0.5, 1 / 3]) and time['per_second'][0] == 20
    assert time['chip_hours'] == [8, 12] and time['calibrated'] is None
    record = tmp_path / 'calibration.json'
    record.write_text('{"TPU v5 lite": 1.3}')
    assert rooflines.calibration('TPU v5 lite', record) == 1.3 and rooflines.calibration('TPU v4', record) is None


def test_three_changes_are_proposed_for_what_does_not_fit():
    f = {'mesh': 'data:8', 'memory': {'limit': 100.0, 'need': 500.0, 'parameters': 10, 'optimizer': 20, 'other_state': 0,
                                      'batch': 0, 'data': 0}}
    config = {'model.remat': 'none', 'accumulate': 1, 'batch_size': 128}
    assert advice.changes(config, f) == [{'model.remat': 'full'}, {'accumulate': '8'}, {'mesh': 'fsdp:8'}]
    assert advice.mesh('fsdp:16') == {'mesh': 'fsdp:4,tensor:4'} and advice.mesh('tensor:2') == {}
    assert advice.remat({'model.remat': 'full'}) == {} and advice.remat({}) == {}


SCRIPT = '''
import sys
sys.path.insert(0, {root!r})
from bigjax import cli
from tests import tiny


def get_config(variant=''):
    config = tiny.config(population=1, mesh='data:-1')
    config.optimizer = dict(name='adam', lr=1e-2)
    config.model = dict(dropout=0.0, remat='none')
    return config


def get_experiment(config):
    _ = config.data, config.data_dir, config.dtype, config.model.remat
    return tiny.experiment(optimizer=config.optimizer, dropout=config.model.dropout)


cli.main()
'''


def command(tmp_path, *argv):
    """(exit code, stdout, stderr) of a script's plan, as a user runs it."""
    script = tmp_path / 'tiny_script.py'
    script.write_text(SCRIPT.format(root=str(ROOT)))
    env = {k: v for k, v in os.environ.items() if k != 'XLA_FLAGS'}
    ended = subprocess.run([sys.executable, str(script), 'plan', *argv], capture_output=True, text=True, env=env, check=False)
    return ended.returncode, ended.stdout, ended.stderr


def test_several_meshes_in_one_table_and_what_does_not_fit_is_4_with_what_would_help(tmp_path):
    code, out, err = command(tmp_path, '--topology=cpu:4', '--mesh=data:4;data:3', f'--out={tmp_path}/plan.json')
    assert code == 0, err
    assert 'FITS' in out and 'a multiple of 3 devices' in out and 'of wire per step' in out
    fits, refused = json.loads((tmp_path / 'plan.json').read_text())
    assert fits['mesh'] == 'data:4' and fits['fits'] and 'error' in refused
    code, out, err = command(tmp_path, '--topology=cpu:4', '--hbm=0.000001')
    assert code == 4, err
    assert 'DOES NOT FIT' in out and '--config.model.remat=full' in out and '--config.mesh=fsdp:4' in out


@pytest.mark.parametrize(('argv', 'words'), [
    ([], 'no --topology'), (['--topology=v5p-500'], 'the nearest is v5p-512'),
    (['--topology=cpu:4', '--hbm=x'], 'hbm')])
def test_wrong_input_is_one_line_and_exit_2(capsys, argv, words):
    script = types.SimpleNamespace(get_config=lambda variant: tiny.config(), __doc__='', __spec__=None, __file__='x.py')
    assert cli.run(script, 'experiments.tiny', ['plan', *argv]) == 2
    err = capsys.readouterr().err
    assert words in err and err.count('\n') == 1


def test_without_the_compiler_the_state_is_known_and_the_rest_is_said_not_to_be(monkeypatch):
    monkeypatch.setattr(compile.importlib.util, 'find_spec', lambda name: None)
    t = topology.parse('v5e-8')
    f = figures.plan(language_model(mesh='fsdp:8'), t, t.hardware.hbm)
    text = report.full('gpt', f)
    assert f['fits'] is None and 'UNKNOWN' in text and "pip install 'bigjax[tpu]'" in text and 'temporaries' in text
    assert f['memory']['parameters'] > 0 and f['textbook'] and 'collectives' not in f


def test_without_the_compiler_the_command_exits_2_after_what_is_known(monkeypatch, capsys):
    monkeypatch.setattr(compile.importlib.util, 'find_spec', lambda name: None)
    t = topology.parse('v5e-8')
    known = figures.plan(language_model(mesh='fsdp:8'), t, t.hardware.hbm)
    monkeypatch.setattr(run, 'outside', lambda *_: known)
    script = types.SimpleNamespace(get_config=lambda variant: tiny.config(), __doc__='', __spec__=None, __file__='x.py')
    assert cli.run(script, 'experiments.tiny', ['plan', '--topology=v5e-8']) == 2
    out, err = capsys.readouterr()
    assert 'UNKNOWN' in out and 'libtpu' in err and err.count('\n') == 1


@pytest.mark.parametrize(('mesh', 'warned'), [('data:8', False), ('seq:8', True)])
def test_devices_that_compute_the_same_are_warned_of(mesh, warned):
    """A perceptron has no sequence to split, so that every device of 'seq' computes the whole batch."""
    arrays = {'x': np.zeros((32, 64), np.float32), 'label': np.zeros(32, np.int32)}
    p = program(mlp.MLP(features=(64,), num_classes=8), classification.softmax('x'), arrays, mesh=mesh)
    f = figures.plan(p, CPU8, None)
    assert any('more FLOPs than the model' in w for w in f['warnings']) == warned
    assert (f['flops']['recomputed'] > 6) == warned


def test_a_compiler_that_finds_no_room_says_what_it_needs():
    error = compile.TooLarge('RESOURCE_EXHAUSTED: the total memory required for HLO temporaries (23.00G) exceeds available '
                             'HBM (15.75G).')
    assert (error.needs, error.has) == (23 * 2**30, 15.75 * 2**30)


TPU = pytest.mark.skipif(compile.missing(topology.parse('v5e-4')) is not None, reason="libtpu is missing: pip install "
                         "'bigjax[tpu]'")


@TPU
def test_a_step_is_compiled_for_a_tpu_that_is_not_there(tmp_path):
    code, out, err = command(tmp_path, '--topology=v5e-4', f'--out={tmp_path}/plan.json')
    assert code == 0, err
    (f,) = json.loads((tmp_path / 'plan.json').read_text())
    assert f['kind'] == 'TPU v5 lite' and f['memory']['code'] > 0 and 'uncalibrated' in out
    assert f['flops']['executed'] == pytest.approx(f['flops']['model'], rel=0.05)
