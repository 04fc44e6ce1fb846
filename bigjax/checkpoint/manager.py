"""Checkpoints: the only module that imports Orbax (its v1 API).

A checkpoint is one pytree of arrays at one step, written in the background, and complete or absent: it counts once its
manifest is written (`bigjax.checkpoint.manifest`), and is compared with it before it is read.

The state that a run starts from, first match wins:
  1. the newest good checkpoint in the run's own workdir: the run resumes; damaged ones are moved to `damaged/` beside it;
  2. `--init_from=DIR`: the weights of another run's newest checkpoint (`bigjax.checkpoint.initial_weights`); the step counter,
     the optimizer and the seed are the new run's;
  3. scratch: the model's initialisation from the seed, with `Experiment.init` applied.
"""
import contextlib
import logging
import threading
import time
from collections.abc import Callable

import jax
from orbax.checkpoint import v1 as ocp

from bigjax.checkpoint import manifest
from bigjax.errors import UserError
from bigjax.io import storage
from bigjax.io.text import first_line
from bigjax.sharding import mesh as meshes
from bigjax.sharding import tree_paths

GENERATORS = {2: 'threefry2x32', 4: 'rbg'}  # numbers in a key: JAX's generator
FOLDER, DAMAGED = 'checkpoints', 'damaged'
NAME = 'state'
UNFINISHED = '.orbax-checkpoint-tmp'
STORE_POLL_S = 20.0  # between two requests to a store while its save is waited for
SAVE_TRIES = 5  # for a store
ORBAX_LOG_FLUSH_S = 0.5  # Orbax's writer threads log their own errors first; the wait puts our one-line cause last
MIN_KEPT = 2  # until the newest checkpoint has its manifest, the one before it must exist


class Checkpoints:
    """The checkpoints of one workdir; process 0 tidies the folder.

    Args:
      workdir: the run's folder.
      keep: how many of the newest stay, at least `MIN_KEPT`.
      say: called with a line about each checkpoint that differs from what was written.
      before_seal: called in process 0 when a checkpoint is written, before it counts.

    Attributes:
      damaged: [{'step', 'why'}] of checkpoints that were moved away, or removed because they were not finished.
    """

    def __init__(self, workdir, *, keep: int = 2, say: Callable[[str], None] = print,
                 before_seal: Callable[[], None] = lambda: None):
        # Orbax logs every thread at INFO, and the stacks of what it raises at ERROR as well.
        logging.getLogger('absl').setLevel(logging.CRITICAL)
        self._folder, self._before_seal = storage.absolute(workdir) / FOLDER, before_seal
        self._writing, self._error, self._say = None, None, say
        self._lost, self._tries = None, 0
        self.damaged = set_aside(workdir, say) if jax.process_index() == 0 else []
        if jax.process_count() > 1:
            meshes.allgather_int(len(self.damaged))  # a barrier: no process lists the folder before process 0 has tidied it
        self._kept = ocp.training.preservation_policies.LatestN(max(MIN_KEPT, keep))
        self._open()

    def _open(self) -> None:
        with storage.translating(self._folder):
            self._orbax = ocp.training.Checkpointer(
                self._folder, preservation_policy=self._kept,
                cleanup_tmp_directories=not storage.remote(self._folder))  # `set_aside` has listed the store strictly

    def save(self, step: int, tree, eval_pending: bool = False) -> None:
        """Starts writing; returns when the arrays are copied. Waits for the save before it, and raises its error.

        Args:
          eval_pending: the evaluators that are due after this step have not run yet.

        Raises:
          UserError: the tree cannot be written as it is (`check_writable`).
        """
        self.lost(wait=True)
        check_writable(tree)

        def begin(tree):
            return self._orbax.save_async(step, tree, checkpointable_name=NAME, overwrite=True, force=True)

        if jax.process_count() == 1 and jax.default_backend() == 'cpu':
            # Orbax takes 25 ms until it has a copy of its own, for which steps of a small model would wait. The thread waits
            # for our copy without Python's lock, which the next step needs now.
            copied = copy(tree)
            begun = lambda: begin(jax.block_until_ready(copied))
        else:
            with storage.translating(self._folder):
                response = begin(tree)
            begun = lambda: response
        self._writing = threading.Thread(target=self._finish, args=(begun, step, eval_pending), name='checkpoint')
        self._writing.start()

    def _finish(self, begun: Callable, step: int, eval_pending: bool) -> None:
        """Waits for the files of a step, and writes their manifest; in a thread of its own."""
        try:
            begun().result()
            if jax.process_index() == 0:
                self._before_seal()
                manifest.seal(self._folder / str(step), step, eval_pending)
            self._tries = 0
        except BaseException as error:
            time.sleep(ORBAX_LOG_FLUSH_S)
            self._tries += 1
            if self._tries < SAVE_TRIES and jax.process_count() == 1 and storage.is_transient(self._folder, error):
                self._lost = step, error
            else:
                self._error = storage.translate(self._folder, error)

    def lost(self, wait: bool = False) -> bool:
        """Whether a save into a store failed by the store's fault, so that another one is due; true once per failure.

        Where the answer to a write was lost, TensorStore takes that write for another's, and gives up. (Of several processes
        only one sees it: there the run ends, and is started again.)
        """
        if wait:
            self.wait()
        if self._lost is None:
            return False
        (step, error), self._lost = self._lost, None
        self._say(f'warning: the checkpoint of step {step} was not written ({first_line(error)}); the state is saved again')
        with contextlib.suppress(Exception):  # raises the same error again
            self._orbax.close()
        storage.remove(self._folder / str(step), first=manifest.NAME)
        self._open()
        return True

    @property
    def busy(self) -> bool:
        """Whether a checkpoint is being written."""
        return self._writing is not None and self._writing.is_alive()

    def raise_error(self) -> None:
        """Raises the error of a save in the background; costs nothing where there is none."""
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def wait(self) -> None:
        """Returns when everything is on the disk, or raises the error of the save."""
        self.rest()
        self.raise_error()

    def rest(self) -> None:
        """Returns when no save is in progress; the error of a failed save is raised by the next call that raises.

        Call it before writing with Orbax beside a `Checkpoints`: of two saves at a time, each takes the other's unfinished
        folders for its own. A save into a store that no longer answers is abandoned, and the process ends (`Broken`).
        """
        if self._writing is None:
            return
        while storage.remote(self._folder) and self._writing.is_alive():
            self._writing.join(STORE_POLL_S)
            if self._writing.is_alive():
                storage.children(self._folder)
        self._writing.join()
        self._writing = None

    def steps(self) -> list[int]:
        """The steps of checkpoints with a manifest, oldest first."""
        return steps(self._folder)

    def eval_pending(self, step: int) -> bool:
        """Whether the evaluators that were due after `step` have yet to run."""
        return manifest.read(self._folder / str(step))[manifest.EVAL_PENDING]

    def restore(self, step: int, like):
        """The tree at `step`; `like` has the same structure, with arrays or `jax.ShapeDtypeStruct`s."""
        return load(self._folder / str(step), like)

    def close(self, seconds: float | None = None) -> None:
        """Waits as `wait` does; afterwards nothing can be saved.

        Args:
          seconds: a save that lasts longer is left unfinished; the process has to end without waiting for its threads.
        """
        if seconds is not None and self._writing is not None:
            self._writing.join(seconds)
            if self._writing.is_alive():
                return
        try:
            self.wait()
            if self._lost is not None:
                raise storage.translate(self._folder, self._lost[1])
        finally:
            if not storage.given_up():  # Orbax would wait for writes that can no longer succeed
                self._orbax.close()


def copy(tree):
    """A copy of the arrays in memory of its own."""
    copied = jax.device_put(tree, may_alias=False)  # the memory of a replicated key is shared all the same
    return jax.tree.map(lambda x, c: x.copy() if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key) else c, tree, copied)


def steps(folder) -> list[int]:
    """The steps of the checkpoints with a manifest in a checkpoints folder, oldest first."""
    folder = storage.place(folder)
    return sorted(int(n) for n in storage.children(folder) if n.isdigit() and manifest.sealed(folder / n))


def set_aside(workdir, say: Callable[[str], None] = print) -> list[dict]:
    """Keeps the newest good checkpoint of a workdir and good ones before it; returns the others as [{'step', 'why'}].

    Unfinished checkpoints are removed. Damaged ones are moved into `damaged/`, newest first, until one is good; the rest of
    older ones, half removed, is removed.

    Raises:
      UserError: several have lost their manifests, which no kill does; nothing was touched.
    """
    base, found = storage.place(workdir) / FOLDER, []
    sealed, names = steps(base), storage.children(base)
    bare = sorted((n for n in names if n.isdigit() and int(n) not in sealed), key=int)
    late = [name for name in bare if int(name) > max(sealed, default=-1)]
    if len(late) > 1:
        raise UserError(f'{base}: got checkpoints without {manifest.NAME} (of steps {", ".join(late[:5])}), as after a copy in '
                        'part; fix: copy them whole, or remove them to repeat these steps', code='checkpoint/incomplete')
    for name in [*bare, *(n for n in names if n.endswith(UNFINISHED))]:
        storage.remove(base / name)
        step = name.partition('.')[0]
        if step.isdigit() and (name not in bare or name in late):
            found.append({'step': int(step), 'why': manifest.UNFINISHED})
            say(f'the checkpoint of step {step} was not written to its end; it is removed, and the one before it is used')
    while sealed and (why := manifest.fault(base / str(sealed[-1]))):
        path = base / str(sealed.pop())
        target = base.parent / DAMAGED / path.name
        storage.remove(target)
        storage.move(path, target, last=manifest.NAME)
        found.append({'step': int(path.name), 'why': why})
        say(f'warning: the checkpoint of step {path.name} is damaged: {why}; it is now {target}, and '
            f'{"the one before it is used" if sealed else "no other is left: the run starts from its beginning"}')
    for step in sealed[:-1]:
        if why := manifest.fault(base / str(step), deep=False):
            storage.remove(base / str(step), first=manifest.NAME)
            say(f'the checkpoint of step {step}, an older one, is not whole: {why}; it is removed')
    return found


def newest(folder, say: Callable[[str], None] = print):
    """The newest good checkpoint of a workdir, of its checkpoints folder, or `folder` itself.

    Raises:
      UserError: there is none, or the one that is named is damaged.
    """
    folder = storage.place(folder)
    if storage.children(folder / NAME):
        if why := manifest.fault(folder):
            raise UserError(f'{folder}: got a damaged checkpoint ({why}); fix: name another', code='checkpoint/damaged')
        return folder
    base = folder / FOLDER if storage.children(folder / FOLDER) else folder
    for step in reversed(steps(base)):
        if not (why := manifest.fault(base / str(step))):
            return base / str(step)
        say(f'warning: {base / str(step)}: damaged: {why}; the one before it is used')
    raise UserError(f'{folder}: got no checkpoint there; fix: name the workdir of a run that has saved one',
                    code='checkpoint/none')


def paths(tree) -> dict[str, tuple]:
    """{path: shape} of the leaves; a typed key has the shape of its data, as on the disk."""
    def shape(leaf):
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.eval_shape(jax.random.key_data, leaf)
        return tuple(leaf.shape)

    return {path: shape(leaf) for path, leaf in tree_paths.leaves(tree)}


def differences(saved: dict[str, tuple], wanted: dict[str, tuple], limit: int = 3) -> str:
    """The first parameters in which two trees differ, as text, or ''."""
    rows = [f'{p} is {list(saved[p])} there and {list(wanted[p])} here' for p in wanted
            if p in saved and saved[p] != wanted[p]]
    rows += [f'{p} is not there' for p in wanted if p not in saved]
    rows += [f'{p} is only there' for p in saved if p not in wanted]
    more = f' (and {len(rows) - limit} more)' if len(rows) > limit else ''
    return '; '.join(rows[:limit]) + more


def load(path, like, whole: bool = True):
    """Reads one checkpoint as arrays placed like `like`.

    Args:
      whole: `like` has every array of the checkpoint; otherwise arrays that it lacks are not read.

    Raises:
      UserError: it holds another model (the first arrays that differ are named), or keys of another random generator.
    """
    path = storage.absolute(path)
    saved, wanted = stored(path), paths(like)
    saved = saved if whole else {p: shape for p, shape in saved.items() if p in wanted}
    _check_generator(path, saved, like)
    if rows := differences(saved, wanted):
        raise UserError(f'{path}: got a checkpoint of another model ({rows}); fix: use the config it was trained with, or '
                        'another --workdir', code='checkpoint/another-model')
    with storage.translating(path):
        return ocp.load(path, like, checkpointable_name=NAME) if whole else load_part(path, like)


def _check_generator(path, saved: dict[str, tuple], like) -> None:
    """Raises UserError where a random key was saved under another default generator of JAX."""
    is_key = lambda x: jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)
    for name, leaf in [(path, x) for path, x in tree_paths.leaves(like) if is_key(x)]:
        size, wanted = (shape[-1] if shape else 0 for shape in (saved.get(name), *paths([leaf]).values()))
        if size and size != wanted:
            there, here = (GENERATORS.get(n, 'another generator') for n in (size, wanted))
            raise UserError(f'{path}: got random keys of {there}, expected {here}, the default of this start; fix: '
                            f'JAX_DEFAULT_PRNG_IMPL={there}, as in the run that saved them',
                            code='checkpoint/another-generator')


def check_writable(tree) -> None:
    """Raises UserError for a tree that Orbax would damage or refuse: it joins the names of a path with dots, so two paths may
    become one file, and it cannot write an array without elements."""
    seen = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        name, dotted = (jax.tree_util.keystr(path, simple=True, separator=separator) for separator in '/.')
        if dotted in seen:
            raise UserError(f"checkpoint: got the arrays '{seen[dotted]}' and '{name}', which would be one file; fix: leave "
                            "the dot out of a module's or a parameter's name", code='checkpoint/name-collision')
        if leaf.size == 0:
            fix = 'another optimizer' if 'opt_state' in name.split('/') else 'no width of 0 in the model'
            raise UserError(f"checkpoint: got an array of shape {list(leaf.shape)} at '{name}', expected at least one element; "
                            f'fix: {fix}', code='checkpoint/empty-array')
        seen[dotted] = name


def write(path, tree, step: int = 0) -> None:
    """Writes one tree at a path, replacing what was there.

    Raises:
      UserError: the tree cannot be written as it is (`check_writable`).
    """
    check_writable(tree)
    path = storage.absolute(path)
    with storage.translating(path):
        ocp.save(path, tree, checkpointable_name=NAME, overwrite=True)
    if jax.process_index() == 0:
        manifest.seal(path, step)


def stored(path) -> dict[str, tuple]:
    """{path of a leaf: its shape} of a checkpoint, without its arrays."""
    with storage.translating(path):
        return paths(ocp.metadata(storage.absolute(path), checkpointable_name=NAME).metadata)


def arrays(path) -> dict:
    """{path of a leaf: its array} of a checkpoint, on the CPU whatever wrote it, without the code of its model; random keys as
    their data."""
    path = storage.absolute(path)
    host = jax.sharding.SingleDeviceSharding(jax.local_devices(backend='cpu')[0])
    like = jax.tree.map(lambda m: jax.ShapeDtypeStruct(m.shape, m.dtype, sharding=host),
                        ocp.metadata(path, checkpointable_name=NAME).metadata)
    plain = lambda x: jax.random.key_data(x) if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key) else x
    return {name: plain(x) for name, x in tree_paths.leaves(ocp.load(path, like, checkpointable_name=NAME))}


def load_part(path, like):
    """Reads the leaves of `like` from a checkpoint that has more."""
    context = ocp.Context()
    context.pytree_options.loading.partial_load = True
    with context:
        return ocp.load(path, like, checkpointable_name=NAME)
