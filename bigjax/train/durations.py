"""Durations in the unit in which a paper states them, as a number of optimizer steps."""
import math
import re

from bigjax.errors import UserError
from bigjax.io.text import printable

FORMS = "a number of steps, '200 steps', '10 epochs' (ep), '5000 examples' (ex) or '5%'"
_UNITS = {'': 'steps', 'step': 'steps', 'steps': 'steps', 'ep': 'epochs', 'epoch': 'epochs', 'epochs': 'epochs',
          'ex': 'examples', 'example': 'examples', 'examples': 'examples', '%': 'percent', 'percent': 'percent'}


def steps(duration, *, total_steps: int | None = None, steps_per_epoch: float | None = None,
          batch_size: int | None = None) -> int:
    """The duration as a whole number of steps.

    Rounding is to the nearest step, halves up, and a positive duration is at least 1 step: '0.1%' of 100 steps is 1.
    '', None and 0 are 0: never, or not at all.

    Args:
      duration: see `FORMS`. A number, or text without a unit, counts steps and must be whole.
      total_steps: the steps of the whole run, of which a percentage is taken.
      steps_per_epoch: steps in one pass over the training data.
      batch_size: examples in one step.

    Raises:
      UserError: the duration is not one of the forms, is negative, or its unit has no meaning here.
    """
    (value, unit), shown = _parse(duration), printable(repr(duration))
    if unit == 'percent':
        if total_steps is None:
            raise UserError(f"the duration {shown}: a percentage is taken of `steps`, so `steps` itself needs "
                            "another unit, such as '10 epochs' or '5000 steps'", code='duration/unit')
        value *= total_steps / 100
    elif unit == 'epochs':
        if not steps_per_epoch:
            raise UserError(f'the duration {shown}: the length of an epoch is not known here; '
                            "fix: give it in steps, such as '200 steps'", code='duration/unit')
        value *= steps_per_epoch
    elif unit == 'examples':
        if not batch_size:
            raise UserError(f'the duration {shown}: the batch size is not known here; '
                            "fix: give it in steps, such as '200 steps'", code='duration/unit')
        value /= batch_size
    elif value != int(value):
        raise UserError(f'the duration {shown}: a number of steps must be whole', code='duration/form')
    return max(1, math.floor(value + 0.5)) if value > 0 else 0


def _parse(duration) -> tuple[float, str]:
    if duration is None or duration == '':
        return 0.0, 'steps'
    text = '' if isinstance(duration, bool) else str(duration).lower()
    match = re.fullmatch(r'\s*(\S*?\d\.?)\s*([a-z%]*)\s*', text)
    try:
        value, unit = float(match[1]), _UNITS[match[2]]
        if not 0 <= value < math.inf:
            raise ValueError
        return value, unit
    except (TypeError, ValueError, KeyError):
        raise UserError(f'the duration: got {printable(repr(duration))}, expected {FORMS}', code='duration/form') from None
