"""The interfaces of JAX that change between its versions, at one address; they are tried on JAX 0.10 and 0.12.

`jax`, `jax.numpy`, `jax.lax`, `jax.sharding` and `jax.tree_util` are stable, and modules import them directly. Whatever is
experimental, meant for other libraries (`jax.extend`), or a name inside JAX that no interface states is imported here alone.
"""
from jax.core import Tracer as Tracer
from jax.custom_batching import custom_vmap as custom_vmap
from jax.experimental import multihost_utils as multihost_utils
from jax.experimental.mesh_utils import create_device_mesh as create_device_mesh
from jax.experimental.mesh_utils import create_hybrid_device_mesh as create_hybrid_device_mesh
from jax.experimental.topologies import get_topology_desc as get_topology_desc
from jax.experimental.xla_metadata import set_xla_metadata as set_xla_metadata
from jax.extend.core import Literal as Literal
from jax.monitoring import register_event_duration_secs_listener as register_event_duration_secs_listener
from jax.monitoring import register_event_listener as register_event_listener

COMPILE_SECONDS_EVENT = '/jax/core/compile/backend_compile_duration'  # the name under which JAX reports a compilation
CACHE_HIT_EVENT = '/jax/compilation_cache/cache_hits'
