"""The decoder's families: published sizes; a text whole, padded, packed and through a cache has the same logits."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_helpers import abstract, contrasted, size

from bigjax.models.gpt import GPT, VARIANTS
from bigjax.nn import kv_cache
from tests.refused import refused

SMALL = {'vocab_size': 13, 'block_size': 16, 'num_layers': 2, 'num_heads': 4, 'width': 16}
LLAMA = {**SMALL, 'norm': 'rmsnorm', 'hidden': 'swiglu', 'rope_base': 100.0, 'tie_head': False, 'num_kv_heads': 2,
         'mlp_width': 24}
FAMILIES = {
    'gpt2': {**SMALL, 'bias': True},
    'llama3': {**LLAMA, 'rope_scaling': 'llama3', 'rope_factor': 4.0, 'rope_window': 16},
    'mistral': {**LLAMA, 'window': 3},
    'qwen2': {**LLAMA, 'qkv_bias': True, 'tie_head': True},
    'qwen3': {**LLAMA, 'qk_norm': True, 'head_width': 6},
}
TOKENS = np.random.default_rng(0).integers(0, 13, (3, 9)).astype(np.int32)
LEFT = np.arange(9) >= np.array([[0], [2], [4]])  # the third row's first piece is padding alone


@pytest.mark.parametrize(('variant', 'count'), [
    ('gpt2_large', 774_030_080), ('llama3_8b', 8_030_261_248), ('llama31_8b', 8_030_261_248), ('llama32_1b', 1_235_814_400),
    ('llama32_3b', 3_212_749_824), ('mistral_7b', 7_241_732_096), ('qwen2_0.5b', 494_032_768), ('qwen2_1.5b', 1_543_714_304),
    ('qwen2_7b', 7_615_616_512), ('qwen3_0.6b', 596_049_920), ('qwen3_1.7b', 1_720_574_976), ('qwen3_4b', 4_022_468_096),
    ('qwen3_8b', 8_190_735_360)])
def test_parameter_counts(variant, count):
    assert size(abstract(GPT(**VARIANTS[variant], scan=True), jnp.zeros((1, 8), jnp.int32))['params']) == count


def made(name, **fields):
    """(model, variables)."""
    model = GPT(**{**FAMILIES[name], **fields})
    return model, contrasted(model, TOKENS)


QUICK = 'gpt2', 'qwen3'  # learned and rotary positions, alike and grouped heads; the others in the slow tier


@pytest.fixture(scope='module', params=[
    name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES])
def decoder(request):
    """(model, variables, its jitted call)."""
    model, variables = made(request.param)
    return model, variables, jax.jit(model.apply)


def close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


def test_a_cache_gives_the_logits_of_the_whole(decoder):
    """Prefill in two pieces, then token by token, with rows padded on the left."""
    model, variables, call = decoder
    expected = call(variables, TOKENS, mask=LEFT)
    cache, found = model.init_cache(3, 12), []
    for piece in np.split(np.arange(9), (3, 7, 8)):
        logits, cache = call(variables, TOKENS[:, piece], mask=LEFT[:, piece], cache=cache)
        found.append(logits)
    close(np.concatenate(found, 1)[LEFT], np.asarray(expected)[LEFT])
    assert int(cache.index) == 9 and cache.positions.tolist() == [9, 7, 5]
    np.testing.assert_array_equal(cache.mask[:, :9], LEFT)


def test_padding_and_packing_change_nothing(decoder):
    """Each text alone, padded on the left, padded on the right, and both in one row."""
    variables, call = decoder[1:]
    texts = TOKENS[0, :5], TOKENS[1, :4]
    alone = [call(variables, text[None])[0] for text in texts]
    short = np.concatenate([texts[1], [7]])
    right = call(variables, np.stack([texts[0], short]), mask=np.arange(5) < np.array([[5], [4]]))
    left = call(variables, np.stack([texts[0], np.roll(short, 1)]), mask=np.arange(5) >= np.array([[0], [1]]))
    packed = call(variables, np.concatenate(texts)[None], segments=np.repeat([[1, 2]], (5, 4), axis=1))[0]
    for first, second in ((right[0], right[1, :4]), (left[0], left[1, 1:]), (packed[:5], packed[5:])):
        close(first, alone[0])
        close(second, alone[1])


def test_positions_that_are_given_count(decoder):
    """The defaults written out give the same; another distance between tokens does not."""
    variables, call = decoder[1:]
    default = call(variables, TOKENS)
    close(call(variables, TOKENS, positions=np.broadcast_to(np.arange(9, dtype=np.int32), (3, 9))), default)
    stretched = call(variables, TOKENS, positions=np.broadcast_to(np.arange(9, dtype=np.int32) // 2, (3, 9)))
    assert not np.allclose(stretched, default, atol=1e-3)


def test_a_window_hides_what_lies_before_it():
    model, variables = made('mistral', num_layers=1)
    changed, call = TOKENS.copy(), jax.jit(model.apply)
    changed[:, 0] = (changed[:, 0] + 1) % 13
    moved = np.abs(np.asarray(call(variables, TOKENS) - call(variables, changed))).max((0, 2)) > 1e-6
    assert moved.tolist() == [True] * 3 + [False] * 6


def test_stacked_layers_use_a_cache_too():
    model, variables = made('gpt2', scan=True)
    logits, _ = jax.jit(model.apply)(variables, TOKENS, cache=model.init_cache(3, 9))
    close(logits, jax.jit(model.apply)(variables, TOKENS))


def test_rows_of_a_cache_are_taken_and_slots_given_back(decoder):
    """The cache after seven tokens, rewound to five and its rows exchanged, resumes as the other rows' first five do."""
    model, variables, call = decoder
    _, cache = call(variables, TOKENS[:, :7], mask=LEFT[:, :7], cache=model.init_cache(3, 12))
    order = np.array([2, 0, 0])
    cache = kv_cache.take(kv_cache.rewind(cache, 5), order)
    found, _ = call(variables, TOKENS[order, 5:], cache=cache)
    close(found, np.asarray(call(variables, TOKENS, mask=LEFT))[order, 5:])


def test_past_the_caches_end_is_the_users_error():
    model, variables = made('gpt2', num_layers=1)
    with refused('model/too-long', '17', '16'):
        model.init_cache(1, 17)
    with refused('model/past-cache', '9', '8'):
        jax.eval_shape(lambda: model.apply(variables, TOKENS, cache=model.init_cache(3, 8)))
    _, cache = jax.jit(model.apply)(variables, TOKENS[:, :6], cache=model.init_cache(3, 8))
    with refused('model/past-cache', '3', '6', '8'):
        model.apply(variables, TOKENS[:, 6:], cache=cache)


@pytest.mark.parametrize('more', [{'segments': TOKENS}, {'targets_BxT': TOKENS}], ids=['segments', 'targets'])
def test_what_a_cache_does_not_take_is_refused(more):
    model, variables = made('gpt2', num_layers=1)
    with refused('model/unfit-options'):
        jax.eval_shape(lambda: model.apply(variables, TOKENS, cache=model.init_cache(3, 9), **more))


def test_a_cache_of_low_precision():
    model, variables = made('gpt2')
    call = jax.jit(model.apply)
    logits, cache = call(variables, TOKENS, cache=model.init_cache(3, 9, jnp.bfloat16))
    assert cache.layers[0].key.dtype == jnp.bfloat16 and logits.dtype == jnp.float32
    np.testing.assert_allclose(logits, call(variables, TOKENS), atol=0.3)
