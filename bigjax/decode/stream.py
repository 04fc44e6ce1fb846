"""Tokens and text as they are generated."""
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from bigjax.decode import generation
from bigjax.errors import UserError

BROKEN = '\ufffd'  # what decoders make of bytes that are not yet a character


class Language(NamedTuple):
    """How a model's tokens are read and written.

    Attributes:
      encode: `encode(text) -> token numbers`, those of a source with what ends it.
      decode: `decode(token numbers) -> text`.
      eos: the tokens that end a text.
      start: the tokens of an empty prompt.
    """

    encode: Callable[[str], Sequence[int]]
    decode: Callable[[Sequence[int]], str]
    eos: tuple[int, ...] = ()
    start: tuple[int, ...] = ()


class Piece(NamedTuple):
    """A part of a sample: its tokens, or its text; the tokens and the model's passes after the prompt, up to here."""

    part: np.ndarray | str
    tokens: int
    passes: int


def pieces(model, variables, tokens, *, rng=None, every: int = 1, **how) -> Iterator[Piece]:
    """`stream`, with the counts."""
    tokens = np.asarray(tokens)[None]
    o = generation.options(model, **how)
    if o.num_beams > 1:
        found = generation.run(model, variables, tokens, rng=rng, **how)
        new = found.tokens[0, -o.max_new_tokens:][:found.counts[0]]
        yield Piece(new, len(new), found.passes)
        return
    prompts, source = generation.inputs(model, tokens, None, o)
    keys, shown, count = generation.row_keys(rng, o.choice, 1), None, 0
    for carry, passes in generation.steps(model, variables, prompts, o, keys, every, source):
        length = int(carry.length)
        new = np.asarray(carry.tokens[0])[length - 1 if shown is None else shown:length]
        shown, count = length, count + len(new)
        yield Piece(new, count, passes)


def stream(model, variables, tokens, **how) -> Iterator[np.ndarray]:
    """The new tokens of one prompt [P], in arrays of about `every` (1 by default), as they come; options as in `generate`.

    The token that ends the text is the last one. Beams are known at the end alone, and come as one array.
    """
    for piece in pieces(model, variables, tokens, **how):
        yield piece.part


def continue_text(model, variables, language: Language, prompt: str, *, stop: Sequence[str] = (), **how) -> Iterator[Piece]:
    """The text after a prompt as it grows, up to a stop string, which is not part of it; options as in `stream`.

    It is what decoding the prompt and the new tokens together adds to the text of the prompt: some tokenizers drop the space
    before the first word of what they decode. An encoder-decoder's text does not depend on the prompt's.

    Args:
      stop: texts that end the sample.

    Raises:
      UserError: the prompt cannot be encoded, or has no token; and those of `generate`.
    """
    prompt_tokens = np.asarray(language.encode(prompt) if prompt else language.start, np.int64).reshape(-1)
    if not len(prompt_tokens):
        raise UserError('--prompt: got no token, expected one or more; fix: --prompt=TEXT', code='decode/empty-prompt')
    if any(not text for text in stop):
        raise UserError('--stop: got an empty text, expected one or more characters; fix: remove it', code='decode/range')
    before = [] if generation.reads_source(model) else prompt_tokens.tolist()
    begun = language.decode(before) if before else ''
    found, shown = [], 0
    for piece in pieces(model, variables, prompt_tokens, eos=language.eos or None, **how):
        found += [int(token) for token in piece.part if token not in language.eos]
        whole = language.decode([*before, *found])
        text = whole[len(begun):] if whole.startswith(begun) else language.decode(found)
        ends = [at for each in stop if (at := text.find(each)) >= 0]
        safe = min(ends) if ends else max(shown, len(text.rstrip(BROKEN)) - _begun(text, stop))
        yield piece._replace(part=text[shown:safe])
        shown = safe
        if ends:
            return
    yield piece._replace(part=text[shown:])


def _begun(text: str, stop: Sequence[str]) -> int:
    """How many characters at the end of the text may be the beginning of a stop string."""
    return max((n for each in stop for n in range(1, len(each)) if text.endswith(each[:n])), default=0)


def show(model, variables, language: Language, prompt: str, **how) -> None:
    """Prints a prompt and what follows it as it comes, and, on standard error, how fast.

    The clock starts after the second piece: the passes before it compile.
    """
    times = []
    for piece in continue_text(model, variables, language, prompt, **how):
        if not times and not generation.reads_source(model):  # a prompt that is refused is not printed
            print(prompt, end='')
        print(piece.part, end='', flush=True)
        times.append((time.perf_counter(), piece.tokens))
    print()
    (began, before), (ended, tokens) = times[min(1, len(times) - 1)], times[-1]
    rate = f', {(tokens - before) / (ended - began):.1f} tokens/s' if tokens > before else ''
    spared = f', {piece.passes} passes' if how.get('lookup') or how.get('draft') else ''
    print(f'{tokens} tokens{rate}{spared}', file=sys.stderr)
