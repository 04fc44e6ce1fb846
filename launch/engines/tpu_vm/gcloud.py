"""Google's command line, as far as TPU VMs need it: its commands as data, its answers as dictionaries, its errors in words."""
import configparser
import contextlib
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from bigjax.errors import UserError
from launch.engines.base import Check
from launch.lines import say
from launch.steps import Run

INSTALL = "install it with 'curl https://sdk.cloud.google.com | bash', then 'gcloud auth login'"
QUOTAS = 'https://console.cloud.google.com/iam-admin/quotas'
SECONDS = 120.0  # for a command that only asks
LONGEST_CREATE = 1800.0  # seconds: one that waits for machines
ABSENT, TAKEN, QUOTA = 'NOT_FOUND', 'ALREADY_EXISTS', 'RESOURCE_EXHAUSTED'
LOGIN = re.compile(r'active account|gcloud auth login|UNAUTHENTICATED|invalid_grant|[Rr]eauthenticat')

# States of a queued resource and of a node (the API's enumerations). What is in neither set is waited for: a new name for
# waiting came before (WAITING_FOR_RESOURCES for ACCEPTED).
QUEUE_DEAD = {'SUSPENDING', 'SUSPENDED', 'FAILED', 'DELETING'}
QUEUE_READY = 'ACTIVE'
NODE_DEAD = {'STOPPING', 'STOPPED', 'DELETING', 'PREEMPTED', 'TERMINATED', 'HIDING', 'HIDDEN'}
NODE_READY = 'READY'


class Refused(UserError):
    """Google has said no.

    Attributes:
      status: the API's word for it, 'RESOURCE_EXHAUSTED'; '' where there is none.
      said: the API's message.
    """

    def __init__(self, status: str, said: str, mend: str):
        super().__init__(f'{said}; {mend}' if mend else said)
        self.status, self.said = status, said


def create(name: str, where: dict[str, str], type: str, runtime: str, *, queued: bool, slices: int = 1,
           flags: dict[str, str | bool], labels: dict[str, str]) -> Run:
    """The command that asks for a slice, or for several.

    Args:
      where: 'zone' and 'project'.
      flags: name with hyphens -> value, as `queued-resources create` has them; `tpu-vm create` has them, too.
      labels: how it is known again as one's own.
    """
    own = {'accelerator-type': type, 'runtime-version' if queued else 'version': runtime,
           'labels': ','.join(f'{key}={value}' for key, value in labels.items())}
    if queued:
        own |= {'node-id': name} if slices == 1 else {'node-count': str(slices), 'node-prefix': name}
    return _run('create', 'queued-resources' if queued else 'tpu-vm', name, where | own | flags,
                'costs money from the time when it is there')


def delete(name: str, where: dict[str, str], *, queued: bool) -> Run:
    """The command that deletes it, a queued resource with its machines; it does not wait for the end."""
    return _run('delete', 'queued-resources' if queued else 'tpu-vm', name,
                where | ({'force': True} if queued else {}) | {'async': True})


def queue(name: str, where: dict[str, str]) -> Run:
    """The command that shows a queued resource, in a list that is empty where there is none."""
    return _run('list', 'queued-resources', '', where | {'filter': f'name~/queuedResources/{name}$', 'format': 'json'})


def nodes(name: str, where: dict[str, str]) -> Run:
    """The command that lists the machines of a name, which is also the beginning of the names of several slices."""
    # A filter with parentheses that are not quoted finds nothing, and says nothing.
    return _run('list', 'tpu-vm', '', where | {'filter': f'name~/nodes/{name}', 'format': 'json'})


def keys(node: str, user: str, where: dict[str, str], *, internal: bool) -> Run:
    """The command that gives all machines of a node this machine's SSH key: gcloud does so whenever it connects."""
    return _run('ssh', 'tpu-vm', f'{user}@{node}' if user else node,
                where | {'worker': 'all', 'command': 'true', 'strict-host-key-checking': 'no', 'internal-ip': internal},
                'makes ~/.ssh/google_compute_engine where it is missing, and brings it to every machine')


def types(where: dict[str, str]) -> Run:
    """The command that lists what a zone has."""
    return _run('list', 'tpu-vm accelerator-types', '', where | {'format': 'json(type)'})


def _run(verb: str, kind: str, name: str, flags: dict[str, str | bool], why: str = '') -> Run:
    words = [f'--{key}' if value is True else f'--{key}={value}' for key, value in flags.items() if value]
    return Run(('gcloud', 'compute', 'tpus', *kind.split(), verb, *([name] if name else []), *words, '--quiet'), why=why)


def settings() -> dict[str, str]:
    """'project', 'zone' and 'account' as gcloud's own configuration here has them; read, as it may not be installed."""
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


def installed() -> None:
    """Raises UserError where there is no gcloud here."""
    if shutil.which('gcloud') is None:
        raise UserError(f"'gcloud': no such program on the path; {INSTALL}", code='launch/no-program')


def do(step: Run, seconds: float = SECONDS) -> str:
    """What a command writes to stdout.

    Raises:
      Refused: it ended with another code than 0.
    """
    code, out, errors = execute(step, seconds)
    if code:
        raise refused(step, code, errors or out)
    return out


def ask(step: Run, seconds: float = SECONDS) -> Any:
    """What a command answers in JSON; None where it answers nothing.

    Raises:
      Refused: it ended with another code than 0, or answered otherwise.
    """
    out = do(step, seconds)
    try:
        return json.loads(out) if out.strip() else None
    except ValueError:
        raise Refused('', f'gcloud answered with what is no JSON: {out.strip()[:200]}', f'try it by hand: {step}') from None


def execute(step: Run, seconds: float, until: Callable[[], bool] | None = None) -> tuple[int, str, str]:
    """(exit code, stdout, stderr) of a command; 124 where it was stopped after its time.

    It is in a session of its own, so that Ctrl-C in a terminal does not end it half way; one that is interrupted is killed.

    Args:
      until: of a command that makes something. After Ctrl-C it is killed only when this says that what it makes is there (and
        can be deleted), or after a minute.
    """
    installed()
    process = None
    try:
        with deferred() as heard:  # an interrupt between fork and assignment would leave a command that nobody knows of
            process = subprocess.Popen(step.argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                       start_new_session=True)
            if until:
                out, errors = _outlast(process, seconds, heard, until)
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


def _outlast(process: subprocess.Popen, seconds: float, heard: list[int], until: Callable[[], bool]) -> tuple[bytes, bytes]:
    """What the command says; nothing, where a signal was heard and `until` says yes before it ended."""
    deadline, told = time.monotonic() + seconds, False
    while True:
        try:
            return process.communicate(timeout=0.2)
        except subprocess.TimeoutExpired:
            if time.monotonic() > deadline:
                raise
        if heard:
            if not told:
                told, deadline = True, min(deadline, time.monotonic() + 60.0)
                say('waits for gcloud, so that what it makes can be deleted')
            with contextlib.suppress(UserError, KeyboardInterrupt):  # nobody tells: its end comes, or the deadline
                if until():
                    return b'', b''


@contextlib.contextmanager
def signals(handler: Any, only: Any = None) -> Iterator[None]:
    """SIGINT, SIGTERM and SIGHUP are handled so inside; where `only` is given, those alone that have that handler now."""
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
    """Signals that would end the program do so when this ends; yields the list of those that came."""
    heard = []
    with signals(lambda number, frame: heard.append(number)):
        yield heard
    for number in heard[:1]:
        signal.raise_signal(number)


def refused(step: Run, code: int, text: str) -> Refused:
    """What Google has said, first, and how that is mended."""
    said = ' '.join(_message(text).split()) or f'{step.argv[0]} ended with exit code {code} and said nothing'
    words = re.match(r'([A-Z_]{6,}):', said)
    status = words[1] if words else ''
    if QUOTA in said or 'uota' in said:
        status = QUOTA
    return Refused(status, said, _mend(step, code, status, said))


def _message(text: str) -> str:
    """The error among progress, warnings and details in YAML."""
    _, error, rest = text.partition('ERROR: ')
    if not error:  # 'tpu-vm ssh' ends with what ssh has said, ten times, and a traceback
        lines = [line for line in text.splitlines() if line.strip()]
        ssh = [line for line in lines if re.match(r'ssh: |\S+: Permission denied|Host key', line)]
        rest = '\n'.join(ssh[-1:] or lines[-2:])
    text = re.split(r'\n- |\n\s*[\'"]?@type|\nTo search the help|\nTo troubleshoot', rest)[0]
    return re.sub(r'^\(gcloud[\w.-]*\)\s*', '', text)


def _mend(step: Run, code: int, status: str, said: str) -> str:
    given = dict(word[2:].partition('=')[::2] for word in step.argv if word.startswith('--'))
    if LOGIN.search(said):
        return "log in with 'gcloud auth login'"
    if status == QUOTA:
        return (f"ask for more at {QUOTAS}?project={given.get('project', '')}, or name a smaller type, another zone=, or spot "
                '(which has a quota of its own)')
    if status == 'PERMISSION_DENIED':
        return (f"switch the API on with 'gcloud services enable tpu.googleapis.com --project={given.get('project', '')}', or "
                'ask its owner for the role TPU Admin')
    if code == 124:
        return 'look at the network, and at https://status.cloud.google.com'
    if code == 2:
        return "this gcloud does not know that; 'gcloud components update' brings the newest"
    return ''


def doctor(where: dict[str, str], type: str) -> list[Check]:
    """Whether gcloud could create a slice of that accelerator type, without creating one; stops at the first that fails."""
    path = shutil.which('gcloud')
    checks = [Check('gcloud', bool(path), path or 'not on the path', INSTALL)]
    account = settings()['account']
    if path:
        checks.append(Check('account', bool(account), account or 'nobody is logged in', "log in with 'gcloud auth login'"))
        checks.append(Check('project', bool(where.get('project')), where.get('project') or 'none is set',
                            "name it, project=ID, or 'gcloud config set project ID'"))
    if not all(check.ok for check in checks[:1] + checks[2:]) or not path:
        return checks
    try:
        there = sorted(str(entry.get('type')) for entry in ask(types(where)) or [])
    except UserError as error:
        return [*checks, Check(f"API in {where.get('zone')}", False, str(error), '')]
    near = [name for name in there if name.split('-')[0] == type.split('-')[0]]
    return [*checks, Check(f"API in {where['zone']}", True, f'answers, with {len(there)} accelerator types'),
            Check(type, type in there, f"{'is' if type in there else 'is not'} in {where['zone']}",
                  f"there {'is ' + ', '.join(near[:8]) if near else 'is none of its generation'}; name another zone=")]
