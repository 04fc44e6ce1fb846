"""CTC against torch and against every path written out; decoders; word errors."""
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigjax.metrics import speech
from bigjax.nn import ctc_decode
from bigjax.tasks import MASK
from bigjax.tasks import ctc as tasks
from tests.tasks.terms import only

RNG = np.random.default_rng(0)
B, T, K, U = 4, 9, 5, 3
X = RNG.normal(size=(B, T, 2)).astype(np.float32)
TABLE = {'params': {'kernel': jnp.asarray(RNG.normal(size=(2, K)) * 2, jnp.float32)}}
FRAMES = np.array([9, 6, 9, 3])
TEXT = np.array([[1, 2, 3], [4, 4, 0], [2, 0, 0], [3, 3, 3]], np.int32)  # the last one needs five frames
BATCH = {'x': X, 'mask': np.arange(T) < FRAMES[:, None], 'text': TEXT, 'text_length': np.array([3, 2, 1, 3], np.int32)}


def apply(variables, x, *, mask=None, train=False, rng=None):
    return x @ variables['params']['kernel'], {}


def test_the_loss_is_torchs_and_a_text_without_an_alignment_has_no_weight():
    torch = pytest.importorskip('torch', reason='torch is the reference')
    values, weights, aux = only(tasks.ctc().loss(apply, TABLE, {**BATCH, MASK: np.array([1, 1, 0, 1])}, None, True))
    log_p = torch.log_softmax(torch.tensor(X @ np.asarray(TABLE['params']['kernel'])), -1).transpose(0, 1)
    expected = torch.nn.functional.ctc_loss(log_p, torch.tensor(TEXT).long(), torch.tensor(FRAMES),
                                            torch.tensor(BATCH['text_length']).long(), reduction='none').numpy()
    np.testing.assert_allclose(values[:3], expected[:3], rtol=1e-4)
    assert np.isinf(expected[3]) and list(weights) == [1, 1, 0, 0]
    assert tuple(map(float, aux.metrics['impossible'])) == (1.0, 3.0)
    np.testing.assert_array_equal(tasks.needed_frames(TEXT, BATCH['text_length']), [3, 3, 1, 5])


def test_strided_outputs_count_the_frames_that_begin_in_the_sound():
    strided = lambda variables, x, **kw: apply(variables, x[:, ::2], **kw)
    batch = {**BATCH, 'text': TEXT[:, :1], 'text_length': np.ones(B, np.int32)}
    found = tasks.ctc(stride=2).predict(strided, TABLE, batch, None)['greedy']
    log_p = jax.nn.log_softmax(X[:, ::2] @ TABLE['params']['kernel'])
    np.testing.assert_array_equal(found, ctc_decode.greedy(log_p, np.array([5, 3, 5, 2])))


def collapsed(path):
    return tuple(symbol for symbol, _ in itertools.groupby(path) if symbol)


def log_probs(frames, symbols, seed):
    x = np.random.default_rng(seed).normal(size=(frames, symbols)) * 1.5
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


@pytest.mark.parametrize('seed', range(3))
def test_a_wide_prefix_search_finds_the_text_with_the_most_probable_paths(seed):
    frames, symbols = 4, 3
    log_p, total = log_probs(frames, symbols, seed), {}
    for path in itertools.product(range(symbols), repeat=frames):
        text = collapsed(path)
        total[text] = np.logaddexp(total.get(text, -np.inf), sum(log_p[t, k] for t, k in enumerate(path)))
    best = max(total, key=total.get)
    padded = np.concatenate([log_p, np.zeros((2, symbols))])  # frames past the end are not read
    text, score = ctc_decode.prefix_beam(padded[None].astype(np.float32), np.array([frames]), beams=40)
    assert tuple(k for k in np.asarray(text[0]) if k) == best
    assert float(score[0]) == pytest.approx(total[best], abs=1e-4)


def test_greedy_is_the_best_path_without_repetitions_and_blanks():
    log_p = np.stack([log_probs(12, 4, seed) for seed in range(6)])
    frames = np.array([12, 12, 7, 3, 1, 0])
    found = np.asarray(ctc_decode.greedy(log_p, frames))
    for row, p, n in zip(found, log_p, frames, strict=True):
        text = collapsed(p[:n].argmax(-1))
        assert tuple(row) == text + (0,) * (12 - len(text))


def test_a_search_of_one_symbol_after_itself_needs_a_blank_between():
    log_p = np.log(np.array([[0.1, 0.9], [0.1, 0.9], [0.9, 0.1], [0.1, 0.9]], np.float32))[None]
    text, score = ctc_decode.prefix_beam(log_p, np.array([4]), beams=4)
    assert list(np.asarray(text[0])) == [1, 1, 0, 0]
    assert float(np.exp(score[0])) == pytest.approx(0.9 ** 4 + 2 * 0.9 ** 3 * 0.1 + 0.1 * 0.1 * 0.9 * 0.9 * 0, abs=2e-2)


@pytest.mark.parametrize(('found', 'expected', 'edits'), [
    ('', '', 0), ('a b c', 'a b c', 0), ('', 'a b', 2), ('a b', '', 2), ('a x c', 'a b c', 1), ('a c', 'a b c', 1),
    ('a b b c', 'a b c', 1), ('b c a', 'a b c', 2), ('x y z a b', 'a b', 3), ('the cat sat', 'a cat sat down', 2)])
def test_edits(found, expected, edits):
    assert speech.edits(found.split(), expected.split()) == edits


@pytest.mark.parity
def test_rates_are_jiwers():
    jiwer = pytest.importorskip('jiwer', reason='jiwer is the reference')
    rng = np.random.default_rng(0)
    texts = [[' '.join(rng.choice(list('abcd'), rng.integers(1, 9))) for _ in range(50)] for _ in range(2)]
    found = speech.word_errors(*texts)
    assert found['wer'] == pytest.approx(jiwer.wer(texts[1], texts[0]))
    assert found['cer'] == pytest.approx(jiwer.cer(texts[1], texts[0]))
    assert found['exact_match'] == np.mean([a == b for a, b in zip(*texts, strict=True)])
