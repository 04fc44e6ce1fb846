"""The U-Net and DiT: published parameter counts, twins in torch, and what they refuse."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_helpers import abstract, applied, contrasted, init, parameters, size

from bigjax.models.diffusion import VARIANTS, DiT, UNet
from tests.refused import refused

SMALL = UNet(width=8, multipliers=(1, 2), blocks=1, attention=(2,), heads=2, groups=4, num_classes=3)
TRANSFORMER = DiT(patch=2, width=8, num_layers=2, num_heads=2, num_classes=3)
X = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype(np.float32)
TIME, LABEL = np.array([3.0, 700.0], np.float32), np.array([1, 3], np.int32)


def test_ddpm_has_the_parameters_of_the_paper():
    model = UNet(**VARIANTS['ddpm_cifar10'])
    assert parameters(model, jnp.zeros((1, 32, 32, 3)), jnp.zeros(1)) == 35_746_307  # 35.7 million, appendix B


@pytest.mark.parametrize(('variant', 'count'), [  # with the positions, and a variance for each channel, of the released code
    ('dit_s2', 32_963_360), ('dit_b2', 130_512_416), ('dit_l2', 458_102_816), ('dit_xl2', 675_129_632)])
def test_dit_has_the_parameters_of_the_released_code(variant, count):
    model = DiT(**{**VARIANTS[variant], 'num_layers': 1}, num_classes=1000)
    shapes = abstract(model, jnp.zeros((1, 32, 32, 4)), jnp.zeros(1), jnp.zeros(1, jnp.int32))['params']
    blocks = VARIANTS[variant]['num_layers'] * size(shapes['block_0'])
    fixed = 256 * model.width + (model.width + 1) * 2 * 2 * 4
    assert size({name: part for name, part in shapes.items() if name != 'block_0'}) + blocks + fixed == count


class Torch:
    """The layers of a DiT, written with torch's functions from parameters of ours."""

    def __init__(self, params):
        torch = pytest.importorskip('torch', reason='torch is the reference')
        self.f, self.torch = torch.nn.functional, torch
        self.params = jax.tree.map(lambda p: torch.tensor(np.array(p)), params)

    def dense(self, p, x):
        return self.f.linear(x, p['kernel'].T, p['bias'])

    def attend(self, p, x, heads=2):
        q, k, v = (self.dense(p[n], x).unflatten(-1, (heads, -1)).transpose(1, 2) for n in ('query', 'key', 'value'))
        return self.dense(p['out'], self.f.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))

    def condition(self, p, features):
        half = features // 2
        angle = self.torch.tensor(TIME)[:, None] * self.torch.exp(
            -np.log(10000) * self.torch.arange(half) / (half - 1))  # as in the released code
        y = self.torch.cat([angle.sin(), angle.cos()], 1)
        y = self.dense(p['time_1'], self.f.silu(self.dense(p['time_0'], y)))
        return y + p['label_embed']['embedding'][self.torch.tensor(LABEL).long()]


def test_unet_equals_torch():
    torch = pytest.importorskip('torch', reason='torch is the reference')
    from bigjax.bench import torch_unet
    model = SMALL.clone(patch=2)
    params = init(model, X, TIME, LABEL)['params']
    peer = torch_unet.UNet(model, 8, 3).load(params)
    assert sum(p.numel() for p in peer.parameters()) == size(params)
    with torch.no_grad():
        expected = peer(torch.tensor(X).movedim(-1, 1), torch.tensor(TIME), torch.tensor(LABEL)).movedim(1, -1).numpy()
    found = applied(model, {'params': params}, X, TIME, LABEL, train=False)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


def test_dit_equals_torch():
    params = contrasted(TRANSFORMER, X, TIME, LABEL)['params']
    t = Torch(params)
    p, c = t.params, t.f.silu(t.condition(t.params, 256))
    kernel = p['patch_embed']['kernel'].reshape(2, 2, 3, 8).permute(3, 2, 0, 1)
    y = t.f.conv2d(t.torch.tensor(X).movedim(-1, 1), kernel, p['patch_embed']['bias'], stride=2).flatten(2).transpose(1, 2)
    frequency = 10000.0 ** -np.arange(2.0)  # two of 8 / 4
    row, column = np.divmod(np.arange(16), 4)
    y = y + t.torch.tensor(np.concatenate([f(place[:, None] * frequency) for place in (column, row) for f in (np.sin, np.cos)],
                                          1), dtype=t.torch.float32)
    modulated = lambda x, shift, scale: t.f.layer_norm(x, (8,), eps=1e-6) * (1 + scale) + shift
    for i in range(2):
        q = p[f'block_{i}']
        changes = t.dense(q['modulation'], c)[:, None].chunk(6, -1)
        y = y + changes[2] * t.attend(q['attn'], modulated(y, *changes[:2]))
        h = t.f.gelu(t.dense(q['mlp']['up'], modulated(y, *changes[3:5])), approximate='tanh')
        y = y + changes[5] * t.dense(q['mlp']['down'], h)
    y = t.dense(p['head'], modulated(y, *t.dense(p['modulation'], c)[:, None].chunk(2, -1)))
    expected = y.reshape(2, 4, 4, 2, 2, 3).transpose(2, 3).reshape(2, 8, 8, 3).numpy()
    found = applied(TRANSFORMER, {'params': params}, X, TIME, LABEL, train=False)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)


def test_the_first_output_is_zero_and_no_class_is_the_last():
    model = TRANSFORMER.clone(num_layers=1)
    output, _ = jax.jit(lambda: model.init_with_output(jax.random.key(0), X, TIME, LABEL, train=False))()
    assert not np.any(output)
    drawn = init(model, X, TIME, LABEL)
    none, last = (applied(model, drawn, X, TIME, label, train=False) for label in (None, np.array([3, 3])))
    np.testing.assert_allclose(none, last, rtol=1e-6)


@pytest.mark.parametrize(('model', 'code', 'names'), [
    (UNet(width=8, multipliers=(1, 1, 1, 1, 1), groups=4), 'model/not-divisible', ['8 x 8', '16']),
    (UNet(width=6, multipliers=(1, 2), groups=4), 'model/not-divisible', ['4', '6']),
    (DiT(patch=3, width=8, num_heads=2, num_layers=1), 'model/not-divisible', ['8 x 8', '3'])])
def test_what_is_refused(model, code, names):
    with refused(code, *names):
        abstract(model, X, TIME)
