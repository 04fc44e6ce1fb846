"""A process of several that dies, fails or is stuck ends the others in seconds, and all of them print why.

Tried by breaking: the others receive no message, the watch over phases left out.
"""
import json
import re
import time

import numpy as np
import pytest

from bigjax.checkpoint import manager
from tests.trust import runs
from tests.trust.test_signals import EVEN, both, finish  # noqa: F401  one is a fixture

KIND, HEARTBEAT = 'recurrent', 5
pytestmark = pytest.mark.trust


def harmed(tmp_path, trust, *options, processes=2):
    """([(exit code, output)], seconds from the harm to the last exit)."""
    running = runs.start(KIND, tmp_path / 'run', f'--heartbeat={HEARTBEAT}', *options, processes=processes, trust=trust)
    first, began = None, time.monotonic()
    while time.monotonic() - began < 240 and any(p.poll() is None for p in running):
        if first is None and any(p.poll() is not None for p in running):
            first = time.monotonic()
        time.sleep(0.02)
    ended = runs.end(running)
    return ended, time.monotonic() - (first or began)


@pytest.mark.parametrize('rank', [0, 1])
@pytest.mark.parametrize('at', ['step:7', 'evaluation:2', 'compile:1'])
def test_a_dead_process_is_named_and_the_others_end(tmp_path, tally, rank, at):
    with tally('one of two processes killed', 'it is named with its host, and the other one ends') as note:
        ended, seconds = harmed(tmp_path, f'{at}:kill:0:{rank}')
        note(worst={'s until both were gone': seconds}, exits=[code for code, _ in ended])
        look_dead(ended, seconds, rank)


def look_dead(ended, seconds, rank):
    """JAX's own lines, which name no host, may stand before ours."""
    code, out = ended[1 - rank]
    assert ended[rank][0] == -9 and code == 1, out[-3000:]
    assert seconds < HEARTBEAT + 15
    named = re.findall(r'^process (\d) on \S+ \(pid \d+\) is gone', out, re.MULTILINE)
    assert named == [str(rank)], out[-3000:]  # once, and no other process


@pytest.mark.parametrize(('at', 'rank'), [
    ('step:14', 1), ('step:14', 0), ('evaluation:2', 1), ('evaluation:2', 0), ('save:4', 0), ('save:4', 1), ('data:20', 0)])
def test_after_a_death_the_next_start_ends_as_if_nothing_had_been(both, tmp_path, tally, battery, at, rank):  # noqa: F811
    if battery == 'short' and (at, rank) != ('step:14', 1):
        pytest.skip('with --battery=full')
    with tally('one of two processes killed, both started again', 'the run ends bit for bit as one that was left alone'):
        ended, _ = harmed(tmp_path, f'{at}:kill:0:{rank}', EVEN)
        assert ended[rank][0] == -9
        finish(tmp_path / 'run')
        runs.assert_same(tmp_path / 'run', both)


@pytest.mark.parametrize('rank', [0, 1])
def test_an_exception_of_one_ends_the_others_with_its_traceback_first(tmp_path, tally, rank):
    with tally('an exception in one of two processes', 'both end, its traceback is shown first') as note:
        ended, seconds = harmed(tmp_path, f'step:7:raise:0:{rank}')
        note(worst={'s until both were gone': seconds}, exits=[code for code, _ in ended])
        assert ended[rank][0] == 1 and ended[1 - rank][0] == 1 and seconds < 15
        out = ended[1 - rank][1]
        assert re.search(rf'process {rank} on \S+ \(pid \d+\) failed:', out), out[-3000:]
        assert 'ValueError: injected' in out and out.count('Traceback') == 1


@pytest.mark.parametrize('phase', ['compile:1', 'restore:1', 'step:7', 'evaluation:2', 'save:2', 'data:5'])
def test_a_stuck_process_ends_all_within_the_timeout(tmp_path, tally, phase):
    name = phase.split(':')[0]
    with tally('one of two processes asleep', 'rank, host, step, phase and stacks are shown, both end') as note:
        began = time.monotonic()
        ended, _ = harmed(tmp_path, f'{phase}:sleep:0:1', f'--phase_timeouts={name}:25', '--heartbeat=60')
        note(exits=[code for code, _ in ended])
        out = ended[1][1]
        assert [code for code, _ in ended] == [1, 1], '\n---\n'.join(o[-2500:] for _, o in ended)
        assert time.monotonic() - began < 25 + 60
        assert re.search(rf"process 1 on \S+ \(pid \d+\) is stuck: step \d+, '{name}' for 2[5-9] s", out), out[-2500:]
        assert 'in asleep' in out and 'most recent call first' in out


def test_a_process_that_waits_is_not_called_stuck(tmp_path, tally):
    """Process 0 waits in its second step, which may take a few seconds, for process 1, which may compile for longer."""
    with tally('one of two processes asleep', 'rank, host, step, phase and stacks are shown, both end') as note:
        ended, _ = harmed(tmp_path, 'compile:1:sleep:0:1', '--phase_timeouts=step:6,compile:22', '--heartbeat=60')
        note(exits=[code for code, _ in ended])
        assert [code for code, _ in ended] == [1, 1], '\n---\n'.join(out[-2500:] for _, out in ended)
        for _, out in ended:
            assert re.search(r"process 1 on \S+ \(pid \d+\) is stuck: step 0, 'compile' for 2[2-9] s", out), out[-2500:]
            assert not re.search(r'process 0 on .* is stuck', out)
        assert "this process ends with it (step 2, 'step' for" in ended[0][1]


def test_a_process_that_never_comes_to_the_end_is_missed(tmp_path, tally):
    """Process 0 has printed its table and waits for process 1, which is to leave with it."""
    with tally('one of two processes asleep', 'rank, host, step, phase and stacks are shown, both end') as note:
        ended, _ = harmed(tmp_path, 'report:1:sleep:0:1', '--phase_timeouts=report:10', '--heartbeat=60')
        note(exits=[code for code, _ in ended])
        assert [code for code, _ in ended] == [1, 1], '\n---\n'.join(out[-2500:] for _, out in ended)
        assert all("is stuck: step 24, 'report' for 1" in out and 'in asleep' in ended[1][1] for _, out in ended)
        assert not re.search(r'process 0 on .* is stuck', ended[0][1])


def test_what_is_not_finite_on_one_process_stops_both_at_that_step(tmp_path, tally):
    """Example 78 is of the second half of step 9's batch (eight a step, in the order of the data): process 1 alone sees it."""
    with tally('a number that is not finite in one of two processes', 'both stop at that step, which is not applied') as note:
        ended = runs.end(runs.start(KIND, tmp_path / 'run', processes=2, nan=78))
        note(exits=[code for code, _ in ended])
        look_not_finite(tmp_path, ended)


def look_not_finite(tmp_path, ended):
    assert [code for code, _ in ended] == [3, 3], '\n---\n'.join(out[-2500:] for _, out in ended)
    assert all('not finite at step 9; the step was not applied' in out for _, out in ended)
    kept = tmp_path / 'run' / 'nonfinite'
    assert json.loads((kept / 'info.json').read_text())['step'] == 9
    broke = json.loads((tmp_path / 'run' / 'metrics.jsonl').read_text().splitlines()[-1])
    assert broke['step'] == 10 and broke['train/loss'] is None and (tmp_path / 'run' / 'report.html').exists()
    runs.end(runs.start(KIND, tmp_path / 'straight', '--config.steps=9', processes=2))
    before = manager.arrays(manager.newest(tmp_path / 'straight'))
    state = manager.arrays(kept / 'state')
    params = [name for name in state if name.startswith('params/')]
    assert params and int(state['step']) == 9
    for name in params:
        assert np.array_equal(state[name], before[f'state/{name}']), name
    code, out = runs.run(KIND, tmp_path / 'unused', f'--replay={kept}')
    assert code == 0 and re.search(r'step 9: the first thing that is not finite is .*x', out), out[-2000:]
