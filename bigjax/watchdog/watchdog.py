"""A thread that watches over its process while the main thread computes: signals, phases that do not end, other processes.

Python runs a signal's handler only between two instructions of the main thread, which may be minutes inside the compiler or a
collective; the thread is woken by the system at once. It never computes, and waits for nobody.

* SIGTERM or Ctrl-C, to any process of a job: the loop saves after the step that is under way and the process exits 75. Before
  the first step there is nothing to save. Where no step ends in time, the last checkpoint stands. Whatever happens, the process
  has ended within the grace. A second Ctrl-C stops all processes at once.
* A phase that lasts longer than its budget (`bigjax.watchdog.phases`): the stacks of all threads are printed, all end.
  A process that may only be waiting asks the others first, and holds back while one of them has work to do.
* A process that died, failed or is stuck: the others say so and end.
"""
import contextlib
import ctypes
import faulthandler
import json
import math
import os
import select
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping

from bigjax.distributed.peers import Lifeline, Message
from bigjax.errors import Preempted, UserError
from bigjax.watchdog.phases import Clock

PREEMPTED, FAILED, USER, INTERRUPTED = 75, 1, 2, 130
GRACE = 30.0
MARGIN = 5.0  # seconds of the grace, at most a quarter of it, that are kept for the end itself
TICK = 0.2  # seconds between two looks at the clock
PATIENCE = 3.0  # seconds in which the cause of a broken collective becomes known
LAST_WORDS = 12.0  # seconds that the last words may take; a disk that answers nobody may be why the process ends
FAREWELL = 5.0  # seconds that process 0 waits for the others' end
AT_ONCE = 1.0  # seconds for both, after a second Ctrl-C
TWICE = 0.5  # seconds in which two Ctrl-C are one: a terminal sends it to all, and a wrapper passes its own on
MODESTY = 5.0  # seconds by which a process that waits for others in a library calls itself stuck later than they do
ASKING = 1.0  # seconds between two questions where the others are
EXCUSE = 3.0  # seconds for which an answer is good
A_WEEK = 7 * 24 * 3600 * 1000  # milliseconds; the budget ends it before
SLACK = 60.0  # seconds beyond a budget after which the process ends even though this thread cannot run
LIBRARIES = ('jax', 'jaxlib', 'orbax', 'grain', 'bigjax.sharding', 'bigjax.distributed')
# NumPy blocks on a device below frames of these modules and has no frame of its own.
DEVICE = tuple(f'bigjax.train.{name}' for name in (
    'loop', 'evaluate', 'evaluations', 'interval_log', 'diagnostics', 'best', 'in_flight', 'stuck_params'))
OWN_WORK = ('compile', 'data')  # phases in which a process that is inside a library works, and waits for nobody


class Unstarted(BaseException):
    """The process was asked to stop before there was anything to watch over; no library may take it for an error."""


class Asked(BaseException):
    """The run was asked to stop while the main thread waited for data, which it does no longer; its state is whole."""


class Stuck(Exception):
    """A phase did not end within its budget."""


class Guard:
    """Watches while it is entered; one that is not entered only keeps the time.

    Args:
      grace: seconds after a signal in which the process must have ended.
      budgets: {phase: seconds}.
      lifeline: to the other processes, where there are any.
      name: of this process, for messages: 'process 1 on node2 (pid 77)'.
      explain: an exception in a line for the other processes, '' where its traceback says more.
      began: since when the time is kept (`time.monotonic`), by default from now on.

    Attributes:
      clock: of the run that is going on; replaced for each.
      asked: the name of the signal that asked to stop, or ''.
      unsaved: steps were done whose state is on no disk; set by the loop.
      rounds: how often all processes have asked together whether to stop, in the life of the process (JAX counts so, too).
      last_words: called with the exception that describes why the process ends here.
    """

    def __init__(self, *, grace: float = GRACE, budgets: Mapping[str, float] | None = None, lifeline: Lifeline | None = None,
                 name: str = '', explain: Callable[[BaseException], str] = lambda error: '', began: float | None = None):
        self.clock, self.asked, self.unsaved = Clock(began=began), '', False
        self.rounds = 0
        self.last_words: Callable[[BaseException], None] = silence
        self._grace, self._budgets, self._lifeline, self._name = grace, dict(budgets or {}), lifeline, name
        self._explain = explain
        self._gone_by = math.inf  # when the grace is over
        self._interrupts, self._interrupted = 0, -math.inf
        self._signals, self._may_raise = 0, False
        self._inquired = self._excused = self._armed = -math.inf
        self._thread, self._forward = None, None
        self._ended, self._leaving, self._parting = False, False, False

    def __enter__(self):
        self._wake, self._woken = socket.socketpair()
        self._woken.setblocking(False)
        if threading.current_thread() is threading.main_thread():
            found = _installed(signal.SIGTERM) if self._lifeline else None
            self._handlers = {s: signal.signal(s, self._in_main) for s in (signal.SIGTERM, signal.SIGINT)}
            if found and found != _installed(signal.SIGTERM):
                self._forward = ctypes.CFUNCTYPE(None, ctypes.c_int)(found)
            self._before = signal.set_wakeup_fd(self._woken.fileno(), warn_on_full_buffer=False)
        else:
            self._handlers = {}
        self._thread = threading.Thread(target=self._watch, name='guard', daemon=True)
        self._thread.start()
        return self

    def _in_main(self, number, frame) -> None:
        """Python must have a handler, else the system's own would end the process; the thread is woken by the number itself."""
        self._signals += 1
        if self._may_raise:
            self._may_raise = False  # once: the save that follows is not to be disturbed
            raise Asked

    @contextlib.contextmanager
    def waiting(self):
        """In here the main thread may wait for data for ever, with a state that is whole: a signal ends that.

        Raises:
          Asked: it came, now or before.
        """
        self._may_raise = True
        try:
            if self._signals:
                raise Asked
            yield
        finally:
            self._may_raise = False

    def wait_for_all(self) -> None:
        """Returns when every process of the job has come here; all has been done and said."""
        from jax._src import distributed
        if client := distributed.global_state.client:
            self.last_words, self._parting = silence, True
            self.clock.enter('report')
            client.wait_at_barrier('bigjax ends', timeout_in_ms=A_WEEK)

    def __exit__(self, kind, error, _):
        failed = error is not None and not getattr(error, 'shared', False)
        if failed:
            self._failed(error)
        self._ended = True
        with contextlib.suppress(OSError):
            self._woken.send(b'\0')
        self._thread.join()
        faulthandler.cancel_dump_traceback_later()
        if self._handlers:
            signal.set_wakeup_fd(self._before)
            for number, handler in self._handlers.items():
                signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        if self._lifeline:
            self._lifeline.end(FAREWELL) if failed else self._lifeline.close()
        self._wake.close()
        self._woken.close()

    def _failed(self, error: BaseException) -> None:
        """An exception is about to end this process of several: the others are told, unless it is one of them that is dead,
        in which case this does not return."""
        if self._lifeline is None:
            return
        if isinstance(error, UserError):
            self._lifeline.tell('refused', str(error))
            return
        if type(error).__name__ == 'JaxRuntimeError':  # a collective breaks when a process dies: meanwhile the thread
            time.sleep(PATIENCE)  # learns who, and ends this one
            if self.asked:
                why = ' '.join(str(error).split())[:300]
                self._leave(PREEMPTED, f'{self.asked}: the other processes have left ({why}); the last checkpoint is as it '
                            'was, run the same command again', Preempted(self.asked))
        self._lifeline.tell('failed', self._explain(error) or ''.join(traceback.format_exception(error)))

    def _watch(self) -> None:
        while not self._ended:
            sockets = self._lifeline.sockets() if self._lifeline else []
            ready = select.select([self._wake, *sockets], [], [], TICK)[0]
            for connection in ready:
                if connection is self._wake:
                    for number in self._wake.recv(64):
                        self._signalled(number)
                else:
                    for message in self._lifeline.read(connection):
                        self._heard(message)
            if not self._ended:
                self._look()

    def _signalled(self, number: int) -> None:
        if number not in (signal.SIGTERM, signal.SIGINT):
            return
        if number == signal.SIGINT:
            if time.monotonic() < self._interrupted + TWICE:
                return
            self._interrupts, self._interrupted = self._interrupts + 1, time.monotonic()
        if self._interrupts > 1:
            self._stop()
        if self.asked or self._leaving:
            return
        name = signal.Signals(number).name
        self._ask(name)
        if self._lifeline:
            self._lifeline.tell('notice', name)
        if self._forward:
            self._forward(signal.SIGTERM)  # JAX tells the other processes, and all agree on a step

    def _stop(self) -> None:
        """Ctrl-C for the second time."""
        if self._leaving:
            os._exit(INTERRUPTED)
        if self._lifeline:
            self._lifeline.tell('stop')
        self._leave(INTERRUPTED, 'Ctrl-C again: stopping at once; what is saved stays', KeyboardInterrupt(), AT_ONCE)

    def _ask(self, name: str) -> None:
        self._gone_by = time.monotonic() + self._grace
        self._say(f'{name}: saving after this step (within {self._grace:.0f} s); Ctrl-C twice stops at once')
        self.asked = name

    def _heard(self, message: Message) -> None:
        if message.kind == 'notice':
            if not self.asked:
                self._ask(message.text)
        elif message.kind == 'where':
            self._inquired = time.monotonic()  # the answer goes to all
            self._answer()
        elif message.kind == 'at':
            self._excused = time.monotonic() + EXCUSE
        elif message.kind == 'dead' and self.asked:
            self._say(f'{message.text}; this process was asked to stop and still tries to save')
        elif message.kind in ('dead', 'stuck'):
            if message.kind == 'stuck':
                self._stacks()
            self._leave(FAILED, f'{message.text}; this process ends with it ({self._place()})', Stuck(message.text))
        elif message.kind == 'refused':
            self._leave(USER, f'{message.sender}: {message.text}', UserError(message.text))
        elif message.kind == 'failed':
            self._leave(FAILED, f'{message.sender} failed:\n{message.text}', RuntimeError(f'{message.sender} failed'))
        elif message.kind == 'stop':
            self._leave(INTERRUPTED, f'{message.sender}: Ctrl-C again: stopping at once; what is saved stays',
                        KeyboardInterrupt(), AT_ONCE)

    def _look(self) -> None:
        now, at = self.clock.now, time.monotonic()
        self._arm()
        if self.asked and not self.unsaved and now.phase in ('start', 'compile', 'restore', 'data'):
            self._leave(PREEMPTED, f'{self.asked} before the first step of this start: there is nothing to save; run the same '
                        'command again', Preempted(self.asked))
        if at > self._gone_by - min(MARGIN, self._grace / 4):
            why = f'nothing could be saved within {self._grace:.0f} s ({self._place()})'
            self._leave(PREEMPTED, f'{self.asked}: {why}; the last checkpoint is as it was, run the same command again',
                        Preempted(f'{self.asked}; {why}'))
        budget = self._budgets.get(now.phase)
        if budget and at - now.since > budget and self._to_blame(at - now.since - budget):
            text = (f"{self._name or 'this process'} is stuck: step {now.step:,}, '{now.phase}' for {at - now.since:.0f} s, "
                    f'which may take {budget:.0f} s (--budgets={now.phase}:SECONDS)')
            self._say(text)
            if self._lifeline:
                self._lifeline.tell('stuck', text)
            self._stacks()
            self._leave(FAILED, '', Stuck(text))

    def _place(self) -> str:
        now = self.clock.now
        return f"step {now.step:,}, '{now.phase}' for {time.monotonic() - now.since:.0f} s"

    def _to_blame(self, over: float) -> bool:
        """Whether it is this process that does not go on, `over` seconds beyond its budget, and none that it waits for."""
        if self._lifeline is None or not self._waits():
            return True
        at = time.monotonic()
        if at > self._inquired + ASKING:
            self._inquired = at
            self._lifeline.tell('where')
        return over > MODESTY and at > self._excused

    def _answer(self) -> None:
        """Tells where this process is, if others may have to wait for it: it does not wait itself, and has time left."""
        now = self.clock.now
        budget, lasts = self._budgets.get(now.phase, math.inf), time.monotonic() - now.since
        if lasts < budget and (now.phase in OWN_WORK or not self._waits()):
            self._lifeline.tell('at', json.dumps({'phase': now.phase, 'step': now.step, 'seconds': round(lasts)}))

    def _waits(self) -> bool:
        """Whether the main thread is inside a library or reads a device, where a process is that waits for the others."""
        frame = sys._current_frames().get(threading.main_thread().ident)
        places = [os.path.join(folder, '') for name in LIBRARIES for folder in getattr(sys.modules.get(name), '__path__', ())]
        places += [sys.modules[name].__file__ for name in DEVICE if name in sys.modules]
        return self._parting or (frame is not None and frame.f_code.co_filename.startswith(tuple(places)))

    def _arm(self) -> None:
        """Where the main thread holds Python's lock, no other thread of Python runs: one of the system's ends the process."""
        now, at = self.clock.now, time.monotonic()
        if at < self._armed + ASKING:
            return
        self._armed, budget = at, self._budgets.get(now.phase)
        with contextlib.suppress(OSError, ValueError, AttributeError, RuntimeError):  # there may be no stderr
            if budget:
                left = max(0.0, now.since + budget - at)
                faulthandler.dump_traceback_later(left + SLACK, exit=True, file=sys.__stderr__)
            else:
                faulthandler.cancel_dump_traceback_later()

    def _stacks(self) -> None:
        self._say('the stacks of all threads:')
        with contextlib.suppress(OSError, ValueError):
            faulthandler.dump_traceback(sys.__stderr__)

    def _say(self, text: str) -> None:
        with contextlib.suppress(OSError, ValueError):
            print(text, file=sys.stderr, flush=True)

    def _leave(self, code: int, text: str, error: BaseException, seconds: float = math.inf) -> None:
        """Ends the process from here, within `seconds` and the grace; the main thread is not asked."""
        if self._ended:
            return
        self._leaving = True
        if text:
            self._say(text)
        until = min(time.monotonic() + seconds, self._gone_by - TICK)
        self._wait(min(LAST_WORDS, 0.6 * (until - time.monotonic())), self._speak, error)
        if self._lifeline:
            left = min(FAREWELL, max(0.0, until - time.monotonic()))
            self._wait(left, self._lifeline.end, left)
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
        os._exit(code)

    def _wait(self, seconds: float, function, *args) -> None:
        """Until the function returns in a thread of its own; Ctrl-C is heard meanwhile."""
        thread, until = threading.Thread(target=function, args=args, daemon=True), time.monotonic() + seconds
        thread.start()
        while thread.is_alive() and time.monotonic() < until:
            thread.join(min(0.05, max(0.0, until - time.monotonic())))
            if threading.current_thread() is self._thread and select.select([self._wake], [], [], 0)[0]:
                for number in self._wake.recv(64):
                    self._signalled(number)

    def _speak(self, error: BaseException) -> None:
        with contextlib.suppress(Exception):
            self.last_words(error)


@contextlib.contextmanager
def preemptible():
    """Until a guard is entered, SIGTERM and Ctrl-C raise `Unstarted` in the main thread."""
    def stop(number, frame):
        raise Unstarted(f'{signal.Signals(number).name} before the start: there is nothing to save; run the same command again')

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)


def silence(error: BaseException) -> None:
    """No last words: there is nothing under way that could be told of."""


def _installed(number: int) -> int | None:
    """The address of the system's handler of a signal: Python's own, or one that a library has set without its knowledge (JAX's
    for SIGTERM). It is what `struct sigaction` begins with."""
    found = ctypes.create_string_buffer(1024)
    if ctypes.CDLL(None).sigaction(number, None, found):
        return None
    address = ctypes.c_void_p.from_buffer(found).value
    return address if address and address > 1 else None
