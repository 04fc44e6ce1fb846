"""Spoken digits: single ones by a convolutional and a recurrent network, connected ones by CTC.

Free Spoken Digit Dataset (Jackson et al. 2018): six speakers say each digit 50 times; repetitions 0 to 4 are the test set.
There is no canonical table of it, so no published number is compared. Sounds become log-mel features of 40 bands on the
device, in windows of 25 ms every 10 ms, and are masked in stripes in training (SpecAugment, Park et al. 2019).

The rows `conv1d` and `gru` classify one digit: three one-dimensional convolutions with pooling and a dense layer, and a
bidirectional GRU whose outputs are averaged. `conformer` (Gulati et al. 2020) and `lstm` transcribe one to five digits of one
speaker with random silence between them, trained by connectionist temporal classification; test sequences consist of test
recordings alone. Their word error rates are `wer`, of greedy decoding, and `wer_beam`, of a prefix beam search.

    python -m experiments.spoken_digits --workdir=/tmp/digits                          the table
    python -m experiments.spoken_digits --workdir=/tmp/gru --variant=gru               one row
    python -m experiments.spoken_digits predict --workdir=/tmp/gru some.wav            a sound of your own
    python -m experiments.spoken_digits --workdir=/tmp/own --config.data=folder:DIR    a sub-folder of .wav per class
    python -m experiments.spoken_digits --workdir=/tmp/asr --variant=lstm --config.data=jsonl:FILE    "audio" and "text"
"""
from functools import partial

import jax.numpy as jnp

from bigjax import cli, models
from bigjax.data.datasets import open_data
from bigjax.data.spec_augment import spec_augment
from bigjax.experiment import Data, Evaluator, Experiment, base_config, choose
from bigjax.metrics import confusion, speech
from bigjax.models import conformer
from bigjax.nn import log_mel
from bigjax.predict import interfaces
from bigjax.tasks import classification, ctc

CONV1D = models.spec('cnn', channels=(32, 64, 64), kernels=(5, 5, 5), pool='max', dense=(64,), dropout=0.3)
GRU = models.spec('rnn.RNNClassifier', cell='gru', features=64, bidirectional=True, readout='mean', dropout=0.2)
LSTM = models.spec('rnn.FrameRNN', cell='lstm', features=96, layers=1, dropout=0.2)
ROWS = {  # row: (model, data, batch, steps, learning rate)
    'conv1d': (CONV1D, 'fsdd', 32, 1000, 1e-3),
    'gru': (GRU, 'fsdd', 32, 1000, 3e-3),
    'conformer': (models.spec('conformer', 'digits'), 'fsdd_connected', 16, 1200, 2e-3),
    'lstm': (LSTM, 'fsdd_connected', 16, 1500, 3e-3),
}
TABLE = tuple(ROWS)
HELP = {'like': 'the set that --config.data=fake imitates, and whether sounds have classes (fsdd) or texts'}
OWN_ROWS = ('conv1d',)
PARAMETERS = {'conv1d': 103_530, 'gru': 41_994, 'conformer': 207_675, 'lstm': 200_267}
TINY = {'model.channels': '(4, 4, 4)', 'model.features': '8', 'model.layers': '1', 'model.num_layers': '1', 'model.width': '16'}
STRIDE, BEAMS, BANDS = 4, 8, 40
SHOWN = 12  # mistakes in the report


def get_config(variant=''):
    """`variant` is a row of the table; 'conv1d' by default."""
    config = base_config()
    config.model, config.data, config.batch_size, config.steps, rate = choose('variant', variant or 'conv1d', ROWS)
    config.like = config.data
    config.log_every = '5%'
    config.eval_every = '25%'
    config.optimizer = dict(name='adamw', lr=rate, weight_decay=1e-3, clip_norm=1.0,
                            schedule=dict(name='cosine', warmup='5%'))
    return config


def get_experiment(config):
    """A classifier of sounds, or a transcriber where the data has texts."""
    splits = open_data(config.data, like=config.like, data_dir=config.data_dir)
    connected = config.like == 'fsdd_connected'
    front = log_mel.Frontend(splits.info['sample_rate'], *windows(splits.info['sample_rate']), bands=BANDS, floor=1e-8)
    recurrent = config.model.name != 'cnn'
    stripes = dict(bands=8, band_stripes=1, frames=20, frame_stripes=2 if connected else 1, share=0.2)
    data = Data(splits.train, splits.evals, preprocess=partial(features, front=front, with_mask=recurrent),
                augment=spec_augment(**stripes, count='mask' if recurrent else ''), info=splits.info)
    if connected:
        symbols = 1 + len(splits.info['symbols'])
        task, interface = ctc.ctc(STRIDE, BEAMS), interfaces.sounds(splits, interfaces.spoken(splits), longer=True)
        evaluators = {split: Evaluator(split, partial(judge, info=splits.info), keep=('text',), better={
            'wer_beam': 'lower'}) for split in splits.evals}
    else:
        classes = splits.info['classes']
        symbols, task = len(classes), classification.softmax('x')
        interface = interfaces.sounds(splits, partial(interfaces.classes, names=classes))
        evaluators = {split: Evaluator(split, partial(confusion.confusion, classes=classes)) for split in splits.evals}
    return Experiment(
        model=models.make(config.model, num_classes=symbols, dtype=config.dtype),
        task=task, data=data, optimizer=config.optimizer, evaluators=evaluators, interface=interface,
        partition_rules=conformer.PARTITION_RULES if config.model.name == 'conformer' else ())


def windows(rate: int) -> tuple[int, int, int]:
    """(samples of 25 ms, samples of 10 ms, the power of two that holds the first)."""
    window = rate // 40
    return window, rate // 100, 1 << (window - 1).bit_length()


def features(batch, front, with_mask):
    """'audio' and 'length' as standardised log-mel features 'x' [B, T, M], and 'mask' [B, T] of the frames that count."""
    frames = log_mel.count_frames(batch['length'], front)
    x = log_mel.standardized(log_mel.log_mel(batch['audio'], front), frames)
    rest = {name: value for name, value in batch.items() if name not in ('audio', 'length')}
    return {**rest, 'x': x, **({'mask': jnp.arange(x.shape[1]) < frames[:, None]} if with_mask else {})}


def judge(outputs, examples, info) -> dict:
    """Word error rates of both decodings, and some mistakes for the report."""
    expected = interfaces.spelled(examples['text'], info)
    greedy, beam = (interfaces.spelled(outputs[name], info) for name in ('greedy', 'beam'))
    wrong = [f'is     {a}\ngiven  {b}' for a, b in zip(expected, beam, strict=True) if a != b]
    return {**speech.word_errors(greedy, expected), 'wer_beam': speech.word_errors(beam, expected)['wer'],
            'mistakes': '\n\n'.join(wrong[:SHOWN]) or 'none'}


if __name__ == '__main__':
    cli.main()
