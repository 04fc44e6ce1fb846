"""Encoder-decoder: counts, a torch twin, padding, and decoding as teacher forcing on its own output."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_helpers import abstract, dense_to_torch, init, parameters, paths, recurrent_to_torch

from bigjax.models.seq2seq import VARIANTS, Seq2Seq
from tests import tiers

SOURCE = np.array([[1, 5, 6, 2, 0, 0], [1, 7, 4, 3, 8, 2], [1, 2, 0, 0, 0, 0]], np.int32)
TARGET = np.array([[1, 3, 4, 2, 0], [1, 5, 3, 3, 2], [1, 4, 2, 0, 0]], np.int32)


def small(**fields):
    return Seq2Seq(9, 6, **{'features': 8, 'max_length': 7, **fields})


def test_parameter_counts_and_paths():
    recurrent = 2 * 4 * 200 * (200 + 200 + 2)
    plain = 16 * 200 + 9 * 200 + 2 * recurrent + 200 * 9 + 9
    assert parameters(Seq2Seq(**VARIANTS['scan']), SOURCE, TARGET) == plain
    attention = 200 * 200 + 400 * 200 + 200
    params = abstract(Seq2Seq(**VARIANTS['scan_attention']), SOURCE, TARGET)['params']
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == plain + attention
    assert {p.rsplit('/', 1)[0] for p in paths(params)} == {
        'source_embed', 'target_embed', 'encoder/layer_0', 'encoder/layer_1', 'decoder/layer_0', 'decoder/layer_1',
        'attention/score', 'attention/combine', 'head'}


@pytest.mark.parametrize('attention', [True, False])
@pytest.mark.parametrize('cell', ['lstm', 'gru'])
def test_equals_torch(attention, cell):
    torch = pytest.importorskip('torch', reason='torch is the reference')
    model = small(attention=attention, cell=cell)
    variables = init(model, SOURCE, TARGET)
    params = variables['params']

    def layers(p):
        twin = {'lstm': torch.nn.LSTM, 'gru': torch.nn.GRU}[cell](8, 8, 2, batch_first=True)
        for i in range(2):
            recurrent_to_torch(p[f'layer_{i}'], twin, f'l{i}')
        return twin

    def dense(p, x):
        layer = torch.nn.Linear(*p['kernel'].shape, bias='bias' in p)
        dense_to_torch(p, layer)
        return layer(x)

    embed = lambda name, ids: torch.tensor(np.array(params[name]['embedding'])[ids])
    with torch.no_grad():
        rows = []
        for source, target in zip(SOURCE, TARGET, strict=True):  # one at a time, so that nothing is padded
            memory, state = layers(params['encoder'])(embed('source_embed', source[source != 0])[None])
            y, _ = layers(params['decoder'])(embed('target_embed', target)[None], state)
            if attention:
                p = params['attention']
                scores = y @ dense(p['score'], memory).transpose(1, 2) / 8 ** 0.5
                y = dense(p['combine'], torch.cat([scores.softmax(-1) @ memory, y], dim=-1)).tanh()
            rows.append(dense(params['head'], y)[0].numpy())
    found = jax.jit(lambda v: model.apply(v, SOURCE, TARGET, train=False))(variables)
    np.testing.assert_allclose(found, np.stack(rows), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('attention', tiers.first(1, [True, False]))
def test_decoding_is_teacher_forcing_on_its_own_output(attention):
    rng = np.random.default_rng(0)
    source = np.where(np.arange(6) < rng.integers(1, 7, 40)[:, None], rng.integers(3, 9, (40, 6)), 0).astype(np.int32)
    variables = jax.tree.map(lambda a: a * 10, init(small(attention=attention), source, source, seed=5))

    def decode(eos):
        model = small(attention=attention, eos=eos)
        return np.asarray(jax.jit(lambda v: model.apply(v, source, method='decode'))(variables))

    endless = decode(-1)
    eos = min(range(1, 6), key=lambda token: abs((endless[:, :-1] == token).any(axis=1).mean() - 0.5))
    tokens = decode(eos)
    fed = np.concatenate([np.full((40, 1), 1, np.int32), tokens[:, :-1]], axis=1)
    model = small(attention=attention)
    best = np.asarray(jax.jit(lambda v: model.apply(v, source, fed, train=False))(variables)).argmax(-1)
    ended = np.cumsum(tokens == eos, axis=1) - (tokens == eos) > 0
    assert ended.any(axis=1).sum() > 2 and (~(tokens == eos).any(axis=1)).sum() > 2, 'both kinds of sequences occur'
    np.testing.assert_array_equal(tokens[~ended], best[~ended])
    assert (tokens[ended] == 0).all()


def test_dropout_acts_in_training_only():
    model = small(dropout=0.5)
    variables = init(model, SOURCE, TARGET)
    call = jax.jit(lambda v, key: model.apply(v, SOURCE, TARGET, train=True, rngs={'dropout': key}))
    assert not np.allclose(call(variables, jax.random.key(0)), call(variables, jax.random.key(1)))
    plain = jax.jit(lambda v: small().apply(v, SOURCE, TARGET, train=True))(variables)
    still = jax.jit(lambda v: model.apply(v, SOURCE, TARGET, train=False))(variables)
    np.testing.assert_allclose(still, plain, rtol=1e-6)


@pytest.mark.slow
def test_a_population_decodes_as_its_members():
    model = small()
    members = [init(model, SOURCE, TARGET, seed=s) for s in range(2)]
    decode = lambda v: model.apply(v, SOURCE, method='decode')
    together = jax.jit(jax.vmap(decode))(jax.tree.map(lambda *leaves: jnp.stack(leaves), *members))
    for one, variables in zip(together, members, strict=True):
        np.testing.assert_array_equal(one, jax.jit(decode)(variables))


def test_low_precision():
    model = small(dtype='bfloat16')
    variables = init(model, SOURCE, TARGET)
    out = jax.jit(lambda v: model.apply(v, SOURCE, TARGET, train=False))(variables)
    assert out.dtype == jnp.bfloat16 and jax.tree.leaves(variables)[0].dtype == jnp.float32
    full = jax.jit(lambda v: small().apply(v, SOURCE, TARGET, train=False))(variables)
    np.testing.assert_allclose(out.astype(np.float32), full, atol=0.05)
    assert jax.jit(lambda v: model.apply(v, SOURCE, method='decode'))(variables).dtype == jnp.int32
