"""The cases of large images have the peer's number of parameters."""
import jax
import jax.numpy as jnp
import pytest

from bigjax.bench import cases


@pytest.mark.parametrize('name', cases.LARGE)
def test_the_peer_is_the_same_network(name):
    pytest.importorskip('torch', reason='PyTorch is not installed: pip install bigjax[parity]')
    from bigjax.bench import torch_peer
    case = cases.LARGE[name]
    shapes = jax.eval_shape(lambda: case.model.init(jax.random.key(0), jnp.zeros((1, *case.shape)), train=False))
    assert torch_peer.parameters(name) == sum(leaf.size for leaf in jax.tree.leaves(shapes['params']))
