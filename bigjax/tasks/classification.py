"""Classification: cross entropy over K classes, or over one logit of two.

Glossary: B examples · K classes.
"""
import jax
import jax.numpy as jnp
import optax

from bigjax.tasks import Aux, Range, Task, Term, check_shape, mask, of_parts, weighted
from bigjax.tasks.tokens import beside

TARGET = 'target'  # [B, K] soft targets in a batch, as mixup and cutmix write them; they replace the label


def softmax(inputs: str = 'image', label: str = 'label', label_smoothing: float = 0.0) -> Task:
    """Softmax cross entropy; the model gives [B, K] logits, of an image, a series, or a text with its 'mask' [B, T].

    Metrics: accuracy (against the label, also with soft targets). Predictions: logits [B, K], float32.

    Args:
      inputs: the key of the model's input, 'x' for series and tables, 'tokens' for texts, whose 'mask' it receives as well.
      label: the key of the int32 classes [B].
      label_smoothing: the share of the target spread evenly over all classes (Szegedy et al. 2016, section 7); in training
        only, so that the evaluated loss is the likelihood.
    """
    def loss(apply, variables, batch, rng, train):
        logits, state = apply(variables, batch[inputs], **beside(batch), train=train, rng=rng)
        logits, weights = logits.astype(jnp.float32), mask(batch)
        check_shape(f"'{label}'", batch[label], weights.shape)
        check_shape("the model's output", logits, (len(weights), logits.shape[-1]))
        if TARGET in batch:
            target = batch[TARGET].astype(jnp.float32)
            check_shape(f"'{TARGET}'", target, logits.shape)
        else:
            target = jax.nn.one_hot(batch[label], logits.shape[-1])
        if label_smoothing and train:
            target = optax.smooth_labels(target, label_smoothing)
        hits = (jnp.argmax(logits, axis=-1) == batch[label]).astype(jnp.float32)
        terms = {'cross_entropy': Term(optax.softmax_cross_entropy(logits, target), weights)}
        return terms, Aux(state, {'accuracy': weighted(hits, weights)})

    def predict(apply, variables, batch, rng):
        return apply(variables, batch[inputs], **beside(batch), rng=rng)[0].astype(jnp.float32)

    return Task(lambda batch: (batch[inputs],), loss, predict, unit='images' if inputs == 'image' else 'examples',
                ranges=lambda logits: {label: Range(of_parts(logits).shape[-1])})


def binary(inputs: str = 'x', label: str = 'label') -> Task:
    """Sigmoid cross entropy; the model gives one logit [B, 1] or [B], the label [B] is 0 or 1.

    Metrics: accuracy at a probability of one half. Predictions: logits [B], float32.
    """
    def one_logit(logits):
        logits = logits.astype(jnp.float32)
        return logits[:, 0] if logits.ndim == 2 and logits.shape[1] == 1 else logits

    def loss(apply, variables, batch, rng, train):
        logits, state = apply(variables, batch[inputs], **beside(batch), train=train, rng=rng)
        logits, weights = one_logit(logits), mask(batch)
        check_shape(f"'{label}'", batch[label], weights.shape)
        check_shape("the model's output", logits, weights.shape)
        truth = batch[label].astype(jnp.float32)
        hits = ((logits > 0) == (truth > 0.5)).astype(jnp.float32)
        terms = {'cross_entropy': Term(optax.sigmoid_binary_cross_entropy(logits, truth), weights)}
        return terms, Aux(state, {'accuracy': weighted(hits, weights)})

    def predict(apply, variables, batch, rng):
        return one_logit(apply(variables, batch[inputs], **beside(batch), rng=rng)[0])

    def ranges(logits):
        of_parts(logits)
        return {label: Range(2)}

    return Task(lambda batch: (batch[inputs],), loss, predict, ranges=ranges)
