"""A thread that watches its process while the main thread computes: signals, phases that do not end, other processes.

* SIGTERM or Ctrl-C, to any process of a job: the loop saves after the current step and the process exits 75. Before the first
  step there is nothing to save. Where no step ends in time, the last checkpoint remains. The process always ends within the
  grace. A second Ctrl-C stops all processes immediately.
* A phase that lasts longer than its timeout (`bigjax.watchdog.phases`): the stacks of all threads are printed, all end.
* A process that died, failed or is stuck: the others report it and end.
"""
import contextlib
import faulthandler
import math
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from multiprocessing.connection import wait  # not `select`, which refuses the numbers of files above 1,023

import jax

from bigjax.distributed.peers import Message, PeerLinks
from bigjax.errors import FAILED, PREEMPTED, USER, Preempted, UserError
from bigjax.watchdog.agreement import EndBarrier, StopAgreement
from bigjax.watchdog.exits import PEER_EXIT_S, Exit, log, log_stacks, silence
from bigjax.watchdog.phases import Clock
from bigjax.watchdog.signals import Signals
from bigjax.watchdog.timeouts import PhaseTimeout, PhaseTimer

INTERRUPTED = 130  # exit code after a second Ctrl-C
GRACE_S = 30.0
EXIT_MARGIN_S = 5.0  # part of the grace, at most a quarter, that is kept for the exit itself
TICK_S = 0.2  # time between two looks at the clock
CAUSE_WAIT_S = 3.0  # a collective breaks before the watchdog's thread has read who died; the cause is known after so long
HURRIED_EXIT_S = 1.0  # time for the exit after a second Ctrl-C
BEFORE_STEPS = ('start', 'compile', 'restore', 'data')  # phases in which nothing is unsaved yet


class Guard:
    """Watches while it is entered; one that is not entered only keeps the time.

    Args:
      grace: seconds after a signal in which the process must have ended.
      timeouts: {phase: seconds}.
      peers: the links to the other processes, where there are any.
      name: the name of this process in messages: 'process 1 on node2 (pid 77)'.
      explain: an exception as one line for the other processes, '' where its traceback is better.
      began: the start of the time that is kept (`time.monotonic`), by default now.

    Attributes:
      clock: the clock of the current run; replaced for each.
      asked: the name of the signal that requested a stop, or ''.
      unsaved: steps were done whose state is on no disk; set by the loop.
      last_words: called with the exception that describes why the process ends.
    """

    def __init__(self, *, grace: float = GRACE_S, timeouts: Mapping[str, float] | None = None, peers: PeerLinks | None = None,
                 name: str = '', explain: Callable[[BaseException], str] = lambda error: '', began: float | None = None):
        self.clock, self.asked, self.unsaved = Clock(began=began), '', False
        self._grace, self._peers, self._name, self._explain = grace, peers, name, explain
        self.last_words: Callable[[BaseException], None] = silence
        self._deadline, self._interrupts = math.inf, 0
        self._timer = PhaseTimer(timeouts or {}, peers, lambda: self.clock)
        self._exit = Exit(peers, self._read_signals, lambda error: self.last_words(error))
        self._signals = self._thread = self._agreement = self._barrier = None
        if peers:
            self._agreement, self._barrier = (kind(peers.ranks, peers.send) for kind in (StopAgreement, EndBarrier))

    def __enter__(self):
        self._signals = Signals()
        self._signals.install()
        self._thread = threading.Thread(target=self._watch, name='guard', daemon=True)
        self._thread.start()
        return self

    def interruptible(self):
        """Context manager in which a signal interrupts the main thread: see `Signals.interruptible`."""
        return self._signals.interruptible() if self._signals else contextlib.nullcontext()

    def stop_agreed(self) -> bool:
        """Whether the loop stops at this point; all processes of a job get the same answer, and must call it equally often."""
        if self._agreement:
            return self._agreement.poll()
        return bool(self.asked) and jax.process_count() == 1  # without links one process of several cannot stop alone

    def wait_for_all(self) -> None:
        """Returns when every process of the job has come here; all work is done and recorded."""
        if self._barrier:
            self.last_words, self._timer.ending = silence, True
            self.clock.enter('report')
            self._barrier.wait()

    def __exit__(self, kind, error, _):
        failed = error is not None and not getattr(error, 'shared', False)
        if failed:
            self._failed(error)
        self._exit.cancelled = True
        self._signals.wake_up()
        self._thread.join()
        faulthandler.cancel_dump_traceback_later()
        self._signals.remove()
        if self._peers:
            self._peers.end(PEER_EXIT_S) if failed else self._peers.close()

    def _failed(self, error: BaseException) -> None:
        """Reports the exception that is about to end this process to the others. Where one of them is dead, which breaks the
        collectives of all, the watchdog's thread learns of it meanwhile and ends this process: this does not return."""
        if self._peers is None:
            return
        if isinstance(error, UserError):
            self._peers.send('refused', str(error))
            return
        if type(error).__name__ == 'JaxRuntimeError':
            time.sleep(CAUSE_WAIT_S)
            if self.asked:
                why = ' '.join(str(error).split())[:300]
                self._exit.leave(PREEMPTED, f'{self.asked}: the other processes have left ({why}); the last checkpoint is as '
                                 'it was, run the same command again', Preempted(self.asked))
        self._peers.send('failed', self._explain(error) or ''.join(traceback.format_exception(error)))

    def _watch(self) -> None:
        while not self._exit.cancelled:
            leaves = self._exit.leaving  # the main thread does, and only it reads the links then
            sockets = self._peers.sockets() if self._peers and not leaves else []
            for connection in wait([self._signals.wake, *sockets], TICK_S):
                if connection is self._signals.wake:
                    self._read_signals()
                else:
                    for message in self._peers.read(connection):
                        self._handle(message)
            if not (self._exit.cancelled or leaves):
                self._check()

    def _read_signals(self) -> None:
        """Handles signals, also while the process leaves. Other threads have no part in it: two would divide the signals."""
        if threading.current_thread() is self._thread:
            for number in self._signals.arrived():
                self._interrupts += number == signal.SIGINT
                self._signalled(signal.Signals(number).name)

    def _signalled(self, name: str) -> None:
        if self._interrupts > 1:
            if self._exit.leaving:
                os._exit(INTERRUPTED)
            if self._peers:
                self._peers.send('stop')
            self._stop_now('')
        if not (self.asked or self._exit.leaving):
            if self._peers:
                self._peers.send('notice', name)  # before the proposal, so that the others can name the signal
            self._request_stop(name)

    def _stop_now(self, sender: str) -> None:
        """Ends the process at once, after a second Ctrl-C to it or to another one."""
        self._exit.leave(INTERRUPTED, f'{sender}Ctrl-C again: stopping at once; what is saved stays', KeyboardInterrupt(),
                         HURRIED_EXIT_S)

    def _request_stop(self, name: str) -> None:
        """Starts the grace, and the agreement on the step to stop after."""
        self._deadline = time.monotonic() + self._grace
        self._exit.deadline = self._deadline - TICK_S
        log(f'{name}: saving after this step (within {self._grace:.0f} s); Ctrl-C twice stops at once')
        self.asked = name
        if self._agreement:
            self._agreement.request()

    def _handle(self, message: Message) -> None:
        kind, text, sender = message
        if kind == 'notice':
            if not self.asked:
                self._request_stop(text)
        elif kind in ('propose', 'polls', 'stop_at'):
            self._agreement.handle(kind, text, sender)
        elif kind in ('arrived', 'all_arrived'):
            self._barrier.handle(kind, sender)
        elif kind in ('where', 'at'):
            self._timer.handle(kind)
        elif kind == 'dead' and self.asked:
            log(f'{text}; this process was asked to stop and still tries to save')
        elif kind in ('dead', 'stuck'):
            if kind == 'stuck':
                log_stacks()
            self._exit.leave(FAILED, f'{text}; this process ends with it ({self.clock.place()})', PhaseTimeout(text))
        elif kind == 'refused':
            self._exit.leave(USER, f'{sender}: {text}', UserError(text, code='watchdog/refused'))
        elif kind == 'failed':
            self._exit.leave(FAILED, f'{sender} failed:\n{text}', RuntimeError(f'{sender} failed'))
        elif kind == 'stop':
            self._stop_now(f'{sender}: ')

    def _check(self) -> None:
        """Ends the process where the grace or a phase is over."""
        now = self.clock.now
        self._timer.arm()
        if self.asked and not self.unsaved and now.phase in BEFORE_STEPS:
            self._exit.leave(PREEMPTED, f'{self.asked} before the first step of this start: there is nothing to save; run the '
                             'same command again', Preempted(self.asked))
        if self.asked and time.monotonic() > self._deadline - min(EXIT_MARGIN_S, self._grace / 4):
            why = f'nothing could be saved within {self._grace:.0f} s ({self.clock.place()})'
            self._exit.leave(PREEMPTED, f'{self.asked}: {why}; the last checkpoint is as it was, run the same command again',
                             Preempted(f'{self.asked}; {why}'))
        if what := self._timer.overdue():
            text = f"{self._name or 'this process'} is {what}"
            log(text)
            if self._peers:
                self._peers.send('stuck', text)
            log_stacks()
            self._exit.leave(FAILED, '', PhaseTimeout(text))
