"""Machines to test against, on one machine: each with its own network, name, processes, /root and /tmp, and a real sshd.

    with Hosts(2) as hosts:                       # or the fixture `hosts`
        subprocess.run([*hosts.control, 'ssh', '-F', hosts.config, 'host1', 'hostname'])

They live on a bridge in a control network that has no way out: what reaches them (the launcher) runs behind `hosts.control`.
All else of the file system is shared, as by NFS. Nothing is configured outside of namespaces of our own, except files in
/etc/netns; every process that is started dies with the one that made the Hosts.

    hosts.names, hosts.addresses   ('host1', …), ('198.51.100.11', …); names resolve on the hosts and behind `control`
    hosts.config                   a file for ssh -F: names, user, key, known hosts
    hosts.identity, hosts.known    its private key, and its file of known hosts
    hosts.control                  arguments in front of a command that is to reach the hosts
    hosts.inside(i)                arguments in front of a command that is to run on host i (0, …) as if typed there
    hosts.home(i)                  what is /root there, as seen from here
    hosts.shared                   a folder that all of them, and this machine, see under the same path
    hosts.power_off(i)             at once, without a word to the network; power_on(i) starts it again, with nothing running
    hosts.cut(i), hosts.heal(i)    its network cable
"""
import contextlib
import ipaddress
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

import pytest

SUBNET = '198.51.100'  # TEST-NET-2, RFC 5737
PROGRAMS = {'/usr/sbin/sshd': 'openssh-server', 'ssh': 'openssh-client', 'ssh-keygen': 'openssh-client', 'rsync': 'rsync',
            'ip': 'iproute2', 'nsenter': 'util-linux', 'unshare': 'util-linux', 'setpriv': 'util-linux'}
SSHD = """
Port 22
ListenAddress {address}
HostKey {hostkey}
PidFile none
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
StrictModes no
MaxStartups 100:30:200
Subsystem sftp internal-sftp
"""
BOOT = """
set -e
hostname "$NAME"
mount --bind "$HOST/hosts" /etc/hosts
back() { mkdir -p "$HOST$1"; mount --rbind "$1" "$HOST$1"; }
for folder in $BACK; do back "$folder"; done
mount --rbind "$HOST/root" /root
mount --rbind "$HOST/tmp" /tmp
cd /
exec env -i PATH="$PATH" HOME=/root /usr/sbin/sshd -D -e -f "$HOST/sshd_config"
"""


def missing() -> str:
    """Why hosts cannot be made here; '' where they can."""
    if not sys.platform.startswith('linux'):
        return 'hosts to test against need Linux'
    if os.getuid():
        return 'hosts to test against need root (for namespaces)'
    absent = sorted({package for program, package in PROGRAMS.items() if shutil.which(program) is None})
    if absent:
        return f"hosts to test against need {' '.join(absent)} (apt-get install {' '.join(absent)})"
    done = subprocess.run(['unshare', '--net', '--mount', '--uts', '--pid', '--fork', 'true'], capture_output=True, text=True,
                          check=False)
    return '' if done.returncode == 0 else f'hosts to test against need namespaces: {done.stderr.strip()}'


def overlaps() -> list[str]:
    """Addresses and routes of this machine that the test network would hide."""
    ours = ipaddress.ip_network(f'{SUBNET}.0/24')
    listed = json.loads(_ip('-j', 'addr')), json.loads(_ip('-j', 'route', 'show', 'table', 'all'))
    found = [f"{a['local']}/{a['prefixlen']}" for link in listed[0] for a in link.get('addr_info', ()) if a['family'] == 'inet']
    found += [route['dst'] for route in listed[1] if route.get('dst', 'default') != 'default' and ':' not in route['dst']]
    return sorted(text for text in set(found) if ipaddress.ip_interface(text).network.overlaps(ours))


def _ip(*words: str) -> str:
    return subprocess.run(['ip', *words], capture_output=True, text=True, check=True).stdout


class Hosts:
    """See above. Raises RuntimeError where the test network would hide something of this machine."""

    def __init__(self, count: int = 2):
        self.names = tuple(f'host{i + 1}' for i in range(count))
        self.addresses = tuple(f'{SUBNET}.{11 + i}' for i in range(count))
        self._tag = f'bjx{os.getpid()}'
        self._running: dict[int, subprocess.Popen] = {}
        self._undo = contextlib.ExitStack()

    def __enter__(self) -> 'Hosts':
        if hidden := overlaps():
            raise RuntimeError(f'{SUBNET}.0/24 is in use on this machine ({hidden[0]}); no test network is made')
        with contextlib.ExitStack() as undo:
            self._base = pathlib.Path(tempfile.mkdtemp(prefix='bigjax-hosts-', dir='/var/tmp'))
            undo.callback(shutil.rmtree, self._base, ignore_errors=True)
            self.shared = self._base / 'shared'
            self.shared.mkdir()
            self._keys()
            self._network(undo)
            undo.callback(self._all_off)
            for host in range(len(self.names)):
                self._files(host)
                self.power_on(host, wait=False)
            self._answer(range(len(self.names)))
            self._undo = undo.pop_all()
        return self

    def __exit__(self, *_) -> None:
        self._undo.close()

    @property
    def control(self) -> tuple[str, ...]:
        return 'ip', 'netns', 'exec', f'{self._tag}c'

    def inside(self, host: int) -> tuple[str, ...]:
        return ('nsenter', f'--target={self._init(host)}', '--mount', '--uts', '--net', '--pid', '--wd=/root', 'env', '-i',
                'HOME=/root', 'PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin')

    def home(self, host: int) -> pathlib.Path:
        return self._base / self.names[host] / 'root'

    def power_off(self, host: int) -> None:
        self.cut(host)
        process = self._running.pop(host)
        process.kill()
        process.wait(10)

    def power_on(self, host: int, wait: bool = True) -> None:
        folder = self._base / self.names[host]
        env = {'PATH': '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin', 'NAME': self.names[host],
               'HOST': str(folder), 'BACK': ' '.join(self._back())}
        with open(folder / 'sshd.log', 'ab') as log:
            self._running[host] = subprocess.Popen(
                ['setpriv', '--pdeathsig', 'KILL', 'nsenter', f'--net=/run/netns/{self._tag}h{host}', 'unshare', '--mount',
                 '--uts', '--pid', '--fork', '--kill-child=KILL', '--mount-proc', 'sh', '-c', BOOT],
                env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        self.heal(host)
        if wait:
            self._answer([host])

    def cut(self, host: int) -> None:
        _ip('-n', f'{self._tag}c', 'link', 'set', f'v{host}', 'down')

    def heal(self, host: int) -> None:
        _ip('-n', f'{self._tag}c', 'link', 'set', f'v{host}', 'up')

    def _keys(self) -> None:
        self.identity, self.known = self._base / 'id', self._base / 'known_hosts'
        self.config = str(self._base / 'ssh_config')
        self._keygen(self.identity)
        pathlib.Path(self.config).write_text(''.join(
            f'Host {name}\n  HostName {address}\n' for name, address in zip(self.names, self.addresses, strict=True)) + (
            f'Host *\n  User root\n  IdentityFile {self.identity}\n  IdentitiesOnly yes\n  UserKnownHostsFile {self.known}\n'
            '  GlobalKnownHostsFile /dev/null\n  StrictHostKeyChecking yes\n'))

    def _keygen(self, path: pathlib.Path) -> None:
        subprocess.run(['ssh-keygen', '-q', '-t', 'ed25519', '-N', '', '-C', 'test', '-f', path], check=True)

    def _network(self, undo: contextlib.ExitStack) -> None:
        """The control network with a bridge, and a network for each host that is plugged into it; no default route."""
        names = '127.0.0.1 localhost\n' + ''.join(f'{a} {n}\n' for n, a in zip(self.names, self.addresses, strict=True))
        (self._base / 'hosts').write_text(names)
        control = f'{self._tag}c'
        etc = pathlib.Path('/etc/netns') / control
        undo.callback(shutil.rmtree, etc, ignore_errors=True)
        etc.mkdir(parents=True, exist_ok=True)
        (etc / 'hosts').write_text(names)
        for name in (control, *(f'{self._tag}h{i}' for i in range(len(self.names)))):
            _ip('netns', 'add', name)
            undo.callback(subprocess.run, ['ip', 'netns', 'delete', name], check=False)
            _ip('-n', name, 'link', 'set', 'lo', 'up')
        _ip('-n', control, 'link', 'add', 'bridge', 'type', 'bridge')
        _ip('-n', control, 'addr', 'add', f'{SUBNET}.1/24', 'dev', 'bridge')
        _ip('-n', control, 'link', 'set', 'bridge', 'up')
        for host, address in enumerate(self.addresses):
            own = f'{self._tag}h{host}'
            _ip('-n', control, 'link', 'add', f'v{host}', 'type', 'veth', 'peer', 'name', 'eth0', 'netns', own)
            _ip('-n', control, 'link', 'set', f'v{host}', 'master', 'bridge', 'up')
            _ip('-n', own, 'addr', 'add', f'{address}/24', 'dev', 'eth0')
            _ip('-n', own, 'link', 'set', 'eth0', 'up')

    def _files(self, host: int) -> None:
        folder = self._base / self.names[host]
        for path in (folder / 'root' / '.ssh', folder / 'tmp'):
            path.mkdir(parents=True)
        pathlib.Path('/run/sshd').mkdir(exist_ok=True)
        self._keygen(folder / 'hostkey')
        shutil.copy(f'{self.identity}.pub', folder / 'root' / '.ssh' / 'authorized_keys')
        shutil.copy(self._base / 'hosts', folder / 'hosts')
        (folder / 'sshd_config').write_text(SSHD.format(address=self.addresses[host], hostkey=folder / 'hostkey'))
        key = ' '.join((folder / 'hostkey.pub').read_text().split()[:2])
        with open(self.known, 'a') as known:
            known.write(f'{self.names[host]},{self.addresses[host]} {key}\n')

    def _back(self) -> list[str]:
        """Folders of Python below /root and /tmp, which all hosts see."""
        folders = dict.fromkeys(str(pathlib.Path(path).resolve()) for path in (sys.base_prefix, sys.prefix))
        return [folder for folder in folders if folder.startswith(('/root/', '/tmp/'))]

    def _init(self, host: int) -> int:
        """The first process of a host, as numbered here."""
        parent = self._running[host].pid
        return int(pathlib.Path(f'/proc/{parent}/task/{parent}/children').read_text().split()[0])

    def _answer(self, numbers) -> None:
        """Waits for sshd."""
        until = time.monotonic() + 20
        for host in numbers:
            argv = [*self.control, 'ssh', '-F', self.config, '-o', 'BatchMode=yes', '-o', 'ConnectTimeout=1', self.names[host],
                    'true']
            while (done := subprocess.run(argv, capture_output=True, text=True, check=False)).returncode:
                if time.monotonic() > until or self._running[host].poll() is not None:
                    log = (self._base / self.names[host] / 'sshd.log').read_text()
                    raise RuntimeError(f'{self.names[host]} does not come up: {done.stderr} {log}')
                time.sleep(0.1)

    def _all_off(self) -> None:
        for process in self._running.values():
            process.kill()
        for process in self._running.values():
            process.wait(10)


@pytest.fixture(scope='module')
def hosts():
    """Two of them, for the tests of a file; skipped with the reason where they cannot be."""
    if why := missing():
        pytest.skip(why)
    with Hosts(2) as made:
        yield made
