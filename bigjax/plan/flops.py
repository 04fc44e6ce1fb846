"""FLOPs of one instruction of a compiled program: two for every multiplication that a product or convolution needs.

Elementwise work is not counted, as in every published utilisation.
"""
import json
import math
import re

from bigjax.plan import hlo
from bigjax.train.flops import taps


def instruction(i: hlo.Instruction, shapes: list[str]) -> float:
    """The FLOPs of a dot, a convolution or a product of the GPU's library, given the operands' shapes; 0 for anything else."""
    if i.op == 'dot':
        return _dot(i, shapes)
    if i.op == 'convolution':
        return _convolution(i, shapes)
    if i.op == 'custom-call':
        return _library(i, shapes)
    return 0.0


def _contracted(shape: str, dims: list[int]) -> int:
    lhs = hlo.dimensions(shape)
    return math.prod(lhs[d] for d in dims)


def _dot(i, shapes) -> float:
    dims = re.search(r'lhs_contracting_dims=\{([0-9,]*)\}', i.attrs)
    contracted = [int(d) for d in dims.group(1).split(',') if d] if dims else []
    return 2.0 * math.prod(hlo.dimensions(i.shape)) * _contracted(shapes[0], contracted)


def _library(i, shapes) -> float:
    """The FLOPs of a product in cuBLAS, or those that a kernel states in its cost estimate."""
    if re.search(r'custom_call_target="__cublas', i.attrs) and shapes:
        dims = re.search(r'"lhs_contracting_dimensions":(\[[^\]]*\])', i.attrs)
        contracted = [int(d) for d in json.loads(dims.group(1))] if dims else []
        return 2.0 * math.prod(hlo.dimensions(i.shape)) * _contracted(shapes[0], contracted)
    estimate = re.search(r'"cost_estimate":\{[^}]*"flops":"?(\d+)', i.attrs)
    return float(estimate.group(1)) if estimate else 0.0


def _convolution(i, shapes) -> float:
    """2 x outputs x input features x valid taps: positions where the window lies on padding or between are left out.

    TPU programs write every product as a convolution, some with padding and dilation of which one tap in many is valid.
    """
    labels = re.search(r'dim_labels=(\w+)_(\w+)->(\w+)', i.attrs)
    if not labels or len(shapes) < 2:
        return 0.0
    data, kernel, result = labels.groups()
    data_dims, kernel_dims, out_dims = (hlo.dimensions(s) for s in (*shapes[:2], i.shape))
    total = 2.0 * out_dims[result.index('b')] * out_dims[result.index('f')] * kernel_dims[kernel.index('i')]
    window = _window(i.attrs)
    for axis in sorted(set(kernel) - {'i', 'o'}):
        k = int(axis)
        total *= taps(out_dims[result.index(axis)], kernel_dims[kernel.index(axis)], data_dims[data.index(axis)],
                       *(window[key][k] if k < len(window[key]) else default for key, default in
                         (('stride', 1), ('pad', (0, 0)), ('lhs_dilate', 1), ('rhs_dilate', 1))))
    return total


def _window(attrs: str) -> dict:
    """The attribute window={size=3x3 pad=1_1x1_1 …} as {key: [a number or (low, high) an axis]}."""
    inside = re.search(r'window=\{([^}]*)\}', attrs)
    found = dict(part.split('=') for part in inside.group(1).split()) if inside else {}
    numbers = {key: [int(n) for n in found[key].split('x')] if key in found else [] for key in
               ('stride', 'lhs_dilate', 'rhs_dilate')}
    pads = [tuple(int(n) for n in p.split('_')) for p in found['pad'].split('x')] if 'pad' in found else []
    return {**numbers, 'pad': pads}
