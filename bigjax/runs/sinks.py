"""Other places for the metrics beside metrics.jsonl, which stays the truth: TensorBoard, Weights & Biases.

A sink is `write(step, {name: float})` and `close()`. One that raises is dropped with a warning, and the run continues. A start
that resumes at step t repeats the steps after t that an earlier start has written: TensorBoard drops those
(`purge_step`), W&B continues the same run (its id is kept in run.json) and ignores steps that it has.
"""
import importlib.util
import sys
import tempfile
import uuid
from collections.abc import Mapping, Sequence

from bigjax.errors import UserError
from bigjax.io import storage


class TensorBoard:
    """Event files in `workdir/tensorboard`."""

    library, extra = 'tensorboardX', 'tensorboard'

    def __init__(self, workdir, run: dict, step: int):
        from tensorboardX import SummaryWriter
        self._writer = SummaryWriter(str(workdir / 'tensorboard'), purge_step=step + 1 if step or run['starts'] > 1 else None)

    def write(self, step, values):
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self):
        self._writer.close()


class WandB:
    """A run of Weights & Biases; the variable WANDB_MODE=offline keeps it on this machine."""

    library, extra = 'wandb', 'wandb'

    def __init__(self, workdir, run: dict, step: int):
        import wandb
        folder = tempfile.mkdtemp() if storage.remote(workdir) else str(workdir)
        run.setdefault('wandb', uuid.uuid4().hex)
        self._run = wandb.init(project='bigjax', group=run['experiment'], name=workdir.name, dir=folder,
                               config=run['config'], id=run['wandb'], resume='allow')

    def write(self, step, values):
        self._run.log(dict(values), step=step)

    def close(self):
        self._run.finish()


KINDS = {'tensorboard': TensorBoard, 'wandb': WandB}


def check_names(kinds: Sequence) -> None:
    """Raises UserError for an unknown name, and for one whose library is not installed."""
    for kind in kinds:
        if isinstance(kind, str) and kind not in KINDS:
            raise UserError(f'config.sinks: got {kind!r}, expected some of {", ".join(KINDS)}', code='config/sinks')
        if isinstance(kind, str) and importlib.util.find_spec(KINDS[kind].library) is None:
            raise UserError(f"config.sinks: got '{kind}', which needs {KINDS[kind].library}; fix: pip install "
                            f"'bigjax[{KINDS[kind].extra}]'", code='config/sinks')


class Sinks:
    """Several sinks as one that never raises.

    Args:
      kinds: names of `KINDS`, or objects with `write` and `close`.
      run: the contents of run.json, in which a sink may keep its id.
    """

    def __init__(self, kinds: Sequence, workdir, run: dict):
        self._kinds, self._workdir, self._run, self._sinks = kinds, workdir, run, None

    def open(self, step: int) -> None:
        """Opens them: the run continues after `step`."""
        self._sinks = []
        for kind in self._kinds:
            if isinstance(kind, str):
                self._guard(lambda kind=kind: self._sinks.append(KINDS[kind](self._workdir, self._run, step)), kind)
            else:
                self._sinks.append(kind)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Passes the values to every sink that still works."""
        if self._sinks is None:
            self.open(0)
        for sink in list(self._sinks):
            self._guard(lambda sink=sink: sink.write(step, values), sink)

    def close(self) -> None:
        """Closes them all."""
        for sink in list(self._sinks or []):
            self._guard(sink.close, sink)
        self._sinks = []

    def _guard(self, call, sink):
        try:
            call()
        except Exception as error:
            name = sink if isinstance(sink, str) else type(sink).__name__
            self._sinks = [s for s in self._sinks or [] if s is not sink]
            print(f'warning: the sink {name} failed and is dropped; metrics.jsonl continues: '
                  f'{type(error).__name__}: {" ".join(str(error).split())[:200]}', file=sys.stderr, flush=True)
