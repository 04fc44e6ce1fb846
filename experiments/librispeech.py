"""LibriSpeech: a Conformer that writes what is said, letter by letter.

Panayotov, Chen, Povey & Khudanpur, "Librispeech" (2015), table 1: 960.9 hours in 281,241 utterances for training, 100.6 of them
in 28,539 (`100h`); dev-clean 2,703, dev-other 2,864, test-clean 2,620 and test-other 2,939. Gulati et al., "Conformer" (2020),
sections 3.1 and 3.2: 80 log-mel bands, windows of 25 ms every 10 ms; SpecAugment with two stripes of at most 27 bands and ten
stripes of at most 5 % of the frames; dropout 0.1; Adam (0.9, 0.98, 1e-9) with a rate that rises for 10,000 steps to
0.05 / sqrt(width) and falls with the root of the step, an L2 penalty of 1e-6. Their decoder is a transducer over word pieces;
here the encoder alone is trained by connectionist temporal classification over 28 characters, in batches of 256 utterances of
at most 17 s for 100,000 steps, which the paper does not give, so that nothing published is compared. `wer` is that of greedy
decoding, `wer_beam` that of a prefix beam search without a language model.

    python -m experiments.librispeech --workdir=/tmp/libri --variant=s --config.mesh=data:8
    python -m experiments.librispeech --workdir=/tmp/hundred --variant=s,100h
    python -m experiments.librispeech plan --variant=l --topology=v5e-8 --config.data=fake
    python -m experiments.librispeech predict --workdir=/tmp/libri some.flac
    python -m experiments.librispeech --workdir=/tmp/own --config.data=jsonl:FILE --config.batch_size=16     "audio" and "text"
"""
from functools import partial

from bigjax import cli, models
from bigjax.data.datasets import open_data
from bigjax.data.spec_augment import spec_augment
from bigjax.experiment import Data, Evaluator, Experiment, base_config, choose
from bigjax.models import conformer
from bigjax.nn import log_mel
from bigjax.predict import interfaces
from bigjax.tasks import ctc
from experiments.spoken_digits import features, judge, windows

ROWS = {(size if hours == '960h' else f'{size},{hours}'): (size, hours) for hours in ('960h', '100h') for size in 'sml'}
OWN_ROWS = ('s',)
PARAMETERS = {'s': 8_380_973, 'm': 26_282_269, 'l': 110_661_149}
HELP = {'like': 'the set that --config.data=fake imitates'}
TINY = {'model.width': '16', 'model.num_layers': '1', 'model.kernel': '7', 'model.dropout': '0.0', 'dtype': 'float32',
        'data': 'fake:fsdd_connected'}  # short sounds
BANDS, BEAMS = 80, 8
ANY_LENGTH = 100_000  # frames: the share of an utterance alone limits a stripe
WARMUP = 10_000  # steps


def get_config(variant=''):
    """`variant` is a size, and '100h' after a comma for the smaller set; 's' by default."""
    config = base_config()
    size, hours = choose('variant', variant or 's', ROWS)
    config.model = models.spec('conformer', size)
    config.data = config.like = f'librispeech/{hours}'
    config.batch_size = 256
    config.eval_batch_size = 64
    config.dtype = 'bfloat16'
    config.steps = 100_000
    config.log_every = 50
    config.eval_every = 5000
    config.checkpoint_every = 1000
    config.optimizer = dict(name='adam', lr=0.05 * config.model.width ** -0.5, b1=0.9, b2=0.98, eps=1e-9, l2=1e-6,
                            schedule=dict(name='rsqrt', warmup=WARMUP))
    return config


def get_experiment(config):
    """A transcriber of speech."""
    splits = open_data(config.data, like=config.like, data_dir=config.data_dir, fake_records=16)
    rate = splits.info['sample_rate']
    front = log_mel.Frontend(rate, *windows(rate), bands=BANDS, floor=1e-8)
    return Experiment(
        model=models.make(config.model, num_classes=1 + len(splits.info['symbols']), dtype=config.dtype),
        task=ctc.ctc(conformer.STRIDE, BEAMS),
        data=Data(splits.train, splits.evals, preprocess=partial(features, front=front, with_mask=True),
                  augment=spec_augment(bands=27, band_stripes=2, frames=ANY_LENGTH, frame_stripes=10, share=0.05),
                  info=splits.info),
        optimizer=config.optimizer,
        evaluators={split: Evaluator(split, partial(judge, info=splits.info), keep=('text',), better={'wer_beam': 'lower'},
                                     every=None if split == 'val' else '100%') for split in splits.evals},
        partition_rules=conformer.PARTITION_RULES,
        interface=interfaces.sounds(splits, interfaces.spoken(splits), longer=True),
    )


if __name__ == '__main__':
    cli.main()
