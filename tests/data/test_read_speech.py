"""LibriSpeech as it is unpacked: utterances and their texts, what is left out, and what is refused."""
import numpy as np
import pytest

from bigjax.data import audio
from bigjax.data.datasets import open_data
from bigjax.data.loaders import librispeech
from tests.refused import refused

PARTS = {'train-clean-100': [1, 2, 40], 'dev-clean': [3], 'test-clean': [1, 20]}  # seconds of the utterances


def flac(seconds, rate=16_000):
    """The beginning of a .flac: its STREAMINFO, of one channel of 16 bits."""
    return b'fLaC\x80\0\0\x22' + bytes(10) + ((rate << 44) | (15 << 36) | int(seconds * rate)).to_bytes(8, 'big') + bytes(16)


@pytest.fixture
def corpus(tmp_path):
    for part, lengths in PARTS.items():
        folder = tmp_path / 'LibriSpeech' / part / '7' / '1'
        folder.mkdir(parents=True)
        (folder / '7-1.trans.txt').write_text(''.join(f"7-1-{i} IT'S {'A' * (i + 1)}\n" for i in range(len(lengths))))
        for i, seconds in enumerate(lengths):
            (folder / f'7-1-{i}.flac').write_bytes(flac(seconds))
    return tmp_path


@pytest.mark.parametrize('rate', [16_000, 44_100])
def test_the_header_of_a_flac_gives_its_length(tmp_path, rate):
    (tmp_path / 'a.flac').write_bytes(flac(2.5, rate))
    assert audio.facts(str(tmp_path / 'a.flac')) == (2.5 * rate, rate)


def test_utterances_and_their_texts(corpus):
    splits = open_data('librispeech/100h', data_dir=str(corpus))
    assert splits.info['records'] == {'train': 2, 'val': 1, 'test': 2} and splits.info['left_out'] == 1
    assert splits.train.spec['audio'].shape == (librispeech.LENGTH,)
    assert [splits.evals[split].spec['audio'].shape for split in ('val', 'test')] == [(48_000,), (320_000,)]
    columns = splits.train.columns
    spelled = [''.join(splits.info['symbols'][k - 1] for k in row if k) for row in columns['text']]
    assert spelled == ["it's a", "it's aa"] and columns['text_length'].tolist() == [6, 7]


@pytest.mark.parametrize(('text', 'code', 'part'), [
    ('7-1-0\n', 'data/table-line', 'line 1'), ('7-1-9 A\n', 'data/no-file', '7-1-9.flac'),
    ('7-1-0 CAFÉ\n', 'data/unknown-symbol', 'é')])
def test_what_is_refused(corpus, text, code, part):
    path = corpus / 'LibriSpeech' / 'train-clean-100' / '7' / '1' / '7-1.trans.txt'
    path.write_text(text)
    with refused(code, part):
        open_data('librispeech/100h', data_dir=str(corpus))


def test_the_corpus_has_its_hours_and_utterances():
    assert librispeech.utterances('960h') == {'train': 281_241, 'val': 2703, 'val_other': 2864, 'test': 2620,
                                              'test_other': 2939}
    assert librispeech.utterances('100h')['train'] == 28_539
    hours = sum(librispeech.PARTS[name].hours for name in librispeech.SETS['960h']['train'])
    assert hours == pytest.approx(960.9) and np.isclose(sum(part.hours for part in librispeech.PARTS.values()), 982.1)
