"""The checks of `doctor` on machines that ssh reaches, over one connection each."""
import pathlib
import shlex
import time
from collections.abc import Sequence

from bigjax.errors import UserError
from launch.engines.base import Check
from launch.engines.ssh.transport import Hosts, shell_path
from launch.steps import Failed, Run

MAX_SKEW_S = 5.0  # of the clock
MIN_DISK_GB = 5.0
PACKAGES = ('jax', 'flax', 'optax', 'orbax', 'absl', 'ml_collections', 'numpy')
SCRIPT = """\
export PATH={path}"$PATH"
echo begin
echo "time $(date +%s)"
echo "rsync $(command -v rsync)"
echo "setsid $(command -v setsid)"
echo "proc $(cat /proc/sys/kernel/random/boot_id 2>/dev/null)"
mkdir -p {base} && echo "folder $(df -Pk {base} | awk 'NR == 2 {{ print $4 }}')"
echo "command $(command -v {command})"
echo "packages $({python} -c {program} 2>&1 </dev/null | tail -n 1)"
"""
PROGRAM = ('import importlib.util, sys; '
           'print(sys.version.split()[0], *(name for name in {names!r} if importlib.util.find_spec(name) is None))')


def checks(hosts: Hosts, base: str, path: str, command: Sequence[str]) -> list[Check]:
    """The checks of each machine: it answers, has what a job needs, and its clock is right."""
    python = command[0] if 'python' in pathlib.PurePath(command[0]).name else 'python'
    text = SCRIPT.format(path=f'{shell_path(path)}:' if path else '', base=base, command=shlex.quote(command[0]),
                      python=shlex.quote(python), program=shlex.quote(PROGRAM.format(names=PACKAGES)))

    def check(host: int) -> list[Check]:
        began = time.time()
        try:
            output = hosts.execute(host, Run(hosts.ssh(host, 'sh -s'), text), seconds=60.0)
        except (UserError, Failed) as error:
            found, _, fix = str(error).partition('; fix: ')
            return [Check(hosts.name(host), False, found.removeprefix(f'{hosts.name(host)}: '), fix)]
        return _read(hosts.name(host), output, (began + time.time()) / 2, base, command[0], python)

    return [found for checks in hosts.each(check) for found in checks]


def _read(name: str, output: str, now: float, base: str, command: str, python: str) -> list[Check]:
    lines = output[output.index('begin'):].splitlines() if 'begin' in output else []
    values = {key: value.strip() for key, _, value in (line.partition(' ') for line in lines)}
    skew = float(values.get('time') or 'nan') - now
    free = float(values.get('folder') or 0) / 1e6
    version, *missing = values.get('packages', '').split() or ['']
    works, without = version[:2] in ('2.', '3.'), f", without {', '.join(missing)}" if missing else ''
    return [
        Check(name, True, 'answers'),
        Check(f'{name}: rsync', bool(values.get('rsync')), values.get('rsync') or 'is missing', 'apt install rsync'),
        Check(f'{name}: system', bool(values.get('setsid') and values.get('proc')),
              'Linux, with setsid' if values.get('setsid') and values.get('proc') else 'no /proc, or no setsid',
              'it must be Linux, with util-linux'),
        Check(f'{name}: disk', free >= MIN_DISK_GB, f'{free:.0f} GB free' if 'folder' in values else f'{base}: no such folder',
              'remove old code and jobs there with launch down, or name another folder with code=…'),
        Check(f'{name}: clock', abs(skew) <= MAX_SKEW_S, f'{skew:+.1f} s from here', 'set it: timedatectl set-ntp true'),
        Check(f'{name}: {command}', bool(values.get('command')), values.get('command') or 'is not on PATH there',
              'name its folder with path=…, for example path=~/venv/bin'),
        Check(f'{name}: packages', works and not missing,
              f'Python {version}{without}' if works else f'{python} does not run there',
              'pip install -e . there, or name its environment with path=…'),
    ]
