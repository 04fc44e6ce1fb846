"""The verb `sample`: continues a prompt with the model of the run in --workdir, as it is drawn."""
import sys

from bigjax.errors import DONE, UserError
from bigjax.predict.verb import MEMBER
from bigjax.train.job import Flag, Job, Verb, say_overrides


def sample(job: Job, *, prompt: str, tokens: int, temperature: float, seed: int, member: int) -> int:
    """Prints the prompt and what follows it."""
    from bigjax.nn import rng
    from bigjax.predict import weights
    say_overrides(job, lambda text: print(text, file=sys.stderr))
    if tokens < 1 or not 0 <= temperature < float('inf'):
        raise UserError(f'sample: got --tokens={tokens} and --temperature={temperature}, expected at least one token and a '
                        'temperature of at least 0', code='sample/range')
    trained = weights.load(job, member)
    interface = trained.experiment.interface
    if interface is None or interface.sample is None:
        raise UserError(f'sample: the model of {job.name} does not generate; fix: predict INPUT, or give its interface a '
                        '`sample`', code='sample/no-interface')
    parts = interface.sample(trained.apply, trained.variables, rng.key(seed), prompt, tokens=tokens,
                             temperature=temperature)
    first = next(parts)  # a prompt that cannot be encoded is refused before anything is printed
    print(prompt, end='')
    print(first, end='', flush=True)
    for part in parts:
        print(part, end='', flush=True)
    print()
    return DONE


VERB = Verb('sample', sample, 'continues a prompt with the model of the run in --workdir', needs_workdir=True,
            joins_processes=False, flags=(
                Flag('prompt', '', 'the text that the sample begins with'),
                Flag('tokens', 200, 'how many tokens (characters, in a model of characters) follow it', 'int', 1),
                Flag('temperature', 0.8, 'of the draws; 0: always the most likely token', 'float', 0.0),
                Flag('seed', 0, 'the seed of the draws', 'int', 0), MEMBER))
