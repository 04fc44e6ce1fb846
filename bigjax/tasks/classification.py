"""Classification: cross entropy over K classes, or over one logit of two.

Glossary: B examples · K classes.
"""
import jax
import jax.numpy as jnp
import optax

from bigjax.tasks import Aux, Task, mask, weighted

TARGET = 'target'  # [B, K] soft targets in a batch, as mixup and cutmix write them; they take the place of the label


def softmax(image: str = 'image', label: str = 'label', label_smoothing: float = 0.0) -> Task:
    """Softmax cross entropy; the model gives [B, K] logits.

    Metrics: accuracy (against the label, also where there are soft targets). Predictions: logits [B, K], float32.

    Args:
      image: key of the input, 'x' for series and tables.
      label: key of the int32 classes [B].
      label_smoothing: the share of the target spread evenly over all classes (Szegedy et al. 2016, section 7); in
        training only, so that the evaluated loss is the likelihood.
    """

    def inputs(batch):
        return (batch[image],)

    def loss(apply, variables, batch, rng, train):
        logits, state = apply(variables, batch[image], train=train, rng=rng)
        logits = logits.astype(jnp.float32)
        if TARGET in batch:
            target = batch[TARGET].astype(jnp.float32)
        else:
            target = jax.nn.one_hot(batch[label], logits.shape[-1])
        if label_smoothing and train:
            target = optax.smooth_labels(target, label_smoothing)
        weights = mask(batch)
        hits = (jnp.argmax(logits, axis=-1) == batch[label]).astype(jnp.float32)
        return optax.softmax_cross_entropy(logits, target), weights, Aux(state, {'accuracy': weighted(hits, weights)})

    def predict(apply, variables, batch):
        return apply(variables, batch[image])[0].astype(jnp.float32)

    return Task(inputs, loss, predict)


def binary(x: str = 'x', label: str = 'label') -> Task:
    """Sigmoid cross entropy; the model gives one logit [B, 1] or [B], the label is 0 or 1.

    Metrics: accuracy at a probability of one half. Predictions: logits [B], float32.
    """

    def inputs(batch):
        return (batch[x],)

    def loss(apply, variables, batch, rng, train):
        logits, state = apply(variables, batch[x], train=train, rng=rng)
        logits = logits.astype(jnp.float32).reshape(-1)
        truth = batch[label].reshape(-1).astype(jnp.float32)
        weights = mask(batch)
        hits = ((logits > 0) == (truth > 0.5)).astype(jnp.float32)
        per_example = optax.sigmoid_binary_cross_entropy(logits, truth)
        return per_example, weights, Aux(state, {'accuracy': weighted(hits, weights)})

    def predict(apply, variables, batch):
        return apply(variables, batch[x])[0].astype(jnp.float32).reshape(-1)

    return Task(inputs, loss, predict)
