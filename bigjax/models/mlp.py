"""Multi-layer perceptrons; without hidden layers, linear and logistic regression.

Glossary: B batch · D flattened input · K outputs.
"""
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from bigjax.errors import UserError
from bigjax.nn.activations import activation
from bigjax.nn.dense import Dense

VARIANTS = {
    # Greydanus & Kobak 2024, MNIST-1D (40 inputs): 410 and 15,210 parameters.
    'mnist1d_logistic': {'features': (), 'num_classes': 10},
    'mnist1d': {'features': (100, 100), 'num_classes': 10, 'residual': True},
    # Wang, Yan & Oates 2017, section II-A: UCR time series.
    'ucr': {'features': (500, 500, 500), 'dropout': (0.1, 0.2, 0.2, 0.3)},
    # Srivastava et al. 2014, table 2, 784 inputs: 2,913,290 parameters.
    'dropout_mnist': {'features': (1024, 1024, 1024), 'num_classes': 10, 'dropout': (0.2, 0.5, 0.5, 0.5)},
    # Gal & Ghahramani 2016, section 5.3: UCI regression, 751 parameters at 13 inputs.
    'uci': {'features': (50,), 'num_classes': 1, 'dropout': 0.05},
    # Wisconsin diagnostic breast cancer, 30 inputs, one logit: 11,677 parameters.
    'breast_cancer': {'features': (100, 64, 32), 'num_classes': 1},
}


class MLP(nn.Module):
    """[B, …] -> [B, K]: dense layers 'dense_0', 'dense_1', … and 'head', on the flattened input.

    Attributes:
      features: widths of the hidden layers; () is linear regression, or logistic regression under a cross entropy.
      num_classes: K; 1 for a regression or a binary logit.
      activation: its name, see `bigjax.nn.activations`.
      dropout: a rate for the input of every layer, or one rate for the input of each layer: len(features) + 1 of them,
        the first that of the network's input.
      residual: a hidden layer adds its input to its activation where the previous hidden layer is as wide.
      kernel_init: initializer of every kernel.
      dtype: of the computation; parameters stay float32.
    """

    features: Sequence[int] = (100, 100)
    num_classes: int = 10
    activation: str = 'relu'
    dropout: float | Sequence[float] = 0.0
    residual: bool = False
    kernel_init: Callable = nn.initializers.lecun_normal()
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        layers = len(self.features) + 1
        rates = (self.dropout,) * layers if isinstance(self.dropout, int | float) else tuple(self.dropout)
        if len(rates) != layers:
            raise UserError(f'MLP: got {len(rates)} dropout rates, expected one number or {layers}; fix: give one per layer, '
                            'the output layer included', code='model/lengths')
        act = activation(self.activation)
        x = x.reshape(x.shape[0], -1).astype(self.dtype)
        x = nn.Dropout(rates[0], deterministic=not train)(x)
        for i, width in enumerate(self.features):
            h = act(Dense(width, kernel_init=self.kernel_init, dtype=self.dtype, name=f'dense_{i}')(x))
            x = x + h if self.residual and i > 0 and self.features[i - 1] == width else h
            x = nn.Dropout(rates[i + 1], deterministic=not train)(x)
        return Dense(self.num_classes, kernel_init=self.kernel_init, dtype=self.dtype, name='head')(x)
