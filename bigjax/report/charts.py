"""Line charts as inline SVG: no library, sharp at any size, and in the colours of the page (light or dark)."""
import html
import math
from collections.abc import Collection, Sequence
from typing import NamedTuple

from bigjax.runs.summary import number

COLOURS = 8  # the page defines --c0 … --c7
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 460, 250, 52, 14, 12, 30
POINTS = 400  # more cannot be distinguished at this width


class Series(NamedTuple):
    """One curve: y over x, with the spread of a population around it (None: no band); None in y is a gap."""

    name: str
    x: Sequence[float]
    y: Sequence[float | None]
    std: Sequence[float | None] | None = None
    colour: int = 0


def chart(series: Sequence[Series], *, x_label: str = 'step', log: bool | None = None, zero: bool = False,
          marks: Collection[float] = ()) -> str:
    """The SVG of some curves on common axes.

    Args:
      log: a logarithmic y axis; None chooses it for positive values that span more than a factor of 30.
      zero: the y axis starts at 0.
      marks: places on the x axis to point at.
    """
    series = [thin(s, marks) for s in series]
    values = [y for s in series for y in s.y if y is not None]
    xs = [x for s in series for x in s.x]
    if not values:
        return ''
    if log is None:
        log = not zero and logarithmic(values)
    band = [edge for s in series for pair in _band(s, log) if pair for edge in pair]
    low, high = min(values + band), max(values + band)
    if zero or (not log and min(values) >= 0 and low < 0):
        low = 0.0  # a spread below zero is no value of a metric that has none
    ticks = _log_ticks(low, high) if log else _ticks(low, high)
    low, high = min(low, ticks[0]), max(high, ticks[-1])
    left, right = min(xs), max(xs)
    scale = math.log10 if log else float

    def px(x):
        return LEFT + (WIDTH - LEFT - RIGHT) * ((x - left) / (right - left) if right > left else 0.5)

    def py(y):
        a, b = scale(low), scale(high)
        y = scale(min(max(y, low), high))
        return TOP + (HEIGHT - TOP - BOTTOM) * (1 - ((y - a) / (b - a) if b > a else 0.5))

    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.escape(_spoken(series))}">']
    for tick in ticks:
        y = py(tick)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
                     f'<text class="tick" x="{LEFT - 7}" y="{y + 3.5:.1f}" text-anchor="end">{_label(tick)}</text>')
    for tick in _ticks(left, right, 4):
        if left <= tick <= right:
            parts.append(f'<text class="tick" x="{px(tick):.1f}" y="{HEIGHT - 12}" text-anchor="middle">'
                         f'{_label(tick)}</text>')
    parts.append(f'<text class="tick axis" x="{WIDTH - RIGHT}" y="{HEIGHT - 1}" text-anchor="end">{x_label}'
                 f'{" · log scale" if log else ""}</text>')
    for x in marks:
        parts.append(f'<path class="mark" style="stroke:var(--bad);fill:var(--bad);stroke-width:.6" '
                     f'd="M{px(x):.1f},{HEIGHT - BOTTOM}V{TOP}m0,0l-3.5,-7h7z"/>')
    for s in series:
        for run in _runs(s, _band(s, log)):
            if len(run) > 1:
                upper = [f'{px(x):.1f},{py(b[1]):.1f}' for x, _, b in run]
                lower = [f'{px(x):.1f},{py(b[0]):.1f}' for x, _, b in reversed(run)]
                parts.append(f'<polygon class="band" style="fill:var(--c{s.colour % COLOURS})" '
                             f'points="{" ".join(upper + lower)}"/>')
    for s in series:
        for run in _runs(s, list(s.y)):
            style = f'var(--c{s.colour % COLOURS})'
            if len(run) == 1:
                parts.append(f'<circle style="fill:{style}" cx="{px(run[0][0]):.1f}" cy="{py(run[0][1]):.1f}" r="3"/>')
            else:
                points = ' '.join(f'{px(x):.1f},{py(y):.1f}' for x, y, _ in run)
                parts.append(f'<polyline class="curve" style="stroke:{style}" points="{points}"/>')
    return ''.join(parts) + '</svg>'


def logarithmic(values: Sequence[float]) -> bool:
    """Whether values are better seen on a logarithmic axis."""
    return min(values) > 0 and max(values) > 30 * min(values)


def legend(series: Sequence[Series]) -> str:
    """The names of the curves and their last values."""
    items = []
    for s in series:
        last = [y for y in s.y if y is not None][-1:]
        value = f' <b>{number(last[0])}</b>' if last else ''
        swatch = f'<i style="background:var(--c{s.colour % COLOURS})"></i>'
        items.append(f'<span>{swatch}{html.escape(s.name)}{value}</span>')
    return f'<div class="legend">{"".join(items)}</div>'


def thin(s: Series, marks: Collection[float] = ()) -> Series:
    """At most `POINTS` points, the first and the last among them, and those at `marks`."""
    n = len(s.x)
    if n <= POINTS:
        return s
    marked = set(marks)
    keep = sorted({round(i * (n - 1) / (POINTS - 1)) for i in range(POINTS)} | {i for i, x in enumerate(s.x) if x in marked})
    pick = lambda values: None if values is None else [values[i] for i in keep]
    return s._replace(x=pick(s.x), y=pick(s.y), std=pick(s.std))


def _band(s: Series, log: bool):
    """(low, high) around each point, or None."""
    if s.std is None:
        return [None] * len(s.y)
    return [None if y is None or not d else ((max(y - d, y / 10) if log else y - d), y + d)
            for y, d in zip(s.y, s.std, strict=True)]


def _runs(s: Series, values):
    """Stretches of points without a gap in `values`: [(x, y, value), …]."""
    found, run = [], []
    for x, y, value in zip(s.x, s.y, values, strict=True):
        if y is None or value is None:
            found, run = [*found, run], []
        else:
            run.append((x, y, value))
    return [r for r in [*found, run] if r]


def _ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers around low..high, about `count` of them."""
    if high <= low:
        return [low]
    step = 10.0 ** math.floor(math.log10((high - low) / count))
    step *= next(m for m in (1, 2, 2.5, 5, 10) if (high - low) / (step * m) <= count)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten, with 2 and 5 between them where there are few."""
    a, b = math.floor(math.log10(low)), math.ceil(math.log10(high))
    every = max(1, -(-(b - a) // 6))
    ticks = [10.0 ** e for e in range(a, b + 1, every)]
    if b - a <= 2:
        ticks = [m * 10.0 ** e for e in range(a, b + 1) for m in (1, 2, 5)]
        ticks = [t for i, t in enumerate(ticks) if t * 2.6 > low and t < high * 2.6]
    return ticks


def _label(value: float) -> str:
    """Short: 0.25, 10k, 1e-5."""
    if value == 0:
        return '0'
    if abs(value) >= 1e9 or abs(value) < 1e-3:
        return f'{value:.0e}'.replace('e-0', 'e-').replace('e+0', 'e').replace('e+', 'e')
    for unit, suffix in ((1e6, 'M'), (1e3, 'k')):
        if abs(value) >= unit:
            return f'{value / unit:g}{suffix}'
    return f'{value:g}'


def _spoken(series) -> str:
    return '; '.join(f'{s.name} from {number(s.y[0])} to {number(s.y[-1])}' for s in series if len(s.y))
