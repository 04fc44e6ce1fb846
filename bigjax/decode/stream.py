"""Tokens and text as they are generated."""
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from bigjax.decode import generation
from bigjax.decode.prompts import prepare
from bigjax.errors import UserError

BROKEN = '\ufffd'  # what decoders make of bytes that are not yet a character


class Language(NamedTuple):
    """How a model's tokens are read and written.

    Attributes:
      encode: `encode(text) -> token numbers`.
      decode: `decode(token numbers) -> text`.
      eos: the tokens that end a text.
      empty: what an empty prompt stands for.
    """

    encode: Callable[[str], Sequence[int]]
    decode: Callable[[Sequence[int]], str]
    eos: tuple[int, ...] = ()
    empty: str = ''


def stream(model, variables, tokens, *, rng=None, every: int = 1, **how) -> Iterator[np.ndarray]:
    """The new tokens of one prompt [P], in arrays of about `every`, as they come; options as in `generate`.

    Beams are known at the end alone, and come as one array. The token that ends the text is the last one.
    """
    tokens = np.asarray(tokens)[None]
    o = generation.options(model, **how)
    if o.num_beams > 1:
        found = generation.run(model, variables, tokens, rng=rng, **how)
        yield found.tokens[0, tokens.shape[1]:][:found.counts[0]]
        return
    prompts = prepare(tokens, None, getattr(model, 'vocab_size', None), o.pad)
    keys = generation.row_keys(rng, o.choice, 1)
    shown = None
    for carry, _ in generation.steps(model, variables, prompts, o, keys, every):
        length = int(carry.length)
        shown = length - 1 if shown is None else shown
        yield np.asarray(carry.tokens[0])[shown:length]
        shown = length


def continue_text(model, variables, language: Language, prompt: str, *, stop: Sequence[str] = (), rng=None,
                  **how) -> Iterator[tuple[str, int]]:
    """(text, tokens so far) as the text grows, to a stop string, which is not part of it.

    Args:
      stop: texts that end the sample.

    Raises:
      UserError: the prompt cannot be encoded, or has no token; and those of `stream`.
    """
    prompt_tokens = np.asarray(language.encode(prompt or language.empty), np.int64).reshape(-1)
    if not len(prompt_tokens):
        raise UserError('--prompt: got no token, expected one or more; fix: --prompt=TEXT', code='decode/empty-prompt')
    if any(not text for text in stop):
        raise UserError('--stop: got an empty text, expected one or more characters; fix: remove it', code='decode/range')
    found, text, shown = [], '', 0
    for tokens in stream(model, variables, prompt_tokens, rng=rng, eos=language.eos or None, **how):
        found += [int(token) for token in tokens if token not in language.eos]
        text = language.decode(found)
        ends = [at for each in stop if (at := text.find(each)) >= 0]
        safe = min(ends) if ends else len(text.rstrip(BROKEN)) - _begun(text, stop)
        if safe > shown:
            yield text[shown:safe], len(found)
            shown = safe
        if ends:
            return
    yield text[shown:], len(found)


def _begun(text: str, stop: Sequence[str]) -> int:
    """How many characters at the end of the text may be the beginning of a stop string."""
    return max((n for each in stop for n in range(1, len(each)) if text.endswith(each[:n])), default=0)
