"""The contract between an experiment script and everything above it: plain data and functions, no behaviour."""
import dataclasses
import functools
from collections.abc import Callable, Container, Mapping
from typing import Any, NamedTuple, Protocol

import jax
import ml_collections

from bigjax.data import batches
from bigjax.errors import UserError
from bigjax.io.text import hint, printable
from bigjax.metrics.confusion import Confusion as Confusion
from bigjax.tasks import Task


class Source(Protocol):
    """Examples by number: `len(source)` and `source[i] -> {name: array}`; the protocol of Grain's data sources.

    A source that fits in memory also has `arrays`, {name: [len, …]}, and `take(arrays, indices) -> batch`, pure, for NumPy
    arrays and traced ones: it may then live on the device, and the pipeline gathers a batch in one call. A source may have
    `spec`, {name: shape and dtype of one example}, so that it is not read before it is needed.
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
        (padding, with lengths). Rows have the same shape in every batch, of training and evaluation: see
        `bigjax.data.batches`. None stacks examples of equal shapes.
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
        a row of a table (a mapping, or a list of numbers). Its key '_notes', a list of texts, is no part of a batch: it tells
        what was assumed (a resize). An input that is longer than an example is a list of them, with a key '_given' in each.
        Raises UserError where `raw` cannot be an example.
      answer: `answer(outputs) -> {name: JSON value}` of the predictions of one example, such as
        {'class': 'cat', 'probability': 0.97}; `answer(outputs, given)` of those of a list, stacked.
      accepts: the endings of files that `parse` takes ('.png', …), 'text' and 'row' for what else it takes, 'document' where a
        file of text is one input, and 'question' for questions and the text that they are asked about.
      language: a `bigjax.decode.stream.Language`: how the tokens of a language model, which `sample` continues, are read and
        written; None where the model does not generate text.
      draw: `draw(apply, variables, rng, count) -> images [count, H, W, C] in 0..1`, or None where it does not draw.
      needs_data: it takes something from the records of the data, such as a size or a vocabulary; otherwise trained weights are
        applied also where the data is not.
    """

    parse: Callable[[Any], Mapping[str, Any]]
    answer: Callable[[Any], Mapping[str, Any]]
    accepts: tuple[str, ...] = ()
    language: Any = None
    draw: Callable | None = None
    needs_data: bool = True


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
    """The result of a script's `get_experiment`; everything else starts from it.

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
      tokenizer: `bigjax.data.tokenizers.Tokenizer` that made numbers of text; the run saves it in its workdir.
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
    tokenizer: Any = None


class Key(NamedTuple):
    """A config key that every experiment has: its default, its meaning, and its choices, where not any value will do.

    A `duration` is a number of steps, or text: '10 epochs', '5000 examples', '5%' (of `steps`), '200 steps'.
    """

    default: Any
    help: str
    choices: tuple = ()
    duration: bool = False


KEYS = {
    'seed': Key(0, 'of the weights, the order of the data and dropout'),
    'steps': Key(1000, "the length of the run: steps, or '10 epochs', '5000 examples'", duration=True),
    'batch_size': Key(128, 'examples per step over all devices'),
    'eval_batch_size': Key(0, 'examples per evaluation step; 0: batch_size, or more where examples are small'),
    'accumulate': Key(1, 'micro-batches per step'),
    'population': Key(1, 'members trained at once by vmap'),
    'population_over': Key('seed', "the integer key in which members differ (base, base + 1, …), or each member written out: "
                           "'optimizer.lr=0.1 seed=0; optimizer.lr=0.01 seed=0' (numbers of the optimizer, and the seed)"),
    'data': Key('', 'a named set, or folder:PATH, jsonl:PATH, csv:PATH, parquet:PATH, npz:PATH, text:PATH, tokens:PATH, '
                'tfds:NAME, hf:NAME, fake'),
    'data_dir': Key('', "the folder that holds one folder per data set; '' is the variable BIGJAX_DATA"),
    'data_threads': Key(2, 'reading threads, where the data is not kept on the device'),
    'data_workers': Key(0, 'reading processes, instead of threads'),
    'damaged': Key('stop', 'what a record whose image or sound is damaged does in training: stop the run, or be skipped',
                   ('stop', 'skip')),
    'resident': Key('auto', 'whether the data is kept on the device (auto: up to 2 GB)', ('auto', 'yes', 'no')),
    'dtype': Key('float32', 'of the computation; parameters, statistics and losses stay float32',
                 ('float32', 'bfloat16', 'float16')),
    'reduce_dtype': Key('', "gradients are summed over devices once per step, in this dtype; '': as the compiler chooses",
                        ('', 'float32', 'bfloat16')),
    'mesh': Key('data:-1', 'axis:size, … of data, zero1, fsdp, tensor, seq, expert, stage; -1 takes the remaining devices'),
    'steps_per_call': Key(0, 'steps per dispatch; 0: up to 100, on a CPU up to 20 of a short step'),
    'log_every': Key('1 epoch', 'between two lines of training metrics', duration=True),
    'eval_every': Key('10%', 'between two evaluations; 0: at the end only', duration=True),
    'checkpoint_every': Key('10%', 'between two checkpoints', duration=True),
    'checkpoint_keep': Key(2, 'checkpoints that are kept'),
    'best': Key('', "the metric ('train/loss', 'val/accuracy', 'max val/made_up') whose best weights are reported"),
    'patience': Key('', 'stop early when `best` has not improved for so long', duration=True),
    'sinks': Key('', "'tensorboard', 'wandb', or both with a comma"),
    'ema': Key(0.0, 'the decay of a moving average of the parameters, used in evaluation; 0: none'),
    'wrap': Key('', "wrappers of the experiment, 'NAME:ARGUMENT; …', applied in this order"),
}
"""The keys that every experiment shares. A script may change a default, and need not read a key that it leaves alone."""

OPTIONAL = {
    'optimizer.weight_decay': Key(0.0, 'decoupled weight decay'),
    'optimizer.wd_mask': Key('', 'the parameters that decay and penalties act on', ('', 'kernels')),
    'optimizer.l2': Key(0.0, 'l2 * w is added to the gradient'),
    'optimizer.l1': Key(0.0, 'l1 * sign(w) is added to the gradient'),
    'optimizer.clip_norm': Key(0.0, 'the gradient is clipped to this norm'),
    'optimizer.clip_value': Key(0.0, 'each element of the gradient is clipped to this'),
    'optimizer.max_norm': Key(0.0, 'the incoming weights of each unit are held to this norm'),
    'optimizer.frozen': Key((), 'regexes on parameter paths: these never change'),
    'optimizer.lookahead': Key(None, "{'period': 6, 'step_size': 0.5}: slow weights"),
    'optimizer.swa': Key(None, "{'start': '75%', 'every': '1 epoch'}: the mean of the weights"),
    'optimizer.lr_mults': Key((), '((regex, factor), …) on the learning rate'),
    'optimizer.wd_mults': Key((), '((regex, factor), …) on decay and penalties'),
    'optimizer.momentum': Key(0.0, 'an argument of sgd, rmsprop, …'),
    'optimizer.nesterov': Key(False, 'an argument of sgd, adam, …'),
    'optimizer.b1': Key(0.9, 'an argument of adam, adamw, lion, …'),
    'optimizer.b2': Key(0.999, 'an argument of adam, adamw, lion, …'),
    'optimizer.eps': Key(1e-8, 'an argument of adam, adamw, rmsprop, …'),
    'optimizer.schedule': Key('constant', 'the learning rate over time',
                              ('constant', 'linear', 'cosine', 'step', 'exponential', 'rsqrt', 'one_cycle', 'plateau')),
    'optimizer.schedule.warmup': Key(0, 'the rate rises linearly from 0 for so long', duration=True),
    'optimizer.schedule.hold': Key(0, 'linear, cosine: stay at the full rate before it falls', duration=True),
    'optimizer.schedule.end': Key(0.0, 'linear, cosine: the rate of the last step'),
    'optimizer.schedule.factor': Key(0.1, 'step, exponential, plateau: the factor of the rate'),
    'optimizer.schedule.every': Key(0, 'step, exponential: between two changes of the rate', duration=True),
    'optimizer.schedule.boundaries': Key((), 'step: when the rate changes'),
    'optimizer.schedule.patience': Key(0, 'plateau: how long without a better loss', duration=True),
    'optimizer.schedule.cooldown': Key(0, 'plateau: how long it waits after a change', duration=True),
    'optimizer.schedule.min_lr': Key(0.0, 'plateau: the least rate'),
}
"""Keys of sections that may be set from the command line although a script leaves them out; absent, they do nothing."""

EXPLAINED = {
    'optimizer.name': 'any optimizer of optax or optax.contrib',
    'optimizer.lr': 'the learning rate, times the schedule',
    'optimizer.schedule.name': OPTIONAL['optimizer.schedule'].help,
    'model.name': 'the model: FAMILY or FAMILY.CLASS of bigjax/models',
}
"""What keys mean that most scripts have and all must set."""


def base_config() -> ml_collections.ConfigDict:
    """The keys that every experiment shares (`KEYS`), with their defaults; a script sets its own on top."""
    config = ml_collections.ConfigDict()
    for name, key in KEYS.items():
        config[name] = ml_collections.FieldReference(key.default, field_type=object) if key.duration else key.default
    return config


def published(config: Mapping) -> tuple[Expected, ...]:
    """`config.published`, {metric: the fields of its `Expected`}, as results to compare with."""
    section = config.get('published', {})
    return tuple(Expected(metric, **section[metric]) for metric in section)


def choose(what: str, name: str, table: Mapping[str, Any]) -> Any:
    """`table[name]`.

    Raises:
      UserError: there is no such name; the nearest is given.
    """
    if name in table:
        return table[name]
    raise UserError(f"{what}: there is no '{printable(name)}'{hint(name, table, 0.4)}; there are {', '.join(table)}",
                    code='config/unknown-name')


def choose_pair(variant: str, default: str, seconds: Container[str]) -> tuple[str, str]:
    """The two names of a variant `FIRST,SECOND`; one of the two alone is completed from `default`.

    Args:
      seconds: the names that are the second one when alone.
    """
    first, second = default.split(',')
    given, comma, rest = (variant or default).partition(',')
    if comma:
        return given, rest
    return (first, given) if given in seconds else (given, second)
