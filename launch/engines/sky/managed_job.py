"""A running managed job of SkyPilot: its merged output, its state in the queue, and its end."""
import pathlib
import re
import selectors
import signal
import time
from collections.abc import Sequence
from typing import Any

from launch import outcome
from launch.engines.sky import queue
from launch.engines.sky.queue import FINISHED, QUEUE, sky
from launch.lines import Lines, Sink, log, log_file
from launch.outcome import End
from launch.piped import Piped
from launch.steps import Failed

POLL_S = 15.0  # between two queries of the queue, each of which takes seconds
DRAIN_S = 20.0  # wait for the last lines after the end
KILLED_LATER_S = 2.0  # added to the end of a killed process: SkyPilot kills the others once one has failed
RECONNECT_S = 15.0  # pause before a log that was cut is followed again
IDLE_S = 8.0  # without a new line for so long, the output so far is complete
END = re.compile(rb'bigjax: process (\d+) ended with exit code (\d+)')  # the last line of each process, see sky.Engine


class Group:
    """A running managed job; the output of its machines is one stream, with SkyPilot's own prefixes."""

    def __init__(self, name: str, number: str, logs: pathlib.Path, *, whole: bool = True):
        self.running, self.stopped, self.only, self.idle = True, False, None, False
        self._name, self._number = name, number
        self._file = log_file(logs / 'all.log', fresh=whole)
        self._lines = Lines(b'', {Sink(1, 'stdout'): True, **({self._file: False} if self._file else {})})
        self._selector = selectors.DefaultSelector()
        self._log, self._query, self._answer = None, None, b''
        self._follow('0' if whole else '10')
        self._codes: dict[int, tuple[int, float]] = {}  # {process: (exit code, time)}
        self._rest, self._status, self._restarts, self._final = b'', '', 0, None
        self._next_query, self._drain_until, self._last_output = 0.0, 0.0, time.monotonic()

    def wait(self, seconds: float) -> list[End]:
        """Prints output for at most that many seconds; returns the ends once SkyPilot reports the job's end."""
        now = time.monotonic()
        if self._query is None and now >= self._next_query and self._final is None:
            self._query, self._answer = Piped(QUEUE), b''
            self._selector.register(self._query, selectors.EVENT_READ)
        if not self._selector.get_map():
            time.sleep(min(seconds, 0.2))
        for key, _ in self._selector.select(seconds) if self._selector.get_map() else ():
            self._read(key.fileobj)
        self.idle = self._log is None or now - self._last_output > IDLE_S
        if self._final is not None and self.running and (self._log is None or now > self._drain_until):
            self.running = False
            return self._ends(self._final)
        if self._log is None and self._final is None and now - self._last_output > RECONNECT_S:
            self._follow('20')
        return []

    def signal(self, number: int) -> None:
        """Cancels the job at SIGTERM; SkyPilot has no stronger command for SIGKILL."""
        if self.running and self._final is None and number == signal.SIGTERM:
            try:
                queue.cancel(self._number)
            except Failed as error:
                log(f'{self._name}: {error}')
            self._next_query = 0.0

    def stop(self) -> None:
        """Needs no mark: other launchers see the status CANCELLED."""
        self.stopped = True

    def tail(self, process: int) -> list[str]:
        """The last lines of the merged output."""
        return self._lines.last()

    def close(self) -> None:
        """Stops following the job."""
        for piped in (self._log, self._query):
            if piped is not None:
                self._drop(piped)
        self._selector.close()
        if self._file:
            self._file.close()

    def _follow(self, tail: str) -> None:
        self._log = Piped(sky('jobs', 'logs', '--follow', '--tail', tail, self._number))
        self._last_output = time.monotonic()
        self._selector.register(self._log, selectors.EVENT_READ)

    def _drop(self, piped: Piped) -> tuple[int, str]:
        self._selector.unregister(piped)
        return piped.end(1.0)

    def _read(self, piped: Any) -> None:
        data = piped.read()
        if data is None:
            return
        if piped is self._query:
            self._answer += data
            if not data:
                self._query, self._next_query = None, time.monotonic() + POLL_S
                self._look(*self._drop(piped))
            return
        self._last_output = time.monotonic()
        if not data:
            self._log = None
            self._drop(piped)
            return
        self._lines.feed(data)
        whole, _, self._rest = (self._rest + data).rpartition(b'\n')
        for process, code in END.findall(whole):
            self._codes[int(process)] = int(code), time.monotonic()

    def _look(self, code: int, errors: str) -> None:
        """Handles one answer of the queue; prints what has changed."""
        try:
            row = None if code else queue.pick(self._answer.decode(errors='replace'), self._name)
        except Failed:
            row = None
        if row is None or str(row['job_id']) != self._number:
            if errors and errors != self._status:
                log(f'{self._name}: no answer from SkyPilot, retrying: {errors}')
                self._status = errors
            return
        if row['status'] != self._status:
            self._status = row['status']
            log(f'{self._name}: SkyPilot: {self._status}')
        if (row.get('recovery_count') or 0) > self._restarts:
            self._restarts = row['recovery_count']
            self._codes.clear()
            log(f'{self._name}: restarted by SkyPilot, restart {self._restarts}')
        self.stopped = self.stopped or row['status'] in ('CANCELLING', 'CANCELLED')
        if row['status'] in FINISHED:
            self._final, self._drain_until = row, time.monotonic() + DRAIN_S

    def _ends(self, row: dict[str, Any]) -> Sequence[End]:
        """The ends that the processes printed, as SkyPilot keeps no exit codes; one stand-in if none is to blame."""
        now = time.monotonic()
        if row['status'] == 'SUCCEEDED':
            return [End(process, outcome.DONE, when) for process, (_, when) in sorted(self._codes.items())]
        if row['status'] == 'CANCELLED':
            return [End(0, -signal.SIGTERM, now)]
        found = [(process, outcome.from_shell(code), when) for process, (code, when) in sorted(self._codes.items())]
        if row['status'] == 'FAILED' and any(code for _, code, _ in found):
            return [End(process, code, when + (KILLED_LATER_S if code < 0 else 0.0)) for process, code, when in found]
        if row.get('failure_reason'):
            log(f"{self._name}: {row['failure_reason']}")
        return [End(0, outcome.USER if row['status'] == 'FAILED_PRECHECKS' else outcome.FAILED, now)]
