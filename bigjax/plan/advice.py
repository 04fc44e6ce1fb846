"""What would make a step fit: the cheapest change of each of three kinds, for trying out."""
import math
from collections.abc import Mapping

from bigjax.sharding import logical
from bigjax.sharding import mesh as meshes


def changes(config: Mapping, figures: dict) -> list[dict[str, str]]:
    """{config key: text} of up to three changes: less kept for the backward pass, smaller micro-batches, another mesh.

    Args:
      config: {'a.b': value}, all keys.
      figures: of the plan that does not fit.
    """
    found = [remat(config), accumulation(config, figures), mesh(figures['mesh'])]
    return [change for change in found if change]


def remat(config) -> dict[str, str]:
    """Everything recomputed in the backward pass, where the model can."""
    return {'model.remat': 'full'} if config.get('model.remat', 'full') != 'full' else {}


def accumulation(config, figures) -> dict[str, str]:
    """As many micro-batches as would bring the temporaries into the room, by proportion."""
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
    """State shared where it was not; where it is, a part of the fsdp axis given to heads and hidden units."""
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
