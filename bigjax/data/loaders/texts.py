"""Named sets of texts in the tokens of a pretrained model: rows of numbers of one length, filled with 0 at the end.

Such a set is one archive of arrays per split, `data_dir/NAME/train.npz` and so on, with the names and shapes below: the texts
themselves are tokenised once, outside of training.
"""
import functools
import pathlib

from bigjax.data.loaders import questions, tables, translations
from bigjax.data.loaders.text_tables import Reader
from bigjax.data.sources import ArraySource, Splits
from bigjax.errors import UserError

BERT = 30522  # tokens of the uncased WordPiece vocabulary
T5 = 32128  # tokens of T5's SentencePiece vocabulary, its 100 sentinels and 28 unused rows included
WMT = 37000  # byte pairs shared by English and German (Vaswani et al. 2017, section 5.1)
GLUE = {  # task: train, val, classes (Wang et al. 2019); none for a number
    'cola': (8551, 1043, ['unacceptable', 'acceptable']), 'sst2': (67349, 872, ['negative', 'positive']),
    'mrpc': (3668, 408, ['different', 'paraphrase']), 'qqp': (363846, 40430, ['different', 'duplicate']),
    'mnli': (392702, 9815, ['entailment', 'neutral', 'contradiction']),
    'qnli': (104743, 5463, ['entailment', 'not entailment']),
    'rte': (2490, 277, ['entailment', 'not entailment']), 'stsb': (5749, 1500, None)}
GLUE_LENGTH, SQUAD_LENGTH, IMDB_LENGTH, SUMMARY = 128, 384, 512, (512, 128)
SQUAD = {'v1': (87_599, 10_570), 'v2': (130_319, 11_873)}  # questions; a long paragraph gives several rows to each
WMT14 = {'en-de': (4_508_785, 3000, 3003), 'en-fr': (40_836_715, 3000, 3003)}  # pairs of train, val, test


SUMMARIES, SUMMARIZE = ('text', 'summary'), 'summarize: '  # columns of a table; before a text


def _rows(length: int, tokens: int) -> tuple:
    return (length,), 'int32', tokens


def _glue(task: str) -> dict:
    classes = GLUE[task][2]
    answer = {'target': ((), 'float32', None)} if classes is None else {'label': ((), 'int32', len(classes))}
    return {'tokens': _rows(GLUE_LENGTH, BERT), 'types': _rows(GLUE_LENGTH, 2), **answer}


def _squad(version: str) -> dict:
    place = (), 'int32', SQUAD_LENGTH
    return {'tokens': _rows(SQUAD_LENGTH, BERT), 'types': _rows(SQUAD_LENGTH, 2), 'start': place, 'end': place}


def _splits(*records: int) -> dict[str, int]:
    return dict(zip(('train', 'val', 'test'), records, strict=False))


def arrays(named, name: str, variant: str, data_dir: str, **options) -> Splits | None:
    """`data_dir/NAME/{train,val,test}.npz` with the arrays of the table; a split that is not there is left out, but train.

    `options` are those of a finder of the same set that reads texts.

    Raises:
      UserError: an archive is damaged, or does not hold the arrays of the table.
    """
    folder = pathlib.Path(data_dir) / name if data_dir else None
    if folder is None or not (folder / 'train.npz').exists():
        return None
    shapes, sources = named.shapes(variant), {}
    for split in named.sizes(variant):
        path = folder / f'{split}.npz'
        if not path.exists():
            continue
        found = tables.npz(path)
        for key, (shape, dtype, _) in shapes.items():
            array = found.get(key)
            if array is None or array.shape[1:] != shape or array.dtype.kind != dtype[0]:
                got = 'none' if array is None else f'{array.dtype}{list(array.shape)}'
                expected = f'{dtype}[{", ".join(map(str, ("N", *shape)))}]'
                raise UserError(f"{path}: array '{key}': got {got}, expected {expected}; fix: write it as the table of the set "
                                'has it', code='data/array')
        sources[split] = ArraySource({key: found[key].astype(dtype) for key, (_, dtype, _) in shapes.items()})
    records = {split: len(source) for split, source in sources.items()}
    info = {**named.info(variant), 'name': name, 'source': str(folder), 'records': records}
    return Splits(sources.pop('train'), sources, info)


def _get(text: str, keys: str) -> str:
    return (f'tokenise {text}, fill the rows with 0, and write them with numpy.savez to {{data_dir}}/NAME/train.npz and '
            f'val.npz under the names {keys}')


TEXTS = {  # name: the fields of a DatasetSpec
    'glue': dict(
        about='Nine tasks of understanding sentences and pairs (Wang et al. 2019), in the tokens of uncased BERT',
        licence='that of each task', size='0.4 GB of arrays for MNLI', variants=tuple(GLUE), shapes=_glue,
        info=lambda task: {'vocabulary': BERT, **({'classes': GLUE[task][2]} if GLUE[task][2] else {})},
        sizes=lambda task: _splits(*GLUE[task][:2]), finders=(arrays,),
        get=_get('the sentences with the vocabulary of uncased BERT, [CLS] first and [SEP] after each',
                 'tokens, types and label (stsb: target)')),
    'squad': dict(
        about='Questions on paragraphs of Wikipedia (Rajpurkar et al. 2016; 2018), in windows of 384 tokens of uncased BERT',
        licence='CC BY-SA 4.0', size='0.3 GB of arrays', variants=tuple(SQUAD), shapes=_squad,
        info=lambda version: {'vocabulary': BERT}, sizes=lambda version: _splits(*SQUAD[version]),
        finders=(arrays, questions.squad_files), options=('tokenizer', 'length', 'stride'),
        own=Reader(('question', 'context', 'answers'), questions.own_questions, group='context'),
        get='for f in train-v1.1 dev-v1.1 train-v2.0 dev-v2.0; do curl -fL --create-dirs -o {data_dir}/squad/$f.json '
            'https://rajpurkar.github.io/SQuAD-explorer/dataset/$f.json; done'),
    'imdb': dict(
        about='50,000 reviews of films, half of them for training (Maas et al. 2011), in the tokens of uncased BERT',
        licence='research', size='0.1 GB of arrays',
        shapes=lambda variant: {'tokens': _rows(IMDB_LENGTH, BERT), 'label': ((), 'int32', 2)},
        info=lambda variant: {'vocabulary': BERT, 'classes': ['negative', 'positive']},
        sizes=lambda variant: {'train': 25000, 'test': 25000}, finders=(arrays,),
        get=_get('the reviews with the vocabulary of uncased BERT', 'tokens and label (the splits are train and test)')),
    'wmt14': dict(
        about='News translated from English (Bojar et al. 2014), in 37,000 byte pairs that both languages share',
        licence='research', size='5 GB of arrays for en-de', variants=tuple(WMT14),
        shapes=lambda pair: dict.fromkeys(('source', 'target'), _rows(128, WMT)), info=lambda pair: {'vocabulary': WMT},
        sizes=lambda pair: _splits(*WMT14[pair]), finders=(arrays,), options=('tokenizer',),
        own=Reader(('source', 'target'), functools.partial(translations.own_pairs, bos=1, eos=2)),
        get=_get('both sides with one vocabulary of byte pairs, <pad> 0, <s> 1 and </s> 2',
                 'source and target, from <s> to </s>')),
    'multi30k': dict(
        about='Captions of photographs in English, translated to German (Elliott et al. 2016), in 8,000 byte pairs of both',
        licence='research', size='2 MB', variants=('en-de', 'de-en'),
        get='git clone https://github.com/multi30k/dataset && mkdir -p {data_dir}/multi30k && '
            'cp dataset/data/task1/raw/*.en.gz dataset/data/task1/raw/*.de.gz {data_dir}/multi30k',
        shapes=lambda pair: dict.fromkeys(('source', 'target'), _rows(translations.LENGTH, translations.TOKENS + 1)),
        info=lambda pair: {'vocabulary': translations.TOKENS + 1},
        sizes=lambda pair: {split: count for split, (_, count) in translations.MULTI30K.items()},
        finders=(translations.multi30k_files,), options=('tokenizer',),
        own=Reader(('source', 'target'), translations.own_pairs)),
    'cnn_dailymail': dict(
        about='News and their summaries (Hermann et al. 2015; See et al. 2017), in the tokens of T5',
        licence='Apache-2.0 for the preparation', size='0.7 GB of arrays',
        shapes=lambda variant: dict(zip(('source', 'target'), (_rows(length, T5) for length in SUMMARY), strict=True)),
        info=lambda variant: {'vocabulary': T5}, sizes=lambda variant: _splits(287_113, 13_368, 11_490), finders=(arrays,),
        options=('tokenizer',), own=Reader(SUMMARIES, functools.partial(translations.own_pairs, columns=SUMMARIES,
                                                                        prefix=SUMMARIZE)),
        get=_get('"summarize: " and the article, and its highlights, with the vocabulary of T5',
                 'source and target, </s> last')),
}
