"""Language modelling: cross entropy of the next token, averaged over tokens.

Glossary: B examples (windows) · T tokens of a window · V vocabulary.
"""
import math

import jax.numpy as jnp

from bigjax.errors import UserError
from bigjax.tasks import Aux, Range, Task, Term, check_shape, mask, of_parts, weighted
from bigjax.tasks.tokens import IGNORE, CrossEntropy, beside, cross_entropy, segments_between, within, z_term


def next_token(tokens: str = 'tokens', targets: str = 'targets', ignore: int | None = IGNORE, chunked: bool = False,
               label_smoothing: float = 0.0, z_loss: float = 0.0, separator: int | None = None) -> Task:
    """Next-token prediction; the model gives logits [B, T, V] of tokens [B, T].

    Where the batch has no `targets`, they are the tokens one later, and the model sees all but the last. The loss is nats per
    token that counts, over any split of a batch. Metrics: accuracy per token, and bits per token. Predictions: the
    log-likelihood of each token [B, T], float32 nats, 0 where it is ignored.

    Packed documents: of a batch with 'segments' [B, T], or with a `separator`, the model receives the segments, so that no
    token sees another document, and the first token of a document is not predicted from the one before it. The target of a
    row's last token is then given by `targets` alone, and must be `ignore` where another document begins.

    Args:
      tokens, targets: keys of the batch.
      ignore: a target that does not count, such as padding; -1 is that of `bigjax.data.windows.WindowSource`.
      chunked: the model is given the targets and returns {'nats', 'hits'} [B, T], without holding all logits.
      label_smoothing: in training only (Szegedy et al. 2016, section 7).
      z_loss: the scale of the mean of log² Z, in training only, such as 1e-4 (Chowdhery et al. 2022, section 5).
      separator: the token that ends a document within a row of a stream; None: a row is one document, or has its segments.

    Raises:
      UserError: an option that needs logits, of a chunked model.
    """
    if chunked and (label_smoothing or z_loss):
        raise UserError(f'next_token: got chunked=True with label_smoothing={label_smoothing} and z_loss={z_loss}, expected 0, '
                        'as the logits are never held; fix: chunked=False, with model.chunk=0', code='task/option')

    def parts(batch):
        """(tokens [B, T], targets [B, T], what the model receives by name)."""
        whole, beside_all = batch[tokens], beside(batch)
        if separator is not None and 'segments' not in batch:
            beside_all['segments'] = segments_between(whole, separator)
        if targets in batch:
            given, truth = whole, batch[targets]
        else:
            given, truth = whole[:, :-1], whole[:, 1:]
        named = {name: array[:, :given.shape[1]] for name, array in beside_all.items()}
        return given, truth, named, beside_all.get('segments')

    def positions(batch):
        """Predicted tokens, from shapes alone: without targets a row predicts one fewer than it has."""
        *rows, length = batch[tokens].shape
        return math.prod(rows) * (length if targets in batch else length - 1)

    def evaluate(apply, variables, batch, smoothing=0.0, **options):
        """(the cross entropy, hits, which targets count, model state), arrays float32 [B, T]."""
        given, truth, named, segments = parts(batch)
        check_shape(f"'{targets}'", truth, given.shape)
        if segments is not None:
            same = within(segments)
            same = jnp.pad(same, ((0, 0), (0, truth.shape[1] - same.shape[1])), constant_values=True)
            counted = same & (segments[:, :truth.shape[1]] > 0)
        else:
            counted = jnp.ones(truth.shape, bool)
        if 'mask' in batch:
            counted &= batch['mask'][:, batch['mask'].shape[1] - truth.shape[1]:].astype(bool)
        if ignore is not None:
            counted &= truth != ignore
        safe, counted = jnp.where(counted, truth, 0), counted.astype(jnp.float32)
        if chunked:
            out, state = apply(variables, given, safe, **named, **options)
            return CrossEntropy(out['nats'], out['nats'], jnp.zeros_like(out['nats'])), out['hits'] * counted, counted, state
        logits, state = apply(variables, given, **named, **options)
        check_shape("the model's output", logits, (*safe.shape, logits.shape[-1]))
        hits = (jnp.argmax(logits, axis=-1) == safe) * counted
        return cross_entropy(logits, safe, smoothing), hits, counted, state

    def loss(apply, variables, batch, rng, train):
        found, hits, counted, state = evaluate(apply, variables, batch, label_smoothing if train else 0.0, train=train, rng=rng)
        weights = counted * mask(batch)[:, None]
        metrics = {'accuracy': weighted(hits, weights), 'bits': weighted(found.nats / math.log(2), weights)}
        terms = {'nats': Term(found.loss, weights), **z_term(found.log_z, weights, z_loss if train else 0.0)}
        return terms, Aux(state, metrics)

    def predict(apply, variables, batch, rng):
        found, _, counted, _ = evaluate(apply, variables, batch, rng=rng)
        return -found.nats * counted

    def ranges(logits):
        of_parts(logits)
        return {tokens: Range(logits.shape[-1]), targets: Range(logits.shape[-1], ignore)}

    return Task(lambda batch: (parts(batch)[0],), loss, predict, unit='tokens', size=positions, ranges=ranges)
