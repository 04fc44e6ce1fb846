"""What the system shows of accelerators, without JAX; and no silent computing on the CPU beside one."""
import importlib.metadata
import os
import pathlib
import queue
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence

from bigjax.errors import UserError

GOOGLE = '0x1ae0'  # the PCI vendor of TPUs
PLUGINS = {'cuda': r'jax-cuda\d+-plugin', 'tpu': 'libtpu', 'rocm': r'jax-rocm\d*-plugin'}
GET = {'cuda': "pip install 'bigjax[cuda]'", 'tpu': "pip install 'bigjax[tpu]'", 'rocm': "install JAX's plugin for ROCm"}
HIDING = {'cuda': 'CUDA_VISIBLE_DEVICES', 'rocm': 'ROCR_VISIBLE_DEVICES'}
ON_PURPOSE = '--platform=cpu to run on the CPU on purpose'
LIMIT, TOGETHER = 14.0, 120.0  # seconds in which devices must have started: of one process, of several, which wait for another
SECONDS = 'BIGJAX_DEVICE_SECONDS'  # the variable that says otherwise
PLATFORM = 'BIGJAX_PLATFORM'  # the variable that stands for --platform where it is not given


def accelerators(root: pathlib.Path = pathlib.Path('/')) -> dict[str, list[str]]:
    """{'cuda', 'tpu' or 'rocm': its device files}; a kind that does not show is left out."""
    def numbered(folder, name):
        found = [p for p in (root / folder).glob(f'{name}*') if p.name.removeprefix(name).isdigit()]
        return sorted((f'/{p.relative_to(root)}' for p in found), key=lambda path: (len(path), path))

    # Other devices, too, are passed on by VFIO, and stand in the folder /dev/accel.
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
            continue  # unplugged meanwhile
    return False


def installed() -> dict[str, str]:
    """{distribution: version} of what Python finds, names in lower case with hyphens."""
    found = {}
    for distribution in importlib.metadata.distributions():
        name = distribution.metadata['Name']
        if name:  # what a broken removal has left has none
            found.setdefault(name.lower().replace('_', '-'), distribution.version)
    return found


def refuse_cpu(platform: str = '', *, root: pathlib.Path = pathlib.Path('/'), devices: Callable[..., Sequence] | None = None,
               packages: Mapping[str, str] | None = None, environ: Mapping[str, str] = os.environ) -> None:
    """Sees to it that nobody computes on the CPU beside an accelerator without having said so to this program; what says so to
    JAX, in the environment, may have been forgotten there.

    Args:
      platform: what --platform says; 'cpu' is on purpose.
      root: where /dev and /sys stand.
      devices: `jax.devices`.
      packages: see `installed`.

    Raises:
      UserError: an accelerator shows, and JAX's devices are the CPU's, or none, or do not answer. In that last case a thread
        stays behind in the driver, which can hold up the usual end of a program: leave by `os._exit`.
    """
    found = accelerators(root)
    if not found or platform.split(',')[0] == 'cpu':
        return
    kind, files = next(iter(found.items()))
    shown = files[0] if len(files) == 1 else f'{files[0]} and {len(files) - 1} more'
    for name in ('JAX_PLATFORMS', 'JAX_PLATFORM_NAME'):
        if not platform and environ.get(name, '').split(',')[0] == 'cpu':
            raise UserError(f'{shown} is there and JAX does not compute on it: {name}={environ[name]} in the environment '
                            f'keeps it on the CPU; unset it, or {ON_PURPOSE}')
    limit = LIMIT
    if devices is None:
        import jax
        devices, limit = jax.devices, TOGETHER if jax.distributed.is_initialized() else LIMIT
    limit = float(environ.get(SECONDS) or limit)
    until = time.monotonic() + limit
    try:
        failure = _failure(devices, until)
        if failure is None:
            return
        cause = _cause(kind, failure, devices, until, installed() if packages is None else packages, environ)
    except TimeoutError:
        raise UserError(
            f'{shown} is there and JAX got no answer from it in {limit:.0f} s: its driver is stuck, or somebody else has it; '
            f'free or mend the device, give it more time ({SECONDS}=60), or {ON_PURPOSE}') from None
    raise UserError(f'{shown} is there and JAX does not compute on it: {cause}, or {ON_PURPOSE}')


def _failure(devices: Callable[..., Sequence], until: float, *kind: str) -> str | None:
    """What JAX says of devices that it cannot start; '' where it starts the CPU's; None where it has others.

    Raises:
      TimeoutError: a driver has not answered by then (`time.monotonic`); nothing can be done to the thread that asks it.
    """
    answers = queue.SimpleQueue()

    def ask():
        try:
            answers.put(None if devices(*kind)[0].platform != 'cpu' else '')
        except RuntimeError as error:
            answers.put(str(error))
        except BaseException as error:
            answers.put(error)

    threading.Thread(target=ask, name='devices', daemon=True).start()
    try:
        answer = answers.get(timeout=max(0.1, until - time.monotonic()))
    except queue.Empty:
        raise TimeoutError from None
    if isinstance(answer, BaseException):
        raise answer
    return answer


def _cause(kind: str, failure: str, devices, until: float, packages: Mapping[str, str], environ: Mapping[str, str]) -> str:
    """Why, and the mend."""
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
    why = 'see what JAX said above' if not failure or 'Unknown backend' in failure else one_line(failure)
    return f'{plugin} {packages[plugin]} is installed and failed ({why}); free or mend the device, or again {GET[kind]}'


def one_line(text: str, limit: int = 300) -> str:
    """The text in one line of at most so many characters."""
    text = ' '.join(text.split())
    return text if len(text) <= limit else f'{text[:limit - 1]}…'
