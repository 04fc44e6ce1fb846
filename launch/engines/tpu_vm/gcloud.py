"""The part of Google's command line that TPU VMs need: its commands as data, its output as dictionaries, its errors."""
import configparser
import contextlib
import json
import os
import pathlib
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from bigjax.errors import UserError
from launch.engines import base
from launch.engines.base import Check
from launch.lines import log
from launch.steps import Run

INSTALL = "install it with 'curl https://sdk.cloud.google.com | bash', then 'gcloud auth login'"
QUOTAS = 'https://console.cloud.google.com/iam-admin/quotas'
QUERY_TIMEOUT_S = 120.0  # of a command that only reads
CREATE_TIMEOUT_S = 1800.0  # of one that waits for machines
ABSENT, TAKEN, QUOTA = 'NOT_FOUND', 'ALREADY_EXISTS', 'RESOURCE_EXHAUSTED'
LOGIN = re.compile(r'active account|gcloud auth login|UNAUTHENTICATED|invalid_grant|[Rr]eauthenticat')

# States of a queued resource and of a node (the API's enumerations). The launcher waits in all others: the API has added names
# for waiting before (WAITING_FOR_RESOURCES for ACCEPTED).
QUEUE_DEAD = {'SUSPENDING', 'SUSPENDED', 'FAILED', 'DELETING'}
QUEUE_READY = 'ACTIVE'
NODE_DEAD = {'STOPPING', 'STOPPED', 'DELETING', 'PREEMPTED', 'TERMINATED', 'HIDING', 'HIDDEN'}
NODE_READY = 'READY'


class Refused(UserError):
    """Google's refusal, or a timeout.

    Attributes:
      status: the API's status, 'RESOURCE_EXHAUSTED'; '' if it gives none.
      message: the API's message.
    """

    def __init__(self, status: str, message: str, fix: str):
        super().__init__(f'{message}; fix: {fix}' if fix else message, code='launch/google-refused')
        self.status, self.message = status, message


def create(name: str, where: dict[str, str], type: str, runtime: str, *, queued: bool, slices: int = 1,
           flags: dict[str, str | bool], labels: dict[str, str]) -> Run:
    """The command that requests one slice, or several.

    Args:
      where: 'zone' and 'project'.
      flags: {name with hyphens: value}, common to `queued-resources create` and `tpu-vm create`.
      labels: the labels by which the job recognizes its own slice.
    """
    own = {'accelerator-type': type, 'runtime-version' if queued else 'version': runtime,
           'labels': ','.join(f'{key}={value}' for key, value in labels.items())}
    if queued:
        own |= {'node-id': name} if slices == 1 else {'node-count': str(slices), 'node-prefix': name}
    return _run('create', 'queued-resources' if queued else 'tpu-vm', name, where | own | flags,
                'costs money from its creation')


def delete(name: str, where: dict[str, str], *, queued: bool) -> Run:
    """The command that deletes it, a queued resource with its machines, without waiting for the end of the deletion."""
    return _run('delete', 'queued-resources' if queued else 'tpu-vm', name,
                where | ({'force': True} if queued else {}) | {'async': True})


def queue(name: str, where: dict[str, str]) -> Run:
    """The command that lists the queued resource of that name, if there is one."""
    return _run('list', 'queued-resources', '', where | {'filter': f'name~/queuedResources/{name}$', 'format': 'json'})


def nodes(name: str, where: dict[str, str]) -> Run:
    """The command that lists the nodes of a name, which is also the prefix of the names of several slices."""
    # gcloud matches nothing, without an error, if a filter has unquoted parentheses.
    return _run('list', 'tpu-vm', '', where | {'filter': f'name~/nodes/{name}', 'format': 'json'})


def keys(node: str, user: str, where: dict[str, str], *, internal: bool) -> Run:
    """The command that copies this machine's SSH key to all machines of a node: gcloud does so whenever it connects."""
    return _run('ssh', 'tpu-vm', f'{user}@{node}' if user else node,
                where | {'worker': 'all', 'command': 'true', 'strict-host-key-checking': 'no', 'internal-ip': internal},
                'makes ~/.ssh/google_compute_engine if it is missing, and copies it to every machine')


def types(where: dict[str, str]) -> Run:
    """The command that lists the accelerator types of a zone."""
    return _run('list', 'tpu-vm accelerator-types', '', where | {'format': 'json(type)'})


def _run(verb: str, kind: str, name: str, flags: dict[str, str | bool], why: str = '') -> Run:
    words = [f'--{key}' if value is True else f'--{key}={value}' for key, value in flags.items() if value]
    return Run(('gcloud', 'compute', 'tpus', *kind.split(), verb, *([name] if name else []), *words, '--quiet'), why=why)


def settings() -> dict[str, str]:
    """'project', 'zone' and 'account' of gcloud's own configuration, read from its files: gcloud may not be installed."""
    folder = pathlib.Path(os.environ.get('CLOUDSDK_CONFIG') or pathlib.Path.home() / '.config' / 'gcloud')
    found = configparser.ConfigParser(interpolation=None)
    try:
        active = os.environ.get('CLOUDSDK_ACTIVE_CONFIG_NAME') or (folder / 'active_config').read_text().strip()
        found.read(folder / 'configurations' / f'config_{active}')
    except (OSError, configparser.Error, UnicodeDecodeError):
        pass
    places = {'project': ('core', 'project'), 'zone': ('compute', 'zone'), 'account': ('core', 'account')}
    return {name: os.environ.get(f'CLOUDSDK_{section}_{key}'.upper()) or found.get(section, key, fallback='')
            for name, (section, key) in places.items()}


def do(step: Run, seconds: float = QUERY_TIMEOUT_S) -> str:
    """Runs a command; returns its stdout.

    Raises:
      Refused: it exited with a code other than 0.
    """
    code, out, errors = execute(step, seconds)
    if code:
        raise refused(step, code, errors or out)
    return out


def query(step: Run, seconds: float = QUERY_TIMEOUT_S) -> Any:
    """Runs a command; returns its JSON output, None if there is no output.

    Raises:
      Refused: it exited with a code other than 0, or its output is not JSON.
    """
    out = do(step, seconds)
    try:
        return json.loads(out) if out.strip() else None
    except ValueError:
        raise Refused('', f'gcloud: expected JSON, got {out.strip()[:200]}', f'try it by hand: {step}') from None


def execute(step: Run, seconds: float, until: Callable[[], bool] | None = None) -> tuple[int, str, str]:
    """Runs a command; returns (exit code, stdout, stderr), with code 124 after a timeout.

    It runs in a session of its own, so that Ctrl-C in a terminal does not end it half way; the launcher kills it instead.

    Args:
      until: for a command that creates something, whether that exists and can be deleted. After Ctrl-C the command is killed
        only once this returns True, or after a minute.
    """
    base.require('gcloud', INSTALL)
    process = None
    try:
        with deferred() as received:  # an interrupt between fork and assignment would leave an unknown command running
            process = subprocess.Popen(step.argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                       start_new_session=True)
            if until:
                out, errors = _outlast(process, seconds, received, until)
        if not until:
            out, errors = process.communicate(timeout=seconds)
        return process.returncode, out.decode(errors='replace'), errors.decode(errors='replace')
    except subprocess.TimeoutExpired:
        return 124, '', f'ERROR: no answer within {seconds:.0f} s'
    finally:
        if process:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            for pipe in (process.stdout, process.stderr):
                pipe.close()


def _outlast(process: subprocess.Popen, seconds: float, received: list[int], until: Callable[[], bool]) -> tuple[bytes, bytes]:
    """The command's output; empty if a signal was received and `until` returned True before its end."""
    deadline, reported = time.monotonic() + seconds, False
    while True:
        try:
            return process.communicate(timeout=0.2)
        except subprocess.TimeoutExpired:
            if time.monotonic() > deadline:
                raise
        if received:
            if not reported:
                reported, deadline = True, min(deadline, time.monotonic() + 60.0)
                log('waits for gcloud, so that what it creates can be deleted')
            with contextlib.suppress(UserError, KeyboardInterrupt):  # without an answer, its end or the deadline decides
                if until():
                    return b'', b''


@contextlib.contextmanager
def signals(handler: Any, only: Any = None) -> Iterator[None]:
    """Handles SIGINT, SIGTERM and SIGHUP so inside; with `only`, just those that have that handler now."""
    changed = {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            before = signal.getsignal(number)
            if before != signal.SIG_IGN and (only is None or before == only):
                changed[number] = before
                signal.signal(number, handler)
    try:
        yield
    finally:
        for number, before in changed.items():
            signal.signal(number, before)


@contextlib.contextmanager
def deferred() -> Iterator[list[int]]:
    """Defers signals that would end the program to the end of the block; yields the list of those received."""
    received = []
    with signals(lambda number, frame: received.append(number)):
        yield received
    for number in received[:1]:
        signal.raise_signal(number)


def refused(step: Run, code: int, text: str) -> Refused:
    """The error of a failed command: Google's message, then the fix."""
    message = ' '.join(_message(text).split()) or f'{step.argv[0]} exited with {code} and no output'
    words = re.match(r'([A-Z_]{6,}):', message)
    status = words[1] if words else ''
    if QUOTA in message or 'uota' in message:
        status = QUOTA
    return Refused(status, message, _fix(step, code, status, message))


def _message(text: str) -> str:
    """The error in an output that also has progress, warnings and details in YAML."""
    _, error, rest = text.partition('ERROR: ')
    if not error:  # 'tpu-vm ssh' ends with ssh's message, ten times, and a traceback
        lines = [line for line in text.splitlines() if line.strip()]
        ssh = [line for line in lines if re.match(r'ssh: |\S+: Permission denied|Host key', line)]
        rest = '\n'.join(ssh[-1:] or lines[-2:])
    text = re.split(r'\n- |\n\s*[\'"]?@type|\nTo search the help|\nTo troubleshoot', rest)[0]
    return re.sub(r'^\(gcloud[\w.-]*\)\s*', '', text)


def _fix(step: Run, code: int, status: str, message: str) -> str:
    given = dict(word[2:].partition('=')[::2] for word in step.argv if word.startswith('--'))
    if LOGIN.search(message):
        return "log in with 'gcloud auth login'"
    if status == QUOTA:
        return (f"request more at {QUOTAS}?project={given.get('project', '')}, or take a smaller type, another zone=, or spot "
                '(which has a quota of its own)')
    if status == 'PERMISSION_DENIED':
        return (f"switch the API on with 'gcloud services enable tpu.googleapis.com --project={given.get('project', '')}', or "
                'get the role TPU Admin from its owner')
    if code == 124:
        return 'check the network, and https://status.cloud.google.com'
    if code == 2:
        return "update gcloud, which does not support that: 'gcloud components update'"
    return ''


def doctor(where: dict[str, str], type: str) -> list[Check]:
    """The checks that gcloud could create a slice of that accelerator type, up to the first that fails."""
    checks = [base.installed('gcloud', INSTALL)]
    if not checks[0].ok:
        return checks
    account, project = settings()['account'], where.get('project')
    checks.append(Check('account', bool(account), account or 'not logged in', "log in with 'gcloud auth login'"))
    checks.append(Check('project', bool(project), project or 'none is set',
                        "add project=ID, or run 'gcloud config set project ID'"))
    if not project:
        return checks
    try:
        offered = sorted(str(entry.get('type')) for entry in query(types(where)) or [])
    except UserError as error:
        return [*checks, Check(f"API in {where.get('zone')}", False, str(error), '')]
    near = [name for name in offered if name.split('-')[0] == type.split('-')[0]]
    return [*checks, Check(f"API in {where['zone']}", True, f'answers, with {len(offered)} accelerator types'),
            Check(type, type in offered, f"{'' if type in offered else 'not '}in {where['zone']}",
                  f"choose another zone=, or one of {', '.join(near[:8]) or 'another generation'}")]
