"""Changes that may make a step fit: the cheapest of each of three kinds, to be tried."""
import math
from collections.abc import Mapping

from bigjax.sharding import logical
from bigjax.sharding import mesh as meshes


def changes(config: Mapping, figures: dict) -> list[dict[str, str]]:
    """Up to three changes {config key: text}: less kept for the backward pass, smaller micro-batches, another mesh.

    Args:
      config: {'a.b': value}, all keys.
      figures: those of the plan that does not fit.
    """
    found = [remat(config), accumulation(config, figures), mesh(figures['mesh'])]
    return [change for change in found if change]


def remat(config) -> dict[str, str]:
    """The change that recomputes everything in the backward pass; {} where the model cannot."""
    return {'model.remat': 'full'} if config.get('model.remat', 'full') != 'full' else {}


def accumulation(config, figures) -> dict[str, str]:
    """The number of micro-batches that brings the temporaries into the memory left, by proportion."""
    m, sizes = figures['memory'], meshes.parse(figures['mesh'])
    parts = math.prod(a * b for axis, (a, b) in sizes.items() if axis in logical.BATCH)
    state = sum(m[k] for k in ('parameters', 'optimizer', 'other_state', 'batch', 'data'))
    room, wanted = (m['limit'] or m.get('available') or 0) - state, m['need'] - state
    now = config['accumulate']
    if 'refused' in figures and m.get('needed'):
        wanted = m['needed']
    most = config['batch_size'] // parts
    factors = [k for k in range(2 * now, most + 1) if config['batch_size'] % (parts * k) == 0]
    enough = [k for k in factors if room > 0 and wanted * now / k * 1.1 < room]
    chosen = min(enough, default=max(factors, default=0))
    return {'accumulate': str(chosen)} if chosen else {}


def mesh(text: str) -> dict[str, str]:
    """A mesh that splits the state; where it is split already, one that gives a part of the fsdp axis to tensor."""
    sizes = meshes.parse(text)
    write = lambda new: {'mesh': ','.join(f'{a}:{f"{x}x" if x > 1 else ""}{n}' for a, (x, n) in new.items())}
    for axis in ('data', 'zero1'):
        if axis in sizes and 'fsdp' not in sizes and sizes[axis][1] > 1:
            return write({('fsdp' if a == axis else a): n for a, n in sizes.items()})
    outer, inner = sizes.get('fsdp', (1, 1))
    split = next((k for k in (4, 2) if inner % k == 0 and inner > k), 0)
    if not split:
        return {}
    have = sizes.get('tensor', (1, 1))
    return write({**sizes, 'fsdp': (outer, inner // split), 'tensor': (have[0], have[1] * split)})
