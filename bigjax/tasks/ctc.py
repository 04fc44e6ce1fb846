"""Connectionist temporal classification: texts of sequences whose alignment is not known (Graves et al. 2006).

Glossary: B examples · T frames of the input · T' = ceil(T / stride) frames of the output · U symbols · K symbols and the blank.
"""
import jax
import jax.numpy as jnp
import optax

from bigjax.nn import ctc_decode
from bigjax.tasks import Aux, Range, Task, Term, check_shape, mask, of_parts, weighted
from bigjax.tasks.tokens import beside


def needed_frames(text_BxU: jax.Array, length_B: jax.Array) -> jax.Array:
    """The fewest frames of an alignment: a symbol each, and a blank between equal neighbours."""
    equal = (text_BxU[:, 1:] == text_BxU[:, :-1]) & (jnp.arange(1, text_BxU.shape[1]) < length_B[:, None])
    return length_B + equal.sum(1)


def ctc(stride: int = 1, beams: int = 0, inputs: str = 'x', text: str = 'text') -> Task:
    """The negative log-likelihood of a text over all its alignments, nats per example; the model gives logits [B, T', K], of
    which 0 is the blank.

    A batch has `inputs` [B, T, …] with 'mask' [B, T], true in front for the frames that count, and `text` int32 [B, U] of
    1 … K-1 with '`text`_length' [B]. An example whose text needs more frames than there are has no alignment: it has no weight,
    and the metric 'impossible' is the share of such examples. Predictions: {'greedy': int32 [B, T'], followed by 0}; with
    `beams`, also 'beam', the text of the prefix beam search, and 'score', its log-probability.

    Args:
      stride: frames of the input for one of the output.
      beams: of the search; 0 for none.
    """
    def outputs(apply, variables, batch, **kw):
        logits, state = apply(variables, batch[inputs], **beside(batch), **kw)
        frames = batch['mask'].sum(1) if 'mask' in batch else jnp.full(len(logits), batch[inputs].shape[1])
        expected = (len(logits), -(-batch[inputs].shape[1] // stride), logits.shape[-1])
        check_shape("the model's output", logits, expected)
        return logits.astype(jnp.float32), -(-frames // stride), state

    def loss(apply, variables, batch, rng, train):
        logits, frames, state = outputs(apply, variables, batch, train=train, rng=rng)
        length, weights = batch[f'{text}_length'], mask(batch)
        check_shape(f"'{text}'", batch[text], (len(logits), batch[text].shape[-1]))
        past = lambda count, size: (jnp.arange(size) >= count[:, None]).astype(jnp.float32)
        nats = optax.ctc_loss(logits, past(frames, logits.shape[1]), batch[text], past(length, batch[text].shape[1]),
                              blank_id=ctc_decode.BLANK)
        impossible = (needed_frames(batch[text], length) > frames).astype(jnp.float32)
        return ({'ctc': Term(nats, weights * (1 - impossible))},
                Aux(state, {'impossible': weighted(impossible, weights)}))

    def predict(apply, variables, batch, rng):
        logits, frames, _ = outputs(apply, variables, batch, rng=rng)
        log_probs = jax.nn.log_softmax(logits)
        found = {'greedy': ctc_decode.greedy(log_probs, frames)}
        if beams:
            found['beam'], found['score'] = ctc_decode.prefix_beam(log_probs, frames, beams)
        return found

    return Task(lambda batch: (batch[inputs],), loss, predict, ranges=lambda logits: {text: Range(of_parts(logits).shape[-1])})
