"""Vision Transformers in timm's names, and in those of the npz files of ViT-JAX and big_vision."""
import jax.numpy as jnp

from bigjax.models.vit import VARIANTS
from bigjax.weights.family import Architecture, Family, Field, Row
from bigjax.weights.rows import dense, norm

TOKEN = {'pool': 'token', 'positions': 'learned', 'pre_logits': False, 'token_positions': True}
MAP = {**TOKEN, 'pool': 'attention'}
SIZES = {'tiny': 'ti16', 'small': 's16', 'base': 'b16', 'large': 'l16'}
DINO = {'patch': 14, 'image_size': 518, 'layer_scale': 1e-5}
DEIT3 = {'layer_scale': 1e-6, 'token_positions': False}


def image(model) -> tuple:
    """The arguments that a model is initialised with: one image of the size that its positions are learned for."""
    return (jnp.zeros((1, model.image_size, model.image_size, 3)),)


def architectures() -> dict[str, Architecture]:
    """{name in config.json: sizes}."""
    named = {}
    for size, variant in SIZES.items():
        fields = VARIANTS[variant]
        named |= {f'vit_{size}_patch16_{side}': {**fields, **TOKEN, 'image_size': side} for side in (224, 384)}
        named |= {f'vit_{size}_patch14_dinov2': {**fields, **TOKEN, **DINO},
                  f'vit_{size}_patch14_reg4_dinov2': {**fields, **TOKEN, **DINO, 'registers': 4, 'token_positions': False},
                  f'deit3_{size}_patch16_224': {**fields, **TOKEN, **DEIT3}, f'deit_{size}_patch16_224': {**fields, **TOKEN},
                  f'vit_{size}_patch16_siglip_224': {**fields, **MAP},
                  f'vit_{size}_patch32_224': {**fields, **TOKEN, 'patch': 32}}
    return {name: Architecture(fields=fields, heads=dense('head', 'head'), matches=_scaled(bool(fields.get('layer_scale'))))
            for name, fields in named.items()}


def _scaled(wanted: bool):
    return lambda model: bool(model.layer_scale) == wanted


def attention(ours: str, query: str, key_value: str, out: str) -> tuple[Row, ...]:
    """The layers of an attention whose query is apart ('' where one matrix has it beside key and value)."""
    parts = [f'{ours}/{part}' for part in ('key', 'value')]
    first = dense(f'{ours}/query', query) if query else ()
    parts = parts if query else [f'{ours}/query', *parts]
    return (*first, Row(tuple(f'{part}/kernel' for part in parts), f'{key_value}.weight', 'split_transpose'),
            Row(tuple(f'{part}/bias' for part in parts), f'{key_value}.bias', 'split'), *dense(f'{ours}/out', out))


TIMM = Family(
    model='vit.ViT', model_type='timm', architectures=architectures(),
    fields=(Field('num_classes', 'num_classes', 1000), Field('img_size', 'image_size', 224),
            Field('patch_size', 'patch', 16), Field('embed_dim', 'width', 384), Field('depth', 'num_layers', 12),
            Field('num_heads', 'num_heads', 6), Field('reg_tokens', 'registers', 0),
            Field('no_embed_class', 'token_positions', False, {False: True, True: False}),
            Field('global_pool', 'pool', 'token', {'token': 'token', 'map': 'attention'})),
    fixed={'class_token': (True, False)},
    rows=(*dense('patch_embed', 'patch_embed.proj', 'patch'), Row('class_token', 'cls_token'), Row('registers', 'reg_token'),
          Row('pos_embed', 'pos_embed', grid=True), *norm('block_{i}/attn_norm', 'blocks.{i}.norm1'),
          *attention('block_{i}/attn', '', 'blocks.{i}.attn.qkv', 'blocks.{i}.attn.proj'),
          Row('block_{i}/attn_scale', 'blocks.{i}.ls1.gamma'), *norm('block_{i}/mlp_norm', 'blocks.{i}.norm2'),
          *dense('block_{i}/mlp/up', 'blocks.{i}.mlp.fc1'), *dense('block_{i}/mlp/down', 'blocks.{i}.mlp.fc2'),
          Row('block_{i}/mlp_scale', 'blocks.{i}.ls2.gamma'), *norm('final_norm', 'norm'),
          Row('pool/probe', 'attn_pool.latent'), *attention('pool/attn', 'attn_pool.q', 'attn_pool.kv', 'attn_pool.proj'),
          *norm('pool/mlp_norm', 'attn_pool.norm'),
          *dense('pool/mlp/up', 'attn_pool.mlp.fc1'), *dense('pool/mlp/down', 'attn_pool.mlp.fc2')),
    inputs=image)


def linen(ours: str, theirs: str, *names: str, transform: str = 'same') -> tuple[Row, ...]:
    """The arrays of a layer of flax.linen, which has our names; 'folded' where it keeps heads or patches apart."""
    return tuple(Row(f'{ours}/{name}', f'{theirs}/{name}', transform) for name in names or ('kernel', 'bias'))


def linen_block(ours: str, attn: str, mlp_norm: str, mlp: str) -> tuple[Row, ...]:
    """An attention, the norm after it and the hidden layer."""
    return (*(row for part in ('query', 'key', 'value', 'out')
              for row in linen(f'{ours}/attn/{part}', f'{attn}/{part}', transform='folded')),
            *linen(f'{ours}/mlp_norm', mlp_norm, 'scale', 'bias'), *linen(f'{ours}/mlp/up', f'{mlp}/Dense_0'),
            *linen(f'{ours}/mlp/down', f'{mlp}/Dense_1'))


BLOCK, POOL = 'Transformer/encoderblock_{i}', 'MAPHead_0'
JAX = Family(
    model='vit.ViT', architectures={'': Architecture(heads=(*linen('pre_logits', 'pre_logits'), *linen('head', 'head')))},
    rows=(*linen('patch_embed', 'embedding', transform='folded'), Row('class_token', 'cls'),
          Row('pos_embed', 'Transformer/posembed_input/pos_embedding', grid=True),
          *linen('block_{i}/attn_norm', f'{BLOCK}/LayerNorm_0', 'scale', 'bias'),
          *linen_block('block_{i}', f'{BLOCK}/MultiHeadDotProductAttention_1', f'{BLOCK}/LayerNorm_2', f'{BLOCK}/MlpBlock_3'),
          *linen('final_norm', 'Transformer/encoder_norm', 'scale', 'bias'), Row('pool/probe', f'{POOL}/probe'),
          *linen_block('pool', f'{POOL}/MultiHeadDotProductAttention_0', f'{POOL}/LayerNorm_0', f'{POOL}/MlpBlock_0')),
    renamed=((r'^params/', ''), (r'^pos_embedding$', 'Transformer/posembed_input/pos_embedding'),  # those of big_vision
             (r'(encoderblock_\d+)/LayerNorm_1/', r'\1/LayerNorm_2/'), (r'(encoderblock_\d+)/MlpBlock_0/', r'\1/MlpBlock_3/'),
             (r'(encoderblock_\d+)/MultiHeadDotProductAttention_0/', r'\1/MultiHeadDotProductAttention_1/')),
    ignored=(r'(opt|extra)/.*',), inputs=image)
FAMILIES = {'vit': TIMM, 'vit_jax': JAX}
