"""Recurrent networks: parameter counts and parity with torch, padding, directions."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_helpers import applied, dense_to_torch, init, parameters, recurrent_to_torch

from bigjax.models.rnn import VARIANTS, CharLSTM, RNNClassifier
from tests.refused import refused


def test_parameter_counts():
    assert parameters(RNNClassifier(**VARIANTS['mnist1d']), jnp.zeros((2, 40))) == 5_134
    hidden = 130
    count = 4 * hidden * (1 + hidden + 2) + 10 * hidden + 10
    assert parameters(RNNClassifier(**VARIANTS['sequential_mnist']), jnp.zeros((2, 784))) == count


def test_forget_gates_start_with_their_bias():
    params = RNNClassifier('lstm', 3, forget_bias=1.5).init(jax.random.key(0), jnp.zeros((1, 2)), train=False)['params']
    layer = params['rnn']['layer_0']
    np.testing.assert_array_equal(layer['input_bias'] + layer['recurrent_bias'], [0] * 3 + [1.5] * 3 + [0] * 6)
    with refused('model/unknown-option', 'forget_bias=1.0', 'gru'):
        RNNClassifier('gru', 3, forget_bias=1.0).init(jax.random.key(0), jnp.zeros((1, 2)), train=False)


@pytest.mark.parametrize('cell', ['lstm', 'gru'])
@pytest.mark.parametrize('readout', ['last', 'all', 'mean'])
def test_bidirectional_layers_equal_torch(cell, readout):
    torch = pytest.importorskip('torch', reason='torch is the reference')
    model = RNNClassifier(cell, 5, layers=2, bidirectional=True, num_classes=3, readout=readout)
    x = np.random.default_rng(0).normal(size=(4, 7, 2)).astype(np.float32)
    params = init(model, x)['params']
    twin = {'lstm': torch.nn.LSTM, 'gru': torch.nn.GRU}[cell](2, 5, 2, batch_first=True, bidirectional=True)
    for i in range(2):
        recurrent_to_torch(params['rnn'][f'layer_{i}'], twin, f'l{i}')
        recurrent_to_torch(params['rnn'][f'layer_{i}_reverse'], twin, f'l{i}_reverse')
    y, state = twin(torch.tensor(x))
    final = state[0] if cell == 'lstm' else state
    seen = {'all': y.flatten(1), 'mean': y.mean(1), 'last': torch.cat([final[-2], final[-1]], dim=-1)}[readout]
    head = torch.nn.Linear(seen.shape[-1], 3)
    dense_to_torch(params['head'], head)
    np.testing.assert_allclose(
        applied(model, {'params': params}, x, train=False), head(seen).detach().numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('readout', ['last', 'mean'])
def test_padding_is_not_seen(readout):
    model = RNNClassifier('gru', 4, bidirectional=True, num_classes=2, readout=readout, vocab_size=9, embed=3)
    tokens = np.array([[1, 2, 3, 0, 0], [4, 5, 6, 7, 8]])
    variables = init(model, tokens)
    lengths = np.array([3, 5])
    padded = applied(model, variables, tokens, lengths, train=False)
    other = applied(model, variables, np.where(tokens == 0, 8, tokens), lengths, train=False)
    alone = applied(model, variables, tokens[:1, :3], np.array([3]), train=False)
    np.testing.assert_array_equal(padded, other)
    np.testing.assert_allclose(padded[:1], alone, rtol=1e-5, atol=1e-6)


def test_char_lstm_equals_torch():
    torch = pytest.importorskip('torch', reason='torch is the reference')
    model = CharLSTM(vocab_size=11, embed=4, features=6, layers=2)
    tokens = np.random.default_rng(0).integers(0, 11, (3, 8))
    params = init(model, tokens)['params']
    twin = torch.nn.LSTM(4, 6, 2, batch_first=True)
    for i in range(2):
        recurrent_to_torch(params['rnn'][f'layer_{i}'], twin, f'l{i}')
    head = torch.nn.Linear(6, 11)
    dense_to_torch(params['head'], head)
    expected = head(twin(torch.tensor(np.array(params['embed']['embedding'])[tokens]))[0]).detach().numpy()
    np.testing.assert_allclose(applied(model, {'params': params}, tokens, train=False), expected, rtol=1e-4, atol=1e-5)


def test_char_lstm_sees_only_the_past():
    model = CharLSTM(vocab_size=11, embed=4, features=6, layers=1)
    tokens = np.random.default_rng(0).integers(0, 10, (1, 8))
    variables = init(model, tokens)
    changed = tokens.copy()
    changed[:, 5:] = 10
    before, after = (applied(model, variables, t, train=False) for t in (tokens, changed))
    np.testing.assert_array_equal(before[:, :5], after[:, :5])
    assert not np.allclose(before[:, 5:], after[:, 5:])


def test_dropout_acts_between_layers_and_rests_in_evaluation():
    model = CharLSTM(vocab_size=11, embed=4, features=6, layers=2, dropout=0.5)
    tokens = np.zeros((2, 4), np.int32)
    variables = init(model, tokens)
    runs = [applied(model, variables, tokens, train=True, rngs={'dropout': jax.random.key(i)}) for i in range(2)]
    assert not np.allclose(*runs)
    plain = CharLSTM(vocab_size=11, embed=4, features=6, layers=2)
    np.testing.assert_array_equal(
        applied(model, variables, tokens, train=False), applied(plain, variables, tokens, train=True))


def test_a_population_is_its_members():
    model = RNNClassifier('lstm', 4, num_classes=3)
    x = np.random.default_rng(0).normal(size=(2, 6, 2)).astype(np.float32)
    members = [init(model, x, seed=s) for s in range(3)]
    together = jax.vmap(lambda v: model.apply(v, x, train=False))(
        jax.tree.map(lambda *leaves: jnp.stack(leaves), *members))
    for one, variables in zip(together, members, strict=True):
        np.testing.assert_allclose(one, applied(model, variables, x, train=False), rtol=1e-4, atol=1e-5)


def test_low_precision():
    x = np.random.default_rng(0).normal(size=(2, 9, 3)).astype(np.float32)
    model = RNNClassifier('lstm', 8, num_classes=3, dtype=jnp.bfloat16)
    variables = init(model, x)
    out = applied(model, variables, x, train=False)
    assert out.dtype == jnp.bfloat16
    full = applied(RNNClassifier('lstm', 8, num_classes=3), variables, x, train=False)
    np.testing.assert_allclose(out.astype(np.float32), full, atol=0.03)


@pytest.mark.parametrize('fields', [{'cell': 'elman'}, {'readout': 'first'}])
def test_wrong_fields_are_the_users_error(fields):
    with refused('model/unknown-option', *(f'{key} {value!r}' for key, value in fields.items())):
        parameters(RNNClassifier(**fields), jnp.zeros((1, 4, 1)))
