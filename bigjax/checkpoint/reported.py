"""The weights that a run reports, from the paths of its newest checkpoint alone, without the code of its model or optimizer.

A run is evaluated by its best weights (`config.best`), its moving average (`config.ema`), or the average that its optimizer
keeps (`bigjax.train.averages`), in this order. The newest iterate of such a run is only a point on the way: of a schedule-free
optimizer it is not even a point that was ever judged.
"""
import re
from collections.abc import Mapping

import numpy as np

from bigjax.checkpoint import manager

PARAMS, EMA, BEST = 'state/params/', 'state/ema/', 'best/variables/'


def weights(path, saved: Mapping[str, tuple]) -> tuple[dict[str, np.ndarray], str]:
    """({path of a leaf of the state: its reported value} where that is not the newest one, what these are in words).

    Args:
      path: the checkpoint. saved: `manager.stored(path)`.
    """
    names = [p.removeprefix(PARAMS) for p in saved if p.startswith(PARAMS)]
    averages = {name: found for name in names if (found := _average(saved, name))}
    moving = [name for name in names if f'{EMA}{name}' in saved]
    kept = [p for p in saved if p.startswith(BEST)]
    if not (averages or moving or kept):
        return {}, ''
    arrays, out, words = manager.arrays(path), {}, ''
    if moving:
        words, out = 'its moving average', {f'{PARAMS}{name}': arrays[f'{EMA}{name}'] for name in moving}
    elif averages:
        words = "its optimizer's average"
        out = {f'{PARAMS}{name}': _value(arrays, name, *found) for name, found in averages.items()}
    finite = np.isfinite(np.asarray(arrays['best/value'])) if kept else np.zeros(1, bool)
    if finite.any():
        words = f'its best weights, of step {", ".join(map(str, np.atleast_1d(arrays["best/step"])))}'
        for p in kept:
            collection, _, rest = p.removeprefix(BEST).partition('/')
            target = f'{PARAMS}{rest}' if collection == 'params' else f'state/model_state/{collection}/{rest}'
            newest = out.get(target, arrays[target])
            chosen = finite.reshape(finite.shape + (1,) * (np.ndim(newest) - finite.ndim))
            out[target] = np.where(chosen, arrays[p], newest)
    return {p: np.asarray(value) for p, value in out.items()}, words


def _average(saved: Mapping[str, tuple], name: str) -> tuple[str, str] | None:
    """(path of the outermost optimizer's state that averages a parameter, the field that holds it), or None."""
    found = []
    for p in saved:
        match = re.fullmatch(rf'(state/opt_state(?:/.*)?)/(average|z)/{re.escape(name)}', p)
        if match is None or saved[p] != saved[f'{PARAMS}{name}']:
            continue
        beside = 'step' if match[2] == 'average' else 'b1'  # other optimizers may have a field of the same name
        if f'{match[1]}/{beside}' in saved:
            found.append((match[1], match[2]))
    return min(found, key=lambda pair: len(pair[0])) if found else None


def _value(arrays: Mapping, name: str, state: str, field: str) -> np.ndarray:
    """The average of a parameter; of a schedule-free optimizer that of Defazio et al. 2024, eq. 4: y = b1 x + (1 - b1) z."""
    value = np.asarray(arrays[f'{state}/{field}/{name}'])
    if field == 'average':
        return value
    y, b1 = np.asarray(arrays[f'{PARAMS}{name}']), np.asarray(arrays[f'{state}/b1'])
    b1 = b1.reshape(b1.shape + (1,) * (y.ndim - b1.ndim))
    return ((y - (1 - b1) * value) / b1).astype(y.dtype)
