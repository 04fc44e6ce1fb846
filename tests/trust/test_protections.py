"""Each protection, taken away on purpose in a copy of the project, makes the test that is named beside it fail.

The first four are tried each time, the others with --battery=full.
"""
import contextlib
import os
import shutil
import signal
import subprocess
import sys
from typing import NamedTuple

import pytest

from tests.trust import runs

COPIED = ('bigjax', 'experiments', 'launch', 'tests', 'setup.cfg')
pytestmark = pytest.mark.trust


class Protection(NamedTuple):
    """What protects; the line that does it, and what stands there instead; the test that has to notice."""

    name: str
    file: str
    line: str
    instead: str
    test: str


KILLS = 'trust/test_kills.py::test_killed_and_started_again_it_is_the_run_that_was_left_alone'
SIGNALS = 'trust/test_signals.py::test_a_process_saves_and_leaves'
STALL = 'trust/test_signals.py::test_a_signal_while_the_data_stalls_saves_the_step_before'
GROUPS = 'trust/test_groups.py'
MANIFEST = 'train/test_manifest.py'
PROTECTIONS = [
    Protection('the checksum', 'train/manifest.py', "if digest != listed[name]['sha256']:", 'if False:',
               'trust/test_damage.py::test_it_is_found_and_the_one_before_is_used[flip]'),
    Protection('the random key in the checkpoint', 'train/loop.py', 'self._checkpoints.save(step, carry, measured, unjudged)',
               "self._checkpoints.save(step, {**carry, 'state': carry['state'].replace(key=jax.random.wrap_key_data("
               "jax.random.key_data(carry['state'].key) + 1))}, measured, unjudged)", f'{KILLS}[dropout and ema-1]'),
    Protection('the save after its step', 'train/loop.py', 'self._checkpoints.save(step, carry, measured, unjudged)',
               'self._checkpoints.save(step + (step < self._settings.steps), carry, measured, unjudged)',
               f'{KILLS}[population-4]'),
    Protection('the signal', 'train/guard.py', 'self.asked = name', 'pass', f'{SIGNALS}[step:7-term]'),
    Protection('the size', 'train/manifest.py', "if (size := there[name].size) != facts['bytes']:",
               "if (size := there[name].size) != facts['bytes'] and not deep:",
               f'{MANIFEST}::test_every_file_is_held_to_what_was_written[a truncated file]'),
    Protection('unfinished folders are none', 'train/checkpoint.py',
               'if n.isdigit() and manifest.sealed(folder / n))', 'if n.isdigit())',
               f'{MANIFEST}::test_what_was_never_finished_is_removed_and_said'),
    Protection('the loop asks after errors in the background', 'train/loop.py', 'self._checkpoints.raise_error()', 'pass',
               'train/test_loop.py::test_a_save_that_failed_ends_the_run_at_the_next_step'),
    Protection('the best weights of the last evaluation are saved', 'train/loop.py',
               'self._save(carry, step)  # else the checkpoint', 'pass  # else the checkpoint',
               'train/test_loop.py::test_a_signal_saves_and_the_same_command_goes_on[12]'),
    Protection('stopping early is decided again', 'train/loop.py', 'early = step > 0 and self._early(carry, step)',
               'early = False', 'train/test_loop.py::test_a_run_that_stopped_early_is_not_trained_on_when_it_is_started_again'),
    Protection('a sum of the manifest itself', 'train/manifest.py', "raise ValueError('not what was written')", 'pass',
               f'{MANIFEST}::test_any_flipped_bit_of_a_manifest_is_noticed'),
    Protection('one run in a workdir', 'train/records.py', 'self._lock = lock.Lock(self.workdir)', 'pass',
               'trust/test_twice.py::test_the_second_of_two_runs_in_one_workdir_is_refused'),
    Protection('an error in the background is raised at the next step', 'train/checkpoint.py', 'raise error\n\n    def wait',
               'pass\n\n    def wait', f'{MANIFEST}::test_a_save_that_failed_is_an_error_at_the_next_step'),
    Protection('the copy before the memory is given away', 'train/checkpoint.py', 'copied = copy(tree)', 'copied = tree',
               'train/test_checkpoint.py::test_a_save_keeps_what_is_given_away_at_once'),
    Protection('lines of later steps are dropped', 'train/records.py',
               "if line['step'] <= (step if any(k.startswith('train/') for k in line) else judged)]", ']',
               'train/test_records.py::test_truncate_after_keeps_each_step_and_name_once'),
    Protection('the save on leaving', 'train/loop.py', '        self._save(carry, step, unjudged)\n        self._settle(',
               '        self._settle(', f'{SIGNALS}[step:7-term]'),
    Protection('the evaluation of the saved step', 'train/loop.py', 'self._save_and_leave(carry, step, True)',
               'self._save_and_leave(carry, step, False)', f'{SIGNALS}[evaluation:2-term]'),
    Protection('a death is told', 'parallel/lifeline.py', "found.append(Message('dead',", "repr(Message('dead',",
               f'{GROUPS}::test_a_dead_process_is_named_and_the_others_end[step:7-1]'),
    Protection('a failure is told', 'train/guard.py', "self._lifeline.tell('failed',", "repr(",
               f'{GROUPS}::test_an_exception_of_one_ends_the_others_with_its_traceback_first[1]'),
    Protection('the watch over phases', 'train/guard.py', 'if budget and at - now.since > budget', 'if False',
               f'{GROUPS}::test_a_stuck_process_ends_all_within_the_budget[step:7]'),
    Protection('a step that is not finite is not applied', 'train/step.py',
               'ok = jnp.isfinite(value) & jnp.isfinite(norm) & (state.halted < 0)', 'ok = norm == norm',
               'train/test_step.py::test_a_step_that_is_not_finite_changes_nothing_and_stays_so'),
    Protection('a failed process waits for nobody', 'cli.py', 'os._exit(code)', 'pass',
               'trust/test_disks.py::test_a_disk_that_cannot_be_written_stops_the_run[read-only-save:3]'),
    Protection('only the loop asks JAX whether to stop', 'train/checkpoint.py',
               'self._orbax._manager.reached_preemption = lambda step: False', 'pass',
               'train/test_checkpoint.py::test_only_the_loop_asks_jax_whether_to_stop'),
    Protection('a signal ends a wait for data', 'train/guard.py', 'raise Asked\n\n    @', 'pass\n\n    @',
               f'{STALL}[train:100]'),
    Protection('no silent CPU', 'parallel/visible.py',
               "raise UserError(f'{shown} is there and JAX does not compute on it: {cause}", "repr(f'{shown} {cause}",
               'parallel/test_visible.py::test_the_cpu_beside_an_accelerator_is_refused_with_the_cause'),
]


def broken(tmp_path, protection: Protection) -> str:
    """The project without it, in a folder of its own."""
    for name in COPIED:
        copy = shutil.copytree if (runs.ROOT / name).is_dir() else shutil.copy
        copy(runs.ROOT / name, tmp_path / name)
    path = tmp_path / 'bigjax' / protection.file
    text = path.read_text()
    assert text.count(protection.line) == 1, f'{protection.file} does not say {protection.line!r} once'
    path.write_text(text.replace(protection.line, protection.instead))
    return tmp_path


@pytest.mark.parametrize('protection', PROTECTIONS, ids=lambda p: p.name)
def test_without_it_the_named_test_fails(tmp_path, tally, battery, protection):
    if battery == 'short' and protection not in PROTECTIONS[:4]:
        pytest.skip('with --battery=full')
    tree = broken(tmp_path, protection)
    options = ['-m', '', '-n', '0', '-p', 'no:cacheprovider', '--timeout=100', f'--basetemp={tmp_path}/tmp']
    process = subprocess.Popen([sys.executable, '-m', 'pytest', *options, f'tests/{protection.test}'], cwd=tree, text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
                               env={**os.environ, 'PYTHONPATH': str(tree)})
    try:
        out = process.communicate(timeout=300)[0]
    finally:
        with contextlib.suppress(ProcessLookupError):  # a test that is stopped leaves its processes behind
            os.killpg(process.pid, signal.SIGKILL)
    with tally('a protection taken out of the code', 'the test that is named beside it fails'):
        assert process.returncode == 1 and (' failed' in out.splitlines()[-1] or 'Timeout' in out), out[-3000:]
