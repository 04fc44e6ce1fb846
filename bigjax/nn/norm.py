"""Normalisation layers.

Glossary: M all examples and positions · C channels.
"""
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from bigjax.nn.cpu import column_sums, on_cpu, stored


def _normalize(x_MxC, scale, bias, epsilon):
    if on_cpu():
        mean, square = (column_sums(a, scale) / a.shape[0] for a in (x_MxC, x_MxC * x_MxC))
    else:
        mean, square = x_MxC.mean(0), lax.square(x_MxC).mean(0)
    var = jnp.maximum(square - lax.square(mean), 0.0)
    factor = lax.rsqrt(var + epsilon) * scale
    return x_MxC * factor + (bias - mean * factor), mean, var


@jax.custom_vjp
def _normalize_cpu(x_MxC, scale, bias, epsilon):
    return _normalize(x_MxC, scale, bias, epsilon)


def _forward(x_MxC, scale, bias, epsilon):
    y, mean, var = _normalize(x_MxC, scale, bias, epsilon)
    return (y, mean, var), (x_MxC, scale, mean, lax.rsqrt(var + epsilon))


@stored
def _pull(x_MxC, scale, mean, inverse, dy_MxC, dmean, dvar):
    """Ioffe & Szegedy 2015, section 3, with everything but one pass over the activations done on vectors of C."""
    rows = x_MxC.shape[0]
    dbias = column_sums(dy_MxC, scale)
    dscale = (column_sums(dy_MxC * x_MxC, scale) - mean * dbias) * inverse
    factor = scale * inverse
    by_x = (2 * dvar - factor * dscale * inverse) / rows
    constant = (dmean - factor * dbias) / rows - mean * by_x
    return dy_MxC * factor + x_MxC * by_x + constant, dscale, dbias


def _backward(residuals, cotangents):
    x_MxC, scale, mean, inverse = residuals
    return *_pull(x_MxC, scale, mean, inverse, *cotangents), jnp.zeros(())


_normalize_cpu.defvjp(_forward, _backward)


class BatchNorm(nn.Module):
    """Batch normalisation over all axes but the last (Ioffe & Szegedy 2015), as `flax.linen.BatchNorm`.

    Parameters 'scale' and 'bias' [C]; 'mean' and 'var' [C] in the collection 'batch_stats'. Statistics are float32,
    over the global batch also where it is split over devices.

    Attributes:
      use_running_average: normalise by the stored statistics; may be given to the call instead.
      momentum: of the stored statistics, stored = momentum * stored + (1 - momentum) * batch.
      epsilon: added to the variance.
      dtype: of the result; None takes the common type of input and parameters.
    """

    use_running_average: bool | None = None
    momentum: float = 0.99
    epsilon: float = 1e-5
    use_bias: bool = True
    use_scale: bool = True
    bias_init: Callable = nn.initializers.zeros_init()
    scale_init: Callable = nn.initializers.ones_init()
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, use_running_average: bool | None = None) -> jax.Array:
        average = nn.merge_param('use_running_average', self.use_running_average, use_running_average)
        shape = (x.shape[-1],)
        running_mean = self.variable('batch_stats', 'mean', lambda: jnp.zeros(shape, jnp.float32))
        running_var = self.variable('batch_stats', 'var', lambda: jnp.ones(shape, jnp.float32))
        scale = self.param('scale', self.scale_init, shape, self.param_dtype) if self.use_scale else jnp.ones(shape)
        bias = self.param('bias', self.bias_init, shape, self.param_dtype) if self.use_bias else jnp.zeros(shape)
        dtype = self.dtype or jnp.result_type(x, scale, bias)
        scale, bias = scale.astype(jnp.float32), bias.astype(jnp.float32)
        rows = x.reshape(-1, x.shape[-1]).astype(jnp.float32)
        if average:
            factor = lax.rsqrt(running_var.value + self.epsilon) * scale
            y = rows * factor + (bias - running_mean.value * factor)
        else:
            y, mean, var = (_normalize_cpu if on_cpu() else _normalize)(rows, scale, bias, self.epsilon)
            if not self.is_initializing():
                keep = self.momentum
                running_mean.value = keep * running_mean.value + (1 - keep) * mean
                running_var.value = keep * running_var.value + (1 - keep) * var
        return y.reshape(x.shape).astype(dtype)
