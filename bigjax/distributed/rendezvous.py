"""The rendezvous of a job's processes before JAX starts: mistakes become one line instead of a hang or an abort.

JAX's own start-up waits five minutes for a wrong address and then aborts, dies of a signal where the port is taken, and prints
nothing meanwhile. So rank 0 first listens on the coordinator's port itself. Each other process connects, sends one line of
JSON that identifies it, and waits for the answer: the identity of rank 0, when all have arrived, or `{"refused": reason}`. Then
JAX takes the port; the connections stay open (`bigjax.distributed.peers`).
"""
import contextlib
import dataclasses
import ipaddress
import json
import os
import socket
import threading
import time
from collections.abc import Callable

from bigjax.distributed.peers import PeerLinks
from bigjax.errors import UserError

LOOKUP_S = 3.0  # time for the name service
LOOPBACK_S = 4.0  # time in which rank 0 must be found on this same machine
LOG_EVERY_S = 5.0  # time between two lines on who has arrived
LONGEST = 16384  # bytes of a hello or an answer
HELLO = {'process': int, 'processes': int, 'host': str, 'pid': int, 'command': str}


def rendezvous(start, address: tuple[str, int], *, command: str, seconds: float, log: Callable[[str], None],
               heartbeat: float = 30.0) -> tuple[str, PeerLinks]:
    """Waits for all processes; returns the address that JAX's coordinator binds on rank 0, and the links to the others.

    Args:
      start: `bigjax.distributed.bootstrap.Start` of this process.
      address: host and port of the coordinator.
      heartbeat: a machine that is silent for so many seconds counts as gone.

    Raises:
      UserError: the coordinator cannot be right, a process did not arrive in time, or two have the same number.
    """
    host, port = address
    until = time.monotonic() + seconds
    found = _lookup(host, until if start.late_names else 0.0, log)
    local = all(ip.is_loopback for ip in found)
    _refuse(start, host, found, local)
    hello = {'process': start.process, 'processes': start.processes, 'host': socket.gethostname(), 'pid': os.getpid(),
             'command': command}
    if start.process == 0:
        bind = os.environ.get('JAX_COORDINATOR_BIND_ADDRESS') or (
            f'{_bracketed(str(found[0]))}:{port}' if local and host in ('localhost', str(found[0])) else f'[::]:{port}')
        with _listen(bind, f'{_bracketed(host)}:{port}') as server:
            peers = Rendezvous(hello, f'{_bracketed(host)}:{port}', log).wait(server, until, seconds)
        return bind, PeerLinks(peers, relays=True, heartbeat=heartbeat)
    if local and start.hosts is None:
        until, seconds = min(until, time.monotonic() + LOOPBACK_S), min(seconds, LOOPBACK_S)
    peers = _join(hello, host, port, until, seconds, local, log)
    return '', PeerLinks(peers, relays=False, heartbeat=heartbeat)


def process_name(hello: dict) -> str:
    """'process 1 on node2 (pid 77)'."""
    return f"process {hello['process']} on {hello['host']} (pid {hello['pid']})"


def _bracketed(host: str) -> str:
    return f'[{host}]' if ':' in host else host


def _lookup(host: str, until: float, log) -> list:
    """The addresses of a name; the lookup is repeated until `until`.

    Raises:
      UserError: it has none, or the name service does not answer in time.
    """
    logged = time.monotonic()
    while True:
        answer, until_now = [], time.monotonic() + LOOKUP_S
        thread = threading.Thread(target=_resolve, args=(host, answer), daemon=True)  # the system's own limit is far longer
        thread.start()
        thread.join(LOOKUP_S)
        if answer and not isinstance(answer[0], OSError):
            return answer
        if time.monotonic() >= until:
            why = answer[0].strerror if answer else f'no answer in {LOOKUP_S:.0f} s'
            raise UserError(f"--coordinator: the name '{host}' cannot be resolved on {socket.gethostname()} ({why}); fix: "
                            'write the IP address of the host of process 0', code='distributed/no-address')
        if time.monotonic() - logged > LOG_EVERY_S:
            logged = time.monotonic()
            log(f"waiting for the name '{host}' to exist")
        time.sleep(max(0.0, min(1.0, until_now - time.monotonic())))


def _resolve(host, answer):
    try:
        rows = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        answer.append(error if isinstance(error, OSError) else OSError(0, 'not a name'))
    else:
        answer += list(dict.fromkeys(ipaddress.ip_address(row[4][0].split('%')[0]) for row in rows))


def _refuse(start, host: str, found: list, local: bool) -> None:
    """Raises UserError where the address cannot be that of process 0."""
    shown = host if str(found[0]) == host else f'{host} ({found[0]})'
    if any(ip.is_unspecified for ip in found):
        raise UserError(f'--coordinator: {shown} is not one machine; fix: name the host of process 0',
                        code='distributed/coordinator')
    if local and start.hosts is not None and start.hosts > 1:
        raise UserError(f'--coordinator: {shown} is a loopback address, which each of the {start.hosts} hosts takes for '
                        f'itself; fix: name the host of process 0 as the others see it ({start.reason})',
                        code='distributed/loopback')
    if start.process == 0 and 'JAX_COORDINATOR_BIND_ADDRESS' not in os.environ and not any(map(_mine, found)):
        raise UserError(f'--coordinator: {shown} is not an address of {socket.gethostname()}, where process 0 runs; fix: name '
                        'this host, or set JAX_COORDINATOR_BIND_ADDRESS where addresses are translated',
                        code='distributed/coordinator')


def _mine(ip) -> bool:
    """Whether an address is one of this machine's."""
    family = socket.AF_INET6 if ip.version == 6 else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.bind((str(ip), 0))
        return True
    except OSError:
        return False


def _listen(bind: str, shown: str) -> socket.socket:
    """A listening socket; it waits for a port that is just being released.

    Raises:
      UserError: the port is in use.
    """
    host, _, port = bind.rpartition(':')
    host = host.strip('[]')
    dual = host in ('', '::') and socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if dual or (':' in host and host != '::') else socket.AF_INET
    until = time.monotonic() + LOOKUP_S
    while True:
        try:
            return socket.create_server(('' if host == '::' else host, int(port)), family=family, dualstack_ipv6=dual)
        except OSError as error:
            if time.monotonic() > until:
                raise UserError(f'--coordinator={shown}: process 0 cannot listen there ({error.strerror}), perhaps for '
                                'another job that uses the port; fix: choose another one', code='distributed/port') from None
            time.sleep(0.2)


@dataclasses.dataclass
class Rendezvous:
    """Rank 0's list of the processes that have arrived.

    Attributes:
      mine: the hello of rank 0.
      place: the coordinator's address, for messages.
      log: receives a line on who has arrived.
      there: rank -> (its hello, its connection).
    """

    mine: dict
    place: str
    log: Callable[[str], None]
    there: dict = dataclasses.field(default_factory=dict)

    def wait(self, server: socket.socket, until: float, seconds: float) -> dict[str, socket.socket]:
        """Waits until all have arrived and confirms it to them; returns name -> connection.

        Raises:
          UserError: two have the same number, the counts differ, or the time is over.
        """
        logged = time.monotonic()
        server.settimeout(0.2)
        try:
            while len(self.there) < self.mine['processes'] - 1:
                with contextlib.suppress(TimeoutError):
                    self._greet(server.accept()[0])
                self.there = {key: (hello, other) for key, (hello, other) in self.there.items() if _connected(other)}
                if time.monotonic() - logged > LOG_EVERY_S:
                    logged = time.monotonic()
                    self.log(f'waiting at {self.place}: {self.arrived()}; {self.missing()} to come')
                if time.monotonic() > until:
                    raise UserError(f'--coordinator={self.place}: {self.missing()} did not come in {seconds:.0f} s '
                                    f'({self.arrived()}); fix: look at what they print, or raise --start_timeout',
                                    code='distributed/missing')
        except BaseException as error:
            refused = isinstance(error, UserError)
            self._answer({'refused': str(error) if refused else 'process 0 was stopped', 'code': error.code if refused else ''})
            raise
        self.log(f"all {self.mine['processes']} processes are here: {self.arrived()}")
        for _, connection in self.there.values():
            _send(connection, {key: self.mine[key] for key in ('process', 'host', 'pid')})
        return {process_name(hello): connection for hello, connection in self.there.values()}

    def _greet(self, connection: socket.socket) -> None:
        """Registers a new connection; one that does not send a hello of this job is closed.

        Raises:
          UserError: this job cannot come together.
        """
        hello = _read(connection, 2.0)
        if not isinstance(hello, dict) or {key: type(value) for key, value in hello.items()} != HELLO:
            connection.close()
            return
        who = process_name(hello)
        if hello['command'] != self.mine['command']:
            _send(connection, {'refused': f"{who}: got the command '{hello['command']}', expected '{self.mine['command']}' as "
                                          f'process 0 at {self.place}; fix: the same command for all, a port for each job',
                               'code': 'distributed/other-job'})
            connection.close()
            return
        before = self.there.get(hello['process'])
        self.there[hello['process']] = hello, connection  # from here on it receives the refusal of the job
        if hello['processes'] != self.mine['processes']:
            raise UserError(f"{who}: got --processes={hello['processes']}, expected {self.mine['processes']} as process 0 "
                            'has it; fix: the same number for all', code='distributed/counts')
        if hello['process'] == 0 or (before and _connected(before[1])):
            first = before[0] if before else self.mine
            self.there |= {(hello['process'], 'before'): before} if before else {}  # it receives the refusal, too
            raise UserError(f"{who}: that process is already here, on {first['host']} (pid {first['pid']}); fix: give each "
                            'its own --process', code='distributed/twice')

    def arrived(self) -> str:
        """'hostA: 0 1 · hostB: 2'."""
        hosts = {}
        for hello in [self.mine, *(hello for hello, _ in self.there.values())]:
            hosts.setdefault(hello['host'], []).append(hello['process'])
        return ' · '.join(f"{host}: {' '.join(map(str, sorted(numbers)))}" for host, numbers in hosts.items())

    def missing(self) -> str:
        """'process 2, 3'; the first ten."""
        numbers = [i for i in range(1, self.mine['processes']) if i not in self.there]
        return f"process {', '.join(map(str, numbers[:10]))}{' …' if len(numbers) > 10 else ''}"

    def _answer(self, what: dict) -> None:
        """Sends an answer to all and lets them close first, so that the port is free at once."""
        for _, connection in self.there.values():
            _send(connection, what)
        for _, connection in self.there.values():
            _read(connection, 1.0)
            connection.close()


def _join(hello: dict, host: str, port: int, until: float, seconds: float, local: bool, log) -> dict[str, socket.socket]:
    """Reports to rank 0 and waits for its answer; returns its name and connection.

    Raises:
      UserError: nothing answers, it is not rank 0 of this job, or it refuses.
    """
    place, logged = f'{_bracketed(host)}:{port}', time.monotonic()
    while True:
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
            connection = stack.enter_context(socket.create_connection((host, port), timeout=2.0))
            _send(connection, hello)
            answer = _read(connection, until - time.monotonic())
            if not isinstance(answer, dict):
                late = time.monotonic() >= until
                raise UserError(f'--coordinator={place}: ' + (
                    f'not all processes came in {seconds:.0f} s; fix: process 0 prints which are missing' if late else
                    'what listens there is not process 0 of this job waiting for others; fix: look at what it prints'),
                                code='distributed/missing' if late else 'distributed/stranger')
            if 'refused' in answer:
                raise UserError(str(answer['refused']), code=str(answer.get('code', '')))
            stack.pop_all()
            return {process_name(answer): connection}
        if time.monotonic() >= until:
            hint = ('start process 0 here first, or name its host: a loopback address is this machine alone' if local else
                    'see that it runs and that its port is open')
            raise UserError(f'--coordinator={place}: process 0 did not answer in {seconds:.0f} s; fix: {hint}',
                            code='distributed/no-answer')
        if time.monotonic() - logged > LOG_EVERY_S:
            logged = time.monotonic()
            log(f"process {hello['process']} waits for process 0 at {place}")
        time.sleep(0.2)


def _send(connection: socket.socket, what: dict) -> None:
    with contextlib.suppress(OSError):
        connection.sendall(json.dumps(what).encode() + b'\n')


def _read(connection: socket.socket, seconds: float):
    """One line of JSON; None where none comes in time."""
    until, text = time.monotonic() + seconds, b''
    try:
        while not text.endswith(b'\n') and len(text) < LONGEST:
            connection.settimeout(max(0.01, until - time.monotonic()))
            part = connection.recv(LONGEST)
            if not part or time.monotonic() > until:
                return None
            text += part
        return json.loads(text)
    except (OSError, ValueError):
        return None


def _connected(connection: socket.socket) -> bool:
    """Whether the other end is still connected."""
    connection.setblocking(False)
    try:
        return connection.recv(1, socket.MSG_PEEK) != b''
    except BlockingIOError:
        return True
    except OSError:
        return False
