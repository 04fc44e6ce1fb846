"""Sounds: what each encoding holds, resampling against formulas, and files that are none."""
import struct

import numpy as np
import pytest

from bigjax.data import audio
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


def test_a_source_of_files_of_several_rates_has_one_form(tmp_path):
    for name, count, rate in (('a', 400, 8000), ('b', 1600, 16000), ('c', 2400, 8000)):
        (tmp_path / f'{name}.wav').write_bytes(wav(np.full((count, 1), 1000, '<i2'), rate))
    files = [str(tmp_path / f'{name}.wav') for name in 'abc']
    rate, length, notes = audio.common_form(files, longest_s=0.2)
    assert (rate, length) == (8000, 1600) and len(notes) == 2
    source = audio.AudioSource(files, {'label': np.arange(3, dtype=np.int32)}, rate, length)
    examples = [source[i] for i in range(3)]
    assert [int(e['length']) for e in examples] == [400, 800, 1600] and [int(e['label']) for e in examples] == [0, 1, 2]
    for example in examples:
        assert {k: (np.shape(v), np.asarray(v).dtype) for k, v in example.items()} == {
            k: (s.shape, s.dtype) for k, s in source.spec.items()}
        assert set(np.unique(example['audio'])) <= {0, 1000}
