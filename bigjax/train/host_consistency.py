"""All processes of a run have the same data, or none of them begins.

Each process reads its own part of a batch by the numbers of the examples, and works out itself which these are: with other
files on one host it would, without a word, train on other batches than were meant, and wait for ever where it has fewer.
"""
import json
import socket
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from bigjax.data import sources
from bigjax.errors import UserError
from bigjax.experiment import Data
from bigjax.sharding import mesh as meshes

SHOWN = 8  # processes that a message names


def same_data(datas: Sequence[Data]) -> None:
    """To be called by all processes once the data is open, before anything is compiled or written.

    Args:
      datas: the data of each member, or of all (length 1).

    Raises:
      UserError: a split has another length on one of them, or other examples (`bigjax.runs.sources.sample`).
    """
    if jax.process_count() == 1:
        return
    has = {name + (f' of member {m}' if m else ''): f'{len(split):,} records (sample {sources.sample(split)})'
           for m, data in enumerate(datas) for name, split in {'train': data.train, **data.evals}.items()}
    difference = compare(_of_all({'host': socket.gethostname(), 'has': has}))
    if difference:
        raise UserError(f'config.data: the processes do not have the same data: {difference}; put the same files on every '
                        'host, or name a folder that all of them share')


def compare(told: Sequence[Mapping[str, Any]]) -> str:
    """What each process has of the first split that is not the same on all, '' where all are.

    Args:
      told: process by process {'host': its name, 'has': {split: what it has of it, in words}}.
    """
    for split in dict.fromkeys(name for one in told for name in one['has']):
        groups = {}
        for process, one in enumerate(told):
            groups.setdefault(one['has'].get(split, 'nothing'), []).append(f"process {process} on {one['host']}")
        if len(groups) > 1:
            return f'of {split} there are ' + ', and '.join(f'{what} for {_some(who)}' for what, who in groups.items())
    return ''


def _some(who: Sequence[str]) -> str:
    more = f' and {len(who) - SHOWN} more' if len(who) > SHOWN else ''
    return ', '.join(who[:SHOWN]) + more


def _of_all(mine: Mapping[str, Any]) -> list[dict]:
    """The JSON that each process has, process by process; all processes have to ask for it."""
    text = json.dumps(mine).encode()
    text = text.ljust(max(meshes.everywhere(len(text))))
    return [json.loads(bytes(row)) for row in multihost_utils.process_allgather(np.frombuffer(text, np.uint8))]
