"""Reviews of films: is one in favour.

Maas, Daly, Pham, Huang, Ng & Potts, "Learning Word Vectors for Sentiment Analysis" (2011): 25,000 reviews for training and
as many for the test. `bert` fine-tunes BERT base as Sun, Qiu, Xu & Huang do, "How to Fine-Tune BERT for Text Classification?"
(2019): 512 tokens, batches of 24, a rate of 2e-5 that rises over a tenth of the steps and falls to zero, four epochs. `lstm`
reads the same tokens in both directions without pretrained weights, and averages over time. Nothing published is compared.

    python -m experiments.imdb --workdir=/tmp/imdb --variant=bert --init_from=hf:/path/to/bert-base-uncased
    python -m experiments.imdb --workdir=/tmp/lstm --variant=lstm
"""
from bigjax import cli, models
from bigjax.data import padding
from bigjax.data.datasets import open_data
from bigjax.data.loaders import texts
from bigjax.experiment import Data, Evaluator, Experiment, base_config, choose
from bigjax.models import bert
from bigjax.tasks import classification

ROWS = {  # row: (model, minibatch, epochs, optimizer)
    'bert': (models.spec('bert', 'bert_base', pool='cls', dropout=0.1, scan=False, remat='none'), 24, 4, dict(
        name='adamw', lr=2e-5, weight_decay=0.01, wd_mask='kernels', clip_norm=1.0,
        schedule=dict(name='linear', warmup='10%', end=0.0))),
    'lstm': (models.spec('rnn.RNNClassifier', cell='lstm', bidirectional=True, features=128, embed=128, readout='mean',
                         dropout=0.5), 64, 10, dict(name='adam', lr=1e-3, clip_norm=1.0)),
}
PARAMETERS = {'bert': 109_483_778, 'lstm': 4_171_522}
TINY = {'model.width': '16', 'model.num_layers': '2', 'model.num_heads': '4', 'model.dropout': '0.0', 'model.features': '4',
        'model.embed': '4', 'dtype': 'float32'}


def get_config(variant=''):
    """`variant` is a network; 'bert' by default."""
    config = base_config()
    network, minibatch, epochs, optimizer = choose('variant', variant or 'bert', ROWS)
    config.model, config.batch_size, config.optimizer = network, minibatch, optimizer
    config.data = 'imdb'
    config.steps = f'{epochs} epochs'
    config.dtype = 'bfloat16'
    config.log_every = 50
    config.eval_every = '1 epoch'
    return config


def get_experiment(config):
    """A classifier of reviews."""
    splits = open_data(config.data, like='imdb', data_dir=config.data_dir, fake_records=64)
    classes = splits.info['classes']
    return Experiment(
        model=models.make(config.model, num_classes=len(classes), vocab_size=splits.info.get('vocabulary') or texts.BERT,
                          dtype=config.dtype),
        task=classification.softmax('tokens'),
        data=Data(splits.train, splits.evals, preprocess=padding.masked(), info=splits.info),
        optimizer=config.optimizer,
        evaluators={split: Evaluator(split) for split in splits.evals},
        partition_rules=bert.PARTITION_RULES if config.model.name == 'bert' else (),
    )


if __name__ == '__main__':
    cli.main()
