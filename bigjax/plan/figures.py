"""The figures of a plan for one mesh, as plain data for JSON, put together from the parts of this folder."""
import collections
import math
from typing import Any

import jax

from bigjax.plan import compile, count, hlo, rooflines, warn, wire
from bigjax.plan.topology import Topology
from bigjax.sharding import tree_paths
from bigjax.train import flops

LARGEST = 10  # buffers to name


def plan(program, topology: Topology, limit: float | None) -> dict[str, Any]:
    """The figures of a program on a topology whose devices may use `limit` bytes each (None: no known limit)."""
    figures = _described(program, topology, limit)
    if compile.missing(topology):
        figures['unknown'] = (f'{compile.missing(topology)}. Not known without it: temporaries and code, the collectives '
                              'that XLA inserts, recomputation; so neither whether it fits nor how long a step takes')
        return _judged(figures)
    try:
        compiled = compile.compile_step(program, topology)
    except compile.TooLarge as error:
        figures['refused'] = ' '.join(str(error).split())[:2000]
        figures['memory'] |= {'needed': error.needs, 'available': error.has}
        if error.text:
            _add_program(figures, program, topology, error.text)
        return _judged(figures)
    figures['memory'] |= compiled.memory
    figures['seconds'] = {k: round(v, 2) for k, v in compiled.seconds.items()}
    _add_program(figures, program, topology, compiled.text)
    return _judged(figures)


def _described(program, topology, limit) -> dict:
    """The figures that need no compiler."""
    s, mesh = program.settings, program.mesh
    model, checkpointed = flops.step_flops(program)
    return {
        'topology': topology.text, 'hardware': str(topology), 'generation': topology.generation,
        'kind': topology.hardware.kind if topology.hardware else 'cpu', 'chips': topology.chips, 'devices': mesh.size,
        'mesh': ','.join(f'{a}:{n}' for a, n in mesh.shape.items()), 'parameters': program.parameters,
        'population': s.population, 'batch_size': s.batch_size, 'accumulate': s.accumulate, 'steps': s.steps,
        'steps_per_call': program.steps_per_call, 'jax': jax.__version__,
        'unit': {'name': program.experiment.task.unit, 'per_example': flops.units(program, s.batch_size) / s.batch_size},
        'memory': {'limit': limit, **_state_bytes(program)}, 'largest': _state_buffers(program)[:LARGEST],
        'flops': {'model': model, 'checkpointed': checkpointed, 'six_parameters': _six(program)},
        'textbook': [m._asdict() for m in wire.textbook(program)],
        'warnings': [*warn.replicated(program), *warn.undivided(program)],
    }


def _six(program) -> float:
    """6 x parameters x tokens (Kaplan et al. 2020, section 2.1), for comparison; examples where there are no tokens."""
    positions = flops.positions(program) or 1
    return 6.0 * program.parameters * program.settings.population * program.settings.batch_size * positions


def _per_device(x) -> int:
    """Bytes of an array on one device; typed keys by the numbers inside."""
    if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
        return 8 * math.prod(x.shape)
    return math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize


def _state_bytes(program) -> dict[str, int]:
    """Bytes per device of the arguments of a step, from their shardings."""
    state, totals, arrays, items, frozen = program.arguments()
    total = lambda tree: sum(map(_per_device, jax.tree.leaves(tree)))
    return {'parameters': total(state.params), 'optimizer': total(state.opt_state),
            'other_state': total((state.model_state, state.ema, totals, frozen)), 'batch': total(items), 'data': total(arrays)}


def _state_buffers(program) -> list[dict]:
    state, _, arrays, items, frozen = program.arguments()
    found = []
    for what, tree in (('parameters', state.params), ('optimizer', state.opt_state), ('ema', state.ema), ('batch', items),
                       ('data', arrays), ('frozen', frozen)):
        for name, x in tree_paths.leaves(tree):
            found.append({'bytes': _per_device(x), 'shape': f'{x.dtype}{list(x.shape)}', 'what': what, 'place': name})
    return sorted(found, key=lambda b: -b['bytes'])


def _add_program(figures, program, topology, text) -> None:
    """Adds the counts of the compiled text, for one step and one device."""
    module = hlo.parse(text)
    done, steps = count.count(module, program.mesh), program.steps_per_call
    temporaries = [{'bytes': b.bytes, 'shape': b.shape, 'what': 'temporary', 'place': b.place} for b in done.buffers]
    figures['largest'] = sorted([*figures['largest'], *_distinct(temporaries)], key=lambda b: -b['bytes'])[:LARGEST]
    executed = done.flops * program.mesh.size / steps
    figures['flops'] |= {'executed': executed, 'recomputed': executed / figures['flops']['model'] - 1}
    figures['hbm_bytes'] = done.hbm_bytes / steps
    figures['collectives'] = _collectives(done.collectives, steps)
    figures['kernels'], figures['unknown_loops'] = done.kernels, module.unknown
    figures['warnings'] += warn.executed(program, figures['flops'])
    figures['warnings'] += warn.collectives(program, done.collectives, figures['textbook'])
    working = [loop for loop in module.unknown if count.works(module, loop)]
    if working:
        figures['warnings'].append(f"loops of unknown length with products or messages in them, counted once: "
                                   f"{', '.join(working[:5])}")
    figures['time'] = rooflines.step(figures, done.collectives, topology)


def _distinct(buffers: list[dict]) -> list[dict]:
    """One buffer per place: several results of one size of a fused computation are one."""
    seen = {}
    for b in buffers:
        seen.setdefault((b['shape'], b['place']), b)
    return list(seen.values())


def _collectives(found, steps) -> list[dict]:
    """Sums over a step by kind and axes, the most wire first, each with the place that sends the most."""
    groups = collections.defaultdict(list)
    for c in found:
        groups[c.kind, c.axes].append(c)
    rows = []
    for (kind, axes), members in groups.items():
        places = collections.Counter()
        for c in members:
            places[c.place] += c.wire * c.times
        total = lambda value, members=members: sum(value(c) for c in members) / steps
        rows.append({
            'kind': kind, 'axes': list(axes), 'group': max(c.group for c in members),
            'executions': total(lambda c: c.times), 'payload': total(lambda c: c.times * c.payload),
            'wire': total(lambda c: c.times * c.wire),
            'asynchronous': total(lambda c: c.times * c.wire * c.asynchronous), 'place': places.most_common(1)[0][0]})
    return sorted(rows, key=lambda r: -r['wire'])


def _judged(figures) -> dict:
    """With the verdict: 'fits' True, False or None, and the bytes it rests on.

    The compiler's own peak, and code, is the estimate where it gives one, else arguments, output and temporaries; its
    refusal is final.
    """
    m = figures['memory']
    known = sum(m[k] for k in ('parameters', 'optimizer', 'other_state', 'batch', 'data'))
    upper = m['arguments'] + m['output'] - m['alias'] + m['temporaries'] + m['code'] if 'arguments' in m else None
    if 'refused' in figures:
        need = known + (m['needed'] or 0)  # the compiler reports the temporaries alone
    elif upper is None:
        need = known
    else:
        need = min(upper, m['peak'] + m['code']) if figures['generation'] not in ('cpu', 'h100', 'h200') else upper
    m |= {'need': need, 'upper': upper}
    fits = None if upper is None and 'refused' not in figures else True
    if 'refused' in figures or (m['limit'] is not None and need > m['limit']):
        fits = False
    if m['limit']:
        m['headroom'] = 1 - need / m['limit']
    return figures | {'fits': fits}
