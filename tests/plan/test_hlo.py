"""The walker, on small programs compiled here and on lines that TPU programs have: exact FLOPs, trips, groups, wire bytes."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from bigjax.plan import count, flops, hlo


def counted(f, *args, mesh=None):
    """The counts of one call of f."""
    text = jax.jit(f).lower(*args).compile().as_text()
    return count.count(hlo.parse(text), mesh or Mesh(np.array(jax.devices()[:1]), ('data',)))


def shape(*dims, dtype=jnp.float32, sharding=None):
    return jax.ShapeDtypeStruct(dims, dtype, sharding=sharding)


def test_a_product_counts_two_for_each_multiplication():
    assert counted(lambda a, b: a @ b, shape(32, 48), shape(48, 24)).flops == 2 * 32 * 48 * 24


def test_the_body_of_a_loop_counts_as_often_as_it_runs():
    def f(x, w):
        def inner(x, _):
            return jnp.tanh(x @ w), None

        def outer(x, _):
            return jax.lax.scan(inner, x, None, length=5)[0], None

        return jax.lax.scan(outer, x, None, length=7)[0]

    assert counted(f, shape(16, 16), shape(16, 16)).flops == 5 * 7 * 2 * 16**3


@pytest.mark.parametrize(('stride', 'padding', 'expected'), [
    (1, 'VALID', 2 * 6 * 6 * 9), (1, 'SAME', 2 * 22 * 22), (2, 'VALID', 2 * 3 * 3 * 9)])
def test_a_convolution_counts_no_padding(stride, padding, expected):
    def f(x, k):
        return jax.lax.conv_general_dilated(x, k, (stride, stride), padding, dimension_numbers=('NHWC', 'HWIO', 'NHWC'))

    assert counted(f, shape(3, 8, 8, 4), shape(3, 3, 4, 5)).flops == expected * 3 * 4 * 5


def test_taps_are_those_that_meet_the_input():
    brute = sum(0 <= (at := o * 2 + 3 * k - 4) < 3 * 5 and at % 3 == 0 for o in range(9) for k in range(4))
    assert flops.taps(9, 4, 5, 2, (4, 0), 3, 3) == brute



TPU_LOOP = '''
%body (p: (s32[], f32[8])) -> (s32[], f32[8]) {
  %p = (s32[], f32[8]{0}) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  %one = s32[] constant(2)
  %next = s32[] add(%i, %one)
  %x = f32[8]{0} get-tuple-element(%p), index=1
  ROOT %r = (s32[], f32[8]{0}) tuple(%next, %x)
}

%cond (p: (s32[], f32[8])) -> pred[] {
  %p.1 = (s32[], f32[8]{0}) parameter(0)
  %i.1 = s32[] get-tuple-element(%p.1), index=0
  %n = s32[] constant(33)
  ROOT %lt = pred[] compare(%i.1, %n), direction=LT
}

ENTRY %main (a: f32[8]) -> f32[8] {
  %a = f32[8]{0} parameter(0)
  %zero = s32[] constant(3)
  %copy = s32[] copy(%zero)
  %t = (s32[], f32[8]{0}) tuple(%copy, %a)
  %w = (s32[], f32[8]{0}) while(%t), condition=%cond, body=%body
  %k = f32[8]{0} custom-call(%a), custom_call_target="tpu_custom_call", kernel_metadata={
"a": 1}, metadata={op_name="splash"}
  ROOT %y = f32[8]{0} get-tuple-element(%w), index=1
}
'''


def test_trips_are_derived_where_the_compiler_does_not_state_them():
    module = hlo.parse(TPU_LOOP)
    assert module.unknown == [] and dict((r.computation, r.times) for r in module.runs) == {'main': 1, 'body': 15}
    assert 'splash' in module.computations['main']['k'].attrs  # a newline inside an instruction


def test_a_loop_that_is_not_understood_is_reported_and_counted_once():
    module = hlo.parse(TPU_LOOP.replace('compare(%i.1, %n), direction=LT', 'call(%i.1), to_apply=%f'))
    assert module.unknown == ['w'] and {r.computation: r.times for r in module.runs}['body'] == 1


MESH = Mesh(np.array(jax.devices()[:8]).reshape(2, 4), ('data', 'tensor'))


@pytest.mark.parametrize(('attrs', 'axes', 'members'), [
    ('replica_groups={{0,1,2,3},{4,5,6,7}}', ('tensor',), 4), ('replica_groups=[2,4]<=[8]', ('tensor',), 4),
    ('replica_groups=[4,2]<=[2,4]T(1,0)', ('data',), 2), ('replica_groups={{0,4},{1,5},{2,6},{3,7}}', ('data',), 2),
    ('replica_groups=[1,8]<=[8]', ('data', 'tensor'), 8), ('replica_groups={}', ('data', 'tensor'), 8),
    ("replica_groups=mesh['data'=2,'tensor'=4] {'tensor'}", ('tensor',), 4),
    ('source_target_pairs={{0,1},{1,2},{2,3},{3,0}}', ('tensor',), 2)])
def test_groups_of_devices_are_named_by_the_axes_of_the_mesh(attrs, axes, members):
    found = count.groups(attrs, 8)
    assert count.axes(found, MESH) == axes and found.shape[1] == members


def test_wire_bytes_of_each_kind_are_those_of_the_ring():
    rows, whole = NamedSharding(MESH, P('data')), NamedSharding(MESH, P())
    x = shape(64, 32, sharding=rows)
    gathered = counted(lambda x: jax.lax.with_sharding_constraint(x * 2, whole), x, mesh=MESH).collectives
    assert [(c.kind, c.axes, c.payload, c.wire) for c in gathered] == [('all-gather', ('data',), 8192, 4096)]
    summed = counted(lambda x: jnp.sum(x, 0), x, mesh=MESH).collectives
    assert [(c.kind, c.axes, c.wire) for c in summed] == [('all-reduce', ('data',), 2 * 128 / 2)]


def test_a_collective_of_tpu_fusions_is_counted_once_and_a_fused_scatter_as_one():
    lines = '''
%all-reduce-scatter.1 (p: f32[64]) -> f32[8] {
  %p = f32[64]{0} parameter(0)
  ROOT %ar = f32[64]{0} all-reduce(%p), replica_groups=[1,8]<=[8], to_apply=%add
}

%async_collective_fusion.2 (p: f32[8]) -> f32[64] {
  %q = f32[8]{0} parameter(0)
  ROOT %ag = f32[64]{0} all-gather(%q), replica_groups=[1,8]<=[8], dimensions={0}
}

%start (p: f32[8]) -> f32[64] {
  %s = f32[8]{0} parameter(0)
  %c = f32[] custom-call(), custom_call_target="AsyncCollectiveStart"
  ROOT %ag.1 = f32[64]{0} all-gather(%s), replica_groups=[1,8]<=[8], dimensions={0}
}

ENTRY %main (a: f32[64], b: f32[8]) -> f32[8] {
  %a = f32[64]{0} parameter(0)
  %b = f32[8]{0} parameter(1)
  %f1 = f32[64]{0} fusion(%b), kind=kCustom, calls=%start
  %f2 = f32[64]{0} fusion(%b), kind=kCustom, calls=%async_collective_fusion.2
  ROOT %rs = f32[8]{0} fusion(%a), kind=kCustom, calls=%all-reduce-scatter.1
}
'''
    found = count.count(hlo.parse(lines), MESH).collectives
    assert sorted((c.kind, c.wire, c.asynchronous) for c in found) == [
        ('all-gather', 8 * 4 * 7, True), ('reduce-scatter', 256 * 7 / 8, False)]


def test_traffic_counts_the_part_that_is_cut_out_of_a_large_array():
    text = '''
%cut (p0: f32[100,64], p1: s32[]) -> f32[1,64] {
  %p0 = f32[100,64]{1,0} parameter(0)
  %p1 = s32[] parameter(1)
  %z = s32[] constant(0)
  ROOT %d = f32[1,64]{1,0} dynamic-slice(%p0, %p1, %z), dynamic_slice_sizes={1,64}
}

ENTRY %main (a: f32[100,64], i: s32[]) -> f32[1,64] {
  %a = f32[100,64]{1,0} parameter(0)
  %i = s32[] parameter(1)
  ROOT %f = f32[1,64]{1,0} fusion(%a, %i), kind=kLoop, calls=%cut
}
'''
    assert count.count(hlo.parse(text), MESH).hbm_bytes == 256 + 256 + 4
