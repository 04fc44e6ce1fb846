"""The restart loop with an engine whose groups end as planned, and a clock of the test's own."""
import itertools
import signal
import types

import pytest

from launch import supervise
from launch.outcome import End
from launch.supervise import Limits, Supervisor
from tests.launch.tools import Clock


class Group:
    """Processes that end with (code, seconds after the start); code None: at SIGKILL, (code, None): at SIGTERM."""

    def __init__(self, clock, plan, hear):
        self.clock, self.plan, self.hear, self.began = clock, dict(enumerate(plan)), hear, clock.now
        self.sent, self.closed, self.stopped = [], False, False

    @property
    def running(self):
        return bool(self.plan)

    def wait(self, seconds):
        self.clock.now += seconds
        assert self.clock.now - self.began < 300, 'it is not ended'
        self.hear(self.clock.now - self.began)
        self.clock.now += 0.001  # no process ends at the moment of the signal
        numbers = [number for number, _ in self.sent]
        over = {p: -9 if code is None else code for p, (code, when) in self.plan.items()
                if (when is not None and self.clock.now - self.began >= when)
                or (when is None and (signal.SIGKILL if code is None else signal.SIGTERM) in numbers)
                or signal.SIGKILL in numbers}
        self.plan = {p: rest for p, rest in self.plan.items() if p not in over}
        return [End(p, code, self.clock.now) for p, code in over.items()]

    def signal(self, number):
        self.sent.append((number, self.clock.now - self.began))

    def tail(self, process):
        return [f'last of {process}']

    def close(self):
        self.closed = True


@pytest.fixture
def run(monkeypatch):
    """(result, groups, what was said, clock) of plans, the last one again and again."""
    def runner(*plans, hear=None, **limits):
        clock, groups, said = Clock(100.0), [], []
        monkeypatch.setattr(supervise, 'time', clock)
        rest = itertools.chain(plans, itertools.repeat(plans[-1]))

        def start():
            groups.append(Group(clock, next(rest), hear(supervisor) if hear else lambda now: None))
            return groups[-1]
        engine = types.SimpleNamespace(start=start, detached=False, restarts=False)
        supervisor = Supervisor(engine, Limits(**limits), said.append)
        result = supervisor.run()
        assert all(group.closed for group in groups) and signal.getsignal(signal.SIGINT) is signal.default_int_handler
        return result, groups, said, clock
    return runner


LATE = 20.0  # a group that ran so long did not fail at once


@pytest.mark.parametrize(('code', 'limits', 'starts'), [
    (0, {'restarts': 5}, 1), (2, {'restarts': 5}, 1), (3, {'restarts': 5}, 1), (4, {'restarts': 5}, 1),
    (1, {}, 1), (1, {'restarts': 2}, 3), (-9, {'restarts': 2}, 3), (75, {'preemptions': 2}, 3), (75, {}, 101),
    (75, {'preemptions': 0, 'restarts': 5}, 1), (1, {'restarts': 0, 'preemptions': 5}, 1),
])
def test_each_class_has_its_budget(run, code, limits, starts):
    result, groups, said, _ = run([(code, LATE), (0, LATE)], **limits)
    assert len(groups) == starts and result.code == (1 if code < 0 else code)
    assert (result.restarts, result.preemptions) == ((0, starts - 1) if code == 75 else (starts - 1, 0))
    assert bool(result.cause) == (code != 0) and ('  last of 0' in said) == (code not in (0, 75))


def test_failures_and_preemptions_are_counted_apart_until_it_is_done(run):
    bad, preempted = [(1, LATE)], [(75, LATE)]
    result, groups, _, _ = run(bad, preempted, bad, preempted, [(0, 1.0)], restarts=2, preemptions=2)
    assert (result.code, result.restarts, result.preemptions, len(groups), result.cause) == (0, 2, 2, 5, '')


def test_the_pause_doubles_up_to_a_minute(run):
    result, _, _, clock = run([(1, LATE)], restarts=8)
    assert clock.slept == pytest.approx(1 + 2 + 4 + 8 + 16 + 32 + 60 + 60, abs=0.1) and result.restarts == 8
    assert result.seconds == pytest.approx(clock.slept + 9 * LATE, abs=2)


@pytest.mark.parametrize(('plans', 'starts'), [
    ([[(1, 3.0)]], 3),
    ([[(1, 3.0)], [(1, 3.0)], [(1, LATE)], [(1, 3.0)]], 6),
    ([[(1, 3.0)], [(1, 3.0)], [(75, 3.0)], [(1, 3.0)]], 6),
])
def test_three_quick_failures_in_a_row_are_the_end(run, plans, starts):
    result, groups, said, _ = run(*plans, restarts=50)
    assert (len(groups), result.code) == (starts, 1) and '3 times in a row' in said[-1]


@pytest.mark.parametrize(('code', 'term'), [(1, 1.0), (2, 1.0), (-9, 1.0), (3, 6.0), (4, 6.0), (75, 6.0)])
def test_the_others_get_sigterm_then_sigkill(run, code, term):
    result, groups, _, _ = run([(0, 0.5), (code, 1.0), (0, None), (None, None)], grace=7.0, preemptions=0)
    sent = groups[0].sent
    assert [number for number, _ in sent[:2]] == [signal.SIGTERM, signal.SIGKILL] and result.cause.startswith('process 1 ')
    assert sent[0][1] == pytest.approx(term, abs=0.3) and sent[1][1] == pytest.approx(term + 7.0 + 7.0 / 3, abs=0.3)
    assert signal.SIGTERM not in [number for number, _ in sent[1:]]


def test_an_exit_of_all_together_needs_no_signal(run):
    result, groups, _, _ = run([(75, 1.0), (75, 3.0)], preemptions=0)
    assert result.code == 75 and not groups[0].sent


def interrupts(*times):
    """SIGINT to the launcher, so many seconds after the start of each group."""
    def hear(supervisor):
        left = list(times)

        def at(now):
            while left and now >= left[0]:
                left.pop(0)
                signal.raise_signal(signal.SIGINT)
        return at
    return hear


@pytest.mark.parametrize(('plan', 'times', 'code', 'seconds', 'sent'), [
    ([(75, None), (75, None)], [2.0], 75, 2.0, [signal.SIGTERM]),
    ([(0, None), (0, None)], [2.0], 0, 2.0, [signal.SIGTERM]),
    ([(-15, None), (75, None)], [2.0], 75, 2.0, [signal.SIGTERM]),
    ([(None, None), (-15, None)], [2.0], 1, 9.0 + 7.0 / 3, [signal.SIGTERM, signal.SIGKILL]),
    ([(None, None), (None, None)], [2.0, 3.0], 1, 3.0, [signal.SIGTERM, signal.SIGKILL]),
    ([(1, 1.0), (None, None)], [2.0, 3.0], 1, 3.0, [signal.SIGTERM, signal.SIGKILL]),
])
def test_a_signal_to_the_launcher_goes_on_and_ends_it(run, plan, times, code, seconds, sent):
    result, groups, _, clock = run(plan, hear=interrupts(*times), restarts=5, grace=7.0)
    assert len(groups) == 1 and result.code == code and clock.slept == 0
    assert list(dict.fromkeys(number for number, _ in groups[0].sent)) == sent
    assert [number for number, _ in groups[0].sent].count(signal.SIGTERM) == 1
    assert result.seconds == pytest.approx(seconds, abs=0.4)


def test_a_process_that_uses_up_its_grace_keeps_its_exit_code(run):
    """The launcher's grace and a run's are both 30 s by default, and the launcher's begins earlier."""
    result, groups, _, _ = run([(75, 32.5), (75, 32.5)], hear=interrupts(2.0))
    assert result.code == 75 and [number for number, _ in groups[0].sent] == [signal.SIGTERM]


def test_a_signal_ends_the_pause(run, monkeypatch):
    interrupted = lambda clock, seconds: signal.raise_signal(signal.SIGTERM)
    monkeypatch.setattr(Clock, 'sleep', interrupted)
    result, groups, _, _ = run([(1, LATE)], restarts=5)
    assert len(groups) == 1 and (result.code, result.restarts) == (1, 0)


def test_a_signal_that_is_ignored_stays_so(run, monkeypatch):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        result, groups, _, _ = run([(0, 1.0)], hear=lambda supervisor: lambda now: signal.raise_signal(signal.SIGHUP))
        assert result.code == 0 and not groups[0].sent
    finally:
        signal.signal(signal.SIGHUP, before)


def test_nothing_is_left_where_the_launcher_itself_fails(run, monkeypatch):
    closed = []
    monkeypatch.setattr(Group, 'wait', lambda group, seconds: 1 / 0)
    monkeypatch.setattr(Group, 'close', lambda group: closed.append(group))
    with pytest.raises(ZeroDivisionError):
        run([(0, 1.0)])
    assert len(closed) == 1


@pytest.mark.parametrize('stopped', [False, True])
def test_a_detached_group_is_left_alone(monkeypatch, stopped):
    """Ctrl-C ends the loop and not the group; one that somebody else stopped is not started again."""
    clock, groups, said = Clock(100.0), [], []
    monkeypatch.setattr(supervise, 'time', clock)

    def start():
        groups.append(Group(clock, [(75 if stopped else 0, LATE)], lambda now: supervisor._signalled(2, None)
                            if now > 5 and not stopped else None))
        groups[-1].stopped = stopped
        return groups[-1]
    supervisor = Supervisor(types.SimpleNamespace(start=start, detached=True, restarts=False), Limits(), said.append)
    result = supervisor.run()
    assert len(groups) == 1 and groups[0].closed and not groups[0].sent
    assert (result.code, result.preemptions) == ((75, 0) if stopped else (130, 0))
    assert ('stopped by another command' in result.cause) == stopped


def test_ctrl_c_before_a_detached_group_has_started_reaches_the_engine(monkeypatch):
    def start():
        supervisor._signalled(signal.SIGINT, None)
    supervisor = Supervisor(types.SimpleNamespace(start=start, detached=True, restarts=False), Limits(), print)
    with pytest.raises(KeyboardInterrupt):
        supervisor.run()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_of_an_array_the_others_go_on(run):
    result, groups, _, _ = run([(1, 2.0), (0, LATE)], alone=True)
    assert result.code == 1 and not groups[0].sent and result.seconds > LATE - 1


@pytest.mark.parametrize(('code', 'starts'), [(0, 1), (1, 1), (75, 1)])
def test_an_engine_that_restarts_by_itself_is_started_once(monkeypatch, code, starts):
    clock, groups = Clock(100.0), []
    monkeypatch.setattr(supervise, 'time', clock)

    def start():
        groups.append(Group(clock, [(code, LATE)], lambda now: None))
        return groups[-1]
    result = Supervisor(types.SimpleNamespace(start=start, detached=True, restarts=True), Limits(9, 9), print).run()
    assert (result.code, len(groups)) == (code, starts)


def test_a_lost_machine_is_a_preemption(run):
    result, groups, _, _ = run([(1000, LATE), (1, LATE)], [(0, 1.0)])
    assert (result.code, result.preemptions, result.restarts, len(groups)) == (0, 1, 0, 2)
