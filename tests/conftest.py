"""Eight fake devices and a persistent compile cache for every test; nothing compiled outlives its file."""
import contextlib
import gc
import importlib.metadata
import importlib.util
import json
import os
import pathlib
import tempfile

os.environ.setdefault('NPROC', '16')  # several fake devices starve XLA's thread pool on a small machine, and it aborts
os.environ.setdefault('JAX_PLATFORMS', 'cpu')
os.environ.setdefault('BIGJAX_PLATFORM', os.environ['JAX_PLATFORMS'])  # on purpose, also beside an accelerator
# Compiling is most of the time of small tests; code that is optimised less computes the same within their tolerances. Jax 0.10
# can emit fusions without MLIR, which compile in half the time; a later XLA does not know the flag and aborts. A program
# divided into modules of LLVM, to compile them in parallel, costs a quarter more of cores that are busy anyway.
_flags = ['--xla_backend_optimization_level=0', '--xla_llvm_disable_expensive_passes=true',
          '--xla_cpu_parallel_codegen_split_count=1']
if importlib.metadata.version('jax').startswith('0.10.'):
    _flags.append('--xla_cpu_use_fusion_emitters=false')
os.environ.setdefault('XLA_FLAGS', ' '.join(_flags))
# Workers, and the processes that tests start, compile each program once for all of them, and keep it for the next time.
os.environ.setdefault('JAX_COMPILATION_CACHE_DIR', os.path.join(tempfile.gettempdir(), 'bigjax-tests'))
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0')
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES', '-1')

import jax  # noqa: E402  the environment is read on import
import pytest  # noqa: E402

jax.config.update('jax_num_cpu_devices', 8)


PER_CASE = 'test_experiments.py', 'test_equivalence.py'  # their fixtures belong to an experiment, those of others to the file
PROGRAMS = 1000  # compiled functions that are kept alive at most


def _group(item) -> str:
    params = getattr(getattr(item, 'callspec', None), 'params', {})
    case = [str(params[key]) for key in ('name', 'variant') if item.path.name in PER_CASE and key in params]
    return ' '.join([str(item.path), *case])


def pytest_collection_modifyitems(items):
    """Workers share files, and of the inherited checks experiments: the module's fixtures are made once for each.

    Tests that skip without PyTorch get the marker `parity`, and tests with the marker skip without PyTorch.
    """
    alone = importlib.util.find_spec('torch') is None
    for item in items:
        code = item.function.__code__
        if 'importorskip' in code.co_names and 'torch' in code.co_consts:
            item.add_marker(pytest.mark.parity)
        if alone and item.get_closest_marker('parity'):
            item.add_marker(pytest.mark.skip(reason='PyTorch is not installed: pip install bigjax[parity]'))
        item.add_marker(pytest.mark.xdist_group(_group(item)))


def pytest_collection_finish(session):
    """What was imported lives to the end: Python's garbage collection, which tracing sets off often, need not look at it."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item, nextitem):
    """Thousands of compiled functions kept alive make every later trace slower, by Python's garbage collection."""
    from bigjax.train.compile_cache import STATS
    if nextitem is not None and _group(nextitem) != _group(item) and STATS.programs > _cleared[-1] + PROGRAMS:
        _cleared.append(STATS.programs)
        jax.clear_caches()
        gc.collect()


_cleared = [0]


def pytest_addoption(parser):
    parser.addoption('--battery', default='short', choices=('short', 'full'), help='how many kills the trust tests try')
    parser.addoption('--trust', help='a JSON file for what the trust tests tally; of all of them, the kept record')
    parser.addoption('--modes', help='a JSON file for what the equality tests find: {experiment: {mode: all cases passed}}')


@pytest.fixture(scope='session')
def battery(request):
    """'short' or 'full'."""
    return request.config.getoption('--battery')


@pytest.fixture
def refusals(monkeypatch):
    """The codes of the `UserError`s made, the newest last; commands print the message without the code."""
    from bigjax.errors import UserError
    codes, init = [], UserError.__init__

    def noted(self, *args, code=''):
        codes.append(code)
        init(self, *args, code=code)

    monkeypatch.setattr(UserError, '__init__', noted)
    return codes


@pytest.fixture
def tally(record_property):
    """`with tally('SIGKILL while saving', 'a complete checkpoint is there') as note:` is one harm, done on purpose: tried when
    the block is entered, held when it is left without an error. `note(worst={'s to the exit': 1.5}, exits=[75])` adds what was
    seen on the way, and `note(times=4)` how many harms the block does, where it is not one.
    """
    @contextlib.contextmanager
    def counted(what: str, means: str):
        row = {'what': what, 'means': means, 'tried': 1, 'held': 0, 'worst': {}, 'exits': []}

        def note(times=None, worst=None, exits=()):
            row['tried'] = row['tried'] if times is None else times
            row['worst'] |= worst or {}
            row['exits'] += exits

        try:
            yield note
            row['held'] = row['tried']
        finally:
            record_property('tally', row)

    return counted


class Trust:
    """Adds up what the trust tests tally, a row for each kind of harm; the worst of what is measured."""

    def __init__(self, path, battery):
        self._path, self._battery, self._rows, self._outcomes = pathlib.Path(path), battery, {}, {}

    def pytest_runtest_logreport(self, report):
        if report.when != 'call':
            return
        self._outcomes[report.outcome] = self._outcomes.get(report.outcome, 0) + 1
        for name, found in report.user_properties:
            if name == 'tally':
                row = self._rows.setdefault(found['what'], {'means': found['means'], 'tried': 0, 'held': 0, 'worst': {},
                                                            'exits': {}})
                row['tried'] += found['tried']
                row['held'] += found['held']
                for what, value in found['worst'].items():
                    row['worst'][what] = round(max(value, row['worst'].get(what, value)), 1)
                for code in map(str, found['exits']):
                    row['exits'][code] = row['exits'].get(code, 0) + 1

    def pytest_sessionfinish(self):
        from bigjax.runs.provenance import git
        kept = {'commit': git()['sha'] or '', 'jax': jax.__version__, 'battery': self._battery, 'tests': self._outcomes,
                'rows': self._rows}
        self._path.write_text(json.dumps(kept, indent=1, sort_keys=True) + '\n')


class Modes:
    """Collects what tests say of an experiment and a mode; in the process that hears of all tests."""

    def __init__(self, path):
        self._path, self._found = pathlib.Path(path), {}

    def pytest_runtest_logreport(self, report):
        facts = dict(report.user_properties)
        if report.when == 'call' and 'mode' in facts:
            modes = self._found.setdefault(facts['experiment'], {})
            modes[facts['mode']] = modes.get(facts['mode'], True) and report.passed

    def pytest_sessionfinish(self):
        from bigjax.runs.provenance import git
        kept = {'commit': git()['sha'] or '', 'jax': jax.__version__, 'equal': self._found}
        self._path.write_text(json.dumps(kept, indent=1, sort_keys=True) + '\n')


def pytest_configure(config):
    path, option = config.getoption('--trust'), config.option
    whole = option.markexpr == 'trust' and not option.keyword and config.args_source is config.ArgsSource.TESTPATHS
    if not path and whole and not option.collectonly:
        path = config.rootpath / 'experiments' / 'results' / 'trust.json'
    if path and not hasattr(config, 'workerinput'):
        config.pluginmanager.register(Trust(path, config.getoption('--battery')))
    if config.getoption('--modes') and not hasattr(config, 'workerinput'):
        config.pluginmanager.register(Modes(config.getoption('--modes')))
