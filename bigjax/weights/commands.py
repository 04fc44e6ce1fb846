"""Weights from the outside.

    python -m bigjax.weights ls PLACE              every array: our path, shape, dtype, their key
    python -m bigjax.weights convert PLACE PLACE   writes the second, hf:FOLDER, timm:FOLDER or npz:FILE
    python -m bigjax.weights diff PLACE PLACE      the arrays in which two differ, bit for bit, after both are read into our
                                                   models; exit 4 where they do

PLACE is hf:FOLDER or timm:FOLDER (or an id of the hub), npz:FILE, torch:FILE, keras:FILE.weights.h5 or pip:PACKAGE.
"""
import numpy as np

from bigjax.errors import DONE, NO, command
from bigjax.io import array_diff, subcommands
from bigjax.io.text import gib, printable, table


def ls(place: str) -> int:
    """Prints the arrays of a place, and what they are of ours where the file describes a model."""
    from bigjax.weights.place import opened
    from bigjax.weights.reader import laid_over
    files = opened(place)
    described = files.config is not None or files.spec is not None
    pairs = laid_over(files, None, {}, place).found.pairs if described else ()
    ours = {pair.key: ', '.join(pair.ours) for pair in pairs}
    rows = [[ours.get(key, ''), 'x'.join(map(str, tensor.shape)) or 'scalar', str(np.dtype(tensor.dtype)), printable(key)]
            for key, tensor in files.tensors.items()]
    print(table(['ours', 'shape', 'dtype', 'theirs'], rows))
    numbers = sum(int(np.prod(tensor.shape)) for tensor in files.tensors.values())
    print(f'{len(rows)} arrays, {numbers:,} numbers, {gib(sum(tensor.size for tensor in files.tensors.values()))}')
    return DONE


def convert(source: str, target: str) -> int:
    """Writes the weights of one place to another."""
    from bigjax import weights
    model, variables, tokenizer = weights.load(source)
    weights.save(model, variables, target, tokenizer)
    print(f'{source} -> {target}')
    return DONE


def diff(first: str, second: str) -> int:
    """Prints the parameters in which two places differ."""
    from bigjax import weights
    from bigjax.weights import config_json
    from bigjax.weights.reader import leaves
    (one, ours, _), (other, theirs, _) = weights.load(first), weights.load(second)
    fields = lambda model: {name: getattr(model, name) for name in model.__dataclass_fields__}
    if type(one) is not type(other):
        print(f'{type(one).__name__} and {type(other).__name__}')
        return NO
    lines = [f'{name}: {a!r} and {b!r}' for name, (a, b) in config_json.differences(one, fields(other)).items()]
    ours, theirs = leaves(ours), leaves(theirs)
    lines += array_diff.lines(ours, theirs, first, second)
    print(array_diff.shown(lines, len(ours)))
    return NO if lines else DONE


VERBS = {'ls': (ls, 1, 1), 'convert': (convert, 2, 2), 'diff': (diff, 2, 2)}


@command('bigjax.weights')
def main(argv: list[str]) -> int:
    """One command; returns its exit code."""
    return subcommands.run('weights', __doc__, VERBS, argv)
