"""The log-mel front end against its formula in float64, librosa and Whisper's published features; SpecAugment's stripes."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigjax.data.spec_augment import spec_augment
from bigjax.nn import log_mel
from bigjax.nn.log_mel import Frontend
from tests.refused import refused

FRONTS = [Frontend(), Frontend(8000, 200, 80, 256, 40), Frontend(8000, 200, 80, 256, 23, 60.0, 3800.0, 'htk', False),
          Frontend(16000, 320, 128, 512, 64, 20.0, 0.0, 'htk')]


def by_formula(x, f):
    """Energies in mel bands, one frame and one band after the other, in float64."""
    n = f.points or f.window
    padded = np.pad(x, n // 2, mode='reflect')
    left = (n - f.window) // 2
    window = np.zeros(n)
    window[left:left + f.window] = np.sin(np.pi * np.arange(f.window) / f.window) ** 2
    dft = np.exp(-2j * np.pi * np.outer(np.arange(n // 2 + 1), np.arange(n)) / n)
    frames = np.stack([padded[t * f.hop:t * f.hop + n] * window for t in range(len(x) // f.hop + 1)])
    return np.abs(frames @ dft.T) ** 2 @ log_mel.mel_filters(f)


@pytest.mark.parametrize('f', FRONTS)
def test_energies_are_those_of_the_formula(f):
    x = np.random.default_rng(0).normal(size=f.window * 5) * 0.1
    found = np.asarray(jax.jit(lambda x: log_mel.mel_power(x, f))(x[None].astype(np.float32)))[0]
    expected = by_formula(x, f)
    assert found.shape == expected.shape == (log_mel.count_frames(len(x), f), f.bands)
    np.testing.assert_allclose(found, expected, rtol=2e-4, atol=1e-6 * expected.max())


@pytest.mark.parametrize('scale', log_mel.SCALES)
def test_scales_are_inverse_and_bands_fill_the_range(scale):
    hz = np.linspace(0, 8000, 50)
    np.testing.assert_allclose(log_mel.to_hz(log_mel.to_mel(hz, scale), scale), hz, atol=1e-9)
    assert log_mel.to_mel(1000, scale) == pytest.approx(15.0 if scale == 'slaney' else 1000.0, rel=1e-4)
    filters = log_mel.mel_filters(Frontend(16000, 2048, bands=20, scale=scale, equal_area=False))
    np.testing.assert_allclose(filters.sum(1)[90:800], 1, atol=1e-9)  # neighbours overlap to one, where bands are full


@pytest.mark.parity
@pytest.mark.parametrize('f', FRONTS)
def test_filters_and_features_are_librosas(f):
    librosa = pytest.importorskip('librosa', reason='librosa is the reference')
    points = f.points or f.window
    options = dict(sr=f.rate, n_fft=points, n_mels=f.bands, fmin=f.low, fmax=f.high or f.rate / 2, htk=f.scale == 'htk',
                   norm='slaney' if f.equal_area else None)
    np.testing.assert_allclose(log_mel.mel_filters(f).T, librosa.filters.mel(**options, dtype=np.float64), atol=1e-12)
    x = np.random.default_rng(1).normal(size=4000)
    theirs = librosa.feature.melspectrogram(y=x, hop_length=f.hop, win_length=f.window, pad_mode='reflect', **options,
                                            dtype=np.float64)
    with jax.enable_x64(True):
        ours = np.asarray(log_mel.mel_power(jnp.asarray(x[None]), f))[0]
    assert ours.dtype == np.float64
    np.testing.assert_allclose(ours, theirs.T, rtol=1e-6, atol=1e-9)


@pytest.mark.parity
def test_whispers_features_are_those_of_transformers():
    transformers = pytest.importorskip('transformers', reason='transformers is the reference')
    x = np.random.default_rng(2).normal(size=16000 * 30).astype(np.float32) * np.linspace(0, 0.1, 480000, dtype=np.float32)
    theirs = transformers.WhisperFeatureExtractor()(x, sampling_rate=16000, return_tensors='np')['input_features'][0]
    np.testing.assert_allclose(np.asarray(log_mel.whisper(x[None]))[0], theirs.T, atol=2e-4)


def test_whole_numbers_are_samples_of_full_scale():
    f, x = FRONTS[1], np.random.default_rng(3).integers(-2000, 2000, (2, 1000)).astype(np.int16)
    np.testing.assert_allclose(log_mel.log_mel(x, f), log_mel.log_mel(x.astype(np.float32) / 32768, f), rtol=1e-6)


@pytest.mark.parametrize(('change', 'code', 'says'), [
    ({'scale': 'bark'}, 'model/unknown-option', 'bark'), ({'high': 5000.0}, 'model/front-end', '5000'),
    ({'points': 128}, 'model/front-end', '128'),
    ({'points': 257}, 'model/front-end', '257'), ({'bands': 0}, 'model/front-end', '0')])
def test_options_that_make_no_filters_are_refused(change, code, says):
    with refused(code, says):
        log_mel.mel_filters(FRONTS[1]._replace(**change))


def test_a_standardised_clip_does_not_depend_on_its_padding_or_gain():
    x = np.random.default_rng(4).normal(size=(2, 20, 3)) * 5 + 7
    frames = np.array([20, 12])
    x[1, 12:] = 1e3
    out = np.asarray(log_mel.standardized(x.astype(np.float32), frames))
    for row, n in zip(out, frames, strict=True):
        np.testing.assert_allclose([row[:n].mean(), row[:n].std()], [0, 1], atol=1e-4)
        assert not row[n:].any()
    np.testing.assert_allclose(np.asarray(log_mel.standardized(x.astype(np.float32) + 3, frames)), out, atol=1e-4)


def test_stripes_lie_among_a_clips_own_frames_and_have_the_stated_widths():
    frames = np.array([40, 10] * 200)
    batch = {'x': np.ones((400, 50, 16), np.float32), 'mask': np.arange(50) < frames[:, None], 'label': np.arange(400)}
    augment = spec_augment(bands=4, band_stripes=1, frames=8, frame_stripes=1, share=0.5)
    out = jax.jit(augment)(batch, jax.random.key(0))
    mel = np.asarray(out['x'])
    assert set(np.unique(mel)) == {0.0, 1.0} and out['label'] is not None
    hidden_frames, hidden_bands = (mel == 0).all(2), (mel == 0).all(1)
    widths = hidden_bands.sum(1)
    assert sorted(set(widths)) == [0, 1, 2, 3, 4] and np.bincount(widths).min() > 40  # each as likely
    for length, longest in ((40, 8), (10, 5)):
        rows = hidden_frames[frames == length]
        assert not rows[:, length:].any() and set(rows.sum(1)) == set(range(longest + 1))
        assert rows[:, 0].any() and rows[:, length - 1].any()  # up to both ends
        assert all(np.diff(np.flatnonzero(row)).max(initial=1) == 1 for row in rows)  # one stripe
    assert not np.array_equal(mel[0], mel[2])
