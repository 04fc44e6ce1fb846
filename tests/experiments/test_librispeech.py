"""LibriSpeech's page: its recipe, and a table of one's own."""
import json

import pytest

from bigjax import cli
from experiments import librispeech
from tests.experiments.test_spoken_digits import tone


@pytest.mark.parametrize(('variant', 'width'), [('s', 144), ('m', 256), ('l,100h', 512)])
def test_the_rate_is_that_of_the_width(variant, width):
    config = librispeech.get_config(variant)
    assert config.model.width == width and config.optimizer.lr == pytest.approx(0.05 / width ** 0.5)
    assert config.data == config.like == f'librispeech/{"100h" if "," in variant else "960h"}'


@pytest.mark.slow
def test_a_table_of_texts_is_trained_on_and_a_sound_is_transcribed(tmp_path, capsys):
    def run(*argv):
        code = cli.run(librispeech, 'experiments.librispeech', list(argv))
        out = capsys.readouterr()
        assert code == 0, out.err
        return out.out

    rows = [{'audio': f'{i}.wav', 'text': 'ab'[i % 2] * (1 + i % 2)} for i in range(12)]
    for i in range(12):
        tone(tmp_path / f'{i}.wav', 300 + 400 * (i % 2), 0.3, 16_000)
    (tmp_path / 'a.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows))
    out = run(f'--workdir={tmp_path}/run', f'--config.data=jsonl:{tmp_path}/a.jsonl', '--config.steps=2',
              '--config.batch_size=4', '--config.mesh=data:1', '--config.eval_every=0', '--config.model.num_layers=1',
              '--config.model.width=16', '--config.dtype=float32')
    assert 'val/wer' in out
    line = run('predict', f'--workdir={tmp_path}/run', '--json', str(tone(tmp_path / 'long.wav', 500, 0.7)))
    assert set(json.loads(line)) == {'input', 'text', 'greedy', 'log_probability', 'assumed'}
