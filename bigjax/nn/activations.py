"""Activation functions by name, so that a config can choose one."""
from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax.numpy as jnp

from bigjax.errors import UserError

ACTIVATIONS: dict[str, Callable] = {
    'relu': nn.relu, 'gelu': partial(nn.gelu, approximate=False), 'gelu_tanh': partial(nn.gelu, approximate=True),
    'silu': nn.silu, 'tanh': jnp.tanh, 'sigmoid': nn.sigmoid, 'elu': nn.elu, 'softplus': nn.softplus,
    'leaky_relu': partial(nn.leaky_relu, negative_slope=0.2), 'relu6': nn.relu6, 'hard_swish': nn.hard_swish,
    'hard_sigmoid': nn.hard_sigmoid, 'identity': lambda x: x,
}


def activation(name: str) -> Callable:
    """Returns the function of that name; raises UserError for a name that is not in `ACTIVATIONS`."""
    if name not in ACTIVATIONS:
        raise UserError(f'activation: got {name!r}, expected one of {", ".join(sorted(ACTIVATIONS))}; fix: choose one of them',
                        code='model/unknown-option')
    return ACTIVATIONS[name]
