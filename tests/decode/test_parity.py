"""Generation token for token beside `transformers.generate`, with random weights of small GPT-2, Llama, Qwen and T5 models."""
import functools
import pathlib
import tempfile

import numpy as np
import pytest

from bigjax import decode, weights

NEW, V, PAD = 12, 61, 60  # with a padding of 0, beams of theirs are padded by the token that ends them
SIZES = {'gpt2': dict(n_embd=32, n_layer=2, n_head=4, n_positions=48),
         'llama': dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, intermediate_size=48,
                       max_position_embeddings=48),
         'qwen3': dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=8,
                       intermediate_size=48, max_position_embeddings=48),
         't5': dict(d_model=32, d_kv=6, d_ff=48, num_layers=2, num_heads=4, relative_attention_num_buckets=8,
                    relative_attention_max_distance=6, pad_token_id=PAD, decoder_start_token_id=PAD, initializer_factor=6.0)}
SOURCE = ('t5',)  # read their prompts in an encoder
TOKENS = np.random.default_rng(0).integers(1, V - 1, (4, 9))
MASK = np.arange(9) >= np.array([[0], [4], [7], [2]])
TOKENS = np.where(MASK, TOKENS, PAD)  # theirs counts padding as a token that has occurred, ours does not


@functools.cache
def pair(name):
    """(their model, (our model, variables)), read from the folder that they have written."""
    torch = pytest.importorskip('torch', reason='PyTorch is not installed: pip install bigjax[parity]')
    transformers = pytest.importorskip('transformers', reason='transformers is not installed: pip install bigjax[parity]')
    spread = {} if name in SOURCE else {'initializer_range': 0.4}
    ends = {'eos_token_id': 1} if name in SOURCE else {'eos_token_id': None}
    config = transformers.AutoConfig.for_model(name, vocab_size=V, bos_token_id=None, **spread, **ends, **SIZES[name])
    torch.manual_seed(0)
    kind = transformers.AutoModelForSeq2SeqLM if name in SOURCE else transformers.AutoModelForCausalLM
    theirs = kind.from_config(config).eval()
    with tempfile.TemporaryDirectory() as folder:
        theirs.save_pretrained(folder)
        return theirs, weights.load(f'hf:{pathlib.Path(folder)}', say=lambda line: None)[:2]


def both(name, tokens=TOKENS, mask=MASK, eos=None, **how):
    """(their tokens, ours), padded to the same width."""
    import torch
    theirs, (model, variables) = pair(name)
    with torch.inference_mode():
        expected = theirs.generate(torch.tensor(tokens), attention_mask=torch.tensor(mask).long(), do_sample=False,
                                   max_new_tokens=NEW, pad_token_id=PAD, eos_token_id=eos, **how).numpy()
    expected = expected[:, 1:] if name in SOURCE else expected  # without the token that a target begins with
    width = NEW if name in SOURCE else tokens.shape[1] + NEW
    expected = np.pad(expected, ((0, 0), (0, width - expected.shape[1])), constant_values=PAD)
    found = decode.generate(model, variables, tokens, mask=mask, max_new_tokens=NEW, eos=eos, pad=PAD, **how)
    return expected, found


@pytest.mark.parity
@pytest.mark.parametrize('how', [
    {}, {'repetition_penalty': 1.7}, {'num_beams': 3}, {'num_beams': 4, 'length_penalty': 2.0, 'repetition_penalty': 1.3}],
    ids=lambda how: ' '.join(how) or 'greedy')
@pytest.mark.parametrize('name', SIZES)
def test_the_tokens_are_those_of_transformers(name, how):
    """The prompts are of unequal length; the second time every text ends where it has a token that is common in the first."""
    expected, found = both(name, **how)
    np.testing.assert_array_equal(found, expected)
    new = expected[:, -NEW:]
    assert len(np.unique(new)) > 3
    common = [int(t) for t in np.argsort(-np.bincount(new[:, 2:].ravel(), minlength=V))[:2]]
    for power in ([-1.0, 1.0] if 'num_beams' in how and 'length_penalty' not in how else [None]):
        more = how if power is None else {**how, 'length_penalty': power}
        expected, found = both(name, eos=common, **more)
        np.testing.assert_array_equal(found, expected)
        assert (expected[:, -1] == PAD).any() or 'repetition_penalty' in how


@pytest.mark.parity
@pytest.mark.parametrize('how', [{}, {'num_beams': 3}], ids=['greedy', 'beams'])
def test_a_source_may_be_padded_on_either_side(how):
    right = np.sort(~MASK, axis=1) == 0
    moved = np.where(right, np.take_along_axis(TOKENS, (np.arange(9) + 9 - MASK.sum(1)[:, None]) % 9, 1), PAD)
    for mask, tokens in ((MASK, TOKENS), (right, moved)):
        expected, found = both('t5', tokens, mask, **how)
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parity
def test_speculation_yields_the_tokens_of_transformers():
    _, (model, variables) = pair('gpt2')
    repeating = np.tile(TOKENS[:1, :3], (1, 3))
    expected, _ = both('gpt2', repeating, np.ones_like(repeating, bool))
    for how in ({'lookup': 3}, {'draft': pair('gpt2')[1]}):
        found = decode.run(model, variables, repeating, max_new_tokens=NEW, **how)
        np.testing.assert_array_equal(found.tokens, expected)
