"""The same models in plain flax.linen with the train step of Flax's examples, for `bigjax.bench` alone.

Glossary: B batch · T tokens · W width.
"""
import math

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.training import train_state


class MLP(nn.Module):
    """Three hidden layers of 1,024."""

    @nn.compact
    def __call__(self, x, train):
        for _ in range(3):
            x = nn.relu(nn.Dense(1024)(x))
        return nn.Dense(10)(x)


class LeNet5(nn.Module):
    """LeNet-5 with full connections and means for pooling."""

    @nn.compact
    def __call__(self, x, train):
        for width, padding in ((6, 2), (16, 0)):
            x = nn.avg_pool(nn.tanh(nn.Conv(width, (5, 5), padding=padding)(x)), (2, 2), strides=(2, 2))
        x = x.reshape(x.shape[0], -1)
        for width in (120, 84):
            x = nn.tanh(nn.Dense(width)(x))
        return nn.Dense(10)(x)


class LeNet(nn.Module):
    """The wide LeNet of tutorials."""

    @nn.compact
    def __call__(self, x, train):
        for width in (32, 64):
            x = nn.max_pool(nn.relu(nn.Conv(width, (5, 5))(x)), (2, 2), strides=(2, 2))
        return nn.Dense(10)(nn.relu(nn.Dense(1024)(x.reshape(x.shape[0], -1))))


class ResNet(nn.Module):
    """Stem and three basic blocks of 64 channels, batch norm throughout, global average."""

    @nn.compact
    def __call__(self, x, train):
        conv = lambda x: nn.Conv(64, (3, 3), padding=1, use_bias=False)(x)
        norm = lambda x: nn.BatchNorm(use_running_average=not train, momentum=0.9)(x)
        x = nn.relu(norm(conv(x)))
        for _ in range(3):
            y = norm(conv(nn.relu(norm(conv(x)))))
            x = nn.relu(x + y)
        return nn.Dense(10)(x.mean(axis=(1, 2)))


class LSTM(nn.Module):
    """Two layers of 256, the last output classified."""

    @nn.compact
    def __call__(self, x, train):
        for _ in range(2):
            x = nn.RNN(nn.OptimizedLSTMCell(256))(x)
        return nn.Dense(10)(x[:, -1])


class GRU(nn.Module):
    """The GRU of MNIST-1D: six features in each direction, all outputs classified."""

    @nn.compact
    def __call__(self, x, train):
        x = nn.Bidirectional(nn.RNN(nn.GRUCell(6)), nn.RNN(nn.GRUCell(6)))(x[..., None])
        return nn.Dense(10)(x.reshape(x.shape[0], -1))


class GPT(nn.Module):
    """GPT-2's blocks without biases, the head tied to the embedding: tokens [B, T] -> logits [B, T, 65]."""

    layers: int
    heads: int
    width: int
    length: int

    @nn.compact
    def __call__(self, tokens, train):
        normal = nn.initializers.normal
        embed = nn.Embed(65, self.width, embedding_init=normal(0.02))
        x = embed(tokens) + nn.Embed(self.length, self.width, embedding_init=normal(0.02))(jnp.arange(tokens.shape[1]))
        mask = nn.make_causal_mask(tokens)
        dense = lambda features: nn.Dense(features, use_bias=False, kernel_init=normal(0.02))
        for _ in range(self.layers):
            y = nn.LayerNorm(use_bias=False)(x)
            x = x + nn.MultiHeadDotProductAttention(self.heads, use_bias=False, kernel_init=normal(0.02))(y, mask=mask)
            y = nn.LayerNorm(use_bias=False)(x)
            x = x + dense(self.width)(nn.gelu(dense(4 * self.width)(y)))
        return embed.attend(nn.LayerNorm(use_bias=False)(x))


MODELS = {'mlp': MLP(), 'lenet5': LeNet5(), 'lenet': LeNet(), 'resnet': ResNet(), 'lstm': LSTM(), 'gru': GRU(),
          'gpt_small': GPT(4, 4, 128, 64), 'gpt': GPT(6, 6, 384, 256), 'gpt_long': GPT(6, 6, 384, 1024)}


class TrainState(train_state.TrainState):
    """The state with the statistics of batch norm beside it."""

    batch_stats: dict


def _variables(case: str, x):
    return MODELS[case].init(jax.random.key(0), x, train=False)


def parameters(case: str, x) -> int:
    """The number of parameters of the peer's model on inputs like x."""
    return sum(math.prod(p.shape) for p in jax.tree.leaves(jax.eval_shape(lambda: _variables(case, x)['params'])))


def train_step(state: TrainState, x, label):
    """(state, mean cross entropy) after one step."""
    def loss_fn(params):
        logits, new = state.apply_fn({'params': params, 'batch_stats': state.batch_stats}, x, train=True,
                                     mutable=['batch_stats'])
        return optax.softmax_cross_entropy_with_integer_labels(logits, label).mean(), new.get('batch_stats', {})

    (loss, batch_stats), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
    return state.apply_gradients(grads=grads, batch_stats=batch_stats), loss


def stepper(case: str, x: np.ndarray, label: np.ndarray):
    """`run(n)`: n training steps (SGD with momentum 0.9, mean cross entropy) on one batch; the loss is read at the end."""
    x, label = jnp.asarray(x), jnp.asarray(label)
    variables = jax.jit(lambda x: _variables(case, x))(x)
    held = [TrainState.create(apply_fn=MODELS[case].apply, params=variables['params'], tx=optax.sgd(0.01, momentum=0.9),
                              batch_stats=variables.get('batch_stats', {}))]
    step = jax.jit(train_step, donate_argnums=0)

    def run(n: int) -> float:
        for _ in range(n):
            held[0], loss = step(held[0], x, label)
        return float(loss)

    return run


def version() -> str:
    """The version of Flax."""
    return f'flax {flax.__version__}'
