"""Step times: those of the cases that peers are compared on, and of any experiment.

    python -m bigjax.bench [--case=mlp,resnet,gpt] [--against=torch|flax|plain] [--pairs=9] [--platform=cpu] [--out=FILE.json]
    python -m bigjax.bench --case=decode_gpt2,decode_gpt2_batch,decode_gpt2_lookup --against=torch     see bigjax.bench.decoding
    python -m bigjax.bench --case=bert_base --against=torch                                         see bigjax.bench.fine_tuning
    python -m bigjax.bench --case=resnet50,vit_s16 --against=torch                                  images of 224 pixels
    python -m bigjax.bench --case=dcgan --against=torch                                             see bigjax.bench.adversarial
    python -m bigjax.bench --case=ddpm,ddim --against=torch                                           see bigjax.bench.diffusion
    python -m experiments.NAME bench [--variant=…] [--out=FILE.json]

A case is the whole training step: forward, backward, update. Ours and the peer's are timed in turn, PyTorch's in the same
process and Flax's in its own (`bigjax.bench.peer_process`), and the medians of the pairs are compared, so a machine that slows
down slows both. ratio = ours / peer: below 1 is faster. The peer `plain` is the same network without one of the formulations
that layers have for a CPU (`bigjax.nn.cpu.FORMULATIONS`), a row for each that changes the program. Where other processes use
8 % of the cores or more meanwhile, a ratio is reported and not judged.
"""
import argparse
import contextlib
import importlib
import importlib.util
import json
import os
import pathlib
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

import bigjax
from bigjax import config as configs
from bigjax.bench import adversarial, decoding, diffusion, fine_tuning, load, pipeline
from bigjax.bench.peer_process import PeerProcess
from bigjax.bench.timing import compare
from bigjax.bench.timing import paired as paired
from bigjax.data.sources import ArraySource
from bigjax.distributed import accelerators
from bigjax.errors import DONE, USER, UserError
from bigjax.experiment import Data, Experiment, base_config
from bigjax.io.text import gib, table
from bigjax.models import cnn, gpt, mlp, resnet, rnn, vit
from bigjax.nn import cpu
from bigjax.tasks import classification, language
from bigjax.train import flops as work
from bigjax.train import settings as settings_module
from bigjax.train.program import Program


class Case(NamedTuple):
    """A model, its batch and the shape of an example; tokens and the next ones where there is a vocabulary.

    `target`: the share of PyTorch's time, on a CPU, that a step is meant to take at most.
    """

    model: Any
    batch: int
    shape: tuple[int, ...]
    vocab: int = 0
    target: float = 1.0


CASES = {
    'mlp': Case(mlp.MLP(features=(1024, 1024, 1024), num_classes=10), 128, (784,), target=1.0),
    'lenet5': Case(cnn.CNN(**cnn.VARIANTS['lenet5']), 64, (28, 28, 1), target=1.1),
    'lenet': Case(cnn.CNN(**cnn.VARIANTS['lenet_wide']), 64, (28, 28, 1)),
    'resnet': Case(resnet.ResNet(blocks=(3,), widths=(64,)), 64, (32, 32, 3), target=1.15),
    'lstm': Case(rnn.RNNClassifier(cell='lstm', features=256, layers=2, num_classes=10), 64, (64, 256), target=1.2),
    'gru': Case(rnn.RNNClassifier(**rnn.VARIANTS['mnist1d']), 100, (40,)),
    'gpt_small': Case(gpt.GPT(**gpt.VARIANTS['shakespeare_cpu']), 12, (64,), 65, 1.15),
    'gpt': Case(gpt.GPT(**{**gpt.VARIANTS['shakespeare'], 'dropout': 0.0}), 16, (256,), 65, 1.1),
    'gpt_long': Case(gpt.GPT(**{**gpt.VARIANTS['shakespeare'], 'dropout': 0.0, 'block_size': 1024}), 2, (1024,), 65, 1.1),
}
LARGE = {  # beside PyTorch, and where they are named
    'resnet50': Case(resnet.ResNet(**resnet.VARIANTS['resnet50'], num_classes=1000), 16, (224, 224, 3), target=0.95),
    'vit_s16': Case(vit.ViT(**vit.VARIANTS['s16'], pool='token', positions='learned', pre_logits=False), 16, (224, 224, 3),
                    target=0.65),
}
FLAX_TARGET = 0.9  # the share of plain Flax's time that a step takes at most; and in the geometric mean of the cases:
FLAX_MEAN_TARGET = 0.65
FORMULATION_TARGET = 0.9  # a formulation that gains less than a tenth in every case is not worth its code
PEERS = {'torch': ('bigjax.bench.torch_peer', "pip install 'bigjax[parity]'"), 'flax': ('bigjax.bench.flax_peer', '')}
PLAIN = 'plain'


def program(case: str) -> Program:
    """The case as an experiment on one made-up batch, through the shared train step."""
    model, batch, shape, vocab, _ = {**CASES, **LARGE}[case]
    rng = np.random.default_rng(0)
    if vocab:
        tokens = rng.integers(0, vocab, (batch, shape[0] + 1)).astype(np.int32)
        arrays, task = {'tokens': tokens[:, :-1], 'targets': tokens[:, 1:]}, language.next_token()
    else:
        arrays = {'x': rng.normal(size=(batch, *shape)).astype(np.float32),
                  'label': rng.integers(0, 10, batch).astype(np.int32)}
        task = classification.softmax('x')
    source = ArraySource(arrays)
    config = base_config()
    config.batch_size, config.mesh = batch, 'data:1'
    config.optimizer = dict(name='sgd', lr=0.01, momentum=0.9)
    experiment = Experiment(model, task, Data(source, {}, shuffle=False), config.optimizer, {})
    return Program([experiment], settings_module.read(configs.Reader(config), batch))


def stepper(p: Program) -> tuple[Callable, float]:
    """(`run(n)`: n dispatches of the compiled call, waited for; seconds of the first one, which compiles)."""
    carry, feed = p.init(), p.feed(0)
    held = [carry['state'], carry['totals']]
    many = p.steps_per_call

    def run(n: int) -> None:
        halted = None
        for step in range(0, n * many, many):
            held[0], held[1], halted = p.train_steps(*held, feed.arrays, feed.at(step, many))
        jax.block_until_ready(halted)

    started = time.perf_counter()
    run(1)
    return run, time.perf_counter() - started


FAULT_CALLS = 3


def measure(name: str, p: Program, pairs: int, peer: Callable | None = None, peer_version: str | None = None,
            target: float | None = None) -> dict:
    """One row of figures; `target` is the ratio at which the row is within its target."""
    run, first = stepper(p)
    flops = work.model_flops(p)
    figures = compare(run, peer, pairs, target, p.steps_per_call)
    faults = load.minor_faults()
    run(FAULT_CALLS)
    faults = (load.minor_faults() - faults) / (FAULT_CALLS * p.steps_per_call)
    ours, members = figures['ours_ms'], p.members or 1
    return {
        'case': name, **figures, 'minor_faults_per_step': faults,
        'examples_per_s': p.settings.batch_size * members / ours * 1e3, 'flops_per_step': flops,
        'achieved_flops': flops / ours * 1e3, 'first_s': first, 'parameters': p.parameters,
        'batch_size': p.settings.batch_size, 'population': members, 'device': p.devices(),
        'versions': {'bigjax': bigjax.__version__, 'jax': jax.__version__, 'peer': peer_version}}


def fine_tuned(name: str, case: fine_tuning.Case, pairs: int, beside_peer: bool) -> dict:
    """The row of a case of `bigjax.bench.fine_tuning`."""
    p = fine_tuning.program(case)
    with contextlib.ExitStack() as stack:
        peer = fine_tuning.peer(stack, case, p) if beside_peer else None
        return measure(name, p, pairs, peer, peer.version if peer else None, case.target if peer else None)


def adversarial_row(name: str, case: adversarial.Case, pairs: int, peer) -> dict:
    """The row of a case of `bigjax.bench.adversarial`; `peer` is the module of PyTorch, or None."""
    p = adversarial.program(case)
    theirs = peer.adversarial_stepper(p.datas[0].train.arrays['image'], case.model.latent) if peer else None
    return measure(name, p, pairs, theirs, peer.version() if peer else None, case.target if peer else None)


def diffusion_row(name: str, pairs: int, version: str | None) -> dict:
    """The row of a case of `bigjax.bench.diffusion`; `version` is PyTorch's, None without a peer."""
    if version:
        from bigjax.bench import torch_unet
    target = diffusion.TARGETS[name] if version else None
    if name == diffusion.TRAINING:
        p = diffusion.program()
        peer = torch_unet.training_stepper(diffusion.NETWORK, p.datas[0].train.arrays['image'],
                                           diffusion.PROCESS.table) if version else None
        return measure(name, p, pairs, peer, version, target)
    drawing, started = diffusion.drawing(), time.perf_counter()
    drawing.run(1)
    first, faults = time.perf_counter() - started, load.minor_faults()
    drawing.run(1)
    faults = load.minor_faults() - faults
    peer = torch_unet.sampler(diffusion.SMALL, diffusion.SHAPE, diffusion.DIGITS, diffusion.grid()) if version else None
    figures = compare(drawing.run, peer, pairs, target)
    return {'case': name, **figures, 'minor_faults_per_step': faults, 'first_s': first, 'parameters': drawing.parameters,
            'examples_per_s': diffusion.DIGITS / figures['ours_ms'] * 1e3, 'flops_per_step': drawing.flops,
            'achieved_flops': drawing.flops / figures['ours_ms'] * 1e3, 'batch_size': diffusion.DIGITS,
            'device': jax.devices()[0].device_kind,
            'versions': {'bigjax': bigjax.__version__, 'jax': jax.__version__, 'peer': version}}


def _verdict(row: dict) -> str:
    """Whether a row's ratio is within its target."""
    if not row['judged']:
        return f"machine busy ({row['others_share']:.0%}): not judged"
    if row['ratio'] is None or row['target'] is None:
        return '–'
    return f"{'within' if row['ratio'] <= row['target'] else 'over'} {row['target']:.2f}"


def _show_mean(rows: Sequence[dict]) -> None:
    """Prints the geometric mean of the ratios where there are several, beside its target where the peer is Flax."""
    ratios = [r['ratio'] for r in rows if r.get('ratio')]
    if len(ratios) > 1:
        flax = any(str(r['versions']['peer']).startswith('flax') for r in rows if r.get('ratio'))
        target = f' (at most {FLAX_MEAN_TARGET})' if flax else ''
        print(f'geometric mean of ours / peer: {float(np.exp(np.mean(np.log(ratios)))):.2f}{target}')


def show(rows: Sequence[dict], out: str = '') -> None:
    """Prints the figures, and writes them to the file `out`."""
    for row in rows:
        if row['case'] == pipeline.CASE:
            print(*pipeline.lines(row), sep='\n')
        if row['case'] == decoding.FLAT:
            print(*decoding.flat_lines(row), sep='\n')
    shown = [[r['case'], f"{r['ours_ms']:.3f}", f"{r['peer_ms']:.3f}" if r['peer_ms'] else '–',
              f"{r['ratio']:.2f} ({r['ratio_min']:.2f} to {r['ratio_max']:.2f})" if r['ratio'] else '–',
              f"{r['examples_per_s']:,.0f}", f"{r['flops_per_step'] / 1e9:.3f}", f"{r['achieved_flops'] / 1e9:,.0f}",
              f"{r['first_s']:.1f}", f"{r['minor_faults_per_step']:,.0f}", _verdict(r)]
             for r in rows if r['case'] not in (pipeline.CASE, decoding.FLAT)]
    if shown:
        print(table(['case', 'ms/step', 'peer ms', 'ours / peer', 'examples/s', 'GFLOP/step', 'GFLOP/s', 'first s',
                     'faults/step', 'target'], shown))
        _show_mean(rows)
        for row in rows:
            if row.get('ours_peak_bytes') and row.get('peer_peak_bytes'):
                print(f"{row['case']}: peak of memory {gib(row['ours_peak_bytes'])}, peer {gib(row['peer_peak_bytes'])}")
    text = json.dumps(list(rows), indent=1)
    if out:
        path = pathlib.Path(out)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + '\n')
        print(f'figures: {path}')


def _lowered(p: Program) -> str:
    return p.compiled.lower(*p.arguments()).as_text()


def without_formulations(name: str, pairs: int, formulations: Sequence[str] = cpu.FORMULATIONS) -> list[dict]:
    """The rows of a case beside itself without each of the formulations that change its program."""
    whole, rows = program(name), []
    text = _lowered(whole)
    for formulation in formulations:
        with cpu.plain_layers(formulation):
            other = program(name)
            if _lowered(other) == text:
                continue
            theirs, _ = stepper(other)
        rows.append(measure(f'{name} / {formulation}', whole, pairs, theirs, PLAIN, FORMULATION_TARGET))
    return rows


def peer_of(against: str):
    """The peer's module, or None for '' and `PLAIN`.

    Raises:
      UserError: an unknown peer, or one that is not installed.
    """
    if against in ('', PLAIN):
        return None
    if against not in PEERS:
        raise UserError(f'--against: got {against}, expected one of {", ".join([*PEERS, PLAIN])}; fix: choose one of them',
                        code='bench/unknown-peer')
    if importlib.util.find_spec(against) is None:
        raise UserError(f'--against: got {against}, expected an installed peer; fix: {PEERS[against][1]}',
                        code='bench/no-peer')
    return importlib.import_module(PEERS[against][0])


def _options(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog='python -m bigjax.bench', description=__doc__.splitlines()[0])
    parser.add_argument('--case', default=','.join(CASES), help='names with commas; all by default')
    parser.add_argument('--against', default='', help=f'the peer: {", ".join(PEERS)} or {PLAIN}')
    parser.add_argument('--pairs', type=int, default=9, help='how often ours and the peer are timed in turn')
    parser.add_argument('--platform', default=os.environ.get(accelerators.PLATFORM, ''),
                        help='cpu, cuda or tpu instead of the best there is (or BIGJAX_PLATFORM)')
    parser.add_argument('--out', default='', help='a JSON file')
    return parser.parse_args(argv)


def run(argv: Sequence[str]) -> None:
    """Times the cases, prints the figures and writes them.

    Raises:
      UserError: an unknown case or peer, a peer that is not installed, or no pairs.
    """
    options = _options(argv)
    names = list(CASES) if options.case == 'all' else options.case.split(',')
    known = [*CASES, *LARGE, *decoding.CASES, decoding.FLAT, *fine_tuning.CASES, *adversarial.CASES, *diffusion.TARGETS,
             pipeline.CASE]
    for name in names:
        if name not in known:
            raise UserError(f'--case: got {name}, expected one of {", ".join(known)}; fix: choose among them',
                            code='bench/unknown-case')
    if options.pairs < 1:
        raise UserError(f'--pairs: got {options.pairs}, expected 1 or more; fix: --pairs=9', code='bench/no-pairs')
    peer = peer_of(options.against)
    accelerators.require_accelerator(accelerators.choose(options.platform))
    cpu.keep_memory()
    rows = []
    for name in names:
        if name == pipeline.CASE:
            rows.append(pipeline.measure({'bigjax': bigjax.__version__, 'jax': jax.__version__}))
            continue
        if name == decoding.FLAT:
            rows.append(decoding.flat(options.pairs))
            continue
        if name in fine_tuning.CASES:
            rows.append(fine_tuned(name, fine_tuning.CASES[name], options.pairs, options.against == 'torch'))
            continue
        if name in adversarial.CASES:
            rows.append(adversarial_row(name, adversarial.CASES[name], options.pairs,
                                        peer if options.against == 'torch' else None))
            continue
        if name in diffusion.TARGETS:
            rows.append(diffusion_row(name, options.pairs, peer.version() if options.against == 'torch' else None))
            continue
        if name in decoding.CASES:
            rows.append(decoding.measure(name, options.pairs, options.against == 'torch'))
            continue
        if options.against == PLAIN:
            rows += without_formulations(name, options.pairs)
            continue
        p = program(name)
        arrays = p.datas[0].train.arrays.values()
        theirs = (PeerProcess(peer.__name__, name, arrays) if options.against == 'flax' else
                  peer.stepper(name, *arrays) if peer else None)
        target = {**CASES, **LARGE}[name].target if options.against == 'torch' else FLAX_TARGET if peer else None
        rows.append(measure(name, p, options.pairs, theirs, peer.version() if peer else None, target))
        if isinstance(theirs, PeerProcess):
            theirs.close()
    show(rows, options.out)


def main(argv: Sequence[str]) -> int:
    """The command; returns its exit code."""
    try:
        run(argv)
        return DONE
    except SystemExit as stop:
        return stop.code or DONE
    except UserError as error:
        print(f'bench: {error}', file=sys.stderr, flush=True)
        return USER
