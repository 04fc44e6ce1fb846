"""The verb `predict`: applies the model of the run in --workdir to files, folders and rows; one line per input."""
import json
import sys
from collections.abc import Sequence

from bigjax.errors import DONE, UserError
from bigjax.train.job import INIT_FROM, Flag, Job, Verb, say_overrides

MEMBER = Flag('member', 0, 'which member of a population', 'int', 0)


def predict(job: Job, *, inputs: Sequence[str], json: bool, member: int, init_from: str) -> int:
    """Prints an answer per input; every input is read before the first answer is given."""
    import jax
    import numpy as np

    from bigjax.nn import rng
    from bigjax.predict import inputs as readers
    from bigjax.predict import interfaces, weights
    if not inputs:
        raise UserError('predict: no input; fix: name files, folders or rows after the verb', code='predict/nothing')
    if job.stored:
        say_overrides(job, lambda text: print(text, file=sys.stderr))
    trained = weights.load(job, member, init_from)
    experiment, interface = trained.experiment, trained.experiment.interface
    if interface is None:
        raise UserError(f'predict: {job.name} states no interface, so its model takes no inputs from outside; fix: give its '
                        'Experiment an interface (bigjax.predict.interfaces)', code='predict/no-interface')
    if not interface.accepts:
        interface.parse(inputs[0])  # refuses, and names what works
    names, parsed = [], []
    for name, raw in readers.expanded(inputs, interface.accepts):
        try:
            found = interface.parse(raw)
        except UserError as error:
            raise UserError(f'{name}: {str(error).removeprefix(f"{name}: ")}', code=error.code) from None
        names.append(name)
        parsed.append([dict(example) for example in found] if isinstance(found, list) else dict(found))
    if trained.members > 1:
        print(f'member {member} of {trained.members} answers (--member)', file=sys.stderr)

    @jax.jit
    def outputs(variables, batch):
        batch = experiment.data.preprocess(batch) if experiment.data.preprocess else batch
        return experiment.task.predict(trained.apply, variables, batch, rng.key(0))

    def applied(example):
        if experiment.data.transform:
            example = experiment.data.transform(example, np.random.default_rng(0), False)
        batch = (experiment.data.collate or _stacked)([example])
        return jax.tree.map(lambda x: np.asarray(x)[0], outputs(trained.variables, batch))

    for name, found in zip(names, parsed, strict=True):
        # One by one, so that inputs of any number of examples run one program
        examples = found if isinstance(found, list) else [found]
        notes, given = ([example.pop(key, None) for example in examples] for key in (interfaces.NOTES, interfaces.GIVEN))
        each = [applied(example) for example in examples]
        answer = (interface.answer(each[0]) if examples is not found else
                  interface.answer(jax.tree.map(lambda *x: np.stack(x), *each), given[0]))
        print(_json(name, answer, notes[0]) if json else line(name, answer, notes[0] or ()), flush=True)
    return DONE


def _stacked(examples):
    import numpy as np
    return {key: np.stack([example[key] for example in examples]) for key in examples[0]}


def _json(name: str, answer, notes) -> str:
    return json.dumps({'input': name, **answer, **({'assumed': notes} if notes else {})}, ensure_ascii=False)


def line(name: str, answer, notes: Sequence[str] = ()) -> str:
    """'photo.png  7 98.2 % · 1 1.1 % · 9 0.4 %  (resized)'."""
    if 'top' in answer:
        text = ' · '.join(f"{entry['class']} {entry['probability']:.1%}" for entry in answer['top'])
    elif 'text' in answer:
        text = answer['text'] or '(none)' if 'start' in answer else answer['text']
        text += f" {answer['probability']:.1%}" if 'probability' in answer else ''
        text += f" · characters {answer['start']} to {answer['end']}" if answer.get('start') is not None else ''
    else:
        short = lambda value: f'{value:.4g}' if isinstance(value, float) else str(value)
        text = ' · '.join(f'{key} {short(value)}' for key, value in answer.items())
    return f"{name}  {text}{'  (' + '; '.join(notes) + ')' if notes else ''}"


VERB = Verb('predict', predict, 'applies the model of the run in --workdir to files, folders and rows', inputs='INPUT…',
            needs_workdir=True, takes_pretrained=True, joins_processes=False, flags=(
                Flag('json', False, 'one JSON object per line', 'switch'), MEMBER, INIT_FROM))
