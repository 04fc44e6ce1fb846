"""A fully connected layer whose product is always two-dimensional."""
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from bigjax.sharding import logical


class Dense(nn.Module):
    """y = x W + b over the last axis; parameters as in `flax.linen.Dense`: 'kernel' [in, out], 'bias' [out].

    Leading axes are folded into one before the product: the weight gradient of a three-dimensional product makes
    XLA copy the whole activation into another order first, which costs as much as the product itself on CPU.

    Attributes:
      features: width of the output.
      dtype: of the computation; None takes the common type of input and parameters.
    """

    features: int
    use_bias: bool = True
    kernel_init: Callable = nn.initializers.lecun_normal()
    bias_init: Callable = nn.initializers.zeros_init()
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.param('kernel', self.kernel_init, (x.shape[-1], self.features), self.param_dtype)
        bias = self.param('bias', self.bias_init, (self.features,), self.param_dtype) if self.use_bias else None
        x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
        split = logical.axis_size('seq') > 1  # rows of a split sequence, folded, would be gathered and computed on every device
        y = (x if split else x.reshape(-1, x.shape[-1])) @ kernel
        y = y if bias is None else y + bias
        return y.reshape(*x.shape[:-1], self.features)
