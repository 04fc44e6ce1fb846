"""Reuters newswire, R8 and R52: convolutions over words, an LSTM and averaged embeddings.

The two sets of documents with a single class out of Reuters-21578, with the split of its ModApte edition: 5,485 + 2,189
documents of 8 classes, 6,532 + 2,568 of 52. Yao, Mao & Luo, "Graph Convolutional Networks for Text Classification" (AAAI 2019),
compare networks on them, with a tenth of the training documents to validate with, as here. Documents are cut to 256 words: one
in ten is longer.

    python -m experiments.reuters --workdir=/tmp/reuters                       the table
    python -m experiments.reuters --workdir=/tmp/r52 --variant=r52,average     SET,MODEL
    python -m experiments.reuters predict --workdir=/tmp/r52 'wheat exports rose in march' @more.txt

SET is r8 or r52; MODEL is average (the mean of the embeddings, as fastText has it without n-grams), lstm or cnn.
"""
from bigjax import cli, models
from bigjax.data.texts import masked, open_texts
from bigjax.experiment import Data, Evaluator, Experiment, base_config, choose, choose_pair
from bigjax.metrics import confusion
from bigjax.predict import interfaces
from bigjax.tasks import classification

MODELS = {  # model: its spec, epochs
    'average': (models.spec('text.MeanEmbedding', embed=300, dropout=0.5), 30),
    'lstm': (models.spec('rnn.RNNClassifier', cell='lstm', embed=100, features=100, readout='mean', dropout=0.5), 15),
    'cnn': (models.spec('text.TextCNN', 'kim', embed=100), 15),
}
SETS = ('r8', 'r52')
HELP = {'like': 'the set that --config.data=fake imitates', 'length': 'tokens of a text; a longer one is cut',
        'tokenizer': "word, word:2 (words that occur twice or more), char, byte, or KIND:PLACE, such as hf:FOLDER"}
TABLE = tuple(f'{name},{model}' for name in SETS for model in MODELS)
OWN_ROWS = ('',)  # one run of the default model, as the rows of the table are sets
PARAMETERS = {'r8,average': 5_997_608, 'r8,lstm': 2_080_008, 'r8,cnn': 2_121_108, 'r52,average': 6_698_452,
              'r52,lstm': 2_313_652, 'r52,cnn': 2_363_552}
TINY = {'model.embed': '8', 'model.channels': '4', 'model.features': '8', 'model.dropout': '0.0', 'length': '16'}


def get_config(variant=''):
    """`variant` is SET,MODEL, or one of the two; r8,average by default."""
    name, model = choose_pair(variant, TABLE[0], MODELS)
    choose('variant', name, dict.fromkeys(SETS))
    config = base_config()
    config.model, epochs = choose('variant', model, MODELS)
    config.data = config.like = f'reuters/{name}'
    config.tokenizer = 'word'
    config.length = 256
    config.batch_size = 32
    config.steps = f'{epochs} epochs'
    config.eval_every = '1 epoch'
    config.best = 'val/accuracy'
    config.optimizer = dict(name='adam', lr=2e-3, clip_norm=1.0)
    return config


def get_experiment(config):
    """A classifier of documents."""
    splits, tokenizer = open_texts(config.data, like=config.like, data_dir=config.data_dir, tokenizer=config.tokenizer,
                                   length=config.length)
    classes = splits.info['classes']
    return Experiment(
        model=models.make(config.model, vocab_size=tokenizer.vocab_size, num_classes=len(classes), dtype=config.dtype),
        task=classification.softmax('tokens'),
        data=Data(splits.train, splits.evals, preprocess=masked, info=splits.info),
        optimizer=config.optimizer,
        evaluators={split: Evaluator(split, compute=None if split == 'val' else lambda outputs, examples: confusion.confusion(
            outputs, examples, classes)) for split in splits.evals},
        interface=interfaces.texts(splits, tokenizer),
        tokenizer=tokenizer,
    )


if __name__ == '__main__':
    cli.main()
