"""The chunked cross entropy: equal to the plain one in values and gradients, whatever the chunk and the mesh."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigjax.nn.cross_entropy import chunked_cross_entropy
from bigjax.sharding import logical
from bigjax.sharding import mesh as meshes

X = jax.random.normal(jax.random.key(0), (160, 16))
HEAD = jax.random.normal(jax.random.key(1), (16, 38))
TARGETS = jax.random.randint(jax.random.key(2), (160,), 0, 38)


def plain(x, head):
    return -jax.nn.log_softmax(x @ head)[jnp.arange(len(x)), TARGETS[:len(x)]]


@pytest.mark.parametrize('mesh', [
    '', 'data:8', 'fsdp:4,tensor:2', 'data:2,fsdp:2,tensor:2', 'data:2,seq:4', 'seq:8', 'data:3,seq:2'])
@pytest.mark.parametrize('chunk', [7, 20, 1000])
@pytest.mark.parametrize('shape', [(160,), (10, 16)], ids=str)
def test_values_and_gradients_are_the_plain_ones(mesh, chunk, shape):
    def total(x, head):
        with logical.using(meshes.make(mesh, jax.devices()) if mesh else None):
            nats, hits = chunked_cross_entropy(x.reshape(*shape, -1), head, TARGETS.reshape(shape), chunk)
        assert nats.shape == hits.shape == shape
        nats, hits = nats.reshape(-1), hits.reshape(-1)
        return jnp.sum(nats * jnp.arange(160)), (nats, hits)

    (gx, gh), (nats, hits) = jax.jit(jax.grad(total, (0, 1), has_aux=True))(X, HEAD)
    np.testing.assert_allclose(nats, plain(X, HEAD), atol=1e-5)
    np.testing.assert_array_equal(hits, jnp.argmax(X @ HEAD, -1) == TARGETS)
    want = jax.grad(lambda x, h: jnp.sum(plain(x, h) * jnp.arange(160)), (0, 1))(X, HEAD)
    np.testing.assert_allclose(gx, want[0], atol=1e-3)
    np.testing.assert_allclose(gh, want[1], atol=5e-3)


def test_the_head_s_gradient_is_summed_once_and_no_logits_are_sent():
    from bigjax.plan import count, hlo
    mesh = meshes.make('data:8', jax.devices())

    def total(x, head):
        with logical.using(mesh):
            return jnp.sum(chunked_cross_entropy(x, head, TARGETS, 5)[0])

    args = (jax.ShapeDtypeStruct(X.shape, X.dtype, sharding=meshes.batch_sharding(mesh, 0)),
            jax.ShapeDtypeStruct(HEAD.shape, HEAD.dtype, sharding=meshes.replicated(mesh)))
    text = jax.jit(jax.grad(total, 1)).lower(*args).compile().as_text()
    sent = count.count(hlo.parse(text), mesh).collectives
    assert [(c.kind, c.times) for c in sent if c.payload > 4] == [('all-reduce', 1)]
