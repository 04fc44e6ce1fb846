"""Sentiment and questions: convolutions over words, an LSTM and averaged embeddings on MR, SST-2 and TREC.

Kim, "Convolutional Neural Networks for Sentence Classification" (EMNLP 2014), table 2, the row CNN-rand: words of random
vectors, 100 windows each of 3, 4 and 5 words, dropout of 0.5, the head's weights held to a norm of 3, batches of 50, Adadelta,
and the weights that do best on a tenth of the training sentences. Its accuracies are 76.1 (MR, the mean of ten folds), 82.7
(SST-2, whose training phrases count as examples there, and only whole sentences here) and 91.2 % (TREC).

    python -m experiments.sentiment --workdir=/tmp/sentiment                          the table
    python -m experiments.sentiment --workdir=/tmp/mr --variant=mr,cnn                SET,MODEL; mr trains its ten folds at once
    python -m experiments.sentiment --workdir=/tmp/mine --config.data=csv:reviews.csv with the columns text and label
    python -m experiments.sentiment predict --workdir=/tmp/mine 'a fine film' @more.txt

SET is mr, sst2 or trec; MODEL is cnn, lstm or average, and the last two have no published number for these sets here.
"""
from bigjax import cli, models
from bigjax.data.loaders.find_text import FOLDS
from bigjax.data.texts import masked, open_texts
from bigjax.errors import UserError
from bigjax.experiment import Data, Evaluator, Experiment, base_config, choose, published
from bigjax.predict import interfaces
from bigjax.tasks import classification

ADADELTA = dict(name='adadelta', lr=1.0, rho=0.95, eps=1e-6, groups=(('head/kernel', dict(max_norm=3.0)), ('.*', {})))
ADAM = dict(name='adam', lr=1e-3, clip_norm=1.0)
MODELS = {  # model: its spec, epochs, optimizer
    'cnn': (models.spec('text.TextCNN', 'kim'), 25, ADADELTA),
    'lstm': (models.spec('rnn.RNNClassifier', cell='lstm', embed=100, features=100, bidirectional=True, readout='mean',
                         dropout=0.5), 15, ADAM),
    'average': (models.spec('text.MeanEmbedding', embed=300, dropout=0.5), 25, ADAM),
}
SETS = {  # set: tokens of a text, and the accuracy of CNN-rand with its tolerance
    'mr': (64, 0.761, 0.015), 'sst2': (64, 0.827, 0.03), 'trec': (40, 0.912, 0.02)}
HELP = {'like': 'the set that --config.data=fake imitates', 'length': 'tokens of a text; a longer one is cut',
        'tokenizer': "word, word:2 (words that occur twice or more), char, byte, or KIND:PLACE, such as hf:FOLDER",
        'split': 'the fold of mr, of the first member'}
TABLE = ('trec,cnn', 'trec,lstm', 'trec,average', 'sst2,cnn', 'sst2,lstm', 'sst2,average')
OWN_ROWS = ('',)  # one run of the default model, as the rows of the table are sets
PARAMETERS = {'trec,cnn': 2_902_206, 'trec,lstm': 1_009_506, 'trec,average': 2_541_906, 'sst2,cnn': 4_757_402,
              'sst2,lstm': 1_627_502, 'sst2,average': 4_397_102, 'mr,cnn': 5_997_902}
TINY = {'model.embed': '8', 'model.channels': '4', 'model.features': '8', 'model.dropout': '0.0', 'length': '16'}


def get_config(variant=''):
    """`variant` is SET,MODEL; trec,cnn by default."""
    name, comma, model = (variant or TABLE[0]).partition(',')
    if not comma:
        raise UserError(f"variant '{variant}': name a set and a model, such as {variant},cnn", code='config/variant')
    config = base_config()
    config.length, accuracy, tolerance = choose('variant', name, SETS)
    config.model, epochs, config.optimizer = choose('variant', model, MODELS)
    if model == 'cnn':
        config.published = {'test/accuracy': dict(value=accuracy, tolerance=tolerance, source='Kim 2014, table 2, CNN-rand',
                                                  better='higher')}
    config.data = config.like = f'sentiment/{name}'
    config.tokenizer = 'word'
    config.batch_size = 50
    config.steps = f'{epochs} epochs'
    config.eval_every = '1 epoch'
    config.best = 'val/accuracy'
    if name == 'mr':
        config.split = 0
        config.population = FOLDS
        config.population_over = 'split'
    return config


def get_experiment(config):
    """A classifier of texts."""
    fold = {'split': config.split} if 'split' in config else {}
    splits, tokenizer = open_texts(config.data, like=config.like, data_dir=config.data_dir, tokenizer=config.tokenizer,
                                   length=config.length, **fold)
    return Experiment(
        model=models.make(config.model, vocab_size=tokenizer.vocab_size, num_classes=len(splits.info['classes']),
                          dtype=config.dtype),
        task=classification.softmax('tokens'),
        data=Data(splits.train, splits.evals, preprocess=masked, info=splits.info),
        optimizer=config.optimizer,
        evaluators={split: Evaluator(split) for split in splits.evals},
        expected=published(config),
        interface=interfaces.texts(splits, tokenizer),
        tokenizer=tokenizer,
    )


if __name__ == '__main__':
    cli.main()
