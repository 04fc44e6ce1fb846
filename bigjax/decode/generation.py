"""`generate`, and `steps` beneath it, which yields the state of a generation as it grows."""
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bigjax.decode.beam import search
from bigjax.decode.choose import Choice
from bigjax.decode.loop import Carry, Source, advance, make_plan, refill, start
from bigjax.decode.prompts import Prompts, prepare, restore
from bigjax.decode.speculate import Speculation
from bigjax.decode.speculate import advance as speculated
from bigjax.decode.text import GrowingText
from bigjax.errors import UserError
from bigjax.io.text import printable
from bigjax.nn import rng as rngs
from bigjax.nn import stacking
from bigjax.nn.kv_cache import KVCache

STOP_EVERY = 8  # tokens between two looks for a stop string: at most one fewer are computed in vain
DRAFTED = 3  # tokens that a pass checks beside the one it makes anyway: on a CPU, a product of four rows costs little more


class Options(NamedTuple):
    """The arguments of `generate` beside a model and prompts; see there."""

    max_new_tokens: int
    choice: Choice = Choice()
    num_beams: int = 1
    length_penalty: float = 1.0
    eos: tuple[int, ...] = ()
    pad: int = 0
    slide: bool = False
    lookup: int = 0
    draft: Any = None
    drafted: int = DRAFTED
    stop: tuple[str, ...] = ()
    tokenizer: Any = None

    @property
    def proposed(self) -> int:
        """The number of tokens that are proposed for a pass."""
        return self.drafted if self.draft is not None else self.lookup


class Generated(NamedTuple):
    """The result of a generation.

    Attributes:
      tokens: int32 [B, P + new], or [B, new] of an encoder-decoder, padding after the end of a row.
      counts: int [B], new tokens of each row, the one that ends it included.
      passes: of the model after the prompt, the sum over rows where they are speculated for one after another; 0 for beams.
    """

    tokens: np.ndarray
    counts: np.ndarray
    passes: int


def options(model, *, max_new_tokens: int, temperature: float = 0.0, top_k: int = 0, top_p: float = 1.0, min_p: float = 0.0,
            num_beams: int = 1, length_penalty: float = 1.0, repetition_penalty: float = 1.0,
            eos: int | Sequence[int] | None = None, pad: int | None = None, slide: bool = False, lookup: int = 0, draft=None,
            drafted: int = DRAFTED, stop: str | Sequence[str] = (), tokenizer=None) -> Options:
    """The options, checked against each other and the model.

    Raises:
      UserError: a value is out of range, or two exclude each other; 'decode/range', 'decode/together',
        'decode/other-vocabulary', 'decode/no-tokenizer', 'decode/no-cache'.
    """
    choice = Choice(float(temperature), int(top_k), float(top_p), float(min_p), float(repetition_penalty)).check()
    for name, value in (('max_new_tokens', max_new_tokens), ('num_beams', num_beams), ('drafted', drafted)):
        if value < 1:
            raise UserError(f'{name}: got {value}, expected 1 or more; fix: choose such a value', code='decode/range')
    if lookup < 0 or not math.isfinite(length_penalty):
        raise UserError(f'lookup, length_penalty: got {lookup} and {length_penalty}, expected 0 or more and a number; fix: '
                        'choose such values', code='decode/range')
    stop = (stop,) if isinstance(stop, str) else tuple(stop)
    if not all(stop):
        raise UserError('stop: got an empty text, expected one or more characters; fix: remove it', code='decode/range')
    if stop and tokenizer is None:
        raise UserError(f'stop: got {printable(stop[0])!r} and no tokenizer, expected the one that reads the tokens; fix: '
                        'tokenizer=…', code='decode/no-tokenizer')
    if not hasattr(model, 'init_cache'):
        raise UserError(f'generation: got a {type(model).__name__}, expected a decoder or an encoder-decoder, which has a '
                        'cache; fix: another model', code='decode/no-cache')
    speculative = lookup or draft is not None
    filtering = choice.temperature or choice.top_k or choice.top_p < 1 or choice.min_p
    for name, wrong in (('a temperature or a filter', num_beams > 1 and filtering), ('slide', num_beams > 1 and slide),
                        ('lookup or draft', num_beams > 1 and speculative)):
        if wrong:
            raise UserError(f'num_beams: got {num_beams} with {name}, expected one of the two; fix: remove one',
                            code='decode/together')
    if lookup and draft is not None:
        raise UserError('draft: got one with lookup, expected one of the two; fix: remove one', code='decode/together')
    sizes = [getattr(each, 'vocab_size', None) for each in (model, draft[0] if draft else model)]
    if sizes[0] != sizes[1]:
        raise UserError(f'draft: got a vocabulary of {sizes[1]}, expected {sizes[0]} as the model; fix: use a draft with the '
                        'same tokenizer', code='decode/other-vocabulary')
    if reads_source(model):
        eos, pad = model.eos if eos is None else eos, model.pad if pad is None else pad
        if slide:
            raise UserError('slide: got an encoder-decoder, expected a decoder alone; fix: remove it', code='decode/together')
    eos = () if eos is None else tuple(map(int, np.atleast_1d(eos)))
    return Options(int(max_new_tokens), choice, int(num_beams), float(length_penalty), eos,
                   int(pad) if pad is not None else eos[0] if eos else 0, slide, int(lookup), draft, int(drafted),
                   stop, tokenizer)


def reads_source(model) -> bool:
    """Whether a model is an encoder-decoder, whose prompts are read by the encoder."""
    return all(hasattr(model, name) for name in ('encode', 'init_cache', 'bos'))


def slots_for(model, prompt: int, o: Options) -> int:
    """How many tokens the cache is to hold: all but the last new one, and at most the window of a model that slides.

    Raises:
      UserError: the tokens exceed the model's window; 'decode/too-long'.
    """
    wanted, window = prompt + o.max_new_tokens - 1, getattr(model, 'block_size', None)
    if window is None or wanted <= window:
        return wanted
    if not o.slide or window < 2:
        raise UserError(f'a prompt: got {prompt} tokens and {o.max_new_tokens} new ones, expected at most {window + 1} in all, '
                        'by the window of the model; fix: fewer of them, or slide=True, which forgets the first ones',
                        code='decode/too-long')
    return window


def steps(model, variables, prompts: Prompts, o: Options, keys, every: int | None = None,
          source: Source | None = None) -> Iterator[tuple[Carry, int]]:
    """(carry, passes so far) after the first new token, and after about `every` more, to the end; all at once by default.

    A carry is donated to the next step: what is needed of it has to be copied before.
    """
    window = getattr(model, 'block_size', None)
    width = prompts.tokens.shape[1]
    slots = slots_for(model, width, o)
    if width > slots:  # a prompt past the window
        cut = width - window // 2
        prompts = Prompts(prompts.tokens[:, cut:], prompts.mask[:, cut:], prompts.shift)
    B, P = prompts.tokens.shape
    model, variables = unstacked(model, variables)
    plan, draft = make_plan(model, o.choice, o.eos, o.pad, slots), None
    last_column = P + o.max_new_tokens
    mask = None if prompts.mask.all() else jnp.asarray(prompts.mask)
    first = int(np.argmax(prompts.mask[0]))
    tokens = jnp.asarray(prompts.tokens)
    carry = start(plan, variables, tokens, mask, keys, last_column + o.proposed, source)
    if o.proposed and not isinstance(carry.cache, KVCache):
        raise UserError(f'lookup, draft: got a {type(model).__name__}, expected a model whose cache can be rewound; fix: '
                        'remove them', code='decode/together')
    speculation = Speculation(jnp.int32(0))
    if o.draft is not None:
        draft = plan._replace(model=o.draft[0], choice=o.choice._replace(repetition_penalty=1.0))
        begun = start(draft, o.draft[1], tokens, mask, keys, last_column, source)
        speculation = speculation._replace(cache=begun.cache)
    draft_variables = o.draft[1] if o.draft else None
    passes, length, used = 0, P + 1, P
    while True:
        done = bool(carry.done.all()) if o.eos else False
        yield carry, passes
        if done or length >= last_column:
            return
        if used == slots:
            held = jnp.ones((B, P), bool) if mask is None else mask
            carry = refill(plan, variables, carry, held, window // 2)
            if draft is not None:
                speculation = speculation._replace(cache=refill(draft, draft_variables, carry, held, window // 2).cache)
            used = window // 2
        until = min(last_column, length + (slots - used), length + (every or last_column))
        if o.proposed and used + o.proposed + 1 <= slots:
            carry, speculation = speculated(plan, draft, variables, draft_variables, carry, speculation, keys, P, first,
                                                   until, o.proposed)
            passes, reached = passes + int(speculation.passes), int(carry.length)
            speculation = speculation._replace(passes=jnp.int32(0))
        else:
            carry = advance(plan, variables, carry, keys, P, until)
            reached = int(carry.length) if o.eos else until
            passes += reached - length
        used, length = used + reached - length, reached


def unstacked(model, variables):
    """The model and variables with a tree of each layer: a stack of layers would be copied apart for every token."""
    if not getattr(model, 'scan', False):
        return model, variables
    return model.clone(scan=False), stacking.unstack(variables)


def row_keys(rng, choice: Choice, rows: int):
    """A key of each row.

    Raises:
      UserError: tokens are drawn without a key; 'decode/no-rng'.
    """
    if rng is None and choice.temperature:
        raise UserError(f'rng: got none with temperature={choice.temperature}, expected a key; fix: rng=jax.random.key(0)',
                        code='decode/no-rng')
    return jax.vmap(jax.random.fold_in, (None, 0))(rngs.key(0) if rng is None else rng, jnp.arange(rows))


def inputs(model, tokens, mask, o: Options) -> tuple[Prompts, Source | None]:
    """(the prompts, None) of a decoder; of an encoder-decoder, (the token that every target begins with, the source).

    Raises:
      UserError: see `bigjax.decode.prompts.prepare`.
    """
    prompts = prepare(tokens, mask, getattr(model, 'vocab_size', None), o.pad)
    if not reads_source(model):
        return prompts, None
    # An encoder may count positions from the first column, so its padding stays where it is.
    read = np.ones(np.shape(tokens), bool) if mask is None else np.asarray(mask, bool)
    first = np.full((len(prompts.tokens), 1), model.bos, np.int32)
    return (Prompts(first, np.ones_like(first, bool), np.zeros(len(first), int)),
            Source(jnp.asarray(np.where(read, tokens, o.pad), jnp.int32), jnp.asarray(read)))


def growing(model, tokens, mask, o: Options) -> list[GrowingText]:
    """The text of each row [B], which its prompt begins; that of an encoder-decoder is empty."""
    counted = np.ones(np.shape(tokens), bool) if mask is None else np.asarray(mask, bool)
    before = [()] * len(counted) if reads_source(model) else [row[one] for row, one in zip(np.asarray(tokens), counted,
                                                                                           strict=True)]
    return [GrowingText(o.tokenizer.decode, o.stop, each, o.eos) for each in before]


def _whole(model, variables, prompts: Prompts, o: Options, keys, source, texts) -> tuple[Carry, int]:
    """(the last carry, passes); with stop strings, the first one in which every row has ended."""
    shown = None
    for reached in steps(model, variables, prompts, o, keys, STOP_EVERY if o.stop else None, source):
        if not o.stop:
            continue
        carry, _ = reached
        length, new, done = int(carry.length), np.asarray(carry.tokens), np.asarray(carry.done)
        for text, row in zip(texts, new, strict=True):
            if not text.stopped:
                text.add(row[length - 1 if shown is None else shown:length])
        shown = length
        if all(text.stopped or ended for text, ended in zip(texts, done, strict=True)):
            break
    return reached


def run(model, variables, tokens, *, mask=None, rng=None, **how) -> Generated:
    """`generate`, with the number of new tokens and of passes beside the tokens."""
    o = options(model, **how)
    prompts, source = inputs(model, tokens, mask, o)
    B, P = prompts.tokens.shape
    keys = row_keys(rng, o.choice, B)
    texts = growing(model, tokens, mask, o) if o.stop and o.num_beams == 1 else [None] * B
    if o.num_beams > 1:
        model, variables = unstacked(model, variables)
        plan = make_plan(model, o.choice, o.eos, o.pad, slots_for(model, P, o))
        mask = None if prompts.mask.all() else jnp.asarray(prompts.mask)
        new = search(plan, variables, jnp.asarray(prompts.tokens), mask, o.num_beams, o.length_penalty, o.max_new_tokens,
                          source)
        parts, passes = [np.asarray(new)], 0
    else:
        together = [slice(None)] if not o.proposed else [slice(row, row + 1) for row in range(B)]
        parts, passes = [], 0
        for rows in together:
            some = lambda each, rows=rows: each and type(each)(*(x[rows] for x in each))
            carry, used = _whole(model, variables, some(prompts), o, keys[rows], some(source), texts[rows])
            end = carry.tokens.shape[1] - o.proposed
            parts.append(np.asarray(carry.tokens[:, end - o.max_new_tokens:end]))
            passes += used
    new = np.concatenate(parts)
    ended = np.isin(new, o.eos)
    counts = np.where(ended.any(1), np.argmax(ended, 1) + 1, o.max_new_tokens)
    if o.stop:
        counts = np.array([text.add(row[:count]) for text, row, count in zip(growing(model, tokens, mask, o), new, counts,
                                                                             strict=True)])
        new = np.where(np.arange(new.shape[1]) < counts[:, None], new, o.pad)
    whole = new if source else restore(np.concatenate([prompts.tokens, new], 1), prompts, o.pad)
    return Generated(whole, counts, passes)


def generate(model, variables, tokens, *, mask=None, rng=None, **how) -> np.ndarray:
    """Continues prompts: int32 [B, P] -> [B, P + max_new_tokens], padding after the end of a row.

    An encoder-decoder reads them as its source, and the result is the target [B, max_new_tokens] alone, without `bos`.

    Rows that are padded on the right are continued where they end; those padded on the left (and rows without a mask) have
    their new tokens in the last columns. The greedy and the beams' tokens are those of `transformers.generate` in float32.
    Programs are compiled once for each shape and set of options.

    Args:
      model: a decoder with a cache: `model.init_cache(batch, length, dtype)`, and `model.apply(variables, tokens, cache=cache,
        mask=mask, last=last, train=False) -> (logits, cache)`, where `last` leaves all logits but those of the last token out.
      tokens: int [B, P].
      mask: bool [B, P], true where a token counts.
      rng: a key, where the temperature is not 0. A row draws the same whatever its padding and the other rows after it.
      max_new_tokens: new tokens of each row at most.
      temperature, top_k, top_p, min_p, repetition_penalty: see `bigjax.decode.choose.Choice`; by default the most likely token.
      num_beams: more than 1 searches with beams (`bigjax.decode.beam`); length_penalty: see there.
      eos: the token, or tokens, that end a row; an encoder-decoder's own by default.
      pad: what follows; the first `eos` by default, else 0.
      slide: past the window of the model (`block_size`), continue from the last half of a window, read again as if the text
        began there; without it, more tokens than the window are an error.
      lookup: tokens that are proposed from the text itself for each pass, see `bigjax.decode.speculate`; the same tokens
        result.
      draft: (model, variables) of a small model that proposes `drafted` tokens for each pass.
      stop: texts that end a row, whose last token is the one that completes the text; of beams, the best one is cut there.
      tokenizer: decodes the tokens for `stop`.

    Raises:
      UserError: wrong tokens, a mask with a hole, options out of range, or more tokens than the window has.
    """
    return run(model, variables, tokens, mask=mask, rng=rng, **how).tokens
