"""Whisper: published sizes, its cache, the format of its weights, and parity with transformers."""
import struct

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_helpers import init, parameters

from bigjax.models.whisper import VARIANTS, Whisper
from bigjax.weights import ctranslate2
from experiments.whisper import nested
from tests.refused import refused

FIELDS = {'num_layers': 2, 'width': 16, 'num_heads': 2, 'vocab_size': 40, 'block_size': 12}
FEATURES = np.random.default_rng(0).normal(size=(2, 20, 80)).astype(np.float32)
TOKENS = np.random.default_rng(1).integers(0, 40, (2, 7)).astype(np.int32)


@pytest.mark.parametrize(('variant', 'count'), [('tiny', 37_184_640), ('tiny.en', 37_184_256), ('base', 71_825_920)])
def test_sizes(variant, count):
    assert parameters(Whisper(**VARIANTS[variant]), FEATURES, TOKENS) == count


def test_one_token_at_a_time_is_all_at_once():
    model = Whisper(**FIELDS)
    variables = init(model, FEATURES, TOKENS)
    whole = np.asarray(jax.jit(model.apply)(variables, FEATURES, TOKENS))
    step = jax.jit(lambda tokens, cache: model.apply(variables, tokens, cache, method='decode'))
    cache = jax.jit(lambda x: model.apply(variables, x, 9, method='start'))(FEATURES)
    first, cache = step(TOKENS[:, :3], cache)
    found = [np.asarray(first)]
    for t in range(3, 7):
        logits, cache = step(TOKENS[:, t:t + 1], cache)
        found.append(np.asarray(logits))
    np.testing.assert_allclose(np.concatenate(found, axis=1), whole, atol=2e-5)


def test_more_tokens_than_positions_are_refused():
    model = Whisper(**FIELDS)
    long = np.zeros((2, 13), np.int32)
    with refused('model/too-long', '13 tokens', 'block_size=12'):
        parameters(model, FEATURES, long)
    with refused('model/too-long', '13 tokens', 'block_size=12'):
        jax.eval_shape(lambda v: model.apply(v, FEATURES, 13, method='start'), init(model, FEATURES, TOKENS))


def test_the_cache_has_the_type_of_the_computation():
    model = Whisper(**FIELDS, dtype=jnp.bfloat16)
    cache = jax.eval_shape(lambda v: model.apply(v, FEATURES, 9, method='start'), init(model, FEATURES, TOKENS))
    assert {leaf.dtype for leaf in jax.tree.leaves((cache.layers, cache.cross))} == {jnp.dtype(jnp.bfloat16)}


def their_names(state):
    """The arrays of CTranslate2 of a state dict of transformers: query, key and value of one source are one matrix."""
    get = lambda name: state[f'model.{name}'].numpy() if f'model.{name}' in state else None
    out = {'encoder/num_heads': np.int16(2), 'decoder/embeddings/weight': get('decoder.embed_tokens.weight'),
           'decoder/position_encodings/encodings': get('decoder.embed_positions.weight'),
           'encoder/position_encodings/encodings': get('encoder.embed_positions.weight')}
    for i in (1, 2):
        out |= {f'encoder/conv{i}/{part}': get(f'encoder.conv{i}.{part}') for part in ('weight', 'bias')}

    def norm(ours, theirs):
        out.update({f'{ours}/layer_norm/gamma': get(f'{theirs}.weight'), f'{ours}/layer_norm/beta': get(f'{theirs}.bias')})

    def linear(ours, *theirs):
        weights = [get(f'{name}.weight') for name in theirs]
        biases = [get(f'{name}.bias') for name in theirs]
        out[f'{ours}/weight'] = np.concatenate(weights)
        out[f'{ours}/bias'] = np.concatenate([np.zeros(len(w), np.float32) if b is None else b
                                              for w, b in zip(weights, biases, strict=True)])

    for side in ('encoder', 'decoder'):
        norm(side, f'{side}.layer_norm')
        for i in range(2):
            a, b = f'{side}/layer_{i}', f'{side}.layers.{i}'
            linear(f'{a}/self_attention/linear_0', *(f'{b}.self_attn.{p}_proj' for p in 'qkv'))
            linear(f'{a}/self_attention/linear_1', f'{b}.self_attn.out_proj')
            linear(f'{a}/ffn/linear_0', f'{b}.fc1')
            linear(f'{a}/ffn/linear_1', f'{b}.fc2')
            norm(f'{a}/self_attention', f'{b}.self_attn_layer_norm')
            norm(f'{a}/ffn', f'{b}.final_layer_norm')
            if side == 'decoder':
                linear(f'{a}/attention/linear_0', f'{b}.encoder_attn.q_proj')
                linear(f'{a}/attention/linear_1', f'{b}.encoder_attn.k_proj', f'{b}.encoder_attn.v_proj')
                linear(f'{a}/attention/linear_2', f'{b}.encoder_attn.out_proj')
                norm(f'{a}/attention', f'{b}.encoder_attn_layer_norm')
    return out


@pytest.mark.parity
def test_logits_are_those_of_transformers():
    transformers = pytest.importorskip('transformers', reason='transformers is the reference')
    torch = pytest.importorskip('torch', reason='torch is the reference')
    torch.manual_seed(0)
    config = transformers.WhisperConfig(
        vocab_size=40, num_mel_bins=80, d_model=16, encoder_layers=2, decoder_layers=2, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=64, decoder_ffn_dim=64, max_source_positions=10, max_target_positions=12,
        pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1)
    theirs = transformers.WhisperForConditionalGeneration(config).eval()
    found = their_names(theirs.state_dict())
    assert ctranslate2.fields(found, 'here') == FIELDS
    with torch.no_grad():
        for p in theirs.parameters():
            p.add_(0.1 * torch.randn_like(p) * (p.abs().sum() > 0))
        found = their_names(theirs.state_dict())
        expected = theirs(torch.tensor(FEATURES).transpose(1, 2), decoder_input_ids=torch.tensor(TOKENS).long()).logits.numpy()
    positions = found['encoder/position_encodings/encodings']
    variables = {'params': nested(ctranslate2.whisper(found, 'here'))}
    model = Whisper(**FIELDS)
    from bigjax.models import whisper
    original = whisper.sinusoids
    try:
        whisper.sinusoids = lambda length, width: jnp.asarray(positions)  # theirs were moved too
        ours = model.apply(variables, FEATURES, TOKENS)
    finally:
        whisper.sinusoids = original
    np.testing.assert_allclose(np.asarray(ours), expected, atol=1e-4)


@pytest.mark.parity
def test_positions_of_the_encoder_are_those_of_transformers():
    module = pytest.importorskip('transformers.models.whisper.modeling_whisper', reason='transformers is the reference')
    from bigjax.models.whisper import sinusoids
    np.testing.assert_allclose(sinusoids(1500, 384), module.sinusoids(1500, 384).numpy(), atol=2e-4)


# -- the file ---------------------------------------------------------------------------------------------------------

def packed(arrays, version=6):
    text = lambda s: struct.pack('<H', len(s) + 1) + s.encode() + b'\0'
    kinds = {np.dtype('<f4'): 0, np.dtype('<i2'): 2, np.dtype('<f2'): 4}
    out = struct.pack('<I', version) + text('WhisperSpec') + struct.pack('<II', 3, len(arrays))
    for name, array in arrays.items():
        array = np.asarray(array)
        out += text(name) + struct.pack('<B', array.ndim) + struct.pack(f'<{array.ndim}I', *array.shape)
        out += struct.pack('<BI', kinds[array.dtype], array.nbytes) + array.tobytes()
    return out + struct.pack('<I', 1) + text('decoder/projection/weight') + text('decoder/embeddings/weight')


STORED = {'a/b': np.arange(6, dtype='<f2').reshape(2, 3), 'c': np.int16(7), 'd': np.ones(3, '<f4')}


def test_the_file_holds_what_was_written(tmp_path):
    (tmp_path / 'model.bin').write_bytes(packed(STORED))
    found = ctranslate2.arrays(ctranslate2.content(tmp_path), 'here')
    assert set(found) == set(STORED)
    for name, array in STORED.items():
        np.testing.assert_array_equal(found[name], array)
    (tmp_path / 'one').mkdir(), (tmp_path / 'two').mkdir()
    (tmp_path / 'one' / 'model.bin.part1').write_bytes(packed(STORED)[:60])
    (tmp_path / 'two' / 'model.bin.part2').write_bytes(packed(STORED)[60:])
    assert ctranslate2.content(tmp_path / 'one', tmp_path / 'two') == packed(STORED)
    with refused('weights/no-file', 'one'):
        ctranslate2.content(tmp_path / 'one')


@pytest.mark.parametrize('data', [b'', packed(STORED)[:40], packed(STORED)[:90], packed(STORED, version=5), b'\x06\0\0\0' * 9])
def test_a_damaged_file_is_refused(data):
    with refused('weights/damaged', 'model.bin', 'here'):
        ctranslate2.arrays(data, 'here/model.bin')


def test_arrays_of_another_model_are_refused():
    with refused('weights/other-architecture', 'here'):
        ctranslate2.fields(STORED, 'here')
