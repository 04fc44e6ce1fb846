"""The output of a run for people: one line per interval, and in a terminal a bar with the remaining time."""
import resource
import sys

import jax

from bigjax.io.stopwatch import Stopwatch
from bigjax.io.text import clock, short


def _rate(item: tuple[str, float]) -> str:
    name, value = item
    if name.endswith('_per_second'):
        return f"{short(value)} {name.removesuffix('_per_second')}/s"
    flops = f'{short(value)} TFLOP/s' if value >= 1 else f'{short(value * 1e3)} GFLOP/s'
    return {'tflops': flops, 'mfu': f'MFU {value:.1%}'}.get(name, '')


def memory() -> str:
    """Memory in use on the first device, or by the process where the device has no figures."""
    stats = jax.local_devices()[0].memory_stats() or {}
    used = stats.get('bytes_in_use') or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return f'{used / 2**30:.1f} GB'


class Progress:
    """Prints to `stream`; `name` begins every line of a job with several rows.

    Plain lines appear at most every `quiet` seconds, and always for evaluations.
    """

    def __init__(self, name: str = '', stream=None, quiet: float = 5.0):
        self._name, self._stream, self._quiet = name, stream or sys.stdout, quiet
        self._bar, self._task, self._rich = None, None, self._stream.isatty()
        self._metrics, self._printed, self._watch, self._warned = {}, None, Stopwatch(), False

    def say(self, text: str) -> None:
        """Prints one line."""
        line = f'[{self._name}] {text}' if self._name else text
        if self._bar is not None:
            self._bar.console.print(line, highlight=False, markup=False)
        else:
            print(line, file=self._stream, flush=True)

    def start(self, step: int, total: int) -> None:
        """Begins at `step` of `total`."""
        self._first, self._step, self._total, self._watch = step, step, total, Stopwatch()
        if self._rich:
            from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
            self._bar = Progress(
                TextColumn('{task.description}'), BarColumn(), TextColumn('{task.completed:,}/{task.total:,}'),
                TextColumn('{task.fields[speed]}'), TimeRemainingColumn(), transient=True)
            self._task = self._bar.add_task(self._name or 'training', total=total, completed=step, speed='compiling')
            self._bar.start()

    def metrics(self, step: int, values: dict) -> None:
        """Receives values {name: [one per member]}."""
        shown = {k: sum(v) / len(v) for k, v in values.items() if not k.endswith(('/examples', '/grad_norm'))}
        if all(k.startswith('train/') for k in values):
            self._metrics = shown
        else:
            text = '  '.join(f'{k} {short(v)}' for k, v in shown.items())
            self.say(f'step {step:,}/{self._total:,}  {text}')

    def speed(self, step: int, timing: dict[str, float], stages) -> None:
        """Receives the rates of the interval that ended at `step`: 'steps_per_second', work, and the share of 'data_wait'.

        `stages` (`bigjax.data.pipeline.Stages`) names the slow stage of reading; None where the data is on the device, which
        no thread and no worker can make faster.
        """
        self._step, waiting = step, timing['data_wait']
        overall = (step - self._first) / max(self._watch.seconds(), 1e-9)
        text = '  '.join([*filter(None, map(_rate, timing.items())), f'data_wait {waiting:.0%}', memory()])
        if self._bar is not None:
            losses = '  '.join(f'{k.removeprefix("train/")} {short(v)}' for k, v in self._metrics.items())
            self._bar.update(self._task, completed=step, speed=f'{losses}  {text}')
        elif self._printed is None or self._printed.seconds() >= self._quiet or step == self._total:
            self._printed = Stopwatch()  # since the last plain line
            losses = '  '.join(f'{k} {short(v)}' for k, v in self._metrics.items())
            left = clock((self._total - step) / overall)
            self.say(f'step {step:,}/{self._total:,}  {losses}  {text}  left {left}')
        if stages is not None and waiting > 0.5 and not self._warned and step > self._first + 1:
            self._warned = True
            self.say(f'warning: {waiting:.0%} of the time goes into waiting for data; the slow stage is '
                     f'{stages.slowest()}; raise --config.data_threads or --config.data_workers')

    def stop(self) -> None:
        """Ends the bar."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
