"""Spoken digits: features of any rate, a folder and a table of one's own, an answer to a sound; what counts as an error."""
import json

import jax
import numpy as np
import pytest

from bigjax import cli
from bigjax import config as configs
from bigjax.nn import log_mel
from experiments import spoken_digits
from tests.data.test_audio import wav

SMALL = ['--config.steps=2', '--config.batch_size=4', '--config.mesh=data:1', '--config.eval_every=0']


def tone(path, hz, seconds=0.1, rate=8000):
    path.parent.mkdir(parents=True, exist_ok=True)
    x = 8000 * np.sin(2 * np.pi * hz * np.arange(int(rate * seconds)) / rate)
    path.write_bytes(wav(x[:, None].astype('<i2'), rate))
    return path


def run(capsys, *argv):
    code = cli.run(spoken_digits, 'experiments.spoken_digits', list(argv))
    out = capsys.readouterr()
    assert code == 0, out.err
    return out.out


@pytest.mark.parametrize('rate', [8000, 16000, 22050])
def test_windows_are_25_ms_every_10_ms_at_any_rate(rate):
    window, hop, points = spoken_digits.windows(rate)
    assert (window, hop) == (rate // 40, rate // 100) and window <= points < 2 * window and points & (points - 1) == 0


def test_features_do_not_depend_on_the_padding():
    front = log_mel.Frontend(8000, *spoken_digits.windows(8000), bands=8, floor=1e-8)
    x = np.random.default_rng(0).integers(-3000, 3000, (1, 1000)).astype(np.int16)
    run = jax.jit(lambda audio: spoken_digits.features({'audio': audio, 'length': np.array([1000])}, front, True))
    one, two = run(np.pad(x, ((0, 0), (0, 200)))), run(np.pad(x, ((0, 0), (0, 800))))
    assert set(one) == {'x', 'mask'} and int(one['mask'].sum()) == int(two['mask'].sum()) == 13
    np.testing.assert_allclose(one['x'][:, :13], two['x'][:, :13], atol=1e-5)
    assert not np.asarray(two['x'][:, 13:]).any()


def test_a_folder_of_sounds_is_trained_on_and_a_sound_gets_an_answer(tmp_path, capsys):
    for k, name in enumerate(('high', 'low')):
        for i in range(8):
            tone(tmp_path / 'data' / name / f'{i}.wav', (1500, 300)[k] + 20 * i)
    out = run(capsys, f'--workdir={tmp_path}/run', f'--config.data=folder:{tmp_path}/data', '--config.model.channels=(4, 4, 4)',
              *SMALL)
    assert 'val/accuracy' in out
    other = tone(tmp_path / 'other.wav', 310, 0.2, 16000)
    line = json.loads(run(capsys, 'predict', f'--workdir={tmp_path}/run', '--json', str(other)))
    assert line['class'] in ('high', 'low') and 0.5 <= line['probability'] <= 1
    assert line['assumed'] == ['16,000 Hz resampled to 8,000', '0.20 s cut to 0.10']


@pytest.mark.slow
def test_a_table_of_texts_is_trained_on_and_a_sound_is_transcribed(tmp_path, capsys):
    rows = [{'audio': f'{i}.wav', 'text': 'ab'[i % 2] * (1 + i % 2)} for i in range(12)]
    for i in range(12):
        tone(tmp_path / f'{i}.wav', 300 + 400 * (i % 2), 0.3)
    (tmp_path / 'a.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows))
    run(capsys, f'--workdir={tmp_path}/run', '--variant=lstm', f'--config.data=jsonl:{tmp_path}/a.jsonl',
        '--config.model.features=4', *SMALL)
    line = run(capsys, 'predict', f'--workdir={tmp_path}/run', '--json', str(tone(tmp_path / 'long.wav', 500, 0.7)))
    assert set(json.loads(line)) == {'input', 'text', 'greedy', 'log_probability'}


def test_what_counts_as_an_error():
    info = {'symbols': list('0123456789'), 'between': ' '}
    outputs = {'greedy': np.array([[1, 2, 3], [4, 0, 0]]), 'beam': np.array([[1, 2, 0], [4, 5, 0]])}
    found = spoken_digits.judge(outputs, {'text': np.array([[1, 2, 0], [4, 5, 0]])}, info)
    assert (found['wer'], found['wer_beam'], found['exact_match']) == (0.5, 0.0, 0.0) and found['mistakes'] == 'none'
    wrong = spoken_digits.judge({**outputs, 'beam': outputs['greedy']}, {'text': np.array([[1, 2, 0], [4, 5, 0]])}, info)
    assert 'is     0 1\ngiven  0 1 2' in wrong['mistakes']


def test_a_variant_keeps_its_config_of_sounds():
    config = configs.override(spoken_digits.get_config('conformer'), {'data': 'fake'})
    assert spoken_digits.get_experiment(configs.Reader(config)).data.info['symbols'] == list('0123456789')
