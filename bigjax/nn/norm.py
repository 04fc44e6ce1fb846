"""Normalization layers with the parameters of flax.linen's, exact also where the mean is many deviations from zero.

E[x²] - E[x]² cancels there: at a mean of 1,000 deviations nothing is left of a float32 variance. So values are taken
relative to one of their own before they are squared, which costs no further pass over them.

Glossary: B batch · P positions of an example · C channels · W width.
"""
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax


def _moments(x_BxPxC):
    """(mean, remainder of the mean that float32 cannot hold beside it, variance), [C] each.

    Each example is taken relative to its first position, so examples on other devices are not needed before their means
    are averaged; the means' own variance is taken in two passes (Chan et al. 1983, eq. 2.1).
    """
    first = lax.stop_gradient(x_BxPxC[:, :1])
    shifted = x_BxPxC - first
    means = shifted.mean(1)
    within = jnp.square(shifted).mean(1) - jnp.square(means)
    means = first[:, 0] + means
    mean = means.mean(0)
    offset = means - mean
    remainder = offset.mean(0)
    return mean, remainder, jnp.maximum(within, 0).mean(0) + jnp.square(offset - remainder).mean(0)


class BatchNorm(nn.Module):
    """Batch normalization over all axes but the last (Ioffe & Szegedy 2015), as `flax.linen.BatchNorm`.

    Parameters 'scale' and 'bias' [C]; 'mean' and 'var' [C] in the collection 'batch_stats'. Statistics are float32,
    over the global batch also where it is split over devices.

    Attributes:
      use_running_average: normalize by the stored statistics; may be given to the call instead.
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
        x_BxPxC = x.reshape(x.shape[0], -1, x.shape[-1]).astype(jnp.float32)
        if average:
            y = (x_BxPxC - running_mean.value) * (lax.rsqrt(running_var.value + self.epsilon) * scale) + bias
        else:
            mean, remainder, var = _moments(x_BxPxC)
            y = (x_BxPxC - mean - remainder) * (lax.rsqrt(var + self.epsilon) * scale) + bias
            if not self.is_initializing():
                keep = self.momentum
                running_mean.value = keep * running_mean.value + (1 - keep) * mean
                running_var.value = keep * running_var.value + (1 - keep) * var
        return y.reshape(x.shape).astype(dtype)


class LayerNorm(nn.Module):
    """Layer normalization over the last axis (Ba et al. 2016), as `flax.linen.LayerNorm`.

    Parameters 'scale' and 'bias' [W]. Statistics are float32.

    Attributes:
      epsilon: added to the variance.
      dtype: of the result; None takes the common type of input and parameters.
    """

    epsilon: float = 1e-6
    use_bias: bool = True
    use_scale: bool = True
    bias_init: Callable = nn.initializers.zeros_init()
    scale_init: Callable = nn.initializers.ones_init()
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (x.shape[-1],)
        scale = self.param('scale', self.scale_init, shape, self.param_dtype) if self.use_scale else jnp.ones(shape)
        bias = self.param('bias', self.bias_init, shape, self.param_dtype) if self.use_bias else None
        dtype = self.dtype or jnp.result_type(*(a for a in (x, scale, bias) if a is not None))
        wide, scale = x.astype(jnp.float32), scale.astype(jnp.float32)
        shifted = wide - lax.stop_gradient(wide[..., :1])
        centred = shifted - shifted.mean(-1, keepdims=True)
        y = centred * lax.rsqrt(jnp.square(centred).mean(-1, keepdims=True) + self.epsilon) * scale
        return (y if bias is None else y + bias.astype(jnp.float32)).astype(dtype)
