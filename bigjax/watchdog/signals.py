"""SIGTERM and Ctrl-C: they wake the watchdog's thread at once, and interrupt the main thread only where its state is whole.

Python runs a signal's handler between two instructions of the main thread, which may be minutes inside the compiler or a
collective. So the number of the signal goes to a socket that the watchdog's thread waits for, and the handler itself does no
more than interrupt a wait for data.
"""
import contextlib
import math
import signal
import socket
import threading
import time

NUMBERS = (signal.SIGTERM, signal.SIGINT)
SAME_INTERRUPT_S = 0.5  # two Ctrl-C within this are one: a terminal sends it to all processes, and a wrapper passes its own on


class InterruptedBeforeStart(BaseException):
    """A signal came before there was a run to save. Not an Exception: libraries must not handle it as an error."""


class StopRequested(BaseException):
    """A signal interrupted the main thread while it waited for data; the train state is consistent."""


@contextlib.contextmanager
def interruptible_start():
    """Until a guard is entered, SIGTERM and Ctrl-C raise `InterruptedBeforeStart` in the main thread."""
    def stop(number, frame):
        raise InterruptedBeforeStart(f'{signal.Signals(number).name} before the start: there is nothing to save; run the same '
                                     'command again')

    before = {number: signal.signal(number, stop) for number in NUMBERS}
    try:
        yield
    finally:
        _restore(before)


def _restore(handlers: dict) -> None:
    for number, handler in handlers.items():
        signal.signal(number, handler if handler is not None else signal.SIG_DFL)


class Signals:
    """The handlers of a guarded process, from `install` to `remove`.

    Attributes:
      wake: a socket that becomes readable when a signal arrives, or after `wake_up`.
    """

    def __init__(self):
        self.wake, self._write = socket.socketpair()
        self.wake.setblocking(False)
        self._write.setblocking(False)
        self._handlers, self._count, self._may_raise = {}, 0, False
        self._interrupted = -math.inf

    def install(self) -> None:
        """Takes over both signals. A thread other than the main one cannot, and has no signals then."""
        if threading.current_thread() is threading.main_thread():
            self._handlers = {number: signal.signal(number, self._handle) for number in NUMBERS}
            self._before = signal.set_wakeup_fd(self._write.fileno(), warn_on_full_buffer=False)

    def remove(self) -> None:
        """Gives the signals back."""
        if self._handlers:
            signal.set_wakeup_fd(self._before)
            _restore(self._handlers)
        self.wake.close()
        self._write.close()

    def wake_up(self) -> None:
        """Makes `wake` readable."""
        with contextlib.suppress(OSError):
            self._write.send(b'\0')

    def arrived(self) -> list[int]:
        """The numbers of the signals since the last call."""
        try:
            numbers, found = self.wake.recv(64), []
        except BlockingIOError:
            return []
        for number in filter(NUMBERS.__contains__, numbers):
            if number == signal.SIGINT:
                if time.monotonic() < self._interrupted + SAME_INTERRUPT_S:
                    continue
                self._interrupted = time.monotonic()
            found.append(number)
        return found

    def _handle(self, number, frame) -> None:
        """A Python handler must exist, or the system's own would end the process."""
        self._count += 1
        if self._may_raise:
            self._may_raise = False  # once: the save that follows must not be interrupted
            raise StopRequested

    @contextlib.contextmanager
    def interruptible(self):
        """Context manager in which SIGTERM and SIGINT interrupt the main thread.

        Use it only between steps, when the train state is consistent.

        Raises:
          StopRequested: a signal came, now or before.
        """
        self._may_raise = True
        try:
            if self._count:
                raise StopRequested
            yield
        finally:
            self._may_raise = False
