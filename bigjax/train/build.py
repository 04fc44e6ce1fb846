"""The assembly of an experiment: `build(module, config)` is the only place where a script becomes something that runs.

    config -> Reader -> get_experiment -> wrappers -> settings -> Build -> Program
"""
import dataclasses
import importlib
import inspect
import pkgutil
from collections.abc import Mapping
from typing import Any

import bigjax
from bigjax import config as configs
from bigjax.errors import UserError
from bigjax.experiment import KEYS, Experiment, base_config, choose
from bigjax.io import nested
from bigjax.io.text import first_line, hint, printable

# Keys that change where a run computes, what it writes and how many seeds it has, and not what the paper describes.
ANY_SETUP = ('seed', 'population', 'eval_batch_size', 'accumulate', 'data_dir', 'data_threads', 'data_workers', 'damaged',
             'resident', 'reduce_dtype', 'mesh', 'steps_per_call', 'log_every', 'eval_every', 'checkpoint_every',
             'checkpoint_keep', 'sinks')
ANY_SECTION = ('sample', configs.PUBLISHED)  # sections of which the same is true
NEVER_BUILT = (TypeError, ValueError, ZeroDivisionError, OverflowError, IndexError)  # of a model whose sizes cannot be


def scanned(name: str, attribute: str) -> list:
    """`bigjax.X.<name>.<attribute>` of every room X that has such a module, in the order of the rooms' names."""
    found = []
    for room in pkgutil.iter_modules(bigjax.__path__):
        place = f'bigjax.{room.name}'
        if room.ispkg and name in {m.name for m in pkgutil.iter_modules([f'{p}/{room.name}' for p in bigjax.__path__])}:
            found.append(getattr(importlib.import_module(f'{place}.{name}'), attribute))
    return found


@dataclasses.dataclass(frozen=True)
class Build:
    """An experiment that was assembled, and what it was assembled from.

    Attributes:
      experiment: with every wrapper applied; without `expected` where the data is not the paper's.
      settings: the shared keys, resolved to numbers.
      reader: which keys were read so far.
      differs: {key: (value here, value of the paper)}: () of these and the run has the paper's setup.
    """

    module: Any
    config: Any
    experiment: Experiment
    settings: Any
    reader: configs.Reader
    differs: Mapping[str, tuple]

    def program(self, devices=None, watch=None, one_data: bool = False):
        """The compiled functions on some devices (None: all); every key has been read when it returns.

        Args:
          one_data: all members have the data of the first one, as nothing is read of it.

        Raises:
          UserError: the model cannot have the sizes that the command line gave it; what `Program` refuses.
        """
        from bigjax.train.program import Program
        resized = [key for key in self.differs if key.startswith('model.')]
        try:
            others = [] if one_data else self._members()
            return Program([self.experiment, *others], self.settings, check=self.reader.check, devices=devices,
                           watch=watch)
        except NEVER_BUILT as error:
            if not resized:
                raise  # a fault of the script, with its traceback
            got, paper = self.differs[resized[0]]
            raise UserError(f'config.{resized[0]}: got {got!r}, and no such model can be built ({first_line(error)}); '
                            f'the script has {paper!r}', code='model/size') from None

    def _members(self) -> list[Experiment]:
        """The members of a population beside the first, where they differ in more than the seed and the optimizer's numbers."""
        over, population = self.settings.population_over, self.settings.population
        if over == 'seed' or self.settings.members:
            return []
        known = nested.leaves(self.config)
        integers = [key for key, value in known.items() if isinstance(value, int) and not isinstance(value, bool)]
        if over not in integers:
            fix = f"; write the values out: '{over}=…; {over}=…'" if over.startswith('optimizer.') and over in known else hint(
                over, integers)
            raise UserError(f"config.population_over: '{printable(over)}' is not an integer key of the config{fix}",
                            code='config/population-over')
        members = []
        for number in range(1, population):
            config = configs.override(self.config, {over: str(known[over] + number)})
            members.append(_assembled(self.module, configs.Reader(config)))
        return members


def build(module, config: Mapping, paper: Mapping | None = None) -> Build:
    """The experiment of a script under a config: the only assembly.

    Args:
      module: the script, with `get_experiment(config)`.
      config: the resolved config; keys of `base_config` that it lacks are added with their defaults.
      paper: the script's own config of this row, to tell what differs from it.

    Raises:
      UserError: a value that a key cannot have; what the script or its data refuse.
    """
    from bigjax.train import settings as settings_module  # the verbs' heads import this file, and no layer of training
    paper = config if paper is None else paper
    config = configs.complete(config, base_config())
    for key, entry in KEYS.items():
        if entry.choices and config[key] not in entry.choices:
            raise UserError(f"config.{key}: got {printable(repr(config[key]))}, expected one of "
                            f"{', '.join(map(repr, entry.choices))}", code='config/choice')
    changed = nested.difference(config, configs.complete(paper, base_config()))
    untouched = [key for key in KEYS if config[key] == KEYS[key].default and key not in changed]
    reader = configs.Reader(config, untouched=untouched)
    experiment = _assembled(module, reader)
    if 'data' in changed:  # the paper has no result for other data
        experiment = dataclasses.replace(experiment, expected=())
    differs = {key: pair for key, pair in changed.items() if key not in ANY_SETUP and key.partition('.')[0] not in ANY_SECTION}
    return Build(module, config, experiment, settings_module.read(reader, len(experiment.data.train)), reader, differs)


def check_takes(script: str, name: str, function, argument: str) -> None:
    """Raises UserError where a script lacks a function, or has one that cannot be called with one argument."""
    if function is None:
        raise UserError(f'{script}: got a script without {name}, expected {name}({argument}); fix: add it',
                        code='experiment/no-function')
    try:
        inspect.signature(function).bind(None)
    except ValueError:  # some callables have none
        return
    except TypeError:
        raise UserError(f'{script}: got {name}{inspect.signature(function)}, expected {name}({argument}); fix: write it so',
                        code='experiment/signature') from None


def _assembled(module, reader) -> Experiment:
    """The script's experiment under a config, in the wrappers that `config.wrap` names."""
    name = getattr(module, '__name__', 'the script')
    check_takes(name, 'get_experiment', getattr(module, 'get_experiment', None), 'config')
    experiment = module.get_experiment(reader)
    if not isinstance(experiment, Experiment):
        raise UserError(f'{name}: got {type(experiment).__name__} of get_experiment, expected an Experiment; fix: return one',
                        code='experiment/no-experiment')
    if not (wanted := [part.strip() for part in reader['wrap'].split(';') if part.strip()]):
        return experiment
    known = {name: function for table in scanned('wrap', 'WRAPPERS') for name, function in table.items()}
    known |= getattr(module, 'WRAPPERS', {})
    for part in wanted:
        name, _, argument = part.partition(':')
        experiment = choose('config.wrap', name, known)(experiment, *([argument] if argument else []))
    return experiment
