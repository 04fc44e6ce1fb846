"""Accumulation in every mode: the devices together execute the model's FLOPs, once, and temporary memory falls.

`python -m tests.plan.test_flops_by_mode` writes docs/flops.md.
"""
import pathlib

import jax
import numpy as np
import pytest

from bigjax.data.sources import ArraySource
from bigjax.experiment import Data, Experiment
from bigjax.io.text import table
from bigjax.models import gpt, mlp, rnn
from bigjax.nn import cpu
from bigjax.plan import count, hlo
from bigjax.tasks import classification, language
from bigjax.train import flops
from tests import tiers, tiny

PAGE = pathlib.Path(__file__).parents[2] / 'docs' / 'flops.md'
DECODER = dict(vocab_size=64, block_size=32, num_layers=2, num_heads=4, width=64, scan=False)
CASES = [  # (model, mesh, fields of the model)
    ('perceptron', 'data:8', {}), ('perceptron', 'fsdp:8', {}), ('decoder', 'data:2,seq:2,tensor:2', {}),
    ('perceptron', 'data:1', {}), ('perceptron', 'zero1:8', {}), ('perceptron', 'data:2,fsdp:4', {}),
    ('decoder', 'data:8', {}), ('decoder', 'fsdp:8', {}), ('decoder', 'tensor:4', {}),
    ('decoder', 'data:2,fsdp:2,tensor:2', {}), ('decoder', 'seq:4', {'rope_base': 1e4}), ('chunked', 'data:2,seq:4', {}),
    ('decoder', 'fsdp:2,seq:4', {'context': 'gather'}),
    ('decoder', 'fsdp:8', {'scan': True}), ('recurrent', 'data:8', {}), ('recurrent', 'fsdp:4', {'cell': 'lstm'})]
# Not here: a pipeline of s stages computes s - 1 bubbles beside its micro-batches, and experts have spare capacity.


def program(kind, mesh, fields, accumulate, reduce_dtype=''):
    """A model of enough rows that activations outweigh the accumulated gradients."""
    rng = np.random.default_rng(0)
    if kind in ('decoder', 'chunked'):
        task = language.next_token(chunked=kind == 'chunked')
        model, rules = gpt.GPT(**{**DECODER, **fields}), gpt.PARTITION_RULES
        arrays = {'tokens': rng.integers(0, 64, (64, 33)).astype(np.int32)}
    elif kind == 'recurrent':
        model, rules, task = rnn.RNNClassifier(**{'cell': 'gru', 'features': 32, **fields}), (), classification.softmax('x')
        arrays = {'x': rng.normal(size=(512, 16, 8)).astype(np.float32), 'label': rng.integers(0, 8, 512).astype(np.int32)}
    else:
        model, rules, task = mlp.MLP(features=(64, 64), num_classes=8), (), classification.softmax('x')
        arrays = {'x': rng.normal(size=(4096, 32)).astype(np.float32), 'label': rng.integers(0, 8, 4096).astype(np.int32)}
    data = Data(ArraySource(arrays), {})
    experiment = Experiment(model, task, data, {'name': 'sgd', 'lr': 0.1}, {}, partition_rules=rules)
    return tiny.program([experiment], mesh=mesh, ema=0.0, accumulate=accumulate, batch_size=data.size,
                        reduce_dtype=reduce_dtype)


def measured(p) -> tuple[float, int]:
    """(executed FLOPs of all devices / FLOPs of the model and its checkpoints, temporary bytes of a device)."""
    with cpu.lowering_for('tpu'):  # layers as they are written: products in place of convolutions have other FLOPs
        compiled = p.compiled.lower(*p.arguments()).compile()
    done = count.count(hlo.parse(compiled.as_text()), p.mesh).flops * p.mesh.size / p.steps_per_call
    model, checkpointed = flops.step_flops(p)
    return done / (model + checkpointed), compiled.memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize(('kind', 'mesh', 'fields'), tiers.first(3, CASES), ids=str)
def test_each_row_is_computed_once_and_memory_falls(kind, mesh, fields):
    (_, whole), (ratio, parts) = (measured(program(kind, mesh, fields, k)) for k in (1, 4))
    assert 0.99 < ratio <= 1.05
    assert parts < 0.6 * whole


def test_summed_explicitly_as_well():
    ratio, _ = measured(program('perceptron', 'data:8', {}, 4, 'float32'))
    assert ratio <= 1.05


def test_the_page_has_every_mode():
    text = PAGE.read_text()
    assert all(f'{mesh} ' in text for _, mesh, _ in CASES)


def page() -> str:
    """The table of all cases."""
    rows = []
    for kind, mesh, fields in CASES:
        (one, whole), (four, parts) = (measured(program(kind, mesh, fields, k)) for k in (1, 4))
        name = ', '.join([kind, *(f'{key}={value}' for key, value in fields.items())])
        rows.append([name, mesh, f'{one:.3f}', f'{four:.3f}', f'{whole / 1e6:.2f} MB', f'{parts / 1e6:.2f} MB'])
    head = ['model', 'mesh', 'FLOPs, 1 part', 'FLOPs, 4 parts', 'memory, 1 part', 'memory, 4 parts']
    return f"""# FLOPs by mode

FLOPs that the compiled train step executes on all devices together, divided by the FLOPs that the model and its
checkpoints need, and the temporary memory of a device; the whole batch at once, and accumulated over four micro-batches.
Fake CPU devices, jax {jax.__version__}. Written by `python -m tests.plan.test_flops_by_mode`.

```
{table(head, rows)}
```
"""


if __name__ == '__main__':
    PAGE.write_text(page())
