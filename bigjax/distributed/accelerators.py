"""The accelerators that the system shows, without JAX, and the check that JAX computes on them."""
import importlib.metadata
import os
import pathlib
import queue
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence

from bigjax.errors import UserError
from bigjax.io.text import printable

GOOGLE = '0x1ae0'  # the PCI vendor of TPUs
PLUGINS = {'cuda': r'jax-cuda\d+-plugin', 'tpu': 'libtpu', 'rocm': r'jax-rocm\d*-plugin'}
GET = {'cuda': "pip install 'bigjax[cuda]'", 'tpu': "pip install 'bigjax[tpu]'", 'rocm': "install JAX's plugin for ROCm"}
HIDING = {'cuda': 'CUDA_VISIBLE_DEVICES', 'rocm': 'ROCR_VISIBLE_DEVICES'}
ON_PURPOSE = '--platform=cpu to run on the CPU on purpose'
START_S, START_TOGETHER_S = 14.0, 120.0  # time for devices to start: in one process; in several, which wait for one another
SECONDS = 'BIGJAX_DEVICE_SECONDS'  # the variable that overrides both
PLATFORM = 'BIGJAX_PLATFORM'  # the variable that replaces --platform where the flag is not given


def accelerators(root: pathlib.Path = pathlib.Path('/')) -> dict[str, list[str]]:
    """{'cuda', 'tpu' or 'rocm': its device files}, without kinds that have none."""
    def numbered(folder, name):
        found = [p for p in (root / folder).glob(f'{name}*') if p.name.removeprefix(name).isdigit()]
        return sorted((f'/{p.relative_to(root)}' for p in found), key=lambda path: (len(path), path))

    # VFIO passes on other devices, too, and /dev/accel/ is the folder of another driver: only Google's devices count.
    tpu = numbered('dev', 'accel') + (numbered('dev/vfio', '') if _google(root) else [])
    kinds = {'cuda': numbered('dev', 'nvidia'), 'tpu': tpu, 'rocm': ['/dev/kfd'] * (root / 'dev/kfd').exists()}
    return {kind: files for kind, files in kinds.items() if files}


def _google(root: pathlib.Path) -> bool:
    """Whether one of Google's devices is on the PCI bus."""
    for vendor in (root / 'sys/bus/pci/devices').glob('*/vendor'):
        try:
            if vendor.read_text().strip() == GOOGLE:
                return True
        except OSError:
            continue  # unplugged between the listing and the read
    return False


def installed() -> dict[str, str]:
    """{distribution: version} of the installed packages, names in lower case with hyphens."""
    found = {}
    for distribution in importlib.metadata.distributions():
        name = distribution.metadata['Name']
        if name:  # the remains of a broken removal have none
            found.setdefault(name.lower().replace('_', '-'), distribution.version)
    return found


def choose(platform: str) -> str:
    """Sets JAX to a platform, before it has started one, and returns its name: 'cuda' of 'cuda', 'cpu' of 'cpu:4'.

    A CPU may be divided into several devices: to try a mesh on one machine, or for a step so long that a device per core is
    faster than operations on all cores.

    Raises:
      UserError: a number of devices that is none, or one of another platform.
    """
    name, colon, count = platform.partition(':')
    if colon and (name != 'cpu' or not count.isdecimal() or int(count) < 1):
        raise UserError(f'--platform: got {printable(platform)}, expected cpu, cuda or tpu, or a number of devices of a CPU; '
                        'fix: --platform=cpu:4', code='cli/platform')
    if name:
        import jax
        jax.config.update('jax_platforms', name)
        if colon:
            jax.config.update('jax_num_cpu_devices', int(count))
    return name


def require_accelerator(platform: str = '', *, root: pathlib.Path = pathlib.Path('/'),
                        devices: Callable[..., Sequence] | None = None, packages: Mapping[str, str] | None = None,
                        environ: Mapping[str, str] = os.environ) -> None:
    """Fails if an accelerator is present but JAX would run on the CPU, or the chosen platform cannot start.

    Only --platform=cpu is a decision for the CPU. JAX_PLATFORMS=cpu is not: it is often left over in the environment.

    Args:
      platform: the value of --platform.
      root: the folder that holds /dev and /sys.
      devices: `jax.devices`.
      packages: see `installed`.

    Raises:
      UserError: an accelerator shows, and JAX's devices are the CPU's, or none, or do not answer; or JAX has no such platform.
        Where a driver does not answer, a thread stays blocked in it, which can hold up the usual end of a program: leave by
        `os._exit`.
    """
    found = accelerators(root)
    named = platform or environ.get('JAX_PLATFORMS', '')
    if platform.split(',')[0] == 'cpu' or (not found and named.split(',')[0] in ('', 'cpu')):
        return
    kind, files = next(iter(found.items()), ('', ['no accelerator']))
    shown = files[0] if len(files) == 1 else f'{files[0]} and {len(files) - 1} more'
    for name in ('JAX_PLATFORMS', 'JAX_PLATFORM_NAME'):
        if found and not platform and environ.get(name, '').split(',')[0] == 'cpu':
            raise UserError(f'{shown} is there and JAX does not compute on it: {name}={environ[name]} in the environment '
                            f'keeps it on the CPU; unset it, or {ON_PURPOSE}', code='accelerator/unused')
    limit = START_S
    if devices is None:
        import jax
        devices, limit = jax.devices, START_TOGETHER_S if jax.distributed.is_initialized() else START_S
    limit = float(environ.get(SECONDS) or limit)
    until = time.monotonic() + limit
    try:
        failure = _failure(devices, until)
        if failure is None:
            return
        if not found:
            raise UserError(not_started(failure or 'it has only CPU devices', platform, environ), code='accelerator/none')
        cause = _cause(kind, failure, devices, until, installed() if packages is None else packages, environ)
    except TimeoutError:
        raise UserError(
            f'{shown} is there and JAX got no answer from it in {limit:.0f} s: its driver is stuck, or another process '
            f'has it; free or repair the device, give it more time ({SECONDS}=60), or {ON_PURPOSE}',
            code='accelerator/no-answer') from None
    raise UserError(f'{shown} is there and JAX does not compute on it: {cause}, or {ON_PURPOSE}', code='accelerator/unused')


def not_started(failure: str | BaseException, platform: str, environ: Mapping[str, str]) -> str:
    """The message where JAX cannot start the devices of a platform: JAX's own reason and the fix."""
    if isinstance(failure, BaseException):
        failure = f'{type(failure).__name__}: {failure}' if str(failure) else type(failure).__name__
    named = platform or environ.get('JAX_PLATFORMS', '')
    by = f'--platform={platform}' if platform else f'JAX_PLATFORMS={named} in the environment' if named else 'the best there is'
    install = GET.get('cuda' if named.split(',')[0] == 'gpu' else named.split(',')[0], '')
    cpu = f'unset JAX_PLATFORMS if it is there by mistake, or {ON_PURPOSE}' if named and not platform else ON_PURPOSE
    return f"JAX cannot start its devices ({by}): {one_line(failure)}; {', or '.join(filter(None, (install, cpu)))}"


def _failure(devices: Callable[..., Sequence], until: float, *kind: str) -> str | None:
    """JAX's error for devices that it cannot start; '' where it starts the CPU's; None where it has others.

    Raises:
      TimeoutError: a driver has not answered by `until` (`time.monotonic`); the thread that waits for it cannot be ended.
    """
    answers = queue.SimpleQueue()

    def start():
        try:
            answers.put(None if devices(*kind)[0].platform != 'cpu' else '')
        except (RuntimeError, AssertionError) as error:  # an assertion: a platform without its plugin
            answers.put(str(error) or type(error).__name__)
        except BaseException as error:
            answers.put(error)

    threading.Thread(target=start, name='devices', daemon=True).start()
    try:
        answer = answers.get(timeout=max(0.1, until - time.monotonic()))
    except queue.Empty:
        raise TimeoutError from None
    if isinstance(answer, BaseException):
        raise answer
    return answer


def _cause(kind: str, failure: str, devices, until: float, packages: Mapping[str, str], environ: Mapping[str, str]) -> str:
    """Why JAX does not use the device, and the fix."""
    hiding = HIDING.get(kind, '')
    if environ.get(hiding) in ('', '-1'):
        return f'{hiding}={environ[hiding]} in the environment hides it; unset it'
    plugins = [name for name in packages if re.fullmatch(PLUGINS[kind], name)]
    if not plugins:
        return f'{failure and one_line(failure) + "; "}no plugin for {kind} is installed; {GET[kind]}'
    plugin, jaxlib = plugins[0], packages.get('jaxlib', '')
    if kind != 'tpu' and packages[plugin] != jaxlib:
        return f'{plugin} {packages[plugin]} is not for jaxlib {jaxlib}; {GET[kind]}'
    failure = failure or _failure(devices, until, kind) or ''
    why = 'see the output of JAX above' if not failure or 'Unknown backend' in failure else one_line(failure)
    return f'{plugin} {packages[plugin]} is installed and failed ({why}); free or repair the device, or reinstall: {GET[kind]}'


def one_line(text: str, limit: int = 300) -> str:
    """The text in one line of at most `limit` characters."""
    text = ' '.join(text.split())
    return text if len(text) <= limit else f'{text[:limit - 1]}…'
