"""Transcription by Whisper: windows of 30 seconds to tokens, with time stamps (Radford et al. 2022, sections 2.3 and 4.5).

Glossary: B examples · N windows of an example · S samples of a window · L tokens of a window at most · V vocabulary.
"""
import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bigjax.nn import kv_cache, log_mel
from bigjax.tasks import Aux, Range, Task, Term, mask, of_parts, weighted
from bigjax.tasks.tokens import cross_entropy

RATE_HZ = 16_000
WINDOW = 30 * RATE_HZ  # samples
STAMP_S = 0.02  # between two time stamps
LATEST_START = 50  # time stamps: a window's first segment begins in its first second
LENGTH = 224  # tokens of a window: half of the decoder's, as the published code
BEAMS = 5  # section 4.5
FORBIDDEN = -1e30
PLACES = ('start', 'seconds')  # where a window begins, and how long its sound is: passed on to the answer


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """The special tokens of one of Whisper's two vocabularies.

    Attributes:
      end: ends a window; the tokens below it are text.
      start: begins a window; the tokens of languages follow it.
      languages: how many there are, 0 in a model of English alone.
      transcribe, no_speech: the task, and what the first token would be without speech.
      stamps: the first time stamp, '0.00'.
      never, not_first: tokens that are never written, and not as the first of a window (beside a blank and the end).
    """

    end: int
    start: int
    languages: int
    transcribe: int
    no_speech: int
    stamps: int
    never: tuple[int, ...] = ()
    not_first: tuple[int, ...] = ()


def vocabulary(size: int, never: tuple[int, ...] = (), not_first: tuple[int, ...] = ()) -> Vocabulary:
    """The vocabulary of `size` tokens: 51,864 of English alone, 51,865 of 99 languages, 51,866 of 100."""
    end = 50_256 if size < 51_865 else 50_257
    languages = 99 + (size > 51_865)
    first = end + 2 + languages
    return Vocabulary(end, end + 1, 0 if size < 51_865 else languages, first + 1, first + 4, first + 6, never, not_first)


def transcription(v: Vocabulary, language: int | None = None, stamps: bool = True, length: int = LENGTH, beams: int = BEAMS,
                  audio: str = 'audio', text: str = 'text') -> Task:
    """Transcribes int16 windows [B, N, S]; the loss is that of the tokens [B, U] of an example of one window, -1 after the end.

    Metrics: accuracy of the tokens. Predictions: {'tokens': int32 [B, N, L], -1 from the end on, 'no_speech': probability
    [B, N], 'mean_log_probability': of the tokens, [B, N]}, and 'start' and 'seconds' [B, N] where the batch has them.

    Args:
      v: the special tokens.
      language: the number of the language, None to let the model choose; without meaning for a model of English alone.
      stamps: time stamps in `tokens`, by the rules of the published code.
      length: L.
      beams: of the search; 1 takes the most likely token each time.
    """
    def loss(apply, variables, batch, rng, train):
        goal = jnp.asarray(batch[text], jnp.int32)
        first = jnp.asarray([*_prompt(v, language or 0), v.stamps - 1], jnp.int32)
        lead = jnp.broadcast_to(first, (len(goal), len(first)))
        tokens = jnp.concatenate([lead, jnp.maximum(goal[:, :-1], 0)], axis=1)
        logits, state = apply(variables, log_mel.whisper(batch[audio][:, 0]), tokens, train=train, rng=rng)
        logits = logits[:, len(first) - 1:].astype(jnp.float32)
        weights = (goal >= 0) * mask(batch)[:, None]
        labels = jnp.maximum(goal, 0)
        hits = (jnp.argmax(logits, axis=-1) == labels).astype(jnp.float32)
        return ({'cross_entropy': Term(cross_entropy(logits, labels).loss, weights)},
                Aux(state, {'accuracy': weighted(hits, weights)}))

    def predict(apply, variables, batch, rng):
        windows = batch[audio]
        B, N, S = windows.shape
        features = log_mel.whisper(windows.reshape(B * N, S))
        found = decode(apply, variables, features, v, language, stamps, length, beams)
        found = jax.tree.map(lambda x: x.reshape(B, N, *x.shape[1:]), found)
        return {**found, **{name: batch[name] for name in PLACES if name in batch}}

    def inputs(batch):
        return log_mel.whisper(batch[audio][:, 0]), jnp.maximum(batch[text], 0)

    return Task(inputs, loss, predict, ranges=lambda logits: {text: Range(of_parts(logits).shape[-1], ignore=-1)})


def _prompt(v: Vocabulary, language: Any) -> list:
    """The tokens before a text, but for the one for no time stamps."""
    return [v.start] if not v.languages else [v.start, v.start + 1 + language, v.transcribe]


def decode(apply, variables, features, v: Vocabulary, language: int | None, stamps: bool, length: int,
           beams: int = BEAMS) -> dict[str, jax.Array]:
    """Beam search of windows [B, frames, M] in one compiled loop, which ends when every window has `beams` ended texts.

    The best of them by mean log-probability is the result; one beam is greedy decoding. The scores and the candidates of a pass
    are those of the published code.
    """
    B, ids = len(features), jnp.arange(_size(v))
    cache = apply(variables, features, length + 8, method='start')[0]

    def forward(tokens, cache):
        logits, cache = apply(variables, tokens, cache, method='decode')[0]
        return logits.astype(jnp.float32), cache

    logits, cache = forward(jnp.full((B, 1), v.start), cache)
    logits = logits[:, -1]
    no_speech = jax.nn.softmax(logits)[:, v.no_speech]
    rest = _prompt(v, 0)[1:]
    if rest:
        spoken = logits[:, v.start + 1:v.start + 1 + v.languages]
        chosen = jnp.argmax(spoken, axis=-1) if language is None else jnp.full(B, language)
        rest = jnp.stack([v.start + 1 + chosen, jnp.full(B, v.transcribe)], axis=1)
    if not stamps:
        last = jnp.full((B, 1), v.stamps - 1)
        rest = last if not len(rest) else jnp.concatenate([rest, last], axis=1)
    if len(rest):
        logits, cache = forward(rest, cache)
        logits = logits[:, -1]
    never = jnp.zeros(len(ids), bool).at[jnp.array([*v.never, *range(v.start, v.stamps)], jnp.int32)].set(True)
    never = never if stamps else never | (ids >= v.stamps)
    not_first = jnp.zeros(len(ids), bool).at[jnp.array([v.end, *v.not_first], jnp.int32)].set(True)

    def allowed(logits, step, before, before_that, latest):
        out = jnp.where(never | (not_first & (step == 0)), FORBIDDEN, logits)
        return _with_stamps(out, v, ids, step, before, before_that, latest) if stamps else out

    rows = jnp.repeat(jnp.arange(B), beams)
    none = jnp.full((B, beams), -1, jnp.int32)
    first = jnp.where(jnp.arange(beams) == 0, 0.0, FORBIDDEN)  # the beams are equal as yet: one of them is enough
    start = _Search(jnp.int32(0), jnp.repeat(logits, beams, axis=0), kv_cache.take(cache, rows),
                    jnp.full((B, beams, length), -1, jnp.int32), jnp.broadcast_to(first, (B, beams)), none, none, none,
                    jnp.full((B, length), -1, jnp.int32), jnp.full(B, -jnp.inf), jnp.zeros(B, jnp.int32))

    def body(s):
        flat = lambda x: x.reshape(B * beams, *x.shape[2:])
        log_p = jax.nn.log_softmax(allowed(s.logits, s.step, *map(flat, (s.before, s.before_that, s.latest))))
        K = min(2 * beams, beams * len(ids))  # of each beam one ends, so half of the best ones do not
        scores, at = jax.lax.top_k((log_p.reshape(B, beams, -1) + s.scores[..., None]).reshape(B, -1), K)
        parent, token = at // len(ids), (at % len(ids)).astype(jnp.int32)
        of = lambda x: jnp.take_along_axis(x, parent.reshape(B, K, *[1] * (x.ndim - 2)), axis=1)
        ends = token == v.end
        # Ends count where fewer than `beams` better candidates continue; the first `beams` of them are kept, and the best of
        # these, whose lengths are equal, is the first.
        kept = ends & (jnp.cumsum(~ends, axis=1) < beams) & (scores > FORBIDDEN / 2) & (s.count < beams)[:, None]
        best = jnp.argmax(kept, axis=1)
        mean = jnp.take_along_axis(scores, best[:, None], 1)[:, 0] / jnp.maximum(s.step, 1)
        better = kept.any(1) & (mean > s.kept_score)
        ended = jnp.take_along_axis(of(s.tokens), best[:, None, None], 1)[:, 0]
        on = jax.lax.top_k(jnp.where(ends, -jnp.inf, scores), beams)[1]
        pick = lambda x: jnp.take_along_axis(x, on.reshape(B, beams, *[1] * (x.ndim - 2)), axis=1)
        chosen, parents = pick(token), pick(parent)
        latest = jnp.where(chosen >= v.stamps, chosen, pick(of(s.latest)))
        own = (jnp.arange(B)[:, None] * beams + parents).reshape(-1)
        cache = kv_cache.take(s.cache._replace(cross=()), own)._replace(cross=s.cache.cross)  # the beams of a window share it
        logits, cache = forward(chosen.reshape(-1, 1), cache)
        return _Search(s.step + 1, logits[:, -1], cache, pick(of(s.tokens)).at[:, :, s.step].set(chosen), pick(scores), chosen,
                       pick(of(s.before)), latest, jnp.where(better[:, None], ended, s.kept),
                       jnp.where(better, mean, s.kept_score), s.count + kept.sum(1))

    s = jax.lax.while_loop(lambda s: (s.step < length) & (s.count < beams).any(), body, start)
    running = s.scores[:, 0] / s.step
    cut = (s.count < beams) & (running > s.kept_score)
    tokens, mean = jnp.where(cut[:, None], s.tokens[:, 0], s.kept), jnp.where(cut, running, s.kept_score)
    count = (tokens >= 0).sum(1)
    return {'tokens': tokens, 'no_speech': no_speech, 'mean_log_probability': mean * count / (count + ~cut)}


class _Search(NamedTuple):
    """The state of a beam search of B windows with N beams each, the best one first.

    Attributes:
      step: tokens so far. logits [B N, V] and cache: of the beams, one after another.
      tokens, scores: int32 [B, N, L] and the sums of log-probabilities [B, N].
      before, before_that, latest: the last token, the one before it, and the last time stamp, [B, N]; -1 for none.
      kept, kept_score, count: the best one [B, L] of those that have ended, its mean log-probability, how many have.
    """

    step: jax.Array
    logits: jax.Array
    cache: Any
    tokens: jax.Array
    scores: jax.Array
    before: jax.Array
    before_that: jax.Array
    latest: jax.Array
    kept: jax.Array
    kept_score: jax.Array
    count: jax.Array


def _size(v: Vocabulary) -> int:
    return v.stamps + round(30 / STAMP_S) + 1


def _with_stamps(logits, v: Vocabulary, ids, step, before, before_that, latest):
    """Logits under the rules of time stamps: the first token is an early one; they come in pairs, the end of a segment and the
    beginning of the next; they do not fall; and where all of them together are more probable than any text, one comes."""
    stamp, text = ids >= v.stamps, ids < v.end
    was = (before >= v.stamps)[:, None]
    pair = was & ((before_that >= v.stamps) | (step < 2))[:, None]
    earliest = jnp.where(latest < 0, v.stamps, latest + ~(was & ~pair)[:, 0])[:, None]
    wrong = (pair & stamp) | (was & ~pair & text) | (stamp & (ids < earliest))
    wrong = wrong | ((step == 0) & (~stamp | (ids > v.stamps + LATEST_START)))
    logits = jnp.where(wrong, FORBIDDEN, logits)
    log_p = jax.nn.log_softmax(logits)
    together = jax.nn.logsumexp(jnp.where(stamp, log_p, -jnp.inf), axis=-1)
    best = jnp.where(stamp, -jnp.inf, log_p).max(-1)
    return jnp.where((together > best)[:, None] & ~stamp, FORBIDDEN, logits)


@dataclasses.dataclass(frozen=True)
class Segment:
    """A part of a sound: seconds from its beginning, and the tokens said in it."""

    start: float
    end: float
    tokens: tuple[int, ...]


def segments(tokens: np.ndarray, v: Vocabulary, offset: float, seconds: float) -> list[Segment]:
    """The segments of the tokens [L] of one window that begins at `offset` and lasts `seconds`."""
    found, begin, words = [], 0.0, []
    for token in [int(t) for t in tokens if t >= 0] + [None]:
        if token is not None and token < v.end:
            words.append(token)
            continue
        time = seconds if token is None else min((token - v.stamps) * STAMP_S, seconds)
        if words:
            found.append(Segment(round(offset + begin, 2), round(offset + time, 2), tuple(words)))
            words = []
        begin = time
    return found


def cut(samples: np.ndarray, longest: int = WINDOW, search: int = 5 * RATE_HZ, quiet: int = RATE_HZ // 10) -> list[int]:
    """Where the windows of a sound begin: each is at most `longest` samples and ends where it is quietest, for `quiet` samples,
    in the last `search` of them."""
    search = min(search, longest // 4)
    starts = [0]
    while len(samples) - starts[-1] > longest:
        at = starts[-1] + longest - search
        energy = np.convolve(np.square(samples[at:at + search], dtype=np.float64), np.ones(quiet), 'valid')
        starts.append(at + int(np.argmin(energy)) + quiet // 2)
    return starts
