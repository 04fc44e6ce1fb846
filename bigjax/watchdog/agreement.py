"""Decisions that all processes of a job make together over their peer links: the step to stop after, and the common end.

Every process polls for a stop at the same points of its loop, so the number of the poll is a clock that all share, though one
process may be some polls ahead of another. On a signal rank 0 proposes to stop; each process answers with the number of its
last poll and holds its next poll until the decision, which is the largest of these numbers plus one. Nobody has passed it, and
everybody reaches it.
"""
import threading
from collections.abc import Callable


class StopAgreement:
    """One process's part. `poll` is called by the main thread, everything else by the thread that reads the links.

    Args:
      ranks: the number of processes on rank 0; 0 on the others, which only answer.
      send: `send(kind, text)` to the other processes; rank 0 reaches all, the others reach rank 0.
    """

    def __init__(self, ranks: int, send: Callable[[str, str], None]):
        self._ranks, self._send = ranks, send
        self._changed = threading.Condition()
        self._polls, self._held, self._stop_at = 0, False, None
        self._answers: dict[str, int] = {}

    def poll(self) -> bool:
        """Whether all processes stop here; it blocks while a decision is being made."""
        with self._changed:
            while self._held and self._stop_at is None:
                self._changed.wait(0.1)  # with a timeout, so that handlers of signals can run
            self._polls += 1
            return self._stop_at is not None and self._polls >= self._stop_at

    def request(self) -> None:
        """A process was asked to stop: rank 0 starts the decision, once."""
        if not self._ranks or self._held:
            return
        polls = self._hold()
        self._send('propose', '')
        self._answer('0', polls)

    def handle(self, kind: str, text: str, sender: str) -> None:
        """Takes part in the decision by a message of kind 'propose', 'polls' or 'stop_at'."""
        if kind == 'propose':
            self._send('polls', str(self._hold()))
        elif kind == 'polls' and self._ranks and text.isdigit():
            self._answer(sender, int(text))
        elif kind == 'stop_at' and text.isdigit():
            self._decide(int(text))

    def _hold(self) -> int:
        with self._changed:
            self._held = True
            return self._polls

    def _answer(self, who: str, polls: int) -> None:
        self._answers[who] = polls
        if len(self._answers) == self._ranks and self._stop_at is None:
            stop_at = max(self._answers.values()) + 1
            self._send('stop_at', str(stop_at))
            self._decide(stop_at)

    def _decide(self, stop_at: int) -> None:
        with self._changed:
            self._held, self._stop_at = True, stop_at
            self._changed.notify_all()


class EndBarrier:
    """All processes have come to the end of the job when `wait` returns.

    Args:
      ranks, send: as `StopAgreement` has them.
    """

    def __init__(self, ranks: int, send: Callable[[str, str], None]):
        self._ranks, self._send = ranks, send
        self._arrived: set[str] = set()
        self._all, self._lock = threading.Event(), threading.Lock()

    def wait(self) -> None:
        """Blocks until every process waits here. Whoever watches the process ends it where one never comes."""
        if self._ranks:
            self._count('0')
        else:
            self._send('arrived', '')
        while not self._all.wait(0.1):  # with a timeout, so that handlers of signals can run
            pass

    def handle(self, kind: str, sender: str) -> None:
        """Counts a message of kind 'arrived' or 'all_arrived'."""
        if kind == 'arrived' and self._ranks:
            self._count(sender)
        elif kind == 'all_arrived':
            self._all.set()

    def _count(self, who: str) -> None:
        with self._lock:
            self._arrived.add(who)
            complete = len(self._arrived) == self._ranks
        if complete and not self._all.is_set():
            self._send('all_arrived', '')
            self._all.set()
