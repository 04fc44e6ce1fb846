"""Characters of Shakespeare: a small GPT and an LSTM.

Karpathy's nanoGPT (README, "I only have a macbook"): four layers of four heads, 128 wide, windows of 64 characters in
batches of 12, 2,000 steps of AdamW reach a validation loss of 1.88 nats a character. The learning rate here is twice its
1e-3, with which one seed reached 1.905. Its GPU setting, `gpt_large`, reaches 1.4697 and is not part of the table. `lstm`
is the kind of network of "The Unreasonable Effectiveness of Recurrent Neural Networks" (Karpathy 2015) in the same budget:
about as many parameters, the same windows and steps; nothing is published for it.

nanoGPT estimates the validation loss from 20 random batches (200 on a GPU), with a standard error of 0.014; here it is
that of the last tenth of the text, whole, in windows that do not overlap. A window starts without a memory in both
networks.

    python -m experiments.tiny_shakespeare --workdir=/tmp/tiny                        the table
    python -m experiments.tiny_shakespeare --workdir=/tmp/large --variant=gpt_large   on an accelerator
    python -m experiments.tiny_shakespeare --workdir=/tmp/mine --variant=gpt --config.data=text:mine.txt
"""
import jax.numpy as jnp

from bigjax import cli
from bigjax.data.datasets import open_data
from bigjax.data.text import CharVocabulary
from bigjax.experiment import Data, Evaluator, Expected, Experiment, base_config, choose
from bigjax.models import gpt, rnn
from bigjax.tasks import language

GPT = dict(name='adamw', lr=1e-3, b1=0.9, b2=0.99, weight_decay=0.1, wd_mask='kernels', clip_norm=1.0,
           schedule=dict(name='cosine', warmup=100, end=1e-4))
LSTM = dict(name='adam', lr=3e-3, clip_norm=1.0, schedule=dict(name='cosine', warmup=100, end=3e-4))
ROWS = {  # row: (model, its fields, window, minibatch, steps, optimizer, published loss)
    'gpt': (gpt.GPT, gpt.VARIANTS['shakespeare_cpu'], 64, 12, 2000, dict(GPT, lr=2e-3), 1.88),
    'lstm': (rnn.CharLSTM, dict(embed=128, features=256, layers=2), 64, 12, 2000, LSTM, None),
    'gpt_large': (gpt.GPT, gpt.VARIANTS['shakespeare'], 256, 64, 5000, GPT, 1.4697),
}
TABLE = ('gpt', 'lstm')
PARAMETERS = {'gpt': 804_096, 'lstm': 946_625, 'gpt_large': 10_745_088}
TINY = {'length': '16', 'sample_length': '4', 'model.width': '16', 'model.features': '16', 'model.num_layers': '2'}


def get_config(variant=''):
    """`variant` is a row; nanoGPT's CPU setting by default."""
    config = base_config()
    config.row = variant or 'gpt'
    _, model, config.length, config.batch_size, steps, optimizer, _ = choose('variant', config.row, ROWS)
    config.model = {key: value for key, value in model.items() if key not in ('vocab_size', 'block_size')}
    config.data = 'tiny_shakespeare'
    config.steps = steps
    config.optimizer = optimizer
    config.log_every = 20
    config.best = 'val/loss' if config.row == 'gpt_large' else ''  # nanoGPT keeps the best there, and it overfits
    config.prompt = '\n'
    config.sample_length = 500
    config.temperature = 0.8
    return config


def get_experiment(config):
    """The row `config.row`."""
    build, *_, published = choose('config.row', config.row, ROWS)
    splits = open_data(config.data, like='tiny_shakespeare', data_dir=config.data_dir, length=config.length)
    vocabulary = CharVocabulary(splits.info['chars'])
    fields = dict(config.model, vocab_size=len(vocabulary), dtype=config.dtype)
    source = {1.88: 'nanoGPT README, 20 random batches', 1.4697: 'nanoGPT README, the best of 200 random batches'}
    return Experiment(
        model=build(**fields, **({'block_size': config.length} if build is gpt.GPT else {})),
        task=language.next_token(),
        data=Data(splits.train, splits.evals, info=splits.info),
        optimizer=config.optimizer,
        evaluators={'val': Evaluator('val')},
        expected=(Expected('val/loss', published, 0.0, source[published], better='lower'),) if published else (),
        samples=text(vocabulary, config.prompt, config.sample_length, config.length, config.temperature),
        partition_rules=gpt.PARTITION_RULES if build is gpt.GPT else (),
    )


def text(vocabulary, prompt: str, steps: int, length: int, temperature: float):
    """The report's sample: `steps` characters that follow the prompt."""
    start = jnp.asarray(vocabulary.encode(prompt))[None]

    def samples(apply, variables, rng):
        tokens = gpt.generate(apply, variables, start, steps, rng, block_size=length, temperature=temperature)
        return {'sample': vocabulary.decode(tokens[0])}

    return samples


if __name__ == '__main__':
    cli.main()
