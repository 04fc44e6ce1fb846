"""Continues a prompt with weights of another library's format; an encoder-decoder reads it as its source.

    python -m bigjax.decode hf:FOLDER --prompt='Once upon a time' [--tokens=200] [--temperature=0] [--num_beams=4] [--draft=…]

Without a tokenizer beside the weights, prompts and samples are numbers of tokens.
"""
import argparse
import functools
import sys
from collections.abc import Sequence

from bigjax.decode.generation import reads_source
from bigjax.decode.stream import Language, show
from bigjax.errors import DONE, UserError, command
from bigjax.sample.verb import TEXT_FLAGS, options

TYPES = {'int': int, 'float': float, 'text': str}


def language_of(tokenizer, model) -> Language:
    """How a tokenizer, or numbers where there is none, is read and written.

    Raises:
      UserError: it has more tokens than the model; 'decode/other-vocabulary'.
    """
    from bigjax.predict import interfaces
    if tokenizer is not None and tokenizer.vocab_size > model.vocab_size:  # fewer are usual
        raise UserError(f'a tokenizer: got {tokenizer.vocab_size} tokens, expected at most {model.vocab_size}, the vocabulary '
                        'of the model; fix: use the tokenizer of the model', code='decode/other-vocabulary')
    found = interfaces.tokens(tokenizer, model.vocab_size if tokenizer is None else tokenizer.vocab_size).language
    if tokenizer is not None:  # vocabularies are filled up: the rows past the tokenizer's have no text
        found = found._replace(decode=lambda tokens: tokenizer.decode([t for t in tokens if t < tokenizer.vocab_size]))
    if not reads_source(model):
        return found
    encode = found.encode if tokenizer is None else functools.partial(tokenizer.encode, template=True)
    return found._replace(encode=encode, eos=found.eos or (model.eos,))


@command('decode')
def main(argv: Sequence[str]) -> int:
    """The command; returns its exit code."""
    from bigjax import weights
    from bigjax.nn import cpu, rng
    parser = argparse.ArgumentParser(prog='python -m bigjax.decode', description=__doc__.splitlines()[0])
    parser.add_argument('place', help='hf:FOLDER, or an id of the hub')
    parser.add_argument('--seed', type=int, default=0, help='the seed of the draws')
    parser.add_argument('--draft', default='', help='hf:FOLDER of a smaller model that proposes tokens: the same sample')
    for flag in TEXT_FLAGS:
        how = {'action': 'append'} if flag.kind == 'texts' else {'type': TYPES[flag.kind]}
        parser.add_argument(f'--{flag.name}', default=flag.default or None if flag.kind == 'texts' else flag.default,
                            help=flag.help.replace('%', '%%'), **how)
    given = vars(parser.parse_args(argv))
    place, seed, draft = (given.pop(name) for name in ('place', 'seed', 'draft'))
    cpu.keep_memory()
    say = lambda line: print(line, file=sys.stderr)
    model, variables, tokenizer = weights.load(place, say=say)
    small = weights.load(draft, say=say)[:2] if draft else None
    how = options(**given)
    how['slide'] &= not reads_source(model)  # a target has no window that could forget its first tokens
    show(model, variables, language_of(tokenizer, model), given['prompt'], rng=rng.key(seed), draft=small, **how)
    return DONE


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
