"""A thread that watches over its process while the main thread computes: signals, phases that do not end, other processes.

Python runs a signal's handler only between two instructions of the main thread, which may be minutes inside the compiler or a
collective; the thread is woken by the system at once. It never computes, and waits for nobody.

* SIGTERM or Ctrl-C, to any process of a job: the loop saves after the step that is under way and the process exits 75. Before
  the first step there is nothing to save. Where no step ends within the grace, the last checkpoint stands. A second Ctrl-C
  stops at once.
* A phase that lasts longer than its budget (`bigjax.train.phases`): the stacks of all threads are printed, all processes end.
* A process that died, failed or is stuck: the others say so and end.
"""
import contextlib
import ctypes
import faulthandler
import os
import select
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping

from bigjax import UserError
from bigjax.parallel.lifeline import Lifeline, Message
from bigjax.train.phases import Clock

PREEMPTED, FAILED, USER, INTERRUPTED = 75, 1, 2, 130
GRACE = 30.0
TICK = 0.2  # seconds between two looks at the clock
PATIENCE = 3.0  # seconds in which the cause of a broken collective becomes known
LAST_WORDS = 12.0  # seconds that the last words may take; a disk that answers nobody may be why the process ends
FAREWELL = 5.0  # seconds that process 0 waits for the others' end
MODESTY = 5.0  # seconds by which a process that waits for others in a library calls itself stuck later than they do
LIBRARIES = ('jax', 'jaxlib', 'orbax', 'grain')


class Preempted(Exception):
    """The run was asked to stop (SIGTERM, Ctrl-C), has saved its state, and goes on when it is started again."""

    shared = True  # all processes of a run leave after the same step


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

    Attributes:
      clock: of the run that is going on; replaced for each.
      asked: the name of the signal that asked to stop, or ''.
      unsaved: steps were done whose state is on no disk; set by the loop.
      last_words: called with the exception that describes why the process ends here.
    """

    def __init__(self, *, grace: float = GRACE, budgets: Mapping[str, float] | None = None, lifeline: Lifeline | None = None,
                 name: str = '', explain: Callable[[BaseException], str] = lambda error: ''):
        self.clock, self.asked, self.unsaved = Clock(), '', False
        self.last_words: Callable[[BaseException], None] = lambda error: None
        self._grace, self._budgets, self._lifeline, self._name = grace, dict(budgets or {}), lifeline, name
        self._explain = explain
        self._until, self._interrupts, self._thread, self._forward = None, 0, None, None
        self._ended = False

    def __enter__(self):
        self._wake, self._woken = socket.socketpair()
        self._woken.setblocking(False)
        if threading.current_thread() is threading.main_thread():
            self._forward = _system_handler(signal.SIGTERM) if self._lifeline else None
            self._handlers = {s: signal.signal(s, _nothing) for s in (signal.SIGTERM, signal.SIGINT)}
            self._before = signal.set_wakeup_fd(self._woken.fileno(), warn_on_full_buffer=False)
        else:
            self._handlers = {}
        self._thread = threading.Thread(target=self._watch, name='guard', daemon=True)
        self._thread.start()
        return self

    def __exit__(self, kind, error, _):
        failed = error is not None and not getattr(error, 'shared', False)
        if failed:
            self._failed(error)
        self._ended = True
        with contextlib.suppress(OSError):
            self._woken.send(b'\0')
        self._thread.join()
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
            self._leave(PREEMPTED, f'{self.asked}: the other processes have left; run the same command again',
                        Preempted(self.asked))
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
        self._interrupts += number == signal.SIGINT
        if self._interrupts > 1:
            self._leave(INTERRUPTED, 'Ctrl-C again: stopping at once; what is saved stays', KeyboardInterrupt())
        if self.asked:
            return
        name = signal.Signals(number).name
        self._ask(name)
        if self._lifeline:
            self._lifeline.tell('notice', name)
        if self._forward:
            self._forward(signal.SIGTERM)  # JAX tells the other processes, and all agree on a step

    def _ask(self, name: str) -> None:
        self._until = time.monotonic() + self._grace
        self._say(f'{name}: saving after this step (within {self._grace:.0f} s); Ctrl-C twice stops at once')
        self.asked = name

    def _heard(self, message: Message) -> None:
        if message.kind == 'notice':
            if not self.asked:
                self._ask(message.text)
        elif message.kind == 'dead' and self.asked:
            pass  # it was asked to stop, and may have been killed on the way; the grace is running
        elif message.kind in ('dead', 'stuck'):
            if message.kind == 'stuck':
                self._stacks()
            self._leave(FAILED, f'{message.text}; this process ends with it', Stuck(message.text))
        elif message.kind == 'refused':
            self._leave(USER, f'{message.sender}: {message.text}', UserError(message.text))
        elif message.kind == 'failed':
            self._leave(FAILED, f'{message.sender} failed:\n{message.text}', RuntimeError(f'{message.sender} failed'))

    def _look(self) -> None:
        now, at = self.clock.now, time.monotonic()
        if self.asked and not self.unsaved and now.phase in ('start', 'compile', 'restore', 'data'):
            self._leave(PREEMPTED, f'{self.asked} before the first step of this start: there is nothing to save; run the same '
                        'command again', Preempted(self.asked))
        if self._until and at > self._until:
            why = f"no step ended within {self._grace:.0f} s ('{now.phase}' at step {now.step:,} for {at - now.since:.0f} s)"
            self._leave(PREEMPTED, f'{self.asked}: {why}; the last checkpoint is as it was, run the same command again',
                        Preempted(f'{self.asked}; {why}'))
        budget = self._budgets.get(now.phase)
        if budget and at - now.since > budget and (self._lifeline is None or at - now.since > budget + MODESTY * _waits()):
            text = (f"{self._name or 'this process'} is stuck: step {now.step:,}, '{now.phase}' for {at - now.since:.0f} s, "
                    f'which may take {budget:.0f} s (--budgets={now.phase}:SECONDS)')
            self._say(text)
            if self._lifeline:
                self._lifeline.tell('stuck', text)
            self._stacks()
            self._leave(FAILED, '', Stuck(text))

    def _stacks(self) -> None:
        self._say('the stacks of all threads:')
        with contextlib.suppress(OSError, ValueError):
            faulthandler.dump_traceback(sys.__stderr__)

    def _say(self, text: str) -> None:
        with contextlib.suppress(OSError, ValueError):
            print(text, file=sys.stderr, flush=True)

    def _leave(self, code: int, text: str, error: BaseException) -> None:
        """Ends the process from here; the main thread is not asked."""
        if self._ended:
            return
        if text:
            self._say(text)
        words = threading.Thread(target=self._speak, args=(error,), name='last words', daemon=True)
        words.start()
        words.join(LAST_WORDS)
        if self._lifeline:
            self._lifeline.end(FAREWELL)
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
        os._exit(code)

    def _speak(self, error: BaseException) -> None:
        with contextlib.suppress(Exception):
            self.last_words(error)


def _nothing(number, frame) -> None:
    """Python must have a handler, else the system's own would end the process; the thread is woken by the number itself."""


def _waits() -> bool:
    """Whether the main thread is inside a library, where a process is that waits for the others."""
    frame = sys._current_frames().get(threading.main_thread().ident)
    return frame is not None and any(f'/{name}/' in frame.f_code.co_filename for name in LIBRARIES)


def _system_handler(number: int) -> Callable[[int], None] | None:
    """A handler that a library has set without Python's knowledge (JAX's for SIGTERM), to be called from Python."""
    libc = ctypes.CDLL(None)
    libc.signal.restype, libc.signal.argtypes = ctypes.c_void_p, (ctypes.c_int, ctypes.c_void_p)
    if signal.getsignal(number) is None or callable(signal.getsignal(number)):
        return None
    pointer = libc.signal(number, None)
    return ctypes.CFUNCTYPE(None, ctypes.c_int)(pointer) if pointer and pointer not in (1, ctypes.c_void_p(-1).value) else None
