"""Generation beside texts grown by hand, one plain call of the model per token."""
import functools
import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigjax import decode
from bigjax.decode import loop
from bigjax.decode.choose import Choice, choose
from bigjax.models.gpt import GPT, PARTITION_RULES
from bigjax.models.rnn import CharLSTM
from bigjax.models.seq2seq import EncoderDecoder
from bigjax.nn.rng import key
from bigjax.sharding import logical
from bigjax.sharding import mesh as meshes
from bigjax.sharding.rules import suffix_shardings
from bigjax.train.compile_cache import STATS
from tests.decode.table import Table, following
from tests.refused import refused

slow = pytest.mark.slow
V, NEW = 13, 7
MODELS = {
    'gpt': GPT(vocab_size=V, block_size=16, num_layers=2, num_heads=2, width=8, bias=True),
    'llama': GPT(vocab_size=V, block_size=16, num_layers=2, num_heads=4, num_kv_heads=2, width=16, rope_base=1e4,
                 norm='rmsnorm', hidden='swiglu', tie_head=False),
    'lstm': CharLSTM(vocab_size=V, embed=4, features=6, layers=2),
}
TOKENS = np.random.default_rng(1).integers(0, V, (3, 5)).astype(np.int32)
MASK = np.arange(5) >= np.array([[3], [0], [1]])  # rows of 2, 5 and 4 tokens


@functools.cache
def drawn(name):
    """Variables whose logits differ clearly."""
    variables = jax.jit(lambda seed: MODELS[name].init(seed, TOKENS, train=False))(key(0))
    return jax.tree.map(lambda x: x * (4 if x.ndim > 1 else 1), variables)


def next_logits(name, text):
    """[V] after a text, padded on the right so that a model compiles once."""
    window = np.zeros((1, 16), np.int32)
    window[0, :len(text)] = text
    return _plain(name)(drawn(name), window)[0, len(text) - 1]


@functools.cache
def _plain(name):
    return jax.jit(lambda variables, window: MODELS[name].apply(variables, window, train=False))


def grown(name, text, new=NEW, pick=lambda logits, place, text: int(np.argmax(logits)), window=lambda text: text):
    """The new tokens of one text."""
    text = list(map(int, text))
    for place in range(new):
        text.append(int(pick(next_logits(name, window(text)), place, text)))
    return text[-new:]


def rows():
    return [row[mask] for row, mask in zip(TOKENS, MASK, strict=True)]


@pytest.mark.parametrize('name', ['gpt', pytest.param('llama', marks=slow), 'lstm'])
def test_greedy_is_the_text_grown_by_hand(name):
    """Padded on the left; then on the right, where the rows are continued where they end."""
    expected = [grown(name, row) for row in rows()]
    assert len({tuple(row) for row in expected}) > 1
    found = decode.generate(MODELS[name], drawn(name), TOKENS, mask=MASK, max_new_tokens=NEW)
    np.testing.assert_array_equal(found[:, :5], np.where(MASK, TOKENS, 0))
    np.testing.assert_array_equal(found[:, 5:], expected)
    right, mask = np.full((3, 5), V - 1), np.zeros((3, 5), bool)
    for i, row in enumerate(rows()):
        right[i, :len(row)], mask[i, :len(row)] = row, True
    found = decode.generate(MODELS[name], drawn(name), right, mask=mask, max_new_tokens=NEW)
    for row, start, new in zip(found, rows(), expected, strict=True):
        np.testing.assert_array_equal(row, [*start, *new, *[0] * (5 - len(start))])


@pytest.mark.slow
def test_draws_depend_on_the_key_the_row_and_the_place_alone():
    how = dict(max_new_tokens=NEW, temperature=0.9, top_k=6, top_p=0.9, repetition_penalty=1.2)
    choice = Choice(0.9, 6, 0.9, 0.0, 1.2)

    def pick(row, logits, place, text):
        seen = jnp.zeros((1, V), bool).at[0, jnp.array(text)].set(True)
        return choose(logits[None], seen, choice, jax.random.fold_in(key(3), row)[None], place)[0]

    expected = [grown('gpt', row, pick=functools.partial(pick, i)) for i, row in enumerate(rows())]
    found = decode.run(MODELS['gpt'], drawn('gpt'), TOKENS, mask=MASK, rng=key(3), **how)
    np.testing.assert_array_equal(found.tokens[:, 5:], expected)
    assert found.passes == NEW - 1
    streamed = list(decode.stream(MODELS['gpt'], drawn('gpt'), rows()[0], rng=key(3), **how))
    assert [len(part) for part in streamed] == [1] * NEW
    np.testing.assert_array_equal(np.concatenate(streamed), expected[0])
    with refused('decode/no-rng'):
        decode.generate(MODELS['gpt'], drawn('gpt'), TOKENS, **how)


def test_a_row_ends_and_padding_follows():
    model = following(0, 1, 2, 3, 4, 5)
    found = decode.run(model, {}, [[3], [5], [0]], max_new_tokens=5, eos=(2, 4), pad=0)
    np.testing.assert_array_equal(found.tokens, [[3, 4, 0, 0, 0, 0], [5, 0, 1, 2, 0, 0], [0, 1, 2, 0, 0, 0]])
    np.testing.assert_array_equal(found.counts, [1, 3, 2])
    assert found.passes == 2  # the loop ends with the last row
    np.testing.assert_array_equal(decode.generate(model, {}, [[3], [5]], max_new_tokens=2, eos=4), [[3, 4, 4], [5, 0, 1]])


def test_another_prompt_of_the_same_shape_compiles_nothing():
    how = dict(max_new_tokens=4, temperature=1.0, rng=key(0))
    decode.generate(MODELS['lstm'], drawn('lstm'), TOKENS, mask=MASK, **how)
    before = STATS.programs
    again = CharLSTM(vocab_size=V, embed=4, features=6, layers=2)
    decode.generate(again, drawn('lstm'), (TOKENS + 1) % V, mask=MASK[::-1].copy(), **{**how, 'rng': key(1)})
    assert STATS.programs == before


@pytest.mark.parametrize('prompt', [3, pytest.param(16, marks=slow), pytest.param(20, marks=slow)])
def test_past_the_window_the_last_half_is_read_again(prompt):
    """The text by hand: what is in the window at each token."""
    text = np.random.default_rng(2).integers(0, V, prompt)
    start = [0 if prompt <= 16 else prompt - 8]

    def window(text):
        if len(text) - start[0] > 16:
            start[0] = len(text) - 1 - 8
        return text[start[0]:]

    expected = grown('gpt', text, 25, window=window)
    found = decode.generate(MODELS['gpt'], drawn('gpt'), text[None], max_new_tokens=25, slide=True)
    np.testing.assert_array_equal(found[0], [*text, *expected])
    drafted = decode.run(MODELS['gpt'], drawn('gpt'), text[None], max_new_tokens=25, slide=True,
                         draft=(MODELS['gpt'], drawn('gpt')))
    np.testing.assert_array_equal(drafted.tokens[0], [*text, *expected])
    assert drafted.passes < 24


def test_past_the_window_is_refused():
    with refused('decode/too-long', '5 tokens', '13 new', '17'):
        decode.generate(MODELS['gpt'], drawn('gpt'), TOKENS, max_new_tokens=13)
    decode.generate(MODELS['gpt'], drawn('gpt'), TOKENS[:1], max_new_tokens=12)


DRAWN = {'repetition_penalty': 1.5, 'temperature': 1.0, 'rng': key(5)}


@pytest.mark.parametrize(('proposer', 'how'), [
    ('lookup', {'eos': 4}), ('other', DRAWN), *(pytest.param(*case, marks=slow) for case in (
        ('lookup', DRAWN), ('itself', {'eos': 4}), ('itself', DRAWN), ('other', {'eos': 4})))])
def test_speculation_changes_no_token(proposer, how):
    model, variables = MODELS['gpt'], drawn('gpt')
    other = GPT(vocab_size=V, block_size=16, num_layers=1, num_heads=1, width=4)
    proposed = {'lookup': {'lookup': 3}, 'itself': {'draft': (model, variables)},
                'other': {'draft': (other, jax.jit(lambda: other.init(key(1), TOKENS, train=False))()), 'drafted': 2}}[proposer]
    how = {'max_new_tokens': 11, **how}
    plain = decode.run(model, variables, TOKENS, mask=MASK, **how)
    found = decode.run(model, variables, TOKENS, mask=MASK, **proposed, **how)
    np.testing.assert_array_equal(found.tokens, plain.tokens)
    np.testing.assert_array_equal(found.counts, plain.counts)
    each = int((plain.counts - 1).sum())
    assert found.passes <= each
    if proposer == 'itself' and 'repetition_penalty' not in how:
        assert found.passes <= 0.6 * each


def test_a_text_that_repeats_itself_takes_a_quarter_of_the_passes():
    from bigjax.decode.speculate import look_up
    text = jnp.array([9, 1, 2, 3, 5, 1, 2, 3, 0, 0])
    assert look_up(text, jnp.int32(8), jnp.int32(0), 3).tolist() == [5, 1, 2]
    assert look_up(text[:8].at[7].set(9), jnp.int32(8), jnp.int32(0), 3).tolist() == [1, 2, 3]
    assert look_up(text[:8].at[7].set(9), jnp.int32(8), jnp.int32(1), 3).tolist() == [0, 0, 0]
    assert look_up(jnp.array([7, 4, 6, 4, 6]), jnp.int32(5), jnp.int32(0), 5).tolist() == [4, 6, 4, 6, 4]


def test_enough_beams_find_the_likeliest_text():
    """Of all V^n continuations, by their log probability; and with a penalty, of all that end in time or at the last token."""
    logits = np.random.default_rng(3).normal(size=(4, 4)) * 2
    logp = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    score = lambda text: sum(logp[a, b] for a, b in itertools.pairwise((0, *text)))
    best = max(itertools.product(range(4), repeat=4), key=score)
    found = decode.generate(Table(logits), {}, [[0], [0]], max_new_tokens=4, num_beams=64)
    np.testing.assert_array_equal(found, [[0, *best]] * 2)


def test_a_beam_that_ends_is_kept_by_its_score_and_length():
    """Token 3 ends. 0 -> 3 has probability .4, 0 -> 1 -> 2 -> 3 .5: the latter is likelier, and far likelier per token."""
    logits = np.log(np.array([[1e-9, .55, 1e-9, .45], [1e-9, 1e-9, 1 - 2e-9, 1e-9], [1e-9, 1e-9, 1e-9, 1 - 3e-9], [.25] * 4]))
    go = lambda power: decode.generate(Table(logits), {}, [[0]], max_new_tokens=5, num_beams=2, eos=3, pad=0,
                                       length_penalty=power).tolist()
    assert go(0.0) == go(1.0) == [[0, 1, 2, 3, 0, 0]]
    assert go(-1.0) == [[0, 3, 0, 0, 0, 0]]


@pytest.mark.parametrize('how, code', [
    ({'num_beams': 2, 'temperature': 1.0}, 'decode/together'), ({'num_beams': 2, 'lookup': 3}, 'decode/together'),
    ({'num_beams': 0}, 'decode/range'), ({'max_new_tokens': 0}, 'decode/range'), ({'lookup': -1}, 'decode/range'),
    ({'lookup': 3}, 'decode/together'), ({'draft': (Table(np.zeros((7, 7))), {})}, 'decode/other-vocabulary')])
def test_options_that_do_not_go_together(how, code):
    with refused(code):
        decode.generate(following(0, 1), {}, [[0]], **{'max_new_tokens': 2, **how})


@pytest.mark.equivalence
@pytest.mark.parametrize('shape', ['data:2,tensor:2', 'fsdp:4'])
def test_on_a_mesh_the_tokens_are_the_same(shape):
    model, variables, tokens = MODELS['llama'], drawn('llama'), np.concatenate([TOKENS, TOKENS[:1]])
    mesh = meshes.make(shape, jax.devices()[:4])
    placed = jax.device_put(variables, suffix_shardings(variables, PARTITION_RULES, mesh))
    for how in ({'max_new_tokens': NEW}, {'max_new_tokens': NEW, 'num_beams': 2}, {'max_new_tokens': NEW, 'lookup': 2}):
        expected = decode.generate(model, variables, tokens, **how)
        np.testing.assert_array_equal(decode.generate(model, placed, tokens, **how), expected)
        if 'lookup' not in how:  # whose rows are decoded one by one, which a split batch cannot be
            with logical.using(mesh):
                np.testing.assert_array_equal(decode.generate(model, placed, tokens, **how), expected)


@pytest.mark.parametrize('rows', [1, 3])
def test_a_cache_is_written_in_place(rows):
    """A copy of it for every token would make each token cost as much as the cache is long."""
    model, plan = MODELS['llama'], loop.make_plan(MODELS['llama'], Choice(), (), 0, 11)
    keys, prompt = jax.eval_shape(lambda: (jax.random.split(key(0), rows), jnp.zeros((rows, 5), jnp.int32)))
    carry = jax.eval_shape(lambda v, k, p: loop.start.__wrapped__(plan, v, p, None, k, 12), drawn('llama'), keys, prompt)
    count = jax.ShapeDtypeStruct((), jnp.int32)
    compiled = jax.jit(functools.partial(loop.advance.__wrapped__, plan), donate_argnums=1).lower(
        drawn('llama'), carry, keys, count, count).compile().as_text()
    cache = rf'f32\[{rows},{model.num_kv_heads},11,4\]'
    assert re.search(rf'= {cache}.*dynamic-update-slice', compiled)
    assert not re.search(rf'= {cache}\S* copy\(', compiled)


@pytest.mark.parametrize('fields', [
    pytest.param({'head_width': 6, 'relative_buckets': 8, 'relative_distance': 6}, id='t5', marks=slow),
    pytest.param({'positions': 'sinusoidal', 'norm': 'layernorm', 'post_norm': True, 'scale_embed': True, 'score_scale': 0.0,
                  'scale_head': False, 'bias': True}, id='transformer', marks=slow)])
def test_an_encoder_decoder_is_grown_by_hand(fields):
    """From its first token; the source is padded on the right, and its padding never moves."""
    model = EncoderDecoder(vocab_size=V, block_size=16, num_layers=1, num_heads=2, width=8, mlp_width=16, **fields)
    source, mask = np.where(MASK[:, ::-1], TOKENS, 0), MASK[:, ::-1]
    variables = jax.jit(lambda: model.init(key(0), source, source, train=False))()
    variables = jax.tree.map(lambda x: x * (3 if x.ndim > 1 else 1), variables)
    plain = jax.jit(lambda v, target: model.apply(v, source, target, source_mask=mask, train=False))
    target = np.full((3, NEW + 1), model.bos, np.int32)
    for place in range(NEW):
        target[:, place + 1] = np.argmax(plain(variables, target)[:, place], axis=-1)
    expected = target[:, 1:]
    found = decode.generate(model, variables, source, mask=mask, max_new_tokens=NEW, eos=())
    np.testing.assert_array_equal(found, expected)
    ended = decode.run(model, variables, source, mask=mask, max_new_tokens=NEW, eos=int(expected[0, 2]), pad=0, lookup=2)
    assert ended.counts[0] <= 3 and not ended.tokens[0, ended.counts[0]:].any()
    np.testing.assert_array_equal(ended.tokens[0, :ended.counts[0]], expected[0, :ended.counts[0]])
    beams = decode.generate(model, variables, source, mask=mask, max_new_tokens=NEW, num_beams=2, eos=())
    assert beams.shape == (3, NEW)
    with refused('decode/together', 'slide'):
        decode.generate(model, variables, source, max_new_tokens=NEW, slide=True)
