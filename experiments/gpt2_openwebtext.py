"""GPT-2 on OpenWebText.

Radford, Wu, Child, Luan, Amodei & Sutskever, "Language Models are Unsupervised Multitask Learners" (2019), table 2: the
four sizes. The recipe is nanoGPT's (Karpathy 2022, config/train_gpt2.py): 600,000 steps of 480 windows of 1,024 tokens,
AdamW (0.9, 0.95), 6e-4 after 2,000 steps of warm-up, to a tenth by a cosine, weight decay 0.1, clipped to a norm of 1; it
reports a validation loss of 2.85 for `s`, without dropout and biases. The larger sizes take a lower rate (Brown et al.
2020, table 2.1).

    python -m experiments.gpt2_openwebtext --workdir=/tmp/gpt2 --variant=s --config.mesh=fsdp:8
    python -m experiments.gpt2_openwebtext plan --variant=s --topology=v5e-16 --config.mesh=fsdp:16 --config.data=fake
    python -m experiments.gpt2_openwebtext --workdir=/tmp/mine --variant=s --config.data=tokens:/path/to/folder
"""
from bigjax import cli, models
from bigjax.data import tokenizers
from bigjax.data.datasets import open_data
from bigjax.experiment import Data, Evaluator, Experiment, base_config, choose, published
from bigjax.models import gpt
from bigjax.predict import interfaces
from bigjax.tasks import language

ROWS = {  # size: (its fields, learning rate, published validation loss)
    's': ('gpt2', 6e-4, 2.85), 'm': ('gpt2_medium', 3e-4, None), 'l': ('gpt2_large', 2.5e-4, None),
    'xl': ('gpt2_xl', 2e-4, None),
}
HELP = {'length': 'tokens of a window'}
PARAMETERS = {'s': 124_439_808, 'm': 354_823_168, 'l': 774_030_080, 'xl': 1_557_611_200}
TINY = {'length': '16', 'model.width': '16', 'model.num_layers': '2', 'model.num_heads': '4', 'model.chunk': '40',
        'dtype': 'float32'}


def get_config(variant=''):
    """`variant` is a size; s by default. Weights are those of OpenAI's, biases included."""
    config = base_config()
    fields, rate, loss = choose('variant', variant or 's', ROWS)
    config.model = models.spec('gpt', fields, scan=False, remat='none', microbatches=0, chunk=8192, experts=0, context='ring')
    if loss:
        source = 'nanoGPT README, GPT-2 124M trained on OpenWebText'
        config.published = {'val/loss': dict(value=loss, tolerance=0.03, source=source, better='lower')}
    config.data = 'openwebtext'
    config.length = 1024
    config.batch_size = 480
    config.dtype = 'bfloat16'
    config.steps = 600_000
    config.log_every = 10
    config.eval_every = 1000
    config.checkpoint_every = 1000
    config.optimizer = dict(name='adamw', lr=rate, b1=0.9, b2=0.95, weight_decay=0.1, wd_mask='kernels', clip_norm=1.0,
                            schedule=dict(name='cosine', warmup=2000, end=rate / 10))
    return config


def get_experiment(config):
    """A language model."""
    splits = open_data(config.data, like='openwebtext', data_dir=config.data_dir, length=config.length)
    vocabulary = splits.info.get('vocabulary') or 50257
    tokenizer = tokenizers.of_stream(splits.info)
    return Experiment(
        model=models.make(config.model, vocab_size=vocabulary, block_size=config.length, dtype=config.dtype),
        task=language.next_token(chunked=True),
        data=Data(splits.train, splits.evals, info=splits.info),
        optimizer=config.optimizer,
        evaluators={'val': Evaluator('val')},
        expected=published(config),
        interface=interfaces.tokens(tokenizer, vocabulary),
        tokenizer=tokenizer,
        partition_rules=gpt.PARTITION_RULES,
    )


if __name__ == '__main__':
    cli.main()
