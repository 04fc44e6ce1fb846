"""Greedy decoding of an encoder-decoder against a target that is grown token by token, without a cache."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigjax.models.seq2seq import EncoderDecoder
from bigjax.tasks import bind, sequence


@pytest.mark.parametrize('vocabulary', [None, 7])
def test_decoding_is_the_most_likely_token_after_each(vocabulary):
    model = EncoderDecoder(vocab_size=11, num_layers=1, num_heads=2, width=8, mlp_width=8)
    source = np.array([[3, 4, 5, 1], [7, 1, 0, 0], [9, 9, 1, 0], [2, 6, 1, 0]], np.int32)
    variables = jax.jit(lambda key: model.init(key, source, source))(jax.random.key(3))
    variables = jax.tree.map(lambda x: x * 3, variables)  # so that what is seen matters
    length = 6
    full = jax.jit(lambda target: jnp.argmax(model.apply(variables, source, target)[..., :vocabulary], axis=-1))
    grown = np.zeros((len(source), length + 1), np.int32)  # what is after a token is not seen
    for t in range(length):
        grown[:, t + 1] = np.asarray(full(grown))[:, t]
    expected = grown[:, 1:].copy()
    model = model.clone(eos=int(expected[0, 2]))  # a token that ends a row before its last
    ended = np.cumsum(expected == model.eos, axis=1) - (expected == model.eos) > 0
    expected[ended] = model.pad

    task = sequence.teacher_forcing(start=model.bos, decode=sequence.greedy(model, length, vocabulary))
    found = jax.jit(lambda v: task.predict(bind(model), v, {'source': source}, None))(variables)
    np.testing.assert_array_equal(found, expected)
    assert ended.any() and len(np.unique(expected)) > 2
    assert vocabulary is None or np.max(found) < vocabulary
