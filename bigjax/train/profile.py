"""A trace of some steps, and a table of the time by the places of the model; it needs no viewer.

    --profile=20:25     WORKDIR/profile/: the trace of steps 21 to 25 (TensorBoard, Perfetto), places.txt, program.txt
"""
import collections
import os
import pathlib
import re
import subprocess
import sys
from collections.abc import Callable

import jax

import bigjax
from bigjax.errors import UserError
from bigjax.io.text import printable, table

ROWS = 20
PROGRAM = 'program.txt'  # the compiled step, beside its trace
ROOT = pathlib.Path(bigjax.__file__).parents[1]


def parse(text: str, steps: int | None = None) -> tuple[int, int] | None:
    """'20:25' -> (20, 25): after step 20 until step 25; None for ''.

    Args:
      steps: of the run, where they are known.

    Raises:
      UserError: it is not such a pair, or beyond the end of the run.
    """
    if not text:
        return None
    match = re.fullmatch(r'(\d+):(\d+)', text)
    if not match or int(match[1]) >= int(match[2]):
        raise UserError(f"--profile: got '{printable(text)}', expected START:STOP, the step to start after and the last one; "
                        'fix: for example --profile=20:25', code='profile/range')
    if steps is not None and int(match[2]) > steps:
        last = max(1, min(steps, 25))
        raise UserError(f"--profile: got '{printable(text)}', expected steps up to {steps}, the end of the run; fix: "
                        f'--profile={max(0, last - 5)}:{last}', code='profile/range')
    return int(match[1]), int(match[2])


class Profile:
    """Traces the steps of a range; called before and after every call of the step.

    Args:
      steps: (start after, until), in steps of the run; calls of several steps are traced whole.
      folder: receives the trace.
      say: called with the table and the folder.
      text: returns the compiled program, whose metadata name the layers.
    """

    def __init__(self, steps: tuple[int, int], folder, say: Callable[[str], None], text: Callable[[], str]):
        self._first, self._last = steps
        self._folder, self._say, self._text = pathlib.Path(folder), say, text
        self._began = None

    def before(self, step: int) -> None:
        """`step` steps are done, and the next call begins."""
        if self._began is None and self._first <= step < self._last:
            self._folder.mkdir(parents=True, exist_ok=True)
            jax.profiler.start_trace(self._folder)
            self._began = step

    def after(self, step: int, result) -> None:
        """The call that leads to `step` was made; `result` is one of its outputs."""
        if self._began is not None and step >= self._last:
            jax.block_until_ready(result)
            self.close(step)

    def close(self, step: int) -> None:
        """Ends a trace in progress, and writes the table."""
        if self._began is None:
            return
        jax.profiler.stop_trace()
        steps, self._began, self._last = step - self._began, None, -1
        (self._folder / PROGRAM).write_text(self._text())
        shown = in_its_own_process(self._folder, max(1, steps))
        (self._folder / 'places.txt').write_text(shown + '\n')
        self._say(f'where the time of {steps} steps went\n{shown}\ntrace: {self._folder}')


def in_its_own_process(folder: pathlib.Path, steps: int) -> str:
    """The table of `operations`, or why there is none; JAX's reader of traces may crash (0.12 does) and must not end a run."""
    command = [sys.executable, '-m', 'bigjax.train.profile', str(folder.resolve()), str(steps)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, 'JAX_PLATFORMS': 'cpu'}, cwd=ROOT)
    if done.returncode:
        why = (done.stderr.strip().splitlines() or [f'exit {done.returncode}'])[-1]
        return f'no table, the trace could not be read here ({why})'
    return done.stdout.rstrip()


def operations(folder, steps: int, where: dict[str, str]) -> str:
    """The table of a trace: places by the time of their operations, each without those inside of it.

    Args:
      where: {operation: place}, see `places`; numbered places (block_0, block_1) are one, as block_*.

    Raises:
      UserError: there is no trace in the folder.
    """
    files = sorted(pathlib.Path(folder).rglob('*.xplane.pb'), key=lambda p: p.stat().st_mtime)
    if not files:
        raise UserError(f'{folder}: got a folder without a trace (*.xplane.pb), expected one', code='profile/no-trace')
    times, calls, names = collections.Counter(), collections.Counter(), collections.defaultdict(set)
    trace = jax.profiler.ProfileData.from_file(str(files[-1]))
    for plane in trace.planes:
        for line in plane.lines:
            for name, nanoseconds in _own(_events(plane, line)):
                place = re.sub(r'_\d+', '_*', where.get(name, '')) or re.sub(r'[.\d]+$', '', name)
                times[place] += nanoseconds
                calls[place] += 1
                names[place].add(name)
    total = sum(times.values()) or 1
    rows = [[place, f'{t / 1e6 / steps:.3f}', f'{t / total:.1%}', f'{calls[place] / steps:g}', _shortened(names[place])]
            for place, t in times.most_common(ROWS)]
    rest = total - sum(t for _, t in times.most_common(ROWS))
    rows.append([f'{max(0, len(times) - ROWS)} more places', f'{rest / 1e6 / steps:.3f}', f'{rest / total:.1%}', '', ''])
    return table(['place', 'ms/step', 'share', 'a step', 'operations'], rows)


def _shortened(names: set[str], shown: int = 3) -> str:
    first = sorted(names)[:shown]
    return ' '.join(first) + (f' and {len(names) - shown} more' if len(names) > shown else '')


def _events(plane, line):
    """(start, end, operation) of every compiled operation."""
    for event in line.events:
        stats = dict(event.stats)
        if 'hlo_op' in stats:
            yield event.start_ns, event.end_ns, stats['hlo_op']
        elif plane.name.startswith('/device:TPU') and line.name == 'XLA Ops':
            yield event.start_ns, event.end_ns, event.name.split(' = ')[0].lstrip('%')


def _own(events):
    """(operation, nanoseconds less those of the operations inside it) of one line, where outer ones hold inner ones."""
    stack, found = [], []
    for start, end, name in sorted(events, key=lambda e: (e[0], -e[1])):
        while stack and stack[-1][0] <= start:
            stack.pop()
        own = [name, end - start]
        if stack:
            stack[-1][1][1] -= end - start
        stack.append((end, own))
        found.append(own)
    return found


def places(text: str) -> dict[str, str]:
    """{operation: the module and primitive that it came from} of a compiled program's text."""
    found = {}
    for name, place in re.findall(r'^\s*(?:ROOT )?%?([\w.\-]+) = .*?op_name="([^"]*)"', text, re.MULTILINE):
        parts = (part for part in place.split('/') if not re.match(r'(jit|jvp|transpose|vmap|checkpoint)\(', part))
        found[name] = '/'.join(parts)
        if 'transpose(' in place:
            found[name] += ' (backward)'
    return found


if __name__ == '__main__':
    print(operations(sys.argv[1], int(sys.argv[2]), places(pathlib.Path(sys.argv[1], PROGRAM).read_text())))
