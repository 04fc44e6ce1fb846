"""The verb `sample`: continues a prompt with the model of the run in --workdir, as it is drawn, or draws images."""
import sys

from bigjax.errors import DONE, UserError
from bigjax.predict.verb import MEMBER
from bigjax.train.job import Flag, Job, Verb, say_overrides

FILE = 'samples.png'  # in the workdir


def sample(job: Job, *, prompt: str, tokens: int, temperature: float, count: int, seed: int, member: int) -> int:
    """Prints the prompt and what follows it, or writes a grid of images and prints where it is."""
    from bigjax.nn import rng
    from bigjax.predict import weights
    say_overrides(job, lambda text: print(text, file=sys.stderr))
    if tokens < 1 or count < 1 or not 0 <= temperature < float('inf'):
        raise UserError(f'sample: got --tokens={tokens}, --count={count} and --temperature={temperature}, expected one token '
                        'and one image at least, and a temperature of at least 0', code='sample/range')
    trained = weights.load(job, member)
    interface = trained.experiment.interface
    if interface is not None and interface.draw is not None:
        if prompt:
            raise UserError('--prompt: got a text for a model that draws images; fix: leave it out', code='sample/prompt')
        return _draw(job, trained, rng.key(seed), count)
    if interface is None or interface.sample is None:
        raise UserError(f'sample: the model of {job.name} does not generate; fix: predict INPUT, or give its interface a '
                        '`sample` or a `draw`', code='sample/no-interface')
    parts = interface.sample(trained.apply, trained.variables, rng.key(seed), prompt, tokens=tokens,
                             temperature=temperature)
    first = next(parts)  # a prompt that cannot be encoded is refused before anything is printed
    print(prompt, end='')
    print(first, end='', flush=True)
    for part in parts:
        print(part, end='', flush=True)
    print()
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
                Flag('prompt', '', 'the text that the sample begins with'),
                Flag('tokens', 200, 'how many tokens (characters, in a model of characters) follow it', 'int', 1),
                Flag('temperature', 0.8, 'of the draws; 0: always the most likely token', 'float', 0.0),
                Flag('count', 64, f'how many images a model of images draws, into WORKDIR/{FILE}', 'int', 1),
                Flag('seed', 0, 'the seed of the draws', 'int', 0), MEMBER))
