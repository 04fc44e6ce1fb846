"""The models on plain flax.linen layers: by the switch of the CPU formulations, and with the layers themselves replaced.

A model file can then be taken to another project, and a file from there works here.
"""
import functools
import importlib
import pkgutil

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigjax import models
from bigjax.models.bert import BERT
from bigjax.models.cnn import CNN
from bigjax.models.gan import GAN
from bigjax.models.gpt import GPT
from bigjax.models.mlp import MLP
from bigjax.models.resnet import ResNet
from bigjax.models.rnn import CharLSTM, RNNClassifier
from bigjax.models.seq2seq import EncoderDecoder, Seq2Seq
from bigjax.models.timeseries import FCN, ResNet1D
from bigjax.models.vae import VAE
from bigjax.models.vit import ViT
from bigjax.nn import attention_layer, cpu, transformer, transformer_spec


def real(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def tokens(*shape, below=5):
    return np.random.default_rng(0).integers(1, below, shape).astype(np.int32)


CASES = {
    'mlp': (MLP((8, 8)), [real(3, 5)]),
    'cnn_1d': (CNN((4, 5), (3, 3), dense=(6,)), [real(3, 12, 2)]),
    'cnn_2d': (CNN((4, 5), (3, 3), pool='avg', dense=(6,)), [real(3, 8, 8, 1)]),
    'cnn_max': (CNN((4,), (5,), dense=()), [real(3, 8, 8, 3)]),
    'resnet': (ResNet((1, 1), (4, 8)), [real(3, 8, 8, 3)]),
    'resnet_7x7': (ResNet((1, 1), (4, 8), block='bottleneck', shortcut='conv', stem='7x7'), [real(2, 32, 32, 3)]),
    'fcn': (FCN((4, 5, 4), num_classes=3), [real(3, 10, 1)]),
    'resnet1d': (ResNet1D((4, 5), num_classes=3), [real(3, 10, 1)]),
    'lstm': (RNNClassifier('lstm', 6, 2, bidirectional=True, num_classes=3), [real(3, 7, 2)]),
    'gru': (RNNClassifier('gru', 6, readout='all', num_classes=3), [real(3, 7, 2)]),
    'char_lstm': (CharLSTM(5, 4, 6), [tokens(3, 7)]),
    'seq2seq': (Seq2Seq(5, 5, 6, 1), [tokens(3, 6), tokens(3, 4)]),
    'vae': (VAE((4, 4, 1), (8,), 3), [real(3, 4, 4, 1)]),
    'gan': (GAN(8, 1, 4, 4), [real(3, 8, 8, 1)]),
    'vit': (ViT(3, 4, 8, 2, 2), [real(3, 8, 8, 3)]),
    'gpt': (GPT(5, 8, 2, 2, 8, bias=True), [tokens(3, 8)]),
    'llama': (GPT(5, 8, 2, 2, 8, norm='rmsnorm', hidden='swiglu', rope_base=1e4, tie_head=False, num_kv_heads=1),
              [tokens(3, 8)]),
    'bert': (BERT(5, 8, 2, 2, 8, pool='cls', num_classes=3), [tokens(3, 8)]),
    't5': (EncoderDecoder(5, num_layers=1, num_heads=2, width=8), [tokens(3, 6), tokens(3, 4)]),
}
RNGS = {'params': jax.random.key(0), 'dropout': jax.random.key(1), 'sample': jax.random.key(2)}


def variables_of(model, inputs):
    """Variables with every parameter redrawn, so that zeros cannot hide a difference."""
    shapes = jax.eval_shape(lambda: model.init(RNGS, *inputs, train=False))
    rng = np.random.default_rng(1)
    draw = lambda p: np.asarray(rng.uniform(0.1, 0.5, p.shape) * rng.choice([-1, 1], p.shape), p.dtype)
    drawn = {'params': jax.tree.map(draw, shapes['params'])}
    if 'batch_stats' in shapes:
        drawn['batch_stats'] = jax.tree.map(lambda p: np.abs(draw(p)), shapes['batch_stats'])
    return drawn


def trained(model, variables, inputs):
    """(outputs and new statistics, gradients of the parameters) in training."""
    rest = {k: v for k, v in variables.items() if k != 'params'}

    def loss(params):
        out = model.apply({'params': params, **rest}, *inputs, train=True, mutable=['batch_stats'], rngs=RNGS)
        return sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves(out)), out

    return jax.jit(jax.grad(loss, has_aux=True))(variables['params'])


@functools.cache
def mine(name):
    """`trained` of a case as it is here."""
    model, inputs = CASES[name]
    return trained(model, variables_of(model, inputs), inputs)


def equal(one, other):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-3), one, other)


@pytest.mark.parametrize('name', CASES)
def test_plain_layers_compute_the_same(name):
    model, inputs = CASES[name]
    expected = mine(name)
    with cpu.plain_layers():
        equal(expected, trained(model, variables_of(model, inputs), inputs))


LINEN = {'Dense': nn.Dense, 'Conv': nn.Conv, 'ConvTranspose': nn.ConvTranspose, 'BatchNorm': nn.BatchNorm,
         'LayerNorm': nn.LayerNorm, 'max_pool': nn.max_pool, 'avg_pool': nn.avg_pool}


@pytest.mark.parametrize('name', [name for name in CASES if name not in ('lstm', 'gru', 'char_lstm', 'seq2seq')])
def test_layers_of_linen_in_their_place(name, monkeypatch):
    model, inputs = CASES[name]
    expected = mine(name)
    modules = [importlib.import_module(f'{models.__name__}.{info.name}') for info in pkgutil.iter_modules(models.__path__)]
    replaced = 0
    for module in (*modules, transformer, transformer_spec, attention_layer):
        for layer, theirs in LINEN.items():
            if hasattr(module, layer):
                monkeypatch.setattr(module, layer, theirs)
                replaced += 1
    assert replaced > len(modules)
    equal(expected, trained(model, variables_of(model, inputs), inputs))


@pytest.mark.parametrize('name', CASES)
def test_export_with_a_symbolic_batch(name):
    """One exported program serves every batch size: no choice of form may depend on the batch being a number."""
    model, inputs = CASES[name]
    variables = variables_of(model, inputs)
    predict = jax.jit(lambda *x: model.apply(variables, *x, train=False, rngs=RNGS))
    scope = jax.export.SymbolicScope()
    shapes = [jax.ShapeDtypeStruct(jax.export.symbolic_shape(f'b,{",".join(map(str, x.shape[1:]))}', scope=scope), x.dtype)
              for x in inputs]
    exported = jax.export.export(predict)(*shapes)
    for rows in (1, 2):
        few = [x[:rows] for x in inputs]
        found, expected = exported.call(*few), predict(*inputs)
        if name == 'vae':  # its latents are drawn by the shape of the batch
            found, expected = found[1:], expected[1:]
        expected = jax.tree.map(lambda x, rows=rows: x[:rows], expected)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), found, expected)
