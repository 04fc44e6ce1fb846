"""Classifiers of texts: the definition in NumPy, and what is beyond the mask."""
import functools

import jax
import numpy as np
import pytest
from model_helpers import init

from bigjax.models import rnn, text

TOKENS = np.array([[3, 1, 4, 1, 5, 9, 2], [6, 5, 3, 0, 0, 0, 0]])
LENGTHS = np.array([7, 3])
MASK = np.arange(7) < LENGTHS[:, None]
MODELS = {'cnn': text.TextCNN(10, embed=6, channels=4, widths=(2, 3), num_classes=3),
          'mean': text.MeanEmbedding(10, embed=6, num_classes=3),
          'lstm': rnn.RNNClassifier(vocab_size=10, embed=6, features=4, num_classes=3, readout='mean', bidirectional=True)}


@functools.cache
def variables(name):
    """Parameters away from their initial values, where a head is zero."""
    return jax.tree.map(lambda x: 3 * x, init(MODELS[name], TOKENS))


def applied(name, tokens, mask):
    call = jax.jit(functools.partial(MODELS[name].apply, train=False))
    return np.asarray(call(variables(name), np.asarray(tokens), mask=mask))


@pytest.mark.parametrize('name', MODELS)
def test_padding_changes_nothing(name):
    apply = functools.partial(applied, name)
    whole = apply(TOKENS, MASK)
    other = np.where(MASK, TOKENS, 7)
    np.testing.assert_allclose(apply(other, MASK), whole, atol=1e-5)
    longer = np.pad(TOKENS, ((0, 0), (0, 5)), constant_values=8)
    np.testing.assert_allclose(apply(longer, np.pad(MASK, ((0, 0), (0, 5)))), whole, atol=1e-5)
    np.testing.assert_allclose(apply(TOKENS[1:, :3], None), whole[1:], atol=1e-5)
    assert np.abs(apply(TOKENS, None)[1] - whole[1]).max() > 1e-3  # a mask that is not looked at


def test_convolutions_are_the_definition():
    p = jax.tree.map(lambda x: np.asarray(x, np.float64), variables('cnn')['params'])
    logits = []
    for row, length in zip(TOKENS, LENGTHS, strict=True):
        x = p['embed']['embedding'][row[:length]]
        features = []
        for width in (2, 3):
            padded = np.pad(x, ((width - 1, width - 1), (0, 0)))
            windows = [np.einsum('wd,wdc->c', padded[i:i + width], p[f'conv_{width}']['kernel']) for i in
                       range(len(padded) - width + 1)]
            features.append(np.maximum(np.array(windows) + p[f'conv_{width}']['bias'], 0).max(axis=0))
        logits.append(np.concatenate(features) @ p['head']['kernel'] + p['head']['bias'])
    np.testing.assert_allclose(applied('cnn', TOKENS, MASK), logits, rtol=1e-4, atol=1e-4)


def test_the_mean_is_the_definition():
    p = jax.tree.map(np.asarray, variables('mean')['params'])
    means = [p['embed']['embedding'][row[:n]].mean(axis=0) for row, n in zip(TOKENS, LENGTHS, strict=True)]
    np.testing.assert_allclose(applied('mean', TOKENS, MASK),
                               np.array(means) @ p['head']['kernel'] + p['head']['bias'], rtol=1e-4, atol=1e-4)
