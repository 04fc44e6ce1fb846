"""The bench of DCGAN: the peer has the same networks, and both steps move them."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigjax.bench import adversarial, cases


def test_the_peer_has_the_same_networks():
    pytest.importorskip('torch', reason='PyTorch is not installed: pip install bigjax[parity]')
    from bigjax.bench import torch_peer
    model = adversarial.CASES['dcgan'].model
    params = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 64, 64, 3)), train=False))['params']
    ours = [sum(p.size for p in jax.tree.leaves(params[name])) for name in ('generator', 'discriminator')]
    assert ours == [sum(p.numel() for p in net.parameters()) for net in torch_peer.dcgan()]


@pytest.mark.slow
def test_the_row(monkeypatch):
    torch_peer = pytest.importorskip('bigjax.bench.torch_peer', reason='PyTorch is not installed')
    case = adversarial.CASES['dcgan']._replace(batch=2)
    row = cases.adversarial_row('dcgan', case, 1, torch_peer)
    assert row['ratio'] > 0 and row['parameters'] == 6_342_272 and row['target'] == 1.0
    images = np.zeros((2, 64, 64, 3), np.float32)
    assert np.isfinite(torch_peer.adversarial_stepper(images)(2))
