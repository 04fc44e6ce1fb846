"""Where the metrics stream can go besides metrics.jsonl, which stays the truth: TensorBoard, Weights & Biases.

A sink is `write(step, {name: float})` and `close()`. One that raises is dropped with a warning; the run goes on.
"""
import sys
import tempfile
from collections.abc import Mapping, Sequence

from bigjax.errors import UserError
from bigjax.io import storage


class TensorBoard:
    """Event files in `workdir/tensorboard`."""

    def __init__(self, workdir, run: Mapping):
        try:
            from tensorboardX import SummaryWriter
        except ImportError:
            raise UserError("the sink 'tensorboard' needs tensorboardX: pip install 'bigjax[tensorboard]'") from None
        self._writer = SummaryWriter(str(workdir / 'tensorboard'))

    def write(self, step, values):
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self):
        self._writer.close()


class WandB:
    """A run of Weights & Biases; the variable WANDB_MODE=offline keeps it on this machine."""

    def __init__(self, workdir, run: Mapping):
        try:
            import wandb
        except ImportError:
            raise UserError("the sink 'wandb' needs wandb: pip install 'bigjax[wandb]'") from None
        folder = tempfile.mkdtemp() if storage.remote(workdir) else str(workdir)
        self._run = wandb.init(project='bigjax', group=run['experiment'], name=workdir.name, dir=folder,
                               config=run['config'])

    def write(self, step, values):
        self._run.log(dict(values), step=step)

    def close(self):
        self._run.finish()


KINDS = {'tensorboard': TensorBoard, 'wandb': WandB}


class Sinks:
    """Several sinks as one that never raises.

    Args:
      kinds: names of `KINDS`, or objects with `write` and `close`.
    """

    def __init__(self, kinds: Sequence, workdir, run: Mapping):
        self._sinks = []
        for kind in kinds:
            if not isinstance(kind, str):
                self._sinks.append(kind)
                continue
            if kind not in KINDS:
                raise UserError(f'sinks: {kind!r} is none of {", ".join(KINDS)}')
            self._guard(lambda kind=kind: self._sinks.append(KINDS[kind](workdir, run)), kind)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Gives the values to every sink that still works."""
        for sink in list(self._sinks):
            self._guard(lambda sink=sink: sink.write(step, values), sink)

    def close(self) -> None:
        """Closes them all."""
        for sink in list(self._sinks):
            self._guard(sink.close, sink)
        self._sinks = []

    def _guard(self, call, sink):
        try:
            call()
        except UserError:
            raise
        except Exception as error:
            name = sink if isinstance(sink, str) else type(sink).__name__
            self._sinks = [s for s in self._sinks if s is not sink]
            print(f'warning: the sink {name} failed and is dropped; metrics.jsonl goes on: '
                  f'{type(error).__name__}: {" ".join(str(error).split())[:200]}', file=sys.stderr, flush=True)
