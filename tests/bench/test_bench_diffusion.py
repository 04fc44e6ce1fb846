"""The bench of diffusion: the peer draws the same images from the same noise, and its training step learns."""
import jax
import numpy as np
import pytest

from bigjax.bench import diffusion
from bigjax.models.diffusion import UNet

torch = pytest.importorskip('torch', reason='PyTorch is not installed: pip install bigjax[parity]')
TINY = UNet(width=8, multipliers=(1, 2), blocks=1, attention=(4,), groups=4, num_classes=3)


def test_the_peer_draws_the_same_images(monkeypatch):
    """From our noise, with our weights: the image that its last step finds is ours."""
    from bigjax.bench import torch_unet
    from bigjax.tasks import bind
    from bigjax.tasks import diffusion_samplers as samplers
    drawn = np.random.default_rng(0)
    noise = drawn.normal(size=(3, 8, 8, 1)).astype(np.float32)
    shapes = jax.eval_shape(lambda: TINY.init(jax.random.key(0), noise, np.zeros(3), train=False))
    variables = jax.tree.map(lambda p: drawn.uniform(-0.2, 0.2, p.shape).astype(np.float32), shapes)
    predict = samplers.guided(bind(TINY), variables, diffusion.PROCESS, np.arange(3), 3, 1.0)
    how = samplers.Sampler('ddim', 4)
    ours = jax.jit(lambda x: samplers.run(predict, diffusion.PROCESS, how, x, jax.random.key(0))[0])(noise)
    peer, seen = torch_unet.UNet(TINY, 8, 1).load(variables['params']), []
    peer.register_forward_hook(lambda module, given, output: seen.append((given[0], output)))
    monkeypatch.setattr(torch_unet, 'UNet', lambda *a: peer)
    monkeypatch.setattr(torch_unet.torch, 'randn', lambda *a, **k: torch.tensor(noise.transpose(0, 3, 1, 2).copy()))
    torch_unet.sampler(TINY, (8, 8, 1), 3, diffusion.grid(4))(1)
    (_, a, s, _, _), (x_t, found) = diffusion.grid(4)[-1], seen[-1]
    np.testing.assert_allclose(((x_t - s * found) / a).clamp(-1, 1).numpy().transpose(0, 2, 3, 1), ours, atol=1e-3)


@pytest.mark.slow
def test_the_training_step_of_the_peer_learns():
    from bigjax.bench import torch_unet
    torch.manual_seed(0)
    images = np.zeros((4, 8, 8, 3), np.float32)
    run = torch_unet.training_stepper(TINY.clone(num_classes=0), images, diffusion.PROCESS.table)
    run(100)
    assert np.mean([run(1) for _ in range(50)]) < 0.85  # of 1 at the beginning; a single loss depends on its times
