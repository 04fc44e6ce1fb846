"""Safeguards, each of which can be taken out of a process: its function is replaced by one without it.

The variable BIGJAX_MUTATION names the safeguard. A test process applies it as a plugin of pytest (`-p tests.trust.mutations`),
the processes that tests start apply it in `tests.trust.driver`. `test_protections` runs the test that must notice.
"""
import functools
import os
from collections.abc import Callable
from typing import NamedTuple

VARIABLE = 'BIGJAX_MUTATION'
KILLS = 'trust/test_kills.py::test_killed_and_started_again_it_is_the_run_that_was_left_alone'
SIGNALS = 'trust/test_signals.py::test_a_process_saves_and_leaves'
GROUPS = 'trust/test_groups.py'
MANIFEST = 'checkpoint/test_manifest.py'


class Safeguard(NamedTuple):
    """The test that must fail without a safeguard, and the function that takes it out."""

    test: str
    remove: Callable[[], None]


SAFEGUARDS: dict[str, Safeguard] = {}


def safeguard(name: str, test: str):
    """Registers a function that takes a safeguard out of this process."""
    def register(remove):
        SAFEGUARDS[name] = Safeguard(test, remove)
        return remove
    return register


def replace(owner, name: str, make: Callable[[Callable], Callable]) -> None:
    """`owner.name = make(owner.name)`."""
    setattr(owner, name, make(getattr(owner, name)))


class Instead:
    """A module with some of its names replaced."""

    def __init__(self, module, **names):
        self._module = module
        vars(self).update(names)

    def __getattr__(self, name):
        return getattr(self._module, name)


@safeguard('the order of gates', 'nn/test_recurrent.py::test_values_and_gradients[lstm-0-False-False]')
def _():
    import jax.numpy as jnp

    from bigjax.nn import recurrent

    def other_order(gates_of):
        def gates(*products, axis=-1):
            i, f, g, o = jnp.split(gates_of(*products, axis), 4, axis)
            return jnp.concatenate([f, i, g, o], axis)
        return gates

    recurrent.LSTM.cell = recurrent.LSTM_CELL._replace(gates=other_order(recurrent.lstm_gates))


@safeguard('the padding mask', 'models/test_bert.py::test_padding_and_packing_change_nothing[bert]')
def _():
    from bigjax.nn import masks
    replace(masks, 'visible', lambda visible: lambda length, mask=None, *more: visible(length, None, *more))


@safeguard('the positions of new tokens', 'models/test_decoders.py::test_a_cache_gives_the_logits_of_the_whole[gpt2]')
def _():
    from bigjax.nn import kv_cache

    def one_later(advance):
        def advanced(*arguments):
            cache, positions = advance(*arguments)
            return cache, positions + 1
        return advanced

    replace(kv_cache, 'advance', one_later)


@safeguard('the checksum', 'trust/test_damage.py::test_it_is_found_and_the_one_before_is_used[flip]')
def _():
    from bigjax.checkpoint import manifest
    replace(manifest, 'fault', lambda fault: lambda folder, deep=True: fault(folder, deep=False))


@safeguard('the random key in the checkpoint', f'{KILLS}[dropout and ema-1]')
def _():
    import jax

    from bigjax.checkpoint.manager import Checkpoints

    def other_key(tree):
        key = jax.random.wrap_key_data(jax.random.key_data(tree['state'].key) + 1)
        return {**tree, 'state': tree['state'].replace(key=key)}

    replace(Checkpoints, 'save', lambda save: lambda self, step, tree, *more: save(self, step, other_key(tree), *more))


@safeguard('the save after its step', f'{KILLS}[population-4]')
def _():
    from bigjax.checkpoint.manager import Checkpoints
    from tests.trust.runs import STEPS
    replace(Checkpoints, 'save', lambda save: lambda self, step, *more: save(self, step + (step < STEPS), *more))


@safeguard('the signal', f'{SIGNALS}[step:7-term]')
def _():
    from bigjax.watchdog.watchdog import Guard
    replace(Guard, '_request_stop', lambda request: lambda self, name: None)


@safeguard('the size', f'{MANIFEST}::test_every_file_is_held_to_what_was_written[a truncated file]')
def _():
    from bigjax.checkpoint import manifest

    class AnySize(int):
        def __ne__(self, other):
            return False

        __hash__ = int.__hash__

    def any_size(files):
        return lambda folder: {name: facts._replace(size=AnySize(facts.size)) for name, facts in files(folder).items()}

    replace(manifest, '_files', any_size)


@safeguard('unfinished folders are none', f'{MANIFEST}::test_what_was_never_finished_is_removed_and_said')
def _():
    from bigjax.checkpoint import manifest
    replace(manifest, 'sealed', lambda sealed: lambda folder: True)


@safeguard('the loop looks for errors in the background',
           'train/test_loop.py::test_a_save_that_failed_ends_the_run_at_the_next_step')
@safeguard('an error in the background is raised at the next step',
           f'{MANIFEST}::test_a_save_that_failed_is_an_error_at_the_next_step')
def _():
    from bigjax.checkpoint.manager import Checkpoints
    replace(Checkpoints, 'raise_error', lambda raise_error: lambda self: None)


@safeguard('the best weights of the last evaluation are saved',
           'train/test_loop.py::test_a_signal_saves_and_the_same_command_goes_on[12]')
def _():
    from bigjax.train.saver import Saver

    def once(save):
        def unless_saved(self, step, *more):
            if step not in self.checkpoints.steps():
                save(self, step, *more)
        return unless_saved

    replace(Saver, 'save', once)


@safeguard('stopping early is decided again',
           'train/test_loop.py::test_a_run_that_stopped_early_is_not_trained_on_when_it_is_started_again')
def _():
    from bigjax.train.loop import Loop

    def not_at_first(over):
        def later(self):
            first, self.__dict__['_looked'] = '_looked' not in self.__dict__, True
            return not first and over(self)
        return later

    replace(Loop, '_patience_is_over', not_at_first)


@safeguard('a sum of the manifest itself', f'{MANIFEST}::test_any_flipped_bit_of_a_manifest_is_noticed')
def _():
    from bigjax.checkpoint import manifest
    replace(manifest, '_sum', lambda _: lambda manifest: '')


@safeguard('one run in a workdir', 'trust/test_twice.py::test_the_second_of_two_runs_in_one_workdir_is_refused')
def _():
    from bigjax.runs import lock

    class NoLock:
        before = 0.0

        def __init__(self, *_, **__):
            pass

        def release(self):
            pass

    replace(lock, 'Lock', lambda _: NoLock)


@safeguard('the copy before the memory is given away',
           'checkpoint/test_manager.py::test_a_save_keeps_what_is_given_away_at_once')
def _():
    from bigjax.checkpoint import manager
    replace(manager, 'copy', lambda copy: lambda tree: tree)


@safeguard('lines of later steps are dropped', 'runs/test_writer.py::test_truncate_after_keeps_each_step_and_name_once')
def _():
    from bigjax.runs.writer import Records
    replace(Records, 'truncate_after', lambda truncate: lambda self, *_, **__: None)


@safeguard('the save on leaving', f'{SIGNALS}[step:7-term]')
def _():
    from bigjax.errors import Preempted
    from bigjax.train.loop import Loop

    def leave(self, eval_pending):
        raise Preempted(f'{self._stop.signal} at step {self._step}: the state is saved')

    replace(Loop, '_save_and_leave', lambda _: leave)


@safeguard('the evaluation of the saved step', f'{SIGNALS}[evaluation:2-term]')
def _():
    from bigjax.train.loop import Loop
    replace(Loop, '_save_and_leave', lambda leave: lambda self, eval_pending: leave(self, False))


def _silent(kind: str) -> None:
    """No peer learns of messages of a kind."""
    from bigjax.distributed.peers import PeerLinks
    replace(PeerLinks, 'send', lambda send: lambda self, what, *more, **named: None if what == kind else send(
        self, what, *more, **named))
    replace(PeerLinks, 'read', lambda read: lambda self, connection: [m for m in read(self, connection) if m.kind != kind])


safeguard('a death is reported', f'{GROUPS}::test_a_dead_process_is_named_and_the_others_end[step:7-1]')(
    functools.partial(_silent, 'dead'))
safeguard('a failure is reported', f'{GROUPS}::test_an_exception_of_one_ends_the_others_with_its_traceback_first[1]')(
    functools.partial(_silent, 'failed'))


@safeguard('the watch over phases', f'{GROUPS}::test_a_stuck_process_ends_all_within_the_timeout[step:7]')
def _():
    from bigjax.watchdog.timeouts import PhaseTimer
    replace(PhaseTimer, 'overdue', lambda overdue: lambda self: '')


@safeguard('a step that is not finite is not applied',
           'train/test_step.py::test_a_step_that_is_not_finite_changes_nothing_and_stays_so')
def _():
    import jax.numpy as jnp

    from bigjax.train import step
    step.jnp = Instead(jnp, isfinite=lambda x: jnp.ones(jnp.shape(x), bool))


@safeguard('a failed process does not wait for others',
           'trust/test_disks.py::test_a_disk_that_cannot_be_written_stops_the_run[read-only-save:3]')
def _():
    from bigjax import cli
    cli.os = Instead(os, _exit=lambda code: None)


@safeguard('all processes stop at the same point', 'watchdog/test_agreement.py::test_all_stop_at_the_same_poll')
def _():
    from bigjax.watchdog.agreement import StopAgreement

    def alone(self):
        self._polls += 1
        return self._stop_at is not None

    replace(StopAgreement, 'poll', lambda _: alone)


@safeguard('a signal ends a wait for data',
           'trust/test_signals.py::test_a_signal_while_the_data_stalls_saves_the_step_before[train:100]')
def _():
    from bigjax.watchdog.signals import Signals

    def count(self, number, frame):
        self._count += 1

    replace(Signals, '_handle', lambda _: count)


@safeguard('no silent CPU', 'distributed/test_accelerators.py::test_the_cpu_beside_an_accelerator_is_refused_with_the_cause')
def _():
    from bigjax.distributed import accelerators
    replace(accelerators, 'require_accelerator', lambda _: lambda *_, **__: None)


def apply() -> None:
    """Takes out the safeguard that the environment names, if any."""
    if name := os.environ.get(VARIABLE):
        SAFEGUARDS[name].remove()


def pytest_configure(config):
    """The tests' own process."""
    apply()
