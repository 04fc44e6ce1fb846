"""Which optimizers cannot turn finite gradients into an update that is not finite.

To look at every update costs a pass over all parameters, a tenth of the step of a perceptron. For the optimizers here a bound
makes the look unnecessary. Let the norm of every gradient so far be finite in float32, so that |g| < 2e19 and g² < 3.4e38, and
let parameters be below 1e18. Then

    sgd          |m| <= |g| / (1 - momentum) < 2e23, and lr |m| is finite for lr <= 1e6
    adam, adamw  |m| <= max |g|, v <= max g² and lr |m| / (sqrt(v) + eps) < 2e37 for lr <= 1e6 and eps >= 1e-12
    lion         |u| <= lr

and decay, penalties, clipping and masks add at most 1e24. Every other spec is looked at: unknown names and keys, larger
numbers, a smaller eps.
"""
import math

from bigjax.io.nested import is_section

LARGEST, LEAST_EPS, LARGEST_DECAY = 1e6, 1e-12, 0.9999
RULES = {'sgd': {'momentum', 'nesterov'}, 'adam': {'b1', 'b2', 'eps', 'nesterov'}, 'adamw': {'b1', 'b2', 'eps', 'nesterov'},
         'lion': {'b1', 'b2'}}
SHARED = {'name', 'lr', 'schedule', 'weight_decay', 'l2', 'l1', 'clip_norm', 'clip_value', 'max_norm', 'wd_mask', 'frozen'}


def bounded(spec) -> bool:
    """Whether an optimizer's spec is under the bound above; False where that is not known, as of an optax transformation."""
    own = RULES.get(spec.get('name')) if is_section(spec) else None
    if own is None or not set(spec) <= SHARED | own:
        return False
    decays = [spec[key] for key in ('momentum', 'b1', 'b2') if spec.get(key) is not None]
    return (all(isinstance(x, int | float) and 0 <= x <= LARGEST_DECAY for x in decays)
            and _number(spec.get('eps') if spec.get('eps') is not None else 1e-8, LEAST_EPS) and _small(dict(spec)))


def _number(x, least: float) -> bool:
    return isinstance(x, int | float) and least <= x <= LARGEST


def _small(x) -> bool:
    """Whether every number in a tree of dicts, lists and tuples is finite and at most `LARGEST`."""
    if is_section(x):
        return all(_small(x[key]) for key in x)
    if isinstance(x, list | tuple):
        return all(map(_small, x))
    return x is None or isinstance(x, str | bool) or (isinstance(x, int | float) and math.isfinite(x) and abs(x) <= LARGEST)
