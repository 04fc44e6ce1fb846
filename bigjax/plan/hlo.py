"""The text of a compiled program (scheduled HLO) as computations, and the number of runs of each in one call.

XLA's own cost analysis counts the body of a loop once. Here it is multiplied by the loop's trip count, which CPU and GPU
programs state and which is derived from the loop's condition for TPUs, whose programs do not. The text is no stable
interface: a loop that is not understood is reported (`Module.unknown`), never guessed silently.
"""
import collections
import math
import re
from typing import NamedTuple

ITEM = {'pred': 1, 's4': .5, 'u4': .5, 's8': 1, 'u8': 1, 's16': 2, 'u16': 2, 'bf16': 2, 'f16': 2, 's32': 4, 'u32': 4,
        'f32': 4, 's64': 8, 'u64': 8, 'f64': 8, 'c64': 8, 'c128': 16}  # bytes; f8 types are 1, tokens 0
ARRAY = re.compile(r'\b([a-z]+[0-9]*[a-z0-9]*)\[([0-9,]*)\](\{[^{}]*\})?')
NAME = re.compile(r'%([\w.\-]+)')


class Instruction(NamedTuple):
    """`%name = shape op(%operands), attrs`; `args` is the text between the parentheses."""

    name: str
    shape: str
    op: str
    args: str
    attrs: str

    @property
    def operands(self) -> list[str]:
        """The names of its operands."""
        return NAME.findall(self.args)

    def called(self, key: str) -> str | None:
        """The computation that an attribute names."""
        match = re.search(rf'{key}=\{{?%?([\w.\-]+)', self.attrs)
        return match and match.group(1)

    @property
    def place(self) -> str:
        """JAX's path of the operation, such as 'transpose(jvp(GPT))/block_0/attn'; '' where there is none."""
        match = re.search(r'op_name="([^"]*)"', self.attrs)
        return match.group(1) if match else ''


class Computation(dict):
    """name -> Instruction, in order; the last is the root."""

    @property
    def root(self) -> Instruction:
        """The instruction whose result the computation returns."""
        return next(reversed(self.values()))


class Runs(NamedTuple):
    """A computation, whether it runs inside a fusion, and how many times in one call of the program."""

    computation: str
    fused: bool
    times: int


class Module(NamedTuple):
    """The program.

    Attributes:
      computations: by name.
      entry: the name of the first.
      runs: every computation that runs.
      unknown: loops whose trip count could not be found; their body is counted once.
    """

    computations: dict[str, Computation]
    entry: str
    runs: list[Runs]
    unknown: list[str]


def arrays(shape: str) -> list[tuple[str, tuple[int, ...], str]]:
    """(dtype, dimensions, layout) of every array in a shape, which may be a tuple."""
    found = ((t, tuple(int(d) for d in dims.split(',') if d), layout) for t, dims, layout in ARRAY.findall(shape))
    return [(t, dims, layout) for t, dims, layout in found if t in ITEM or t.startswith('f8')]


def size(shape: str) -> float:
    """Bytes of the arrays in a shape."""
    return sum(math.prod(dims) * ITEM.get(t, 1) for t, dims, _ in arrays(shape))


def dimensions(shape: str) -> tuple[int, ...]:
    """The dimensions of the first array in a shape."""
    found = arrays(shape)
    return found[0][1] if found else ()


def parse(text: str) -> Module:
    """The computations of a program, with how often each runs."""
    computations, entry = _computations(text)
    runs, unknown = _walk(computations, entry)
    return Module(computations, entry, runs, unknown)


def _computations(text: str) -> tuple[dict[str, Computation], str]:
    computations, current, entry, last = {}, None, '', None
    for line in text.splitlines():
        if line and not line[0].isspace():
            head = re.match(r'^(ENTRY )?%?([\w.\-]+) \(.*\{\s*$', line)
            if head:
                current = computations[head.group(2)] = Computation()
                entry = head.group(2) if head.group(1) else entry
            elif line.rstrip() == '}':
                current = None
            elif current and last:  # attributes may hold newlines (metadata of Pallas kernels)
                current[last] = current[last]._replace(attrs=current[last].attrs + line)
        elif current is not None:
            instruction = _instruction(line)
            if instruction:
                current[last := instruction.name] = instruction
    return computations, entry


def _closing(text: str, start: int) -> int:
    """The index of the parenthesis that closes the one at `start`."""
    depth = 0
    for i in range(start, len(text)):
        depth += (text[i] == '(') - (text[i] == ')')
        if not depth:
            return i
    return len(text)


def _instruction(line: str) -> Instruction | None:
    match = re.match(r'^\s+(?:ROOT )?%?([\w.\-]+) = (.*)$', line)
    if not match:
        return None
    name, rest = match.groups()
    if rest.startswith('('):
        end = _closing(rest, 0) + 1
        shape, rest = rest[:end], rest[end:].lstrip()
    else:
        shape, _, rest = rest.partition(' ')
    op = re.match(r'([\w\-]+)\(', rest)
    if not op:
        return None
    end = _closing(rest, op.end() - 1)
    return Instruction(name, shape, op.group(1), rest[op.end():end], rest[end + 1:])


def _walk(computations, entry) -> tuple[list[Runs], list[str]]:
    times, unknown = collections.Counter(), []

    def visit(name, n, fused):
        times[name, fused] += n
        for i in computations.get(name, {}).values():
            if i.op == 'while':
                trips = trip_count(computations, name, i)
                if trips is None:
                    unknown.append(i.name)
                visit(i.called('body'), n * (1 if trips is None else trips), fused)
            elif i.op == 'conditional':
                for branch in _branches(i):
                    visit(branch, n, fused)
            elif i.op == 'fusion':
                visit(i.called('calls'), n, True)
            elif i.op in ('call', 'async-start'):
                visit(i.called('(?:to_apply|calls|called_computations)'), n, fused)

    visit(entry, 1, False)
    return [Runs(name, fused, n) for (name, fused), n in times.items() if name in computations], unknown


def _branches(i: Instruction) -> list[str]:
    listed = re.search(r'branch_computations=\{([^}]*)\}', i.attrs)
    if listed:
        return NAME.findall(listed.group(1)) or [s.strip() for s in listed.group(1).split(',')]
    return re.findall(r'(?:true|false)_computation=%?([\w.\-]+)', i.attrs)


def trip_count(computations, parent: str, loop: Instruction) -> int | None:
    """The number of runs of a loop's body: the compiler's figure, else from `i < bound`, the step and the start; or None."""
    known = re.search(r'known_trip_count[\\"]*:\s*\{[\\"]*n[\\"]*:[\\"]*(\d+)', loop.attrs)
    if known:
        return int(known.group(1))
    condition, body = computations[loop.called('condition')], computations[loop.called('body')]
    test = _through(condition, condition.root.name)
    direction = re.search(r'direction=(\w+)', test.attrs)
    if test.op != 'compare' or not direction or direction.group(1) not in ('LT', 'NE', 'LE'):
        return None
    left, right = test.operands[:2]
    counter, bound = _through(condition, left), _constant(condition, right)
    if counter is None or counter.op != 'get-tuple-element' or bound is None:
        return None
    index = int(re.search(r'index=(\d+)', counter.attrs).group(1))
    step, start = _step(body, index), _start(computations[parent], loop, index)
    return max(0, -(-(bound + (direction.group(1) == 'LE') - start) // step))


def _through(computation, name) -> Instruction | None:
    """The instruction behind a name, through copies."""
    i = computation.get(name)
    while i is not None and i.op in ('copy', 'bitcast', 'convert', 'reshape'):
        i = computation.get(i.operands[0])
    return i


def _constant(computation, name) -> int | None:
    i = _through(computation, name)
    return int(i.args) if i is not None and i.op == 'constant' and re.fullmatch(r'-?\d+', i.args) else None


def _step(body, index) -> int:
    """The increment of the counter; 1 where it is not a constant."""
    results = body.root.operands
    i = _through(body, results[index]) if index < len(results) else None
    if i is None or i.op != 'add':
        return 1
    return next((c for c in (_constant(body, o) for o in i.operands) if c), 1)


def _start(computation, loop, index) -> int:
    """The counter's first value; 0 where it is not a constant."""
    carry = computation.get(loop.operands[0]) if loop.operands else None
    if carry is None or carry.op != 'tuple':
        return 0
    return _constant(computation, carry.operands[index]) or 0
