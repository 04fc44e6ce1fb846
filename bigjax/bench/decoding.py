"""Generation with GPT-2 (124M, random weights, float32), beside `transformers.generate` with its cache and the same weights.

    python -m bigjax.bench --case=decode_gpt2,decode_gpt2_batch,decode_gpt2_lookup --against=torch
    python -m bigjax.bench --case=decode_gpt2_flat           the cost of a token after few and after many

A step is a whole call: prompts and `NEW` tokens for each. The peer generates greedily in all cases, in a process of its own;
the tokens of both have to be the same.
"""
import contextlib
import pathlib
import tempfile
import time
from typing import NamedTuple

import jax
import numpy as np

import bigjax
from bigjax import decode
from bigjax.bench import load
from bigjax.bench.peer_process import PeerProcess
from bigjax.bench.timing import compare
from bigjax.decode import generation
from bigjax.models import gpt
from bigjax.nn import rng

NEW = 64  # tokens
FLAT, LONG, PART = 'decode_gpt2_flat', 512, 64  # a case, its new tokens, and those that are timed together
PEER = 'bigjax.bench.transformers_peer'


class Case(NamedTuple):
    """Prompts, and how they are continued.

    Attributes:
      lengths: of the prompts.
      period: the tokens of a prompt repeat after so many; 0 for none.
      lookup: tokens proposed for each pass.
      target: the share of the peer's time that a call takes at most.
    """

    lengths: tuple[int, ...] = (16,)
    period: int = 0
    lookup: int = 0
    target: float = 1.0


CASES = {
    'decode_gpt2': Case(target=1 / 1.15),
    'decode_gpt2_batch': Case(lengths=tuple(range(16, 32)), target=1 / 1.3),
    'decode_gpt2_lookup': Case(period=4, lookup=3, target=1 / 1.8),
}
MODEL = gpt.GPT(**gpt.VARIANTS['gpt2'])


def prompts(case: Case, vocab_size: int) -> tuple[np.ndarray, np.ndarray]:
    """(tokens, mask) [B, P], padded on the left."""
    P = max(case.lengths)
    tokens = np.random.default_rng(0).integers(0, vocab_size, (len(case.lengths), P)).astype(np.int32)
    if case.period:
        tokens = tokens[:, np.arange(P) % case.period]
    mask = np.arange(P) >= P - np.array(case.lengths)[:, None]
    return np.where(mask, tokens, 0), mask


def measure(name: str, pairs: int, beside_peer: bool, model=MODEL, new: int = NEW) -> dict:
    """One row of figures; `examples_per_s` counts new tokens.

    Raises:
      RuntimeError: the peer's tokens differ from ours.
    """
    case = CASES[name]
    tokens, mask = prompts(case, model.vocab_size)
    variables = jax.jit(lambda key: model.init(key, tokens[:1], train=False))(rng.key(0))
    found = lambda: decode.run(model, variables, tokens, mask=mask, max_new_tokens=new, lookup=case.lookup)
    started = time.perf_counter()
    ours = found()
    first = time.perf_counter() - started

    def run(n: int) -> None:
        for _ in range(n):
            found()

    with contextlib.ExitStack() as stack:
        peer = _peer(stack, model, variables, tokens, mask, ours.tokens) if beside_peer else None
        figures = compare(run, peer, pairs, case.target if beside_peer else None)
    faults = load.minor_faults()
    run(1)
    faults = load.minor_faults() - faults
    parameters = sum(x.size for x in jax.tree.leaves(variables))
    flops = 2 * parameters * (ours.passes * len(tokens) * (1 + case.lookup) + int(mask.sum()))
    return {'case': name, **figures, 'minor_faults_per_step': faults,
            'examples_per_s': len(tokens) * new / figures['ours_ms'] * 1e3, 'flops_per_step': flops,
            'achieved_flops': flops / figures['ours_ms'] * 1e3, 'first_s': first, 'parameters': parameters,
            'batch_size': len(tokens), 'passes': ours.passes, 'new_tokens': new,
            'device': jax.devices()[0].device_kind,
            'versions': {'bigjax': bigjax.__version__, 'jax': jax.__version__, 'peer': peer.version if peer else None}}


def flat(pairs: int, model=MODEL, new: int = LONG, part: int = PART) -> dict:
    """The milliseconds of a token by how many there are already: medians of `pairs` generations, a figure for each part."""
    tokens, mask = prompts(Case(), model.vocab_size)
    variables = jax.jit(lambda key: model.init(key, tokens[:1], train=False))(rng.key(0))
    options = generation.options(model, max_new_tokens=new + 1)
    times = []
    for _ in range(pairs + 1):  # the first one compiles
        given, keys = generation.inputs(model, tokens, mask, options)[0], generation.row_keys(None, options.choice, 1)
        moments = []
        for carry, _ in generation.steps(model, variables, given, options, keys, part):
            jax.block_until_ready(carry.tokens)
            moments.append(time.perf_counter())
        times.append(np.diff(moments) / part * 1e3)
    cost = np.median(times[1:], axis=0)
    return {'case': FLAT, 'ms_per_token': [round(float(ms), 3) for ms in cost], 'tokens_of_a_part': part,
            'last_over_first': float(cost[-1] / cost[0]), 'ratio': None, 'pairs': pairs, 'device': jax.devices()[0].device_kind,
            'versions': {'bigjax': bigjax.__version__, 'jax': jax.__version__, 'peer': None}}


def flat_lines(row: dict) -> list[str]:
    """The figures of `flat` as a line of text."""
    costs = ', '.join(f'{ms:.2f}' for ms in row['ms_per_token'])
    return [f"{FLAT}: ms per token, each figure of {row['tokens_of_a_part']} tokens: {costs}; last / first: "
            f"{row['last_over_first']:.2f}"]


def _peer(stack, model, variables, tokens, mask, expected) -> PeerProcess:
    """transformers on the same weights, which it reads from a folder."""
    from bigjax import weights
    folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
    weights.save(model, variables, f'hf:{folder}')
    peer = PeerProcess(PEER, str(folder), [tokens, mask, expected])
    stack.callback(peer.close)
    return peer
