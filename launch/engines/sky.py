"""The engine `sky`: a managed job of SkyPilot, on whatever cloud or cluster it is set up for.

    --on=sky:A100:8,nodes=2,infra=gcp,spot          --on=sky:v5e-16,infra=gcp,setup='pip install -e .[tpu]'
    --on=sky:cpus=4,infra=k8s

SkyPilot finds the machines, sends the code, starts the job again elsewhere when they are taken away, and removes them at its
end; its controller does so without this launcher. It is asked for by its program `sky` alone, which has its own credentials.
"""
import base64
import dataclasses
import json
import pathlib
import re
import selectors
import shlex
import shutil
import signal
import time
from collections.abc import Sequence
from typing import Any

from bigjax.errors import UserError
from launch import job as jobs
from launch import outcome, steps
from launch.engines import base
from launch.engines.base import Check
from launch.engines.jobset.manifest_yaml import dump
from launch.engines.tpu_vm import tpu_types
from launch.lines import Lines, Sink, say
from launch.outcome import End
from launch.piped import Piped
from launch.steps import Failed, Run, Write
from launch.target import text

INSTALL = "install it where the launcher runs: pip install 'skypilot[gcp]' (or [kubernetes], [aws], …), then sky check"
QUIETLY = 'SKYPILOT_DISABLE_USAGE_COLLECTION=1'
POLL = 15.0  # seconds between two questions, each of which takes some
DRAIN = 20.0  # seconds for the last lines after the end
SECONDARY = 2.0  # seconds by which a process that was killed counts as later: SkyPilot kills the others when one has failed
AGAIN = 15.0  # seconds after which a log that was cut is taken up again
QUIET = 8.0  # seconds without a new line after which all that was written counts as passed on
LONG = 3600.0  # seconds in which a job is accepted: the first one makes SkyPilot's controller
PORT = 55527
ENDED = 'bigjax: process %s ended with exit code %s'
END = re.compile(rb'bigjax: process (\d+) ended with exit code (\d+)')
RECORD = re.compile(r'BIGJAX_RECORD:\s*[\'"]?([A-Za-z0-9+/=]+)')
FINISHED = {'SUCCEEDED', 'CANCELLED', 'FAILED', 'FAILED_SETUP', 'FAILED_PRECHECKS', 'FAILED_NO_RESOURCE', 'FAILED_CONTROLLER'}


@dataclasses.dataclass(frozen=True)
class Target:
    """What --on=sky:… says."""

    type: str = text('what each machine has (A100:8), or a TPU slice (v5e-16)', '')
    nodes: int = text('machines', 1)
    infra: str = text('where: gcp, gcp/us-central1, k8s/CONTEXT, ssh/POOL, slurm; by default the cheapest', '')
    spot: bool = text('machines that the cloud may take away', False)
    cpus: str = text('of each machine, 4 or 4+', '')
    memory: str = text('of each machine in GB, 16 or 16+', '')
    disk: int = text('of each machine in GB', 0)
    image: str = text('of its disk, or docker:NAME:TAG', '')
    code: str = text("the folder that is sent; '' for none", '.')
    setup: str = text('shell that runs once on each machine, in that folder', '')
    runtime: str = text("version of a TPU VM's software, where not the usual one", '')


class Engine(base.Engine):
    """One managed job, named as the job."""

    kind, restarts, Target = 'sky', True, Target

    def __init__(self, job: jobs.Job):
        super().__init__(job)
        on, target = f'--on={job.on}', self.target
        if target.nodes < 1:
            raise UserError(f'{on}: nodes={target.nodes}; it is at least 1', code='launch/bad-value')
        if not (target.type or target.cpus) and job.command != ('true',):
            raise UserError(f'{on}: say what each machine has; write for example sky:A100:8, sky:v5e-16 or sky:cpus=4',
                            code='launch/missing-key')
        self._slice = None
        if re.match(r'(tpu-?)?(v\d|v\d\w+|tpu7x|trillium|ironwood)-\d+$', target.type.lower()):
            try:
                self._slice = tpu_types.parse(target.type.lower().removeprefix('tpu-'), 'tpu_vm')
            except UserError as error:
                raise UserError(str(error).replace('--on=tpu_vm:', '--on=sky:', 1)) from None
            if target.nodes > 1 or job.array:
                what = 'nodes' if target.nodes > 1 else 'the array'
                raise UserError(f'{on}: SkyPilot does not join TPU slices; leave {what} out, or use --on=tpu_vm:… or '
                                '--on=jobset:…', code='launch/conflict')
        elif target.type and not re.fullmatch(r'[A-Za-z0-9-]+(:\d+)?', target.type):
            raise UserError(f"{on}: '{target.type}' is no accelerator; write for example A100:8 or v5e-16",
                            code='launch/unknown-machine')
        if job.array and target.nodes > 1:
            raise UserError(f'{on}: each process of an array has one machine; leave nodes out', code='launch/no-array')

    @property
    def workers(self) -> int:
        return self.job.array or (self._slice.workers if self._slice else self.target.nodes)

    @property
    def _logs(self) -> pathlib.Path:
        return pathlib.Path(self.job.logs).expanduser() if self.job.logs else self.job.folder / 'logs'

    def check(self) -> None:
        if shutil.which('sky') is None:
            raise UserError(f'sky: no such program here; {INSTALL}', code='launch/no-program')
        if self.target.code and not pathlib.Path(self.target.code).expanduser().is_dir():
            raise UserError(f'--on={self.job.on}: code={self.target.code} is no folder here', code='launch/no-file')
        self.job.values()

    def task(self) -> dict[str, Any]:
        """The task as SkyPilot reads it; of --env it has nothing, their names are in the command line."""
        target, kind = self.target, f'tpu-{self._slice.type}' if self._slice else self.target.type
        recovery: dict[str, Any] = {'max_restarts_on_errors': self.job.restarts}
        if self.job.preemptions:
            recovery['recover_on_exit_codes'] = [outcome.PREEMPTED]
        resources = {'infra': target.infra, 'accelerators': kind, 'cpus': target.cpus, 'memory': target.memory,
                     'disk_size': target.disk, 'image_id': target.image, 'use_spot': target.spot,
                     'accelerator_args': {'runtime_version': target.runtime or self._slice.runtime} if self._slice else {},
                     'job_recovery': recovery}
        record = base64.b64encode(self.job.text().encode()).decode()
        return {'name': self.job.name,
                **({'workdir': str(pathlib.Path(target.code).expanduser().resolve())} if target.code else {}),
                'num_nodes': self.job.array or target.nodes,
                'resources': {key: value for key, value in resources.items() if value},
                'envs': {'BIGJAX_RECORD': record, 'PYTHONUNBUFFERED': '1'},
                **({'setup': f'set -e\n{target.setup}\n'} if target.setup else {}),
                'run': self._script()}

    def _script(self) -> str:
        """What each machine runs. TPU VMs find each other; of others the first one's address is the meeting point."""
        rank = '"$SKYPILOT_NODE_RANK"'
        if self.job.array:
            meet = ['export BIGJAX_PROCESSES=1 BIGJAX_PROCESS=0', f'export BIGJAX_SHARE="$SKYPILOT_NODE_RANK/{self.job.array}"']
        elif self._slice or self.target.nodes == 1:
            meet = []
        else:
            meet = [f'export BIGJAX_PROCESSES={self.target.nodes} BIGJAX_PROCESS={rank}',
                    f'export BIGJAX_COORDINATOR="$(echo "$SKYPILOT_NODE_IPS" | head -n 1):{PORT}"']
        tell = f"printf '{ENDED}\\n' {rank} \"$code\""
        return '\n'.join([*meet, shlex.join(self.job.command), 'code=$?', tell, 'exit "$code"', ''])

    def files(self) -> dict[str, str]:
        return {'sky.yaml': dump(self.task())}

    def plan(self) -> list[Write | Run]:
        path = str(self.job.folder / 'sky.yaml')
        secrets = [word for name in self.job.env for word in ('--secret', name)]  # sky takes the values from its environment
        return [Write(path, dump(self.task())), Run(sky('jobs', 'launch', '--yes', '--detach-run', *secrets, path))]

    def start(self) -> 'Group':
        """The job is in SkyPilot's queue when this returns.

        Raises:
          UserError: there is one of this name that has not ended.
          Failed: SkyPilot does not take it.
        """
        self.job.values()
        before = newest(self.job.name)
        if before and before['status'] not in FINISHED:
            raise UserError(f'--name={self.job.name}: SkyPilot has a job of this name that goes on; attach to it, kill it, or '
                            'choose another', code='launch/name-in-use')
        written, launch = self.plan()
        path = pathlib.Path(written.path)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(written.text)
        try:
            steps.execute(launch, seconds=LONG)
        except (KeyboardInterrupt, Failed):
            found = newest(self.job.name)
            if found and found['status'] not in FINISHED and found.get('job_id') != (before or {}).get('job_id'):
                steps.execute(Run(sky('jobs', 'cancel', '--yes', str(found['job_id']))))
            raise
        return self._group(whole=True)

    def _group(self, whole: bool) -> 'Group':
        found = newest(self.job.name)
        if found is None:
            raise UserError(f'{self.job.name}: SkyPilot knows no job of this name', code='launch/no-job')
        return Group(self.job.name, str(found['job_id']), self._logs, whole=whole)

    def attach(self, *, whole: bool = False) -> 'Group':
        return self._group(whole)

    def status(self) -> list[str]:
        found = newest(self.job.name)
        if found is None:
            return [f'{self.job.name} on {self.name}: SkyPilot knows no job of this name']
        rows = [f"{self.job.name} on {self.name}: {found['status']}, {found.get('recovery_count') or 0} restarts, job "
                f"{found['job_id']} of 'sky jobs queue'"]
        words = (found.get('cluster_resources'), found.get('infra'), found.get('failure_reason'))
        return rows + [f'     {word}' for word in words if word and word != '-']

    def down(self) -> list[str]:
        found = newest(self.job.name)
        if found is None or found['status'] in FINISHED:
            return ['SkyPilot has removed its machines']
        steps.execute(Run(sky('jobs', 'cancel', '--yes', str(found['job_id']))), seconds=300.0)
        return [f"job {found['job_id']} is cancelled, and SkyPilot removes its machines"]

    def exists(self) -> list[str]:
        try:
            found = newest(self.job.name)
        except (Failed, UserError):
            return ['?whether SkyPilot still runs it']
        return [f"job {found['job_id']} of SkyPilot ({found['status']})"] if found and found['status'] not in FINISHED else []

    def doctor(self) -> list[Check]:
        place = shutil.which('sky')
        checks = [Check('sky', bool(place), place or 'no such program here', INSTALL)]
        for what, words, mend in (('clouds', ('check',), 'log in to a cloud, and look at what sky check says'),
                                  ('jobs', ('jobs', 'queue', '--output', 'json'), 'sky api info shows its server')):
            if place:
                try:
                    said = steps.execute(Run(sky(*words)), seconds=300.0).strip()
                    checks.append(Check(what, True, said.splitlines()[-1] if what == 'clouds' and said else 'can be asked'))
                except Failed as error:
                    checks.append(Check(what, False, str(error), mend))
        return checks


def sky(*words: str) -> tuple[str, ...]:
    """The argument vector of a command; it reports its use to nobody."""
    return ('env', QUIETLY, 'sky', *words)


QUEUE = sky('jobs', 'queue', '--all', '--output', 'json')


def newest(name: str) -> dict[str, Any] | None:
    """The last job of that name in SkyPilot's queue.

    Raises:
      UserError: sky is not installed.
      Failed: it cannot be asked.
    """
    if shutil.which('sky') is None:
        raise UserError(f'sky: no such program here; {INSTALL}', code='launch/no-program')
    return _pick(steps.execute(Run(QUEUE), seconds=300.0), name)


def _pick(answer: str, name: str) -> dict[str, Any] | None:
    """Of what `sky jobs queue` says, in which remarks may stand before the JSON."""
    start = re.search(r'^\[', answer, re.MULTILINE)
    try:
        rows = json.loads(answer[start.start():]) if start else None
    except ValueError:
        rows = None
    if rows is None:
        raise Failed(Run(QUEUE), None, '', 'it answered no JSON')
    named = [row for row in rows if row.get('job_name') == name]
    return max(named, key=lambda row: row['job_id']) if named else None


class Group:
    """A managed job that runs; its machines' output comes as one, with SkyPilot's own marks in front."""

    def __init__(self, name: str, number: str, logs: pathlib.Path, *, whole: bool = True):
        self.running, self.stopped, self.only, self.idle = True, False, None, False
        self._name, self._number = name, number
        self._file = self._open(logs, whole)
        kept = {Sink(self._file.fileno(), f'{logs}/all.log'): False} if self._file else {}
        self._lines = Lines(b'', {Sink(1, 'stdout'): True, **kept})
        self._selector = selectors.DefaultSelector()
        self._log, self._queue, self._answer = None, None, b''
        self._follow('0' if whole else '10')
        self._codes: dict[int, tuple[int, float]] = {}
        self._rest, self._status, self._restarts, self._row = b'', '', 0, None
        self._next, self._over, self._moved = 0.0, 0.0, time.monotonic()

    def wait(self, seconds: float) -> list[End]:
        """Passes output on for at most so long; the ends, when SkyPilot says that the job has ended."""
        now = time.monotonic()
        if self._queue is None and now >= self._next and self._row is None:
            self._queue, self._answer = Piped(QUEUE), b''
            self._selector.register(self._queue, selectors.EVENT_READ)
        if not self._selector.get_map():
            time.sleep(min(seconds, 0.2))
        for key, _ in self._selector.select(seconds) if self._selector.get_map() else ():
            self._read(key.fileobj)
        self.idle = self._log is None or now - self._moved > QUIET
        if self._row is not None and self.running and (self._log is None or now > self._over):
            self.running = False
            return self._ends(self._row)
        if self._log is None and self._row is None and now - self._moved > AGAIN:
            self._follow('20')
        return []

    def signal(self, number: int) -> None:
        """SIGTERM: the job is cancelled. SkyPilot has nothing harder."""
        if self.running and self._row is None and number == signal.SIGTERM:
            try:
                steps.execute(Run(sky('jobs', 'cancel', '--yes', self._number)), seconds=300.0)
            except Failed as error:
                say(f'{self._name}: {error}')
            self._next = 0.0

    def stop(self) -> None:
        """That it is cancelled is the word that others see."""
        self.stopped = True

    def tail(self, process: int) -> list[str]:
        """The last lines of all."""
        return [line.decode(errors='replace') for line in self._lines.tail]

    def close(self) -> None:
        """Follows it no longer."""
        for piped in (self._log, self._queue):
            if piped is not None:
                self._leave(piped)
        self._selector.close()
        if self._file:
            self._file.close()
            self._file = None

    def _open(self, logs: pathlib.Path, fresh: bool):
        try:
            logs.mkdir(parents=True, exist_ok=True)
            return (logs / 'all.log').open('wb' if fresh else 'ab', buffering=0)
        except OSError as error:
            say(f'{logs}: no logs are kept ({error.strerror})')
            return None

    def _follow(self, tail: str) -> None:
        self._log, self._moved = Piped(sky('jobs', 'logs', '--follow', '--tail', tail, self._number)), time.monotonic()
        self._selector.register(self._log, selectors.EVENT_READ)

    def _leave(self, piped: Piped) -> tuple[int, str]:
        self._selector.unregister(piped)
        return piped.end(1.0)

    def _read(self, piped: Any) -> None:
        data = piped.read()
        if data is None:
            return
        if piped is self._queue:
            self._answer += data
            if not data:
                self._queue, self._next = None, time.monotonic() + POLL
                code, words = self._leave(piped)
                self._look(code, words)
            return
        self._moved = time.monotonic()
        if not data:
            self._log = None
            self._leave(piped)
            return
        self._lines.feed(data)
        whole, _, self._rest = (self._rest + data).rpartition(b'\n')
        for process, code in END.findall(whole):
            self._codes[int(process)] = int(code), time.monotonic()

    def _look(self, code: int, words: str) -> None:
        """What the queue says is new is said."""
        try:
            row = None if code else _pick(self._answer.decode(errors='replace'), self._name)
        except Failed:
            row = None
        if row is None or str(row['job_id']) != self._number:
            if words and words != self._status:
                say(f'{self._name}: SkyPilot cannot be asked, and is asked again: {words}')
                self._status = words
            return
        if row['status'] != self._status:
            self._status = row['status']
            say(f'{self._name}: SkyPilot says {self._status}')
        if (row.get('recovery_count') or 0) > self._restarts:
            self._restarts = row['recovery_count']
            self._codes.clear()
            say(f'{self._name}: SkyPilot has started it again, restart {self._restarts}')
        self.stopped = self.stopped or row['status'] in ('CANCELLING', 'CANCELLED')
        if row['status'] in FINISHED:
            self._row, self._over = row, time.monotonic() + DRAIN

    def _ends(self, row: dict[str, Any]) -> Sequence[End]:
        """As the processes said themselves; SkyPilot tells no exit codes."""
        now = time.monotonic()
        if row['status'] == 'SUCCEEDED':
            return [End(process, outcome.DONE, when) for process, (_, when) in sorted(self._codes.items())]
        if row['status'] == 'CANCELLED':
            return [End(0, -signal.SIGTERM, now)]
        ends = [End(process, 128 - code, when + SECONDARY) if 128 < code < 160 else End(process, code, when)
                for process, (code, when) in sorted(self._codes.items())]
        if row['status'] == 'FAILED' and any(end.code for end in ends):
            return ends
        if row.get('failure_reason'):
            say(f"{self._name}: {row['failure_reason']}")
        return [End(0, outcome.USER if row['status'] == 'FAILED_PRECHECKS' else outcome.FAILED, now)]


def find(name: str, on: str) -> jobs.Job:
    """The job that SkyPilot's queue keeps in its YAML.

    Raises:
      UserError: there is none, or it is not of a launcher's making.
    """
    row = newest(name)
    if row is None:
        raise UserError(f'--on={on}: SkyPilot knows no job {name}', code='launch/no-job')
    found = RECORD.search(row.get('user_yaml') or '')
    try:
        return jobs.parse(json.loads(base64.b64decode(found[1])))
    except (KeyError, ValueError, TypeError) as error:
        raise UserError(f'--on={on}: the job {name} of SkyPilot has no record of a launcher ({error})',
                        code='launch/damaged-record') from None
