"""The life of a job's slice at Google: creation, waiting, deletion. Nothing here starts a program on it.

`slice.json` in the job's folder records the slice's zone and project before the command that creates it, so that
'launch down' finds it even after kill -9.
"""
import contextlib
import json
import pathlib
import re
import signal
import time
from collections.abc import Iterator

from bigjax.errors import UserError
from bigjax.io.text import clock
from launch.engines.tpu_vm import gcloud
from launch.engines.tpu_vm.gcloud import Refused
from launch.engines.tpu_vm.resources import ABSENT, DEAD, READY, Found, Resources, kind
from launch.job import Job
from launch.lines import log

CREATIONS = 3  # in one start: a spot slice may be taken away before it is used
READY_TIMEOUT_S = 1800.0  # from the time when it may cost money until it must be ready
DELETE_TIMEOUT_S = 900.0
SILENCE_S = 900.0  # without an answer from Google, after which a wait is given up
MIN_PAUSE_S, MAX_PAUSE_S = 2.0, 60.0  # between two queries


class Allocation:
    """The life of a job's slice.

    Args:
      resources: what it consists of.
      record: the file with its zone and project, which exists from before its creation until its deletion.
      wait: the longest time to wait for it, in seconds.
    """

    def __init__(self, resources: Resources, record: pathlib.Path, wait: float):
        self.resources, self._record, self._wait = resources, record, wait
        self._unsure = False  # whether a command that creates the slice was cut short, so that it may come to exist later

    def ensure(self) -> Found:
        """Creates the slice if it is absent or dead, and waits until it is ready.

        Raises:
          Refused: Google refuses, or it was not ready in time; it may exist, so the caller has to call `delete`.
        """
        began, paid, shown, pause, creations = time.monotonic(), None, '', MIN_PAUSE_S, 0
        found = self.resources.look()
        while True:
            self.resources.require_own(found)
            now, state = time.monotonic(), found.state
            if str(found) != shown and state != ABSENT:
                log(f'{self.resources.name}: {found} after {clock(now - began)}')
                shown, pause = str(found), MIN_PAUSE_S
            if state == READY:
                return found
            if state == ABSENT:
                if creations == CREATIONS:
                    raise Refused('', f'{self.resources.name}: taken away {CREATIONS} times before it could be used',
                                  'name another zone=, or leave out spot')
                self._create()
                creations, paid, pause = creations + 1, None, MIN_PAUSE_S
            elif state == DEAD:
                failed = found.queue_state == 'FAILED' and creations
                self.delete(dead=True)
                if failed:
                    raise Refused(gcloud.QUOTA if 'uota' in found.failure else '',
                                  f"{found.failure or 'failed without a reason from Google'} ({self.resources.type})",
                                  'name another zone= or type, or try again later')
            else:
                paid = (paid or now) if found.paid else None
                self._overdue(found, now - began, now - paid if paid else 0.0)
                time.sleep(pause)
                pause = min(pause * 1.5, MAX_PAUSE_S)
            found = self._look_with_retries()

    def _overdue(self, found: Found, waited: float, paid: float) -> None:
        """Raises Refused after the longest wait; `paid` is the time for which it may have cost money."""
        if waited > self._wait and not paid:
            raise Refused('', f'{self.resources.name}: not ready after wait={clock(self._wait)} ({found})',
                          'wait longer, wait=48h, or name another zone= or type')
        if paid > READY_TIMEOUT_S:
            raise Refused('', f'{self.resources.name}: may cost money since {clock(paid)} and is not ready ({found})',
                          'try again, or name another zone=')

    def _look_with_retries(self) -> Found:
        """Calls `look`, with retries for `SILENCE_S`: some minutes without an answer must not cost the place in the queue."""
        until, reported = time.monotonic() + SILENCE_S, ''
        while True:
            try:
                return self.resources.look()
            except Refused as error:
                if time.monotonic() > until:
                    raise
                if str(error) != reported:
                    reported = str(error)
                    log(f'{self.resources.name}: {reported}; retries for {SILENCE_S / 60:.0f} minutes')
                time.sleep(10.0)

    def delete(self, *, dead: bool = False) -> list[str]:
        """Deletes the job's resources and waits until they are gone; returns a line for each.

        Args:
          dead: delete only a dead slice; another launcher of this job may have created a new one meanwhile.

        Raises:
          Refused: it cannot be deleted, or the query failed.
        """
        began, retry_at, gone, pause, trouble = time.monotonic(), {}, {}, MIN_PAUSE_S, None
        while True:
            now = time.monotonic()
            try:
                found = self.resources.look()
                owned = [] if dead and found.state != DEAD else self.resources.owned(found)
            except Refused as error:
                owned, trouble = None, error
            if owned == [] and dead:
                return []
            if owned == [] and not self._unsure:
                self._record.unlink(missing_ok=True)
                return [f'{kind(queue)} {name} deleted' for name, queue in gone]
            self._unsure = self._unsure and owned is None
            if now > began + (DELETE_TIMEOUT_S if owned else 60.0):
                name = self.resources.name
                raise Refused('', f"{name}: may still exist and cost money{f' ({trouble})' if trouble else ''}",
                              f"delete it with 'python -m launch down {name}', or by hand: {self.resources.deletion()}")
            for name, queue in owned or []:
                gone[name, queue] = True
                with_its_queue = not queue and any(other for _, other in owned)
                if not with_its_queue and now >= retry_at.get(name, now):
                    log(f'{self.resources.name}: deletes {kind(queue)} {name}')
                    retry_at[name] = now + 60.0
                    trouble = self._request_deletion(name, queue)
            time.sleep(pause)
            pause = min(pause * 1.5, 15.0)

    def _request_deletion(self, name: str, queue: bool) -> Refused | None:
        """Google's refusal, if any: the resource may be in a state that it cannot leave yet, or be gone."""
        try:
            gcloud.do(gcloud.delete(name, self.resources.where, queued=queue))
        except Refused as error:
            return error
        return None

    @contextlib.contextmanager
    def or_nothing(self, keep: bool) -> Iterator[None]:
        """Context in which Ctrl-C, SIGTERM or an error first deletes the slice; with `keep` only if it is not ready."""
        with gcloud.signals(_interrupt, only=signal.SIG_DFL):
            try:
                yield
            except BaseException as error:
                with gcloud.signals(lambda *_: log('still deleting what costs money; please wait')):
                    self._clear(error, keep)
                raise

    def _clear(self, error: BaseException, keep: bool) -> None:
        if not self._record.exists():
            return  # nothing was requested
        word = 'interrupted' if isinstance(error, KeyboardInterrupt) else f'{error or type(error).__name__}'
        try:
            if keep and (found := self.resources.look()).state == READY:
                log(f'{self.resources.name}: {word}; kept, and costs money ({found})')
                return
            log(f'{self.resources.name}: {word}; looks for resources to delete')
            for done in self.delete():
                log(f'{self.resources.name}: {done}')
        except UserError as trouble:
            log(str(trouble))

    def _create(self) -> None:
        self._record.parent.mkdir(parents=True, exist_ok=True)
        own = self.resources
        self._record.write_text(json.dumps({**own.where, 'name': own.name, 'queued': own.queued}) + '\n')
        step = own.command()
        log(f'{own.name}: requests {own.text}')
        self._unsure = True  # whether it exists, until the command has ended by itself
        code, out, errors = gcloud.execute(step, gcloud.CREATE_TIMEOUT_S, lambda: bool(own.owned(own.look())))
        self._unsure = code == 124
        if code:
            error = gcloud.refused(step, code, errors or out)
            if error.status != gcloud.TAKEN:
                raise error
            found = own.look()
            own.require_own(found, error.message)
            if not own.owned(found):
                raise error
            # Another launcher of this job was faster.


def record(job: Job) -> pathlib.Path:
    """The file with the zone and project of the job's slice."""
    return job.folder / 'slice.json'


def load(job: Job) -> dict[str, str]:
    """The zone and project of the job's slice, recorded before its creation; {} if none was created."""
    try:
        return json.loads(record(job).read_text())
    except (OSError, ValueError):
        return {}


def seconds(text: str, where: str) -> float:
    """The seconds of a duration: '24h' -> 86400.

    Raises:
      UserError: the text is not a duration.
    """
    match = re.fullmatch(r'(\d+(?:\.\d+)?)([smhd])', text.strip())
    if not match:
        raise UserError(f'{where}={text}: not a duration; fix: write for example {where}=90m, 24h or 2d',
                        code='launch/bad-value')
    return float(match[1]) * {'s': 1, 'm': 60, 'h': 3600, 'd': 86400}[match[2]]


def _interrupt(number, frame) -> None:
    raise KeyboardInterrupt
