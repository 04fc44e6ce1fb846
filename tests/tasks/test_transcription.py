"""Whisper's decoding rules, segments and windows, on a stand-in whose next token is known."""
import jax.numpy as jnp
import numpy as np
import pytest

from bigjax.nn.kv_cache import KVCache
from bigjax.tasks import transcription as t

V = t.vocabulary(51_864)
AT = lambda seconds: V.stamps + round(seconds / t.STAMP_S)


def test_the_special_tokens_of_both_vocabularies():
    assert (V.end, V.start, V.no_speech, V.stamps, V.languages) == (50256, 50257, 50361, 50363, 0)
    many = t.vocabulary(51_865)
    assert (many.end, many.start, many.transcribe, many.no_speech, many.stamps, many.languages) == (
        50257, 50258, 50359, 50362, 50364, 99)
    assert t._size(V) == 51_864 and t._size(many) == 51_865


def cache_of(rows):
    """A cache of so many rows that holds no keys."""
    return KVCache((), jnp.int32(0), jnp.zeros((rows, 0), bool), jnp.zeros(rows, jnp.int32))


def decoded(script, length=12, stamps=True, v=V):
    """Decodes with a model that wants the tokens of `script` [B, L] one after the other, after its start tokens."""
    script, size = np.asarray(script), t._size(v)
    prompt = 1 if not v.languages else 3
    prompt += not stamps

    def apply(variables, *args, method):
        if method == 'start':
            return cache_of(len(script)), {}
        tokens, cache = args
        after = cache.index + tokens.shape[1]
        wanted = jnp.take(jnp.asarray(script), jnp.clip(after - prompt, 0, script.shape[1] - 1), axis=1)
        wanted = jnp.repeat(wanted, len(tokens) // len(script))  # of each beam
        logits = 20.0 * (jnp.arange(size) == wanted[:, None])
        return (logits[:, None], cache._replace(index=after)), {}

    found = t.decode(apply, None, np.zeros((len(script), 2, 2)), v, None, stamps, length)
    return [[int(x) for x in row if x >= 0] for row in np.asarray(found['tokens'])]


def test_what_the_rules_allow_is_written_and_each_window_ends_on_its_own():
    a = [AT(0), 11, 12, AT(1), AT(1), 13, AT(2.5), V.end, V.end]
    b = [AT(0.5), 21, AT(2), V.end, V.end, V.end, V.end, V.end, V.end]
    assert decoded([a, b]) == [a[:7], b[:3]]


@pytest.mark.parametrize('beams, expected', [(1, [11, 99]), (5, [12, 13])])
def test_a_beam_finds_the_text_that_is_likelier_as_a_whole(beams, expected):
    """11 is the likeliest first word, and leads to a hundred words that are equally likely."""
    size = t._size(V)
    p = np.full((121, size), 1e-12)  # row 0: after the start, row 1 + i: after the token i
    p[0, [11, 12]], p[12, 20:120], p[12, 99] = (0.55, 0.45), 0.01, 0.0101
    p[[13, 14, *range(21, 121)], [13, V.end, *100 * [V.end]]] = 1
    table = jnp.asarray(np.log(p), jnp.float32)

    def apply(variables, *args, method):
        if method == 'start':
            return cache_of(1), {}
        tokens, cache = args
        return (table[jnp.minimum(jnp.where(tokens >= V.end, 0, tokens + 1), 120)], cache), {}

    found = t.decode(apply, None, np.zeros((1, 2, 2)), V, None, False, 6, beams)
    assert [int(x) for x in found['tokens'][0] if x >= 0] == expected
    likely = np.log(0.45) / 3 if beams > 1 else np.log(0.55 * 0.0101) / 3
    np.testing.assert_allclose(found['mean_log_probability'], likely, rtol=1e-3)


def test_without_time_stamps_only_text_is_written():
    assert decoded([[11, 12, V.end, V.end]], stamps=False) == [[11, 12]]


@pytest.mark.parametrize('wanted', [
    [11, 12, AT(1), V.end, V.end],
    [AT(5), 11, AT(6), V.end, V.end],
    [AT(0), 11, AT(1), 12, V.end],
    [AT(0), 11, AT(1), AT(0.5), V.end],
    [AT(0), AT(0), 11, AT(1), V.end],
    [AT(0), V.no_speech, AT(1), V.end, V.end]])
def test_what_the_rules_forbid_is_not_written(wanted):
    (found,) = decoded([wanted])
    times = [x for x in found if x >= V.stamps]
    assert found != wanted and found[0] >= V.stamps and found[0] <= V.stamps + t.LATEST_START
    assert times == sorted(times) and not any(V.start <= x < V.stamps for x in found)


def test_segments_are_seconds_of_the_whole_sound():
    tokens = np.array([AT(0), 11, 12, AT(1.5), AT(2), 13, AT(9), V.end, -1, -1])
    assert t.segments(tokens, V, 30.0, 5.0) == [t.Segment(30.0, 31.5, (11, 12)), t.Segment(32.0, 35.0, (13,))]
    assert t.segments(np.array([11, V.end, -1]), V, 0.0, 5.0)[0].tokens == (11,)


def test_a_long_sound_is_cut_where_it_is_quiet():
    x = np.random.default_rng(0).normal(size=2500).astype(np.float32)
    x[820:860] = x[1650:1690] = 0
    starts = t.cut(x, longest=1000, search=250, quiet=20)
    assert len(starts) == 3 and 820 <= starts[1] <= 860 and 1650 <= starts[2] <= 1690
    assert t.cut(x[:1000], longest=1000) == [0]
