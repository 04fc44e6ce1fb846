"""Keras' recurrent classifiers: the order of gates against its equations in float64, and against Keras itself."""
import os

import jax.numpy as jnp
import numpy as np
import pytest

from bigjax import weights
from bigjax.models.rnn import RNNClassifier
from tests.refused import refused

V, E, H, K, T = 11, 3, 5, 2, 7


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def lstm(x, kernel, recurrent, bias):
    """Keras' LSTM: gates input, forget, cell, output side by side; the last h."""
    h = c = np.zeros((x.shape[0], H))
    for t in range(x.shape[1]):
        i, f, g, o = np.split(x[:, t] @ kernel + h @ recurrent + bias, 4, -1)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
    return h


def gru(x, kernel, recurrent, bias):
    """Keras' GRU, reset_after: gates update, reset, new; the last h."""
    h = np.zeros((x.shape[0], H))
    for t in range(x.shape[1]):
        xz, xr, xh = np.split(x[:, t] @ kernel + bias[0], 3, -1)
        hz, hr, hh = np.split(h @ recurrent + bias[1], 3, -1)
        z = sigmoid(xz + hz)
        h = z * h + (1 - z) * np.tanh(xh + sigmoid(xr + hr) * hh)
    return h


def write(path, arrays):
    h5py = pytest.importorskip('h5py', reason='h5py is not installed: pip install bigjax[keras]')
    with h5py.File(path, 'w') as file:
        for name, array in arrays.items():
            file[name] = array


@pytest.mark.parametrize('cell, equations, gates', [('lstm', lstm, 4), ('gru', gru, 3)])
def test_the_order_of_gates(tmp_path, cell, equations, gates):
    rng = np.random.default_rng(0)
    embedding, *layer = (rng.normal(size=shape) for shape in (
        (V, E), (E, gates * H), (H, gates * H), (gates * H,) if cell == 'lstm' else (2, gates * H)))
    head = rng.normal(size=(H, K)), rng.normal(size=K)
    path = tmp_path / 'x.weights.h5'
    write(path, {'layers/embedding/vars/0': embedding, **{f'layers/{cell}/cell/vars/{i}': x for i, x in enumerate(layer)},
                 **{f'layers/dense/vars/{i}': x for i, x in enumerate(head)}})
    tokens = rng.integers(0, V, (4, T))
    expected = equations(embedding[tokens], *layer) @ head[0] + head[1]
    model = RNNClassifier(cell, H, num_classes=K, vocab_size=V, embed=E)
    _, variables, _ = weights.load(f'keras:{path}', model=model)
    assert np.abs(model.apply(variables, jnp.asarray(tokens), train=False) - expected).max() < 1e-5


@pytest.mark.parity
@pytest.mark.parametrize('cell, both', [('LSTM', False), ('GRU', True)])
def test_keras(tmp_path, monkeypatch, cell, both):
    monkeypatch.setenv('KERAS_BACKEND', os.environ.get('KERAS_BACKEND', 'numpy'))
    keras = pytest.importorskip('keras', reason='keras is not installed: pip install bigjax[parity]')
    layers, wrap = keras.layers, keras.layers.Bidirectional if both else lambda layer: layer
    kind = getattr(layers, cell)
    reference = keras.Sequential([keras.Input((T,)), layers.Embedding(V, E), wrap(kind(H, return_sequences=True)),
                                  wrap(kind(H)), layers.Dense(K)])
    rng = np.random.default_rng(0)
    reference.set_weights([rng.normal(size=x.shape) for x in reference.get_weights()])
    reference.save_weights(tmp_path / 'x.weights.h5')
    tokens = rng.integers(0, V, (4, T))
    model = RNNClassifier(cell.lower(), H, 2, both, K, vocab_size=V, embed=E)
    _, variables, _ = weights.load(f'keras:{tmp_path}/x.weights.h5', model=model)
    got = model.apply(variables, jnp.asarray(tokens), train=False)
    assert np.abs(got - np.asarray(reference(tokens))).max() < 1e-5


def test_wrong_files(tmp_path):
    path = tmp_path / 'x.weights.h5'
    write(path, {'layers/dense/vars/0': np.zeros((2, 3))})
    with refused('weights/keys', 'lstm_0/cell/vars/0'):
        weights.load(f'keras:{path}', model=RNNClassifier('lstm', H, num_classes=K, vocab_size=V, embed=E))
    with refused('weights/no-model'):
        weights.load(f'keras:{path}')
    path.write_bytes(path.read_bytes()[:700])
    with refused('weights/damaged'):
        weights.load(f'keras:{path}', model=RNNClassifier())
