"""Llama 2: pre-training at two sizes, for planning and speed on pods.

Touvron et al., "Llama 2: Open Foundation and Fine-Tuned Chat Models" (2023), section 2: RMSNorm, SwiGLU, rotary positions,
windows of 4,096; AdamW (0.9, 0.95, 1e-5), 2,000 steps of warm-up, a cosine to a tenth, weight decay 0.1, clipped to a norm
of 1, a global batch of 4 million tokens, 2 trillion tokens in all; 3e-4 for 7b, 1.5e-4 for 70b. The training text is not
public: any text in Llama's tokens takes its place, and nothing published is compared.

    python -m experiments.llama2 plan --variant=7b --topology=v5p-512 --config.mesh=fsdp:256 --config.data=fake
    python -m experiments.llama2 --workdir=/shared/llama --variant=7b --config.mesh=fsdp:64,tensor:4
"""
from bigjax import cli, models
from bigjax.data import tokenizers
from bigjax.data.datasets import open_data
from bigjax.experiment import Data, Evaluator, Experiment, base_config, choose
from bigjax.models import gpt
from bigjax.predict import interfaces
from bigjax.tasks import language

ROWS = {'7b': ('llama2_7b', 3e-4), '70b': ('llama2_70b', 1.5e-4)}  # size: (its fields, learning rate)
HELP = {'length': 'tokens of a window'}
PARAMETERS = {'7b': 6_738_415_616, '70b': 68_976_648_192}
TINY = {'length': '16', 'model.width': '16', 'model.mlp_width': '24', 'model.num_layers': '2', 'model.num_heads': '4',
        'model.num_kv_heads': '4', 'model.chunk': '40', 'dtype': 'float32'}


def get_config(variant=''):
    """`variant` is a size; 7b by default."""
    config = base_config()
    fields, rate = choose('variant', variant or '7b', ROWS)
    config.model = {'num_kv_heads': 0, **models.spec('gpt', fields, scan=True, remat='full', microbatches=0, chunk=8192,
                                                     context='ring')}
    config.data = 'llama_tokens'
    config.length = 4096
    config.batch_size = 1024
    config.dtype = 'bfloat16'
    config.steps = 500_000
    config.log_every = 10
    config.eval_every = 1000
    config.checkpoint_every = 1000
    config.optimizer = dict(name='adamw', lr=rate, b1=0.9, b2=0.95, eps=1e-5, weight_decay=0.1, wd_mask='kernels',
                            clip_norm=1.0, schedule=dict(name='cosine', warmup=2000, end=rate / 10))
    return config


def get_experiment(config):
    """A language model."""
    splits = open_data(config.data, like='llama_tokens', data_dir=config.data_dir, length=config.length)
    vocabulary = splits.info.get('vocabulary') or 32000
    tokenizer = tokenizers.of_stream(splits.info)
    return Experiment(
        model=models.make(config.model, vocab_size=vocabulary, block_size=config.length, dtype=config.dtype),
        task=language.next_token(chunked=True),
        data=Data(splits.train, splits.evals, info=splits.info),
        optimizer=config.optimizer,
        evaluators={'val': Evaluator('val')},
        interface=interfaces.tokens(tokenizer, vocabulary),
        tokenizer=tokenizer,
        partition_rules=gpt.PARTITION_RULES,
    )


if __name__ == '__main__':
    cli.main()
