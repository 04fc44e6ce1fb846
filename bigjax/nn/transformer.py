"""The Transformer block, in the forms that its families use: decoders, encoders, both with attention between them, experts.

Glossary: B batch · T tokens · W width · H heads · K key and value heads · D width of a head · F width of the hidden layer.
"""
import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from bigjax.errors import UserError
from bigjax.nn.attention_layer import Attention
from bigjax.nn.dense import Dense
from bigjax.nn.drop_path import drop_path, drop_rates
from bigjax.nn.gpipe import pipeline
from bigjax.nn.kv_cache import KVCache, Layer
from bigjax.nn.moe import MoE
from bigjax.nn.transformer_spec import GATED, HIDDEN, NOTHING, PLAIN, BlockInputs, Spec, make_norm
from bigjax.sharding import logical

REMAT = {  # what the backward pass finds stored: all, nothing, products, or the two outputs of each block by name
    'none': None, 'full': jax.checkpoint_policies.nothing_saveable,
    'dots': jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    'named': jax.checkpoint_policies.save_only_these_names('attn', 'mlp'),
}


class FeedForward(nn.Module):
    """[B, T, W] -> [B, T, W] through F: 'up', activation, 'down'; 'gate' beside 'up' in the gated forms."""

    spec: Spec

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        s, W = self.spec, x.shape[-1]
        if s.hidden not in HIDDEN:
            raise UserError(f'hidden: got {s.hidden!r}, expected one of {", ".join(HIDDEN)}; fix: choose one of them',
                            code='model/unknown-option')
        F = s.mlp_width or 4 * W
        dense = lambda name, n, init: Dense(n, s.bias, kernel_init=init, bias_init=s.bias_init, dtype=s.dtype, name=name)
        h = dense('up', F, s.init)(x)
        h = GATED[s.hidden](dense('gate', F, s.init)(x)) * h if s.hidden in GATED else PLAIN[s.hidden](h)
        h = nn.Dropout(s.hidden_dropout, deterministic=not train)(logical.constrain(h, 'batch', 'seq', 'mlp'))
        return dense('down', W, s.out_init)(h)


class Block(nn.Module):
    """A residual block: x + attn(attn_norm(x)), then x + mlp(mlp_norm(x)), or attn_norm(x + attn(x)) and so on where norms come
    after; 'cross_norm' and 'cross' between the two in a decoder of an encoder's output; 'moe' in the place of 'mlp'."""

    spec: Spec

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, inputs: BlockInputs = NOTHING, cached: Layer | None = None, index=None,
                 cross: Layer | None = None, skipped=0.0) -> tuple[jax.Array, Layer | None]:
        """Returns x after the block, and the cached keys and values with those of these tokens.

        Args:
          skipped: the probability that an example leaves out a residual in training, read where the spec has stochastic depth.
          cached: keys and values of earlier tokens, `index` the slot of the first of these; None without a cache.
          cross: keys and values of the memory, where they are cached.
        """
        s = self.spec
        drop = nn.Dropout(s.dropout, deterministic=not train)

        def residual(x, name, layer):
            norm = make_norm(s, f'{name}_norm')
            y = layer(x if s.post_norm else norm(x))
            y = drop(checkpoint_name(y, name))
            if s.layer_scale:
                scale = self.param(f'{name}_scale', nn.initializers.constant(s.layer_scale), (x.shape[-1],), jnp.float32)
                y = y * scale.astype(y.dtype)
            y = x + (drop_path(y, skipped, train) if s.drop_path else y)
            return logical.constrain(norm(y) if s.post_norm else y, 'batch', 'seq', 'embed')

        def attend(h):
            nonlocal cached
            y, cached = Attention(s, name='attn')(h, inputs, cached, index, train=train)
            return y

        def hidden(h):
            if s.experts:
                return MoE(s.experts, s.top_k, s.capacity, s.mlp_width, s.hidden == 'swiglu', s.init, s.out_init, s.dtype,
                           name='moe')(h)
            return FeedForward(s, name='mlp')(h, train=train)

        x = residual(x, 'attn', attend)
        if s.cross:
            x = residual(x, 'cross', lambda h: Attention(s, cross=True, name='cross')(h, inputs, cross, train=train)[0])
        return residual(x, 'mlp', hidden), cached


def stack(module: nn.Module, spec: Spec, num_layers: int, x: jax.Array, inputs: BlockInputs = NOTHING, *, train: bool,
          scan: bool = False, remat: str = 'none', microbatches: int = 0) -> jax.Array:
    """Blocks in the compact scope of `module`, [B, T, W] -> [B, T, W]: 'block_0', …, or 'blocks' where scanned.

    Args:
      inputs: what every block receives beside x; nothing in a pipeline.
      scan: one block compiled and looped over; its parameters are those of the blocks, stacked (`bigjax.nn.stacking`).
      remat: see `REMAT`: what is recomputed in the backward pass to save memory.
      microbatches: of a pipeline, where the mesh has stages; 0 for as many as stages.

    Raises:
      UserError: an unknown `remat` ('model/unknown-option'), or what does not go with the mesh ('mesh/impossible').
    """
    if remat not in REMAT:
        raise UserError(f'remat: got {remat!r}, expected one of {", ".join(REMAT)}; fix: choose one of them',
                        code='model/unknown-option')
    block = Block
    if remat != 'none':
        block = nn.remat(Block, policy=REMAT[remat], static_argnums=(2,), prevent_cse=not scan)
    pipelined = logical.axis_size('stage') > 1
    if pipelined and not scan:
        raise UserError("config.mesh: got 'stage' with unrolled layers, expected stacked ones; fix: --config.model.scan=True",
                        code='mesh/impossible')
    skipped = drop_rates(spec.drop_path, num_layers)
    if not scan:
        for i in range(num_layers):
            x, _ = block(spec, name=f'block_{i}')(x, train, inputs, None, None, None, skipped[i])
        return x
    if pipelined and not module.is_initializing():
        if ((spec.dropout or spec.drop_path) and train) or spec.experts or not inputs.empty:
            raise UserError("config.mesh: got 'stage' with dropout, experts, a mask, a window or positions, expected none of "
                            'them; fix: set dropout and experts to 0, or use other axes', code='mesh/impossible')
        one = block(spec, parent=None)
        return pipeline(lambda params, x: one.apply({'params': params}, x, train)[0],
                        module.variables['params']['blocks'], x, microbatches)
    body = nn.scan(lambda block, x, inputs, skipped: (block(x, train, inputs, None, None, None, skipped)[0], None),
                   variable_axes={'params': 0, 'losses': 0}, split_rngs={'params': True, 'dropout': True}, length=num_layers,
                   in_axes=(nn.broadcast, 0))
    return body(block(spec, name='blocks'), x, inputs, jnp.asarray(skipped, jnp.float32))[0]


def cached_stack(module: nn.Module, spec: Spec, num_layers: int, x: jax.Array, inputs: BlockInputs, cache: KVCache, index, *,
                 scan: bool = False) -> tuple[jax.Array, KVCache]:
    """The blocks of `stack` on the next tokens of a cache, and the cache with their keys and values.

    Layers are unrolled also where the parameters are stacked: a loop over layers would copy each one's weights out of the
    stack for every token. Unstack the parameters once (`bigjax.nn.stacking`) before a long text.

    Args:
      inputs: `mask` as `bigjax.nn.masks.visible_slots` makes it.
      index: the slot of the first token.
    """
    layers, cross = [], cache.cross or (None,) * num_layers
    for i in range(num_layers):
        if scan:
            params = jax.tree.map(lambda p, i=i: p[i], module.variables['params']['blocks'])
            x, layer = Block(spec, parent=None).apply({'params': params}, x, False, inputs, cache.layers[i], index, cross[i])
        else:
            x, layer = Block(spec, name=f'block_{i}')(x, False, inputs, cache.layers[i], index, cross[i])
        layers.append(layer)
    return x, cache._replace(layers=tuple(layers))


def partition_rules(prefix: str = '') -> tuple:
    """The logical axes of the parameters of a `stack` under a path, unrolled and scanned."""
    attention = '(attn|cross)'
    rules = (
        (f'{attention}/(query|key|value)/kernel', ('embed', 'heads')), (f'{attention}/(query|key|value)/bias', ('heads',)),
        (f'{attention}/(query|key)_norm/scale', (None,)), (f'{attention}/out/kernel', ('heads', 'embed')),
        ('mlp/(up|gate)/kernel', ('embed', 'mlp')), ('mlp/(up|gate)/bias', ('mlp',)), ('mlp/down/kernel', ('mlp', 'embed')),
        ('moe/router/kernel', ('embed', None)), ('moe/(up|gate)', ('experts', 'embed', 'mlp')),
        ('moe/down', ('experts', 'mlp', 'embed')), ('(attn|cross|mlp)_scale', ('embed',)), ('.*/(scale|bias)', ('embed',)))
    return (*((rf'{prefix}block_\d+/{path}', names) for path, names in rules),
            *((f'{prefix}blocks/{path}', ('layers', *names)) for path, names in rules))
