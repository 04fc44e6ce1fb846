"""Generation token for token beside `transformers.generate`, with random weights of small GPT-2, Llama and Qwen models."""
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
                       intermediate_size=48, max_position_embeddings=48)}
TOKENS = np.random.default_rng(0).integers(1, V - 1, (4, 9))
MASK = np.arange(9) >= np.array([[0], [4], [7], [2]])
TOKENS = np.where(MASK, TOKENS, PAD)  # theirs counts padding as a token that has occurred, ours does not


@functools.cache
def pair(name):
    """(their model, (our model, variables)), read from the folder that they have written."""
    torch = pytest.importorskip('torch', reason='PyTorch is not installed: pip install bigjax[parity]')
    transformers = pytest.importorskip('transformers', reason='transformers is not installed: pip install bigjax[parity]')
    config = transformers.AutoConfig.for_model(name, vocab_size=V, eos_token_id=None, bos_token_id=None, initializer_range=0.4,
                                               **SIZES[name])
    torch.manual_seed(0)
    theirs = transformers.AutoModelForCausalLM.from_config(config).eval()
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
    expected = np.pad(expected, ((0, 0), (0, tokens.shape[1] + NEW - expected.shape[1])), constant_values=PAD)
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
    new = expected[:, TOKENS.shape[1]:]
    assert len(np.unique(new)) > 3
    common = [int(t) for t in np.argsort(-np.bincount(new[:, 2:].ravel(), minlength=V))[:2]]
    for power in ([-1.0, 1.0] if 'num_beams' in how and 'length_penalty' not in how else [None]):
        more = how if power is None else {**how, 'length_penalty': power}
        expected, found = both(name, eos=common, **more)
        np.testing.assert_array_equal(found, expected)
        assert (expected[:, -1] == PAD).any() or 'repetition_penalty' in how


@pytest.mark.parity
def test_speculation_yields_the_tokens_of_transformers():
    _, (model, variables) = pair('gpt2')
    repeating = np.tile(TOKENS[:1, :3], (1, 3))
    expected, _ = both('gpt2', repeating, np.ones_like(repeating, bool))
    for how in ({'lookup': 3}, {'draft': pair('gpt2')[1]}):
        found = decode.run(model, variables, repeating, max_new_tokens=NEW, **how)
        np.testing.assert_array_equal(found.tokens, expected)
