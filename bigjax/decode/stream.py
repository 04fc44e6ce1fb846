"""Tokens and text as they are generated."""
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from bigjax.decode.generation import growing, inputs, options, reads_source, row_keys, run, steps
from bigjax.decode.text import GrowingText
from bigjax.errors import UserError
from bigjax.io.text import counted


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


def pieces(model, variables, tokens, *, rng=None, every: int = 1, text: GrowingText | None = None, **how) -> Iterator[Piece]:
    """`stream`, with the counts; `text` grows with the tokens, and the stream ends with it."""
    tokens = np.asarray(tokens)[None]
    o = options(model, **how)
    text = text or (growing(model, tokens, None, o)[0] if o.stop else None)
    if o.num_beams > 1:
        found = run(model, variables, tokens, rng=rng, **how)
        new = found.tokens[0, -o.max_new_tokens:][:found.counts[0]]
        new = new[:text.add(new)] if text else new
        yield Piece(new, len(new), found.passes)
        return
    prompts, source = inputs(model, tokens, None, o)
    keys, shown, count = row_keys(rng, o.choice, 1), None, 0
    for carry, passes in steps(model, variables, prompts, o, keys, every, source):
        length = int(carry.length)
        new = np.asarray(carry.tokens[0])[length - 1 if shown is None else shown:length]
        new = new[:text.add(new)] if text else new
        shown, count = length, count + len(new)
        yield Piece(new, count, passes)
        if text and text.stopped:
            return


def stream(model, variables, tokens, **how) -> Iterator[np.ndarray]:
    """The new tokens of one prompt [P], in arrays of about `every` (1 by default), as they come; options as in `generate`.

    The token that ends the text, or completes a stop string, is the last one. Beams are known at the end alone, and come as one
    array.
    """
    for piece in pieces(model, variables, tokens, **how):
        yield piece.part


def continue_text(model, variables, language: Language, prompt: str, *, rng=None, every: int = 1, **how) -> Iterator[Piece]:
    """The text after a prompt as it grows, up to a stop string, which is not part of it; options as in `stream`.

    Raises:
      UserError: the prompt cannot be encoded, or has no token; and those of `generate`.
    """
    prompt_tokens = np.asarray(language.encode(prompt) if prompt else language.start, np.int64).reshape(-1)
    if not len(prompt_tokens):
        raise UserError('--prompt: got no token, expected one or more; fix: --prompt=TEXT', code='decode/empty-prompt')
    how = dict(how, eos=language.eos or None, tokenizer=language)
    (text,) = growing(model, prompt_tokens[None], None, options(model, **how))
    for piece in pieces(model, variables, prompt_tokens, rng=rng, every=every, text=text, **how):
        yield piece._replace(part=text.part())
    yield piece._replace(part=text.part(last=True))


def show(model, variables, language: Language, prompt: str, **how) -> None:
    """Prints a prompt and what follows it as it comes, and, on standard error, how fast.

    The clock starts after the second piece: the passes before it compile.
    """
    times = []
    for piece in continue_text(model, variables, language, prompt, **how):
        if not times and not reads_source(model):  # a prompt that is refused is not printed
            print(prompt, end='')
        print(piece.part, end='', flush=True)
        times.append((time.perf_counter(), piece.tokens))
    print()
    (began, before), (ended, tokens) = times[min(1, len(times) - 1)], times[-1]
    rate = f', {(tokens - before) / (ended - began):.1f} tokens/s' if tokens > before else ''
    spared = f', {piece.passes} passes' if how.get('lookup') or how.get('draft') else ''
    print(f'{counted(tokens, "token")}{rate}{spared}', file=sys.stderr)
