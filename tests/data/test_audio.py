"""Sounds: what each encoding holds, resampling against formulas, and files that are none."""
import json
import struct
import tarfile

import jax
import numpy as np
import pytest

from bigjax.data import audio
from bigjax.data.datasets import open_data
from bigjax.data.loaders import own, spoken
from tests.refused import refused


def wav(frames: np.ndarray, rate=8000, tag=1, bits=16, *, announced=None, extensible=False) -> bytes:
    """A wave file of the given raw frames [S, channels]."""
    channels, body = frames.shape[1], frames.tobytes()
    form = struct.pack('<HHIIHH', 0xFFFE if extensible else tag, channels, rate, rate * channels * bits // 8,
                       channels * bits // 8, bits)
    if extensible:
        form += struct.pack('<HHIH', 22, bits, 0, tag) + b'\0\0\0\0\x10\0\x80\0\0\xaa\0\x38\x9b\x71'
    chunks = b'fmt ' + struct.pack('<I', len(form)) + form + b'LIST' + struct.pack('<I', 3) + b'abc\0'
    data = b'data' + struct.pack('<I', len(body) if announced is None else announced) + body
    return b'RIFF' + struct.pack('<I', len(chunks) + len(data) + 4) + b'WAVE' + chunks + data


SAMPLES = np.array([[0.0], [0.5], [-1.0], [0.25]])


def encoded(bits, tag):
    if tag == 3:
        return SAMPLES.astype(f'<f{bits // 8}')
    if bits == 8:
        return (SAMPLES * 128 + 128).astype(np.uint8)
    whole = (SAMPLES * 2 ** (bits - 1)).astype('<i4' if bits > 16 else '<i2')
    return whole if bits != 24 else whole.view(np.uint8).reshape(-1, 4)[:, :3]


@pytest.mark.parametrize('extensible', [False, True])
@pytest.mark.parametrize(('bits', 'tag'), [(8, 1), (16, 1), (24, 1), (32, 1), (32, 3), (64, 3)])
def test_every_plain_encoding_is_exact(bits, tag, extensible):
    frames = encoded(bits, tag)
    frames = frames if bits != 24 else np.ascontiguousarray(frames).view('V3')
    sound = audio.decode(wav(frames, tag=tag, bits=bits, extensible=extensible), 'a.wav')
    np.testing.assert_array_equal(sound.samples, SAMPLES[:, 0])
    assert sound.rate == 8000 and sound.samples.dtype == np.float32 and not sound.notes


@pytest.mark.parametrize(('subtype', 'ending'), [('PCM_16', 'wav'), ('PCM_24', 'wav'), ('FLOAT', 'wav'), ('ULAW', 'wav'),
                                                 ('PCM_16', 'flac')])
def test_files_of_another_writer(tmp_path, subtype, ending):
    soundfile = pytest.importorskip('soundfile', reason='soundfile writes the files')
    tone = 0.5 * np.sin(np.arange(1600) / 5)
    soundfile.write(tmp_path / f'a.{ending}', tone, 16000, subtype=subtype)
    sound = audio.read(tmp_path / f'a.{ending}')
    np.testing.assert_allclose(sound.samples, tone, atol=0.02 if subtype == 'ULAW' else 4e-5)
    assert audio.facts(str(tmp_path / f'a.{ending}')) == (1600, 16000) == (len(sound.samples), sound.rate)


def test_channels_are_averaged_and_other_rates_resampled_and_both_are_reported():
    frames = np.stack([np.full(800, 2000), np.full(800, 4000)], axis=1).astype('<i2')
    sound = audio.decode(wav(frames), 'a.wav', 16000)
    np.testing.assert_allclose(sound.samples, 3000 / 2**15, rtol=1e-6)
    assert len(sound.samples) == 1600 and sound.rate == 16000
    assert sound.notes == ('2 channels averaged', '8,000 Hz resampled to 16,000')


@pytest.mark.parametrize(('rate', 'wanted'), [(8000, 16000), (44100, 16000), (16000, 8000), (48000, 44100), (11025, 8000)])
def test_a_resampled_tone_is_that_tone(rate, wanted):
    seconds, hz = 0.2, 1000.0
    tone = np.sin(2 * np.pi * hz * np.arange(int(rate * seconds)) / rate)
    out = audio.resample(tone, rate, wanted)
    assert len(out) == -(-len(tone) * wanted // rate)
    expected = np.sin(2 * np.pi * hz * np.arange(len(out)) / wanted)
    inner = slice(wanted // 50, -wanted // 50)
    np.testing.assert_allclose(out[inner], expected[inner], atol=2e-4)


def test_what_the_lower_rate_cannot_hold_is_gone():
    tone = np.sin(2 * np.pi * 7000 * np.arange(4800) / 48000)  # would fold to 1 kHz at 8 kHz
    assert np.abs(audio.resample(tone, 48000, 8000)[100:-100]).max() < 1e-4


GOOD = wav(np.zeros((100, 1), '<i2'))


@pytest.mark.parametrize(('data', 'code', 'says'), [
    (b'', 'data/audio', 'a.wav'),
    (b'<html>not a sound</html>', 'data/audio', 'a.wav'),
    (GOOD[:40], 'data/audio', 'samples'),
    (GOOD[:-50], 'data/audio-cut', '200'),
    (wav(np.zeros((0, 1), '<i2')), 'data/audio-empty', 'a.wav'),
    (wav(np.zeros((4, 1), '<i2'), rate=0), 'data/audio', '0 Hz'),
    (wav(np.zeros((3, 1), np.uint8)), 'data/audio-cut', 'multiple of 2'),
    (wav(np.full((4, 1), np.nan, '<f4'), tag=3, bits=32), 'data/audio', 'finite'),
])
def test_bad_files_are_refused_in_one_line(data, code, says):
    try:
        import soundfile  # noqa: F401
    except ImportError:
        if data[:4] != b'RIFF':
            code = 'data/audio-codec'
    with refused(code, 'a.wav', says):
        audio.decode(data, 'a.wav')


def test_a_codec_without_its_reader_names_the_extra(monkeypatch):
    monkeypatch.setitem(__import__('sys').modules, 'soundfile', None)
    for data in (wav(np.zeros((4, 1), np.uint8), tag=7, bits=8), b'fLaC' + bytes(50)):
        with refused('data/audio-codec', 'bigjax[audio]'):
            audio.decode(data, 'a.flac')


def test_a_stream_whose_header_was_never_completed_is_read_to_its_end():
    assert len(audio.decode(wav(np.ones((7, 1), '<i2'), announced=0xFFFFFFFF), 'a.wav').samples) == 7


# -- data of sounds ---------------------------------------------------------------------------------------------------

def write(path, count, rate=8000, value=1000):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(wav(np.full((count, 1), value, '<i2'), rate))


def test_a_folder_per_class_is_data_of_one_rate_and_length(tmp_path):
    for k, name in enumerate(('no', 'yes')):
        for i in range(10):
            write(tmp_path / name / f'{i}.wav', 400 + 40 * i, value=1000 + k)
    write(tmp_path / 'no' / 'b.wav', 1600, 16000)
    (tmp_path / 'no' / 'notes.txt').write_text('x')
    splits = open_data(f'folder:{tmp_path}', like='fsdd', val_fraction=0.2)
    assert splits.info['classes'] == ['no', 'yes'] and splits.info['sample_rate'] == 8000
    assert splits.info['records'] == {'train': 17, 'val': 4}
    assert '1 .txt' in splits.info['found'][-1] and '1 of 21 sounds' in splits.info['found'][-1]
    for source in (splits.train, splits.evals['val']):
        arrays = source.arrays
        assert arrays['audio'].shape[1:] == (800,) and arrays['audio'].dtype == np.int16
        for clip, length, label in zip(arrays['audio'], arrays['length'], arrays['label'], strict=True):
            assert set(clip[:length]) in ({1000}, {1000 + label}) and not clip[length:].any()


@pytest.mark.parametrize('kind', ['jsonl', 'csv'])
def test_a_table_of_sounds_and_texts(tmp_path, kind):
    texts = ['on', 'off  now', '7', 'on'] * 5
    for i in range(20):
        write(tmp_path / 'clips' / f'{i}.wav', 100 + i)
    rows = [{'audio': f'clips/{i}.wav', 'text': text, 'label': 'ab'[i % 2]} for i, text in enumerate(texts)]
    lines = [json.dumps(row) for row in rows] if kind == 'jsonl' else [
        'audio,text,label', *(','.join(row.values()) for row in rows)]
    (tmp_path / f'a.{kind}').write_text('\n'.join(lines) + '\n')
    splits = open_data(f'{kind}:{tmp_path}/a.{kind}', like='fsdd_connected', val_fraction=0)
    assert splits.info['symbols'] == sorted(set('onoff now7')) and splits.info['between'] == ''
    arrays = splits.train.arrays
    assert set(arrays) == {'audio', 'length', 'text', 'text_length'}
    decoded = [''.join(splits.info['symbols'][k - 1] for k in row[:n]) for row, n in zip(
        arrays['text'], arrays['text_length'], strict=True)]
    assert decoded == [text.replace('  ', ' ') for text in texts] and not arrays['text'][0, 2:].any()
    np.testing.assert_array_equal(arrays['length'], 100 + np.arange(20))
    labelled = open_data(f'{kind}:{tmp_path}/a.{kind}', like='fsdd', val_fraction=0)
    assert set(labelled.train.arrays) == {'audio', 'length', 'label'} and labelled.info['classes'] == ['a', 'b']


@pytest.mark.parametrize(('train', 'test', 'code', 'says'), [
    ({'text': 'ab'}, {'text': 'ax'}, 'data/unknown-symbol', 'record 0'),
    ({'text': ' '}, {'text': 'ab'}, 'data/empty-text', 'record 0'),
    ({'text': 'ab', 'audio': '../a.wav'}, {'text': 'ab'}, 'data/outside', '../a.wav'),
    ({'text': 'ab', 'audio': 'none.wav'}, {'text': 'ab'}, 'data/unreadable', 'none.wav'),
    ({'label': 'a'}, {'label': 'c'}, 'data/unknown-class', 'c')])
def test_bad_records_of_sounds_are_refused(tmp_path, train, test, code, says):
    write(tmp_path / 'a.wav', 100)
    for split, row in (('train', train), ('test', test)):
        (tmp_path / f'{split}.jsonl').write_text((json.dumps({'audio': 'a.wav', **row}) + '\n') * 4)
    with refused(code, says):
        open_data(f'jsonl:{tmp_path}')


def test_long_sounds_are_cut_where_no_text_would_be_lost(tmp_path, monkeypatch):
    monkeypatch.setattr(audio, 'LONGEST_S', 0.1)
    for i in range(4):
        write(tmp_path / 'ab'[i % 2] / f'{i}.wav', 500 + 500 * i)
    splits = open_data(f'folder:{tmp_path}', val_fraction=0)
    assert splits.train.arrays['audio'].shape == (4, 800) and '3 sounds are cut' in splits.info['found'][-1]


def test_sounds_that_do_not_fit_in_memory_are_read_one_by_one(tmp_path, monkeypatch):
    monkeypatch.setattr(own, 'IMAGES_IN_MEMORY_BYTES', 0)
    for i in range(4):
        write(tmp_path / 'ab'[i % 2] / f'{i}.wav', 500 + 500 * i)
    source = open_data(f'folder:{tmp_path}', like='fsdd', val_fraction=0).train
    assert not hasattr(source, 'arrays')
    for i in range(4):
        assert {k: (np.shape(v), np.asarray(v).dtype) for k, v in source[i].items()} == {
            'audio': ((2000,), np.int16), 'length': ((), np.int32), 'label': ((), np.int32)}


# -- spoken digits ----------------------------------------------------------------------------------------------------

@pytest.fixture
def digits(tmp_path):
    """Two speakers say every digit seven times; sample values name digit, speaker and repetition."""
    for digit in range(10):
        for s, speaker in enumerate(('ann', 'bob')):
            for repetition in range(7):
                value = 1000 * s + 10 * digit + repetition + 1
                write(tmp_path / 'fsdd' / 'recordings' / f'{digit}_{speaker}_{repetition}.wav', 200 + digit, value=value)
    return tmp_path


def test_repetitions_0_to_4_are_the_test_set_also_in_an_archive(digits, tmp_path):
    splits = open_data('fsdd', data_dir=str(digits))
    assert splits.info['records'] == {'train': 40, 'test': 100}
    assert {int(v) % 10 for v in splits.evals['test'].arrays['audio'][:, 0]} == {1, 2, 3, 4, 5}
    for source in (splits.train, *splits.evals.values()):
        a = source.arrays
        np.testing.assert_array_equal(a['audio'][:, 0] % 1000 // 10, a['label'])
        np.testing.assert_array_equal(a['length'], 200 + a['label'])
    with tarfile.open(tmp_path / 'fsdd_recordings.tar.gz', 'w:gz') as tar:
        tar.add(digits / 'fsdd' / 'recordings', 'recordings')
    (digits / 'fsdd').rename(digits / 'elsewhere')
    packed = open_data('fsdd', data_dir=str(digits))
    for name, array in packed.train.arrays.items():
        np.testing.assert_array_equal(array, splits.train.arrays[name])
    (tmp_path / 'fsdd_recordings.tar.gz').write_bytes((tmp_path / 'fsdd_recordings.tar.gz').read_bytes()[:3000])
    with refused('data/damaged', 'fsdd_recordings.tar.gz'):
        open_data('fsdd', data_dir=str(digits))


def test_connected_digits_are_the_clips_of_one_speaker_with_silence_between(digits, monkeypatch):
    monkeypatch.setattr(spoken, 'SEQUENCES', {'train': 24, 'test': 16})
    splits = open_data('fsdd_connected', data_dir=str(digits))
    for split, source in (('train', splits.train), ('test', splits.evals['test'])):
        batch = jax.jit(source.take)(source.arrays, np.arange(len(source)))
        assert set(map(int, batch['text_length'])) == {1, 2, 3, 4, 5}
        for i in range(len(source)):
            one = source[i]
            assert all(np.array_equal(one[name], batch[name][i]) for name in one) and set(one) == set(source.spec)
            x, n = one['audio'], int(one['text_length'])
            edges = np.flatnonzero(np.diff(np.concatenate([[0], x]).astype(np.int32)))
            heard = [int(x[e]) for e in edges if x[e]]
            assert [v % 1000 // 10 + 1 for v in heard] == list(one['text'][:n]) or n > 1  # equal clips may touch
            assert (np.count_nonzero(x), not x[one['length']:].any(), not one['text'][n:].any()) == (
                sum(200 + k - 1 for k in one['text'][:n]), True, True)
            assert len({v // 1000 for v in heard}) == 1
            assert all((v % 10 > 5) == (split == 'train') for v in heard)
