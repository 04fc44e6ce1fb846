"""The verb `sample`: continues a prompt with the model of the run in --workdir, as it is drawn, or draws images."""
import sys
from collections.abc import Sequence

from bigjax.errors import DONE, UserError
from bigjax.predict.verb import MEMBER
from bigjax.train.job import Flag, Job, Verb, say_overrides

FILE = 'samples.png'  # in the workdir
TEMPERATURE = 0.8  # of a sample without beams

TEXT_FLAGS = (
    Flag('prompt', '', 'the text that the sample begins with'),
    Flag('tokens', 200, 'how many tokens (characters, in a model of characters) follow it', 'int', 1),
    Flag('temperature', None, f'of the draws, {TEMPERATURE} by default; 0: always the most likely token', 'float', 0.0),
    Flag('top_k', 0, 'draw among the k most likely tokens; 0: among all', 'int', 0),
    Flag('top_p', 1.0, 'draw among the most likely tokens that reach this probability together', 'float', 0.0),
    Flag('min_p', 0.0, 'draw among tokens at least this share as likely as the most likely one', 'float', 0.0),
    Flag('num_beams', 1, 'search with so many beams instead of drawing', 'int', 1),
    Flag('length_penalty', 1.0, "the power of the length that divides a beam's score", 'float'),
    Flag('repetition_penalty', 1.0, 'make tokens that were there before less likely by this factor', 'float', 0.0),
    Flag('stop', (), 'end before this text; may be given several times', 'texts'),
    Flag('lookup', 0, 'propose so many tokens for each pass from the text itself: the same sample', 'int', 0))


def options(*, tokens: int, temperature: float | None, num_beams: int, stop: Sequence[str] | None, prompt: str = '',
            **rest) -> dict:
    """The values of `TEXT_FLAGS` but the prompt as options of `bigjax.decode.stream.show`."""
    temperature = (TEMPERATURE if num_beams == 1 else 0.0) if temperature is None else temperature
    return dict(rest, max_new_tokens=tokens, temperature=temperature, num_beams=num_beams, stop=tuple(filter(None, stop or ())),
                slide=num_beams == 1)


def sample(job: Job, *, count: int, seed: int, member: int, **text) -> int:
    """Prints the prompt and what follows it, or writes a grid of images and prints where it is."""
    from bigjax.nn import rng
    from bigjax.predict import weights
    say_overrides(job, lambda line: print(line, file=sys.stderr))
    if count < 1:
        raise UserError(f'--count: got {count}, expected one image at least; fix: --count=64', code='sample/range')
    trained = weights.load(job, member)
    interface = trained.experiment.interface
    if interface is not None and interface.draw is not None:
        if text['prompt']:
            raise UserError('--prompt: got a text for a model that draws images, expected none; fix: leave it out',
                            code='sample/prompt')
        return _draw(job, trained, rng.key(seed), count)
    if interface is None or interface.language is None:
        raise UserError(f'sample: the model of {job.name} does not generate; fix: predict INPUT, or give its interface a '
                        '`language` or a `draw`', code='sample/no-interface')
    from bigjax.decode.stream import show
    show(trained.experiment.model, trained.variables, interface.language, text['prompt'], rng=rng.key(seed), **options(**text))
    return DONE


def _draw(job: Job, trained, key, count: int) -> int:
    """Writes the grid of images beside the run and prints its path."""
    from bigjax.data.images import encode_png
    from bigjax.io import storage
    from bigjax.runs.artifacts import grid
    (row,) = job.rows
    path = job.workdir(row) / FILE
    images = trained.experiment.interface.draw(trained.apply, trained.variables, key, count)
    storage.write(path, encode_png(grid(images)))
    print(f'{count} images: {path}')
    return DONE


VERB = Verb('sample', sample, 'continues a prompt with the model of the run in --workdir, or draws images', needs_workdir=True,
            joins_processes=False, flags=(
                *TEXT_FLAGS, Flag('count', 64, f'how many images a model of images draws, into WORKDIR/{FILE}', 'int', 1),
                Flag('seed', 0, 'the seed of the draws', 'int', 0), MEMBER))
