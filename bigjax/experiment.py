"""The contract between an experiment script and everything above it: plain data and functions, no behaviour."""
import dataclasses
import difflib
import functools
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import jax
import ml_collections

from bigjax.data import batches
from bigjax.errors import UserError
from bigjax.metrics.confusion import Confusion as Confusion
from bigjax.tasks import Task


class Source(Protocol):
    """Examples by number: `len(source)` and `source[i] -> {name: array}`; the protocol of Grain's data sources.

    A source that fits in memory also has `arrays`, {name: [len, …]}, and may then live on the device.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Mapping[str, Any]: ...


@dataclasses.dataclass(frozen=True)
class Data:
    """The data of an experiment.

    Attributes:
      train: the training examples.
      evals: split name ('val', 'test') -> examples; an evaluator visits each example exactly once.
      transform: `transform(example, rng: np.random.Generator, train) -> example`, NumPy on the host, for what cannot
        be done on the device (decoding a JPEG). A source with a transform is not kept on the device.
      collate: `collate(examples) -> batch`, NumPy on the host: a list of examples to {name: [B, …]}, for ragged examples
        (padding, with lengths). None stacks examples of equal shapes.
      preprocess: `preprocess(batch) -> batch`, pure, on the device, in training and evaluation (uint8 -> float).
      augment: `augment(batch, rng) -> batch`, pure, on the device, in training only, after `preprocess`.
      shuffle: a new order each epoch; False reads in order, epoch after epoch.
      info: facts to keep with the run, for example `{'classes': ['cat', 'dog']}`; must be JSON.
    """

    train: Source
    evals: Mapping[str, Source]
    transform: Callable | None = None
    collate: Callable | None = None
    preprocess: Callable | None = None
    augment: Callable | None = None
    shuffle: bool = True
    info: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @functools.cached_property
    def spec(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes and dtypes of one example as it reaches a batch: after `transform` and `collate`, before `preprocess`.

        A source with a `spec` of its own stays closed; of any other one example is read.
        """
        batch = batches.shapes(self, 1)
        return {name: jax.ShapeDtypeStruct(x.shape[1:], x.dtype) for name, x in batch.items()}

    @property
    def size(self) -> int:
        """The number of training examples."""
        return len(self.train)


@dataclasses.dataclass(frozen=True)
class Evaluator:
    """How one split is evaluated; its metrics are named `split/metric`.

    Without `compute` the metrics are the sums and counts of the task's loss at `train=False`. With it, predictions of
    the whole split are gathered on the host: `compute(outputs, examples) -> {metric: float or artifact}`, for what
    does not decompose into sums (AUC, exact match after decoding, a confusion matrix). Both may be used together.

    Attributes:
      split: a key of `Data.evals`, or 'train'.
      compute: see above; `outputs` and `examples` are trees of NumPy arrays, padding removed.
      predict: replaces the task's `predict` for this evaluator.
      keep: the batch keys that `compute` receives as `examples`; no other key is gathered.
      weights: 'auto' (the moving average where there is one, else the newest), 'ema', 'raw' or 'best'.
      better: {metric: 'higher' or 'lower'}, for `config.best` and for reports; the metrics of `bigjax.metrics` have theirs.
      sums: also report the sums and counts of the loss.
      every: a duration ('5 epochs'), or None for the config's `eval_every`; the last step always evaluates.
    """

    split: str
    compute: Callable[[Any, Any], Mapping[str, Any]] | None = None
    predict: Callable | None = None
    keep: tuple[str, ...] = ('label',)
    weights: str = 'auto'
    better: Mapping[str, str] = dataclasses.field(default_factory=dict)
    sums: bool = True
    every: Any = None


@dataclasses.dataclass(frozen=True)
class Interface:
    """Between a person and a model: raw input -> example, outputs -> an answer.

    `predict`, `serve`, `export` and the web page are built on it alone.

    Attributes:
      parse: `parse(raw) -> example`, one example as `Data.train[i]` gives it, without its label; `raw` is text, a path, or
        a mapping (a table's row). Raises UserError where it cannot be one.
      answer: `answer(outputs) -> {name: JSON value}` of the predictions of one example, such as
        {'class': 'cat', 'probability': 0.97}.
      accepts: the endings of files that `parse` takes ('.png', …), 'text' and 'row' for what else it takes.
      sample: `sample(apply, variables, rng, prompt) -> iterator of text`, or None where the model does not generate.
    """

    parse: Callable[[Any], Mapping[str, Any]]
    answer: Callable[[Any], Mapping[str, Any]]
    accepts: tuple[str, ...] = ()
    sample: Callable | None = None


@dataclasses.dataclass(frozen=True)
class Expected:
    """A published result, printed beside what was measured.

    Attributes:
      metric: the name it has in metrics.jsonl, such as 'test/accuracy'.
      value: the published number, in the metric's own unit (an accuracy of 94 % is 0.94).
      tolerance: |measured - value| up to this is a match.
      source: paper and table.
      std, runs: the published spread and number of runs, where there are any.
      better: 'higher' or 'lower' where any result at least that good is a match; None compares both ways.
    """

    metric: str
    value: float
    tolerance: float
    source: str
    std: float | None = None
    runs: int | None = None
    better: str | None = None


@dataclasses.dataclass(frozen=True)
class Experiment:
    """What an experiment script returns; everything else starts from it.

    Attributes:
      model: a `flax.linen.Module`; `__call__(*inputs, train: bool)`.
      task: the loss and the prediction.
      data: sources and transforms.
      optimizer: the spec that `bigjax.train.optimizers.make` reads, usually `config.optimizer`.
      evaluators: name -> how a split is judged, in the order in which they run.
      expected: published results.
      samples: `samples(apply, variables, rng) -> {name: artifact}` for the report: a str, float images
        [N, H, W, C] in 0..1, or a `Confusion`.
      partition_rules: ((regex on the parameter path, logical axes), …).
      init: `init(variables) -> variables`: pretrained weights, put in before the optimizer's state is made.
      frozen: {name: tree of arrays}, `variables['frozen']` of every apply: teachers, tables. Sharded, never updated.
      transforms: (`transform(tx) -> tx`, …), wrappers of the gradient transformation, the first one innermost.
      axes: logical axis -> mesh axes, over the defaults of `bigjax.sharding.logical`.
      interface: raw input <-> example and outputs -> answer, for `predict` and `sample`.
    """

    model: Any
    task: Task
    data: Data
    optimizer: Mapping[str, Any]
    evaluators: Mapping[str, Evaluator]
    expected: tuple[Expected, ...] = ()
    samples: Callable | None = None
    partition_rules: tuple = ()
    init: Callable | None = None
    frozen: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    transforms: tuple[Callable, ...] = ()
    axes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    interface: Interface | None = None


def base_config() -> ml_collections.ConfigDict:
    """The keys that every experiment shares, with their defaults; a script sets its own on top.

    Durations (`steps`, `*_every`, `patience`, `warmup`) are a number of steps, or text: '10 epochs', '5000 examples',
    '5%' (of `steps`), '200 steps'.
    """
    def duration(default):  # number or text
        return ml_collections.FieldReference(default, field_type=object)

    config = ml_collections.ConfigDict()
    config.seed = 0
    config.steps = duration(1000)
    config.batch_size = 128  # examples per step over all devices
    config.eval_batch_size = 0  # 0: batch_size, or more where examples are small
    config.accumulate = 1  # micro-batches per step
    config.population = 1  # members trained at once by vmap
    config.population_over = 'seed'  # the integer key in which members differ: base, base + 1, …; or all of them written out,
    # 'optimizer.lr=0.1 seed=0; optimizer.lr=0.01 seed=0': numbers of the optimizer, and the seed
    config.data = ''  # a named set, or folder:PATH, jsonl:PATH, csv:PATH, parquet:PATH, npz:PATH, tfds:NAME, hf:NAME, fake
    config.data_dir = ''  # holds one folder a set; '' means the variable BIGJAX_DATA
    config.data_threads = 2  # reading threads where data is not kept on the device
    config.data_workers = 0  # reading processes, instead of threads
    config.resident = 'auto'  # keep the data on the device: 'auto' (up to 2 GB), 'yes', 'no'
    config.dtype = 'float32'  # of the computation; parameters, statistics and losses stay float32
    config.reduce_dtype = ''  # 'float32' or 'bfloat16': gradients summed over devices once a step, in it; '': by the compiler
    config.mesh = 'data:-1'  # axis:size, …; -1 takes the remaining devices
    config.steps_per_call = 0  # steps per dispatch; 0: 1 on CPU, many on GPU and TPU
    config.log_every = duration('1 epoch')
    config.eval_every = duration('10%')
    config.checkpoint_every = duration('10%')
    config.checkpoint_keep = 2
    config.best = ''  # a metric ('train/loss', 'val/accuracy'): the weights that had its best value are the ones reported
    config.patience = duration('')  # stop early when `best` has not improved for so long
    config.sinks = ''  # 'tensorboard', 'wandb', or both with a comma
    config.ema = 0.0  # decay of a moving average of the parameters, used in evaluation; 0 is none
    return config


def choose(what: str, name: str, table: Mapping[str, Any]) -> Any:
    """`table[name]`.

    Raises:
      UserError: there is no such name; the nearest is given.
    """
    if name in table:
        return table[name]
    near = difflib.get_close_matches(str(name), list(table), 1, 0.4)
    hint = f'did you mean {near[0]}? ' if near else ''
    raise UserError(f"{what}: there is no '{name}'; {hint}there are {', '.join(table)}")
