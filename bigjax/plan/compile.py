"""The train step of a program, compiled for the devices of a topology that need not be there, in this process.

libtpu and the CUDA plugin are only compilers here: they give descriptions of devices, on which no array can be made. So
everything is a shape with a place, until the compiled text.
"""
import contextlib
import importlib.util
import os
import pathlib
import re
import tempfile
from typing import Any, NamedTuple

import jax

from bigjax.errors import UserError
from bigjax.io.stopwatch import Stopwatch
from bigjax.nn import cpu
from bigjax.plan.topology import Topology

# Set before jax is imported. Arrays live on the CPU; libtpu's lock would stop a second compiler, and its logs fill /tmp.
ENVIRONMENT = {
    'JAX_PLATFORMS': 'cpu', 'ALLOW_MULTIPLE_LIBTPU_LOAD': '1', 'TPU_SKIP_MDS_QUERY': '1', 'TPU_LOG_DIR': 'disabled',
    'TPU_WORKER_HOSTNAMES': 'localhost', 'TPU_ACCELERATOR_TYPE': 'v5litepod-4', 'TF_CPP_MIN_LOG_LEVEL': '2',
    'TPU_STDERR_LOG_LEVEL': '3', 'TPU_MIN_LOG_LEVEL': '3',
}
EXTRAS = {'tpu': ('libtpu', 'tpu'), 'gpu': ('jax_cuda13_plugin', 'plan-gpu')}
FAST = {'exec_time_optimization_effort': -1.0}  # for TPUs: a fifth of the compile time; same collectives, memory within 3 %
LOWERING = {'tpu': 'tpu', 'gpu': 'cuda', 'cpu': 'cpu'}
# The description of a device that the compiler for GPUs needs (openxla/xla, target_config/specs of H100 SXM and H200).
GPU_NUMBERS = {
    'threads_per_block_limit': 1024, 'threads_per_warp': 32, 'shared_memory_per_block': 49152,
    'shared_memory_per_core': 233472, 'threads_per_core_limit': 2048, 'core_count': 132, 'fpus_per_core': 128,
    'block_dim_limit_x': 2147483647, 'block_dim_limit_y': 65535, 'block_dim_limit_z': 65535, 'l2_cache_size': 52428800,
    'clock_rate_ghz': 1.98, 'shared_memory_per_block_optin': 232448, 'registers_per_core_limit': 65536,
    'registers_per_block_limit': 65536,
}
GPU_MEMORY = {'h100': (84942979072, 3352320000000), 'h200': (151397597184, 4800000000000)}  # bytes, bytes/s


class TooLarge(Exception):
    """The compiler ran out of device memory.

    Attributes:
      needs, has: bytes, or None where the compiler does not report them.
      text: the refused program; '' where the compiler left none.
    """

    def __init__(self, message: str, text: str = ''):
        super().__init__(message)
        self.needs, self.has = _sizes(message)
        self.text = text


class Compiled(NamedTuple):
    """A compiled step: the scheduled HLO, bytes per device by kind, and the seconds of each stage."""

    text: str
    memory: dict[str, int]
    seconds: dict[str, float]


def missing(topology: Topology) -> str | None:
    """A line that names the package missing to compile for a topology, or None."""
    module, extra = EXTRAS.get(topology.platform, (None, None))
    if module is None or importlib.util.find_spec(module):
        return None
    return f"{topology.text}: got no compiler for it, expected {module}; fix: pip install 'bigjax[{extra}]'"


def stand_ins(topology: Topology) -> list:
    """Fake CPU devices, one for each of the topology."""
    return _fake(topology.devices)


def devices(topology: Topology) -> list:
    """Descriptions of the devices.

    Raises:
      UserError: this process has fewer.
    """
    from bigjax.compat import get_topology_desc
    if topology.platform == 'cpu':
        return _fake(topology.devices)
    if topology.platform == 'gpu':
        return list(get_topology_desc(
            platform='cuda', target_config=gpu_target(topology.generation),
            topology=f"1x{topology.shape[0]}x{topology.shape[1]}").devices)
    options: dict[str, Any] = {'num_slices': topology.slices} if topology.slices > 1 else {}
    if topology.generation == 'v4':
        options['chip_config_name'] = 'megacore'  # one device per chip, as on the machines
    if topology.chips == topology.slices:
        options['chips_per_host_bounds'] = (1, 1, 1)
    return list(get_topology_desc(platform='tpu', topology_name=topology.name, **options).devices)


def _fake(count: int) -> list:
    with contextlib.suppress(RuntimeError):  # the backend has been started, with what it has
        jax.config.update('jax_num_cpu_devices', count)
    there = jax.devices('cpu')
    if len(there) < count:
        raise UserError(f'--topology: got cpu:{count}, expected at most {len(there)}, the devices of this process; fix: fewer',
                        code='plan/devices')
    return there[:count]


def gpu_target(generation: str) -> str:
    """The text protocol buffer that describes a GPU to its compiler."""
    memory, bandwidth = GPU_MEMORY[generation]
    numbers = {**GPU_NUMBERS, 'device_memory_size': memory, 'memory_bandwidth': bandwidth}
    fields = ' '.join(f'{key}: {value}' for key, value in numbers.items())
    return (f'gpu_device_info {{ {fields} cuda_compute_capability {{ major: 9 }} }} platform_name: "CUDA" '
            f'dnn_version_info {{ major: 9 minor: 10 }} device_description_str: "NVIDIA {generation.upper()}"')


def compile_step(program, topology: Topology) -> Compiled:
    """Compiles the function that a run would call.

    Raises:
      TooLarge: it does not fit.
    """
    seconds, platform = {}, topology.platform
    with cpu.lowering_for(platform):
        watch = Stopwatch()
        lowered = program.compiled.trace(*program.arguments()).lower(lowering_platforms=(LOWERING[platform],))
        seconds['lower'] = watch.lap()
    with tempfile.TemporaryDirectory() as folder:
        options = {**FAST, 'xla_dump_to': folder} if platform == 'tpu' else None
        try:
            compiled = lowered.compile(compiler_options=options)
        except Exception as error:
            if 'RESOURCE_EXHAUSTED' in str(error) or 'xceeds available' in str(error):
                raise TooLarge(str(error), _dumped(folder)) from None
            raise
    seconds['compile'] = watch.lap()
    return Compiled(compiled.as_text(), _memory(compiled), seconds)


def _dumped(folder: str) -> str:
    """The program that the compiler refused for its memory, as it dumped it."""
    found = sorted(pathlib.Path(folder).glob('*after_optimizations.txt'))
    return found[-1].read_text(errors='replace') if found else ''


def _memory(compiled) -> dict[str, int]:
    """Bytes per device: arguments, output, alias (of the output with donated arguments), temporaries, code, peak."""
    m = compiled.memory_analysis()
    read = lambda name: int(getattr(m, name, 0) or 0)
    return {'arguments': read('argument_size_in_bytes'), 'output': read('output_size_in_bytes'),
            'alias': read('alias_size_in_bytes'), 'temporaries': read('temp_size_in_bytes'),
            'code': read('generated_code_size_in_bytes'), 'peak': read('peak_memory_in_bytes')}


def _sizes(text: str) -> tuple[float | None, float | None]:
    """(needed, available) bytes in a message such as 'Used 29.00G of 15.75G hbm'."""
    units = {'K': 2**10, 'M': 2**20, 'G': 2**30, 'T': 2**40}
    number = r'([\d.]+)([KMGT])'
    found = (re.search(rf'Used {number}i?B? of {number}', text)
             or re.search(rf'{number}\D*xceed\w* available HBM \({number}', text))
    if not found:
        return None, None
    a, b, c, d = found.groups()
    return float(a) * units[b], float(c) * units[d]


def environment() -> dict[str, str]:
    """The environment of a process that compiles for another machine; without a compile cache, which such programs break."""
    inherited = {k: v for k, v in os.environ.items() if k not in ('JAX_COMPILATION_CACHE_DIR', 'XLA_FLAGS', 'LIBTPU_INIT_ARGS')}
    return {**inherited, **ENVIRONMENT}
