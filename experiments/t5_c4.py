"""T5 pre-trained on C4 by restoring spans that were cut out.

Raffel, Shazeer, Roberts, Lee, Narang, Matena, Zhou, Li & Liu, "Exploring the Limits of Transfer Learning with a Unified
Text-to-Text Transformer" (2020), sections 3.1 to 3.3: windows of 568 tokens, of which 15 % are cut out in spans of three on
average, become a source of 512 tokens and a target of 114; batches of 128, 524,288 steps of Adafactor with a rate of
1 / sqrt(max(step, 10,000)), no dropout. Nothing published is compared: the paper judges by fine-tuning.

    python -m experiments.t5_c4 --workdir=/tmp/t5 --variant=small --config.mesh=fsdp:8
    python -m experiments.t5_c4 plan --variant=base --topology=v5e-16 --config.mesh=fsdp:16 --config.data=fake
"""
from bigjax import cli, models
from bigjax.data.datasets import open_data
from bigjax.data.loaders import texts
from bigjax.experiment import Data, Evaluator, Experiment, base_config, choose
from bigjax.models import seq2seq
from bigjax.tasks import denoising

ROWS = {'small': 't5_small', 'base': 't5_base'}  # size: its fields
HELP = {'length': 'tokens of a window, before spans are cut out'}
PARAMETERS = {'small': 60_506_624, 'base': 222_903_552}
TINY = {'length': '24', 'model.width': '16', 'model.mlp_width': '24', 'model.num_layers': '2', 'model.num_heads': '4',
        'dtype': 'float32'}


def get_config(variant=''):
    """`variant` is a size; 'small' by default."""
    config = base_config()
    fields = choose('variant', variant or 'small', ROWS)
    config.model = models.spec('seq2seq.EncoderDecoder', fields, dropout=0.0, scan=False, remat='none')
    config.data = 'c4_tokens'
    config.length = 568
    config.batch_size = 128
    config.dtype = 'bfloat16'
    config.steps = 524_288
    config.log_every = 50
    config.eval_every = 10_000
    config.checkpoint_every = 5000
    config.optimizer = dict(name='adafactor', lr=0.01, schedule=dict(name='rsqrt', timescale=10_000))
    return config


def get_experiment(config):
    """An encoder-decoder that restores what was cut out."""
    splits = open_data(config.data, like='c4_tokens', data_dir=config.data_dir, length=config.length)
    vocabulary = splits.info.get('vocabulary') or texts.T5
    return Experiment(
        model=models.make(config.model, vocab_size=vocabulary, dtype=config.dtype),
        task=denoising.spans(vocabulary),
        data=Data(splits.train, splits.evals, info=splits.info),
        optimizer=config.optimizer,
        evaluators={'val': Evaluator('val')},
        partition_rules=seq2seq.PARTITION_RULES,
    )


if __name__ == '__main__':
    cli.main()
