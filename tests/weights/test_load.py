"""Models there and back in the names of other libraries, without these: every array accounted for, and wrong input refused."""
import json
import os
import resource
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigjax import weights
from bigjax.errors import UserError
from bigjax.models.bert import BERT
from bigjax.models.gpt import GPT
from bigjax.models.seq2seq import EncoderDecoder
from bigjax.weights import commands, config_json, npz_format, safetensors_format
from bigjax.weights.reader import leaves
from tests.refused import refused

LLAMA = {'norm': 'rmsnorm', 'hidden': 'swiglu', 'tie_head': False, 'rope_base': 1e4, 'epsilon': 1e-6}
MODELS = {
    'gpt2': GPT(31, 9, 2, 2, 8, bias=True), 'gpt2 untied': GPT(31, 9, 2, 2, 8, bias=True, tie_head=False, mlp_width=7),
    'llama': GPT(31, 9, 2, 4, 8, num_kv_heads=2, mlp_width=7, **LLAMA),
    'llama3': GPT(31, 9, 2, 2, 8, mlp_width=7, **{**LLAMA, 'rope_scaling': 'llama3', 'rope_factor': 8.0, 'rope_window': 4}),
    'mistral': GPT(31, 9, 2, 2, 8, mlp_width=7, window=3, head_width=6, **LLAMA),
    'qwen2': GPT(31, 9, 2, 2, 8, mlp_width=7, qkv_bias=True, **{**LLAMA, 'tie_head': True}),
    'qwen3': GPT(31, 9, 2, 2, 8, mlp_width=7, qk_norm=True, **LLAMA),
    'bert': BERT(31, 9, 2, 2, 8, mlp_width=32, pool='mean'),
    'bert classes': BERT(31, 9, 2, 2, 8, mlp_width=32, pool='cls', num_classes=3),
    'roberta': BERT(31, 9, 2, 2, 8, mlp_width=32, type_vocab=1, first_position=2, mlm=True),
    'distilbert': BERT(31, 9, 2, 2, 8, mlp_width=32, type_vocab=0, pooler='relu', num_classes=2),
    't5': EncoderDecoder(31, num_layers=2, num_heads=2, width=8, mlp_width=7),
    't5 1.1': EncoderDecoder(31, 512, 2, 2, 3, 8, 7, hidden='geglu_tanh', tie_head=False, scale_head=False),
}


def variables(model, seed: int = 0) -> dict:
    """Random numbers in every array of a model, so that no two are alike."""
    inputs = [jnp.zeros((1, 2), jnp.int32)] * (1 + isinstance(model, EncoderDecoder))
    abstract = jax.eval_shape(lambda: model.init(jax.random.key(0), *inputs, train=False))
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), abstract)


def equal(a, b) -> bool:
    a, b = leaves(a), leaves(b)
    return a.keys() == b.keys() and all(np.array_equal(a[path], b[path]) for path in a)


@pytest.fixture
def folder(tmp_path):
    """A folder with a small GPT-2, and its variables."""
    ours = variables(MODELS['gpt2'])
    weights.save(MODELS['gpt2'], ours, f'hf:{tmp_path}/gpt2')
    return tmp_path / 'gpt2', ours


def test_round_trips_are_equal_bit_by_bit(tmp_path):
    for name, model in MODELS.items():
        ours, said = variables(model), []
        weights.save(model, ours, f'hf:{tmp_path}/{name}', shard=2000)
        again, found, tokenizer = weights.load(f'hf:{tmp_path}/{name}', say=said.append)
        assert equal(found, ours) and again == model and tokenizer is None and not said, name
        weights.save(again, found, f'hf:{tmp_path}/{name} again', shard=2000)
        assert all((tmp_path / f'{name} again' / file.name).read_bytes() == file.read_bytes()
                   for file in (tmp_path / name).iterdir()), name
        weights.save(model, ours, f'npz:{tmp_path}/{name}.npz')
        again, found, _ = weights.load(f'npz:{tmp_path}/{name}.npz')
        assert equal(found, ours) and again == model, name


def test_stacked_layers(tmp_path, folder):
    place, ours = folder
    model, found, _ = weights.load(f'hf:{place}', scan=True)
    assert found['params']['blocks']['mlp']['up']['kernel'].shape == (2, 8, 32)
    weights.save(model, found, f'hf:{tmp_path}/again')
    assert equal(weights.load(f'hf:{tmp_path}/again')[1], ours)


@pytest.mark.parametrize('dtype', ['bfloat16', 'float16'])
def test_files_of_another_dtype(tmp_path, dtype):
    ours = jax.tree.map(lambda x: jnp.asarray(x, dtype), variables(MODELS['llama']))
    weights.save(MODELS['llama'], ours, f'hf:{tmp_path}/x')
    assert json.loads((tmp_path / 'x' / 'config.json').read_text())['dtype'] == dtype
    weights.save(MODELS['llama'], ours, f'npz:{tmp_path}/x.npz')
    assert {np.dtype(tensor.dtype).name for tensor in npz_format.read(tmp_path / 'x.npz')[1].values()} == {dtype}
    for place in (f'hf:{tmp_path}/x', f'npz:{tmp_path}/x.npz'):
        _, found, _ = weights.load(place)
        assert equal(found, jax.tree.map(lambda x: x.astype(jnp.float32), ours))
        assert {x.dtype for x in jax.tree.leaves(found)} == {jnp.dtype('float32')}


def test_a_head_of_another_size_is_initialised_anew_and_reported(tmp_path):
    model = MODELS['gpt2 untied']
    ours, said = variables(model), []
    weights.save(model, ours, f'hf:{tmp_path}/x')
    arrays = {name: t.read() for name, t in safetensors_format.read_folder(tmp_path / 'x').items()}
    for head in ({}, {'lm_head.weight': arrays['lm_head.weight'][:, :3]}, {'lm_head.weight': arrays['lm_head.weight'][:9]}):
        trunk = {name: x for name, x in arrays.items() if name != 'lm_head.weight'} | head
        safetensors_format.write_folder(tmp_path / 'x', [(n, x.shape, x.dtype, lambda x=x: x) for n, x in trunk.items()])
        _, found, _ = weights.load(f'hf:{tmp_path}/x', say=said.append)
        assert 'head/kernel' in said[-1] and 'initialised anew' in said[-1] and '36 of 37' in said[-1]
        new = np.asarray(found['params']['head'].pop('kernel'))
        assert 0.01 < new.std() < 0.03  # the model's own initialisation
        assert equal({'params': {**found['params'], 'head': {}}}, {'params': {**ours['params'], 'head': {}}})
    assert len(said) == 3


def test_a_shorter_window_takes_the_first_positions(folder):
    place, ours = folder
    said = []
    model, found, _ = weights.load(f'hf:{place}', say=said.append, block_size=5)
    assert model.block_size == 5 and len(said) == 1 and 'pos_embed/embedding' in said[0]
    np.testing.assert_array_equal(found['params']['pos_embed']['embedding'], ours['params']['pos_embed']['embedding'][:5])


def change(place, **keys):
    config = json.loads((place / 'config.json').read_text())
    (place / 'config.json').write_text(json.dumps({**config, **keys}))


@pytest.mark.parametrize('code, keys, names', [
    ('weights/architecture', {'architectures': ['BloomForCausalLM']}, ('BloomForCausalLM', 'GPT2LMHeadModel')),
    ('weights/keys', {'n_layer': 3}, ('h.2.ln_1.weight',)), ('weights/keys', {'n_layer': 1}, ('h.1.ln_1.weight',)),
    ('weights/keys', {'architectures': ['LlamaForCausalLM'], 'hidden_size': 8, 'num_hidden_layers': 2, 'num_attention_heads': 2,
                      'intermediate_size': 32}, ('layers.0.input_layernorm.weight', 'wte.weight')),
    ('weights/shape', {'vocab_size': 32}, ('wte.weight', '[31, 8]', '[32, 8]')),
    ('weights/config', {'activation_function': 'quick_gelu'}, ('activation_function', 'quick_gelu')),
    ('weights/config', {'scale_attn_by_inverse_layer_idx': True}, ('scale_attn_by_inverse_layer_idx',)),
    ('weights/config', {'n_layer': 'two'}, ('two', 'num_layers'))])
def test_a_config_that_is_not_of_its_arrays(folder, code, keys, names):
    place, _ = folder
    change(place, **keys)
    with refused(code, *names):
        weights.load(f'hf:{place}')


def test_any_value_of_a_config_is_taken_or_refused_in_one_line(folder):
    place, _ = folder
    whole = (place / 'config.json').read_text()
    for key in json.loads(whole):
        for value in (None, 0, 10**12, [{}]):
            change(place, **{key: value})
            try:
                weights.load(f'hf:{place}')
            except UserError as error:
                assert error.code and '\n' not in str(error), (key, value)
            (place / 'config.json').write_text(whole)


def test_wrong_places(tmp_path, folder, monkeypatch, capsys):
    place, ours = folder
    monkeypatch.setenv('HF_HUB_OFFLINE', '1')
    monkeypatch.setenv('HF_HOME', str(tmp_path))
    for code, name in (('weights/place', 'gpt2'), ('weights/place', 'hf:'), ('weights/not-found', 'hf:org/no-such-model'),
                       ('weights/not-found', f'hf:{tmp_path}/none'), ('weights/not-found', f'torch:{tmp_path}/none'),
                       ('weights/damaged', f'torch:{place}/config.json'), ('weights/damaged', f'npz:{place}/config.json')):
        with refused(code):
            weights.load(name)
        assert commands.main(['ls', name]) == 2
    assert 'hf:FOLDER' in capsys.readouterr().err
    for code, name in (('weights/read-only', 'torch:x'), ('weights/exists', f'hf:{place}'), ('weights/place', 'x')):
        with refused(code):
            weights.save(MODELS['gpt2'], ours, name)
    with refused('weights/no-family', 'bias'):
        weights.save(GPT(31, 9, 2, 2, 8), variables(GPT(31, 9, 2, 2, 8)), f'hf:{tmp_path}/x')
    (place / 'config.json').write_text('{')
    with refused('weights/damaged'):
        weights.load(f'hf:{place}')


def test_a_model_of_the_hub_s_cache(tmp_path, folder, monkeypatch):
    place, ours = folder
    cache = tmp_path / 'hub' / 'models--org--name'
    shutil.copytree(place, cache / 'snapshots' / 'abc')
    (cache / 'refs').mkdir()
    (cache / 'refs' / 'main').write_text('abc')
    monkeypatch.setenv('HF_HOME', str(tmp_path))
    monkeypatch.delenv('HF_HUB_CACHE', raising=False)
    assert equal(weights.load('hf:org/name')[1], ours)


def test_a_tied_head_in_the_file_is_compared(folder):
    place, ours = folder
    arrays = {name: t.read() for name, t in safetensors_format.read_folder(place).items()}
    for head, code in ((arrays['transformer.wte.weight'], None), (arrays['transformer.wte.weight'] + 1, 'weights/untied')):
        both = {**arrays, 'lm_head.weight': head}
        safetensors_format.write_folder(place, [(name, x.shape, x.dtype, lambda x=x: x) for name, x in both.items()])
        if code is None:
            assert equal(weights.load(f'hf:{place}')[1], ours)
        else:
            with refused(code, 'lm_head.weight'):
                weights.load(f'hf:{place}')


def test_the_given_parameters_of_a_model(folder):
    place, ours = folder
    model, other, said = MODELS['gpt2'], jax.tree.map(jnp.asarray, variables(MODELS['gpt2'], 1)), []
    params, state = weights.into(f'hf:{place}', model, other['params'], {}, said.append)
    assert equal({'params': params}, ours) and state == {} and not said
    members = jax.tree.map(lambda x: jnp.stack([x, x + 1, x]), other['params'])
    params, _ = weights.into(f'hf:{place}', model, members, {}, said.append, members=3)
    for i in range(3):
        assert equal({'params': jax.tree.map(lambda x, i=i: x[i], params)}, ours)
    with refused('weights/other-model', 'epsilon', '--config.model.epsilon=1e-05'):
        weights.into(f'hf:{place}', model.clone(epsilon=1e-3), other['params'], {})


def test_the_command_line(tmp_path, folder, capsys):
    place, _ = folder
    assert commands.main(['ls', f'hf:{place}']) == 0
    out = capsys.readouterr().out
    assert 'block_1/attn/query/kernel, block_1/attn/key/kernel, block_1/attn/value/kernel' in out and '8x24' in out
    assert 'transformer.h.1.attn.c_attn.weight' in out and '28 arrays' in out
    assert commands.main(['convert', f'hf:{place}', f'npz:{tmp_path}/x.npz']) == 0
    assert commands.main(['diff', f'hf:{place}', f'npz:{tmp_path}/x.npz']) == 0 and 'bit for bit' in capsys.readouterr().out
    weights.save(MODELS['gpt2'], variables(MODELS['gpt2'], 1), f'hf:{tmp_path}/other')
    assert commands.main(['diff', f'npz:{tmp_path}/x.npz', f'hf:{tmp_path}/other']) == 4
    assert 'pos_embed/embedding: 72 of 72 numbers differ' in capsys.readouterr().out
    for argv in ([], ['copy'], ['ls'], ['diff', 'hf:x']):
        assert commands.main(argv) == 2


MEASURE = """
import resource, sys, jax
from bigjax import weights
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
weights.load(sys.argv[1])
before = peak()
_, found, _ = weights.load(sys.argv[2])
print((peak() - before) / sum(x.nbytes for x in jax.tree.leaves(jax.block_until_ready(found))))
"""


@pytest.mark.skipif(not hasattr(resource, 'RUSAGE_SELF') or sys.platform != 'linux', reason='ru_maxrss is KiB on Linux alone')
def test_memory_of_reading_is_little_more_than_the_tree(tmp_path, folder):
    model = GPT(16000, 64, 4, 8, 512, bias=True)
    weights.save(model, variables(model), f'hf:{tmp_path}/large', shard=30_000_000)
    places = f'hf:{folder[0]}', f'hf:{tmp_path}/large'
    run = subprocess.run([sys.executable, '-c', MEASURE, *places], capture_output=True, text=True, check=True,
                         env={**os.environ, 'JAX_PLATFORMS': 'cpu', 'PYTHONPATH': ':'.join(filter(None, sys.path))})
    assert float(run.stdout.split()[-1]) <= 1.3, run.stdout


@pytest.mark.parametrize('model, key', [
    (BERT(31, 9, 2, 2, 8), 'intermediate_size'), (GPT(31, 9, 2, 2, 8, **LLAMA), 'intermediate_size'),
    (EncoderDecoder(31, 9, 2, 2, width=8), 'd_ff')], ids=['bert', 'llama', 't5'])
def test_a_size_that_follows_from_others_is_written_as_it_is(model, key):
    assert config_json.matching(model)[2][key] == 32
