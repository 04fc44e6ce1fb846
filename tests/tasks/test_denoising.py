"""Denoising: the spans that are cut out against their definition, and the loss of the pairs."""
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigjax.tasks import denoising
from tests.tasks.terms import objective


@pytest.mark.parametrize(('length', 'spans', 'source', 'target'), [
    (568, (85, 28), 512, 114), (24, (4, 1), 22, 6), (2, (1, 1), 3, 3), (10, (2, 1), 10, 4)])
def test_a_window_has_the_same_number_of_spans_every_time(length, spans, source, target):
    """T5's own windows of 568 tokens give 512 and 114."""
    found = denoising.Spans.of(length)
    assert found == spans and length - found.cut + found.spans + 1 == source and found.cut + found.spans + 1 == target


def restored(source, target, sentinel):
    """The window of a pair, by putting each span of the target where its sentinel is."""
    spans, current = {}, None
    for token in target[:-1]:
        if token > sentinel - 50:
            current = spans.setdefault(token, [])
        else:
            current.append(token)
    return list(itertools.chain(*[spans[t] if t > sentinel - 50 else [t] for t in source[:-1]])), spans


@pytest.mark.parametrize('seed', range(3))
def test_source_and_target_restore_the_window(seed):
    window = np.random.default_rng(seed).integers(2, 900, 80).astype(np.int32)
    form = denoising.Spans.of(80, mean_span=2.0)
    cut = jax.jit(lambda key: denoising.cut_spans(key, window, form, sentinel=999, eos=1))
    source, target = map(np.asarray, cut(jax.random.key(seed)))
    found, spans = restored(source.tolist(), target.tolist(), 999)
    assert found == window.tolist() and source[-1] == target[-1] == 1 and source[0] == window[0]
    assert list(spans) == [999 - i for i in range(form.spans)] and sum(map(len, spans.values())) == form.cut
    assert all(spans.values()), 'no span is empty'
    assert (np.asarray(cut(jax.random.key(seed + 9))[0]) != source).any()


def test_every_division_is_as_likely():
    """Six tokens in three parts: the ten divisions, within 5 deviations of a tenth."""
    draw = jax.jit(jax.vmap(lambda key: denoising.shares(key, 6, 3)))
    found = np.asarray(draw(jax.random.split(jax.random.key(0), 4000)))
    rows, counts = np.unique(found, axis=0, return_counts=True)
    assert (found.sum(1) == 6).all() and len(rows) == 10
    assert (abs(counts - 400) < 5 * np.sqrt(4000 * 0.1 * 0.9)).all()


def test_the_loss_is_that_of_the_pairs():
    windows = np.random.default_rng(0).integers(2, 20, (3, 48)).astype(np.int32)
    seen = []

    def apply(variables, source, target, *, train=False, rng=None):
        seen.append((source, target))
        return jnp.sin(target[..., None] * jnp.arange(30.0)), {}

    task = denoising.spans(30)
    assert [x.shape for x in task.inputs({'tokens': windows})] == [(3, 44), (3, 10)]
    result = task.loss(apply, {}, {'tokens': windows}, jax.random.key(0), True)
    assert np.isfinite(objective(result)) and (np.asarray(seen[0][1])[:, 0] == 0).all(), 'the target so far begins with pad'
    again, other = (objective(task.loss(apply, {}, {'tokens': windows}, jax.random.key(k), False)) for k in (0, 1))
    assert again == objective(result) != other
