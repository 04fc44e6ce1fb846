"""What fails by an object store's fault is tried again for a while; what the store refuses is said at once.

A fault that passes: 408, 429, 5xx, a connection that is cut, no answer for `silence()` seconds. Calls are tried again with
growing pauses, and when the store stays broken for `patience()` seconds the first call to find out raises `Broken`, and every
later one at once.
"""
import contextlib
import os
import random
import re
import time
from collections.abc import Callable
from typing import Any

from bigjax.errors import UserError
from bigjax.io.text import first_line
from bigjax.io.uri import SCHEME, remote

SHORTEST, LONGEST = 0.5, 30.0  # seconds of a pause; gcsfs has tried six times before, with pauses of its own
PASSING = (408, 410, 429)  # 410: an upload that the store has dropped; the next try is a new one
CLIENTS = ('gcsfs', 'aiohttp', 'fsspec', 'google', 'requests', 'urllib3', 'asyncio')


class Broken(OSError):
    """The store has failed for as long as it may."""


def patience() -> float:
    """Seconds for which a store may fail (the variable BIGJAX_STORE_SECONDS)."""
    return float(os.environ.get('BIGJAX_STORE_SECONDS') or 300)


def silence() -> float:
    """Seconds without a byte after which a connection is given up (the variable BIGJAX_STORE_SILENCE)."""
    return float(os.environ.get('BIGJAX_STORE_SILENCE') or 60)


_given_up: list[Broken] = []


def gave_up() -> bool:
    """Whether this process has found the store broken; threads of libraries may still be waiting for it."""
    return bool(_given_up)


def insist(call: Callable[[], Any], what) -> Any:
    """What `call` returns, tried again while it fails by the store's fault.

    Raises:
      FileNotFoundError: the store says so.
      UserError: the store refuses, and would again.
      Broken: it went on for `patience()` seconds, here or before.
    """
    until, pause = time.monotonic() + patience(), SHORTEST
    while not _given_up:
        try:
            return call()
        except (FileNotFoundError, UserError):
            raise
        except Exception as error:
            if no := refusal(what, error):
                raise no from error
            if not _theirs(error):
                raise
            left = until - time.monotonic()
            if left <= 0:
                raise _broken(what, error) from error
        time.sleep(min(left, pause * random.uniform(0.5, 1)))
        pause = min(2 * pause, LONGEST)
    raise _given_up[0]


def refusal(what, error: BaseException) -> UserError | None:
    """What a store would answer again however often it is asked, as an error in one line; None for what may pass."""
    code, said = _code(error), [line for line in str(error).splitlines() if line.strip()]
    forbidden, bad = (bool(said) and said[0].startswith(word) for word in ('Forbidden', 'Bad Request'))  # gcsfs, without a code
    why = first_line(Exception(said[-1])) if forbidden or bad else first_line(error)
    why = 'a condition on it is not met' if isinstance(error, FileExistsError) else why  # gcsfs says the address
    if _unknown_user(error, code) or forbidden or code == 403:
        return credentials(what, why)
    if bad or isinstance(error, FileExistsError) or (400 <= code < 500 and code not in (401, *PASSING)):
        return UserError(f'{what}: the store does not take it ({why}); mend the name, or how the bucket is set up')
    return None


def credentials(what, why: str) -> UserError:
    """The store knows nobody by what this machine shows it, or does not let them."""
    return UserError(f'{what}: the store refuses ({why}); look at the credentials of this machine '
                     '(gcloud auth application-default login)')


def _code(error: BaseException) -> int:
    """The HTTP status that an error of a client tells of, or 0."""
    for value in (getattr(error, 'code', None), getattr(error, 'status', None)):
        if str(value).isdigit():
            return int(value)
    told = re.search(r'HTTP response code: (\d{3})', str(error))  # TensorStore's
    return int(told[1]) if told else 0


def _unknown_user(error: BaseException, code: int) -> bool:
    """Whether the credentials are at fault; a server of tokens that cannot be reached just now is the network's fault."""
    chain = [error]
    while len(chain) < 4 and chain[-1].__cause__ is not None:
        chain.append(chain[-1].__cause__)
    if any(type(e).__name__ == 'TransportError' or getattr(e, 'retryable', False) is True for e in chain):
        return False
    return code == 401 or type(error).__module__.startswith('google.auth') or type(error).__name__ == 'NonRetryableError'


def _broken(what, error: BaseException, how: str = '') -> Broken:
    """The store is given up by this process; returns the error that says so, in one line."""
    if not _given_up:
        how = how or f'for {patience():.0f} s (BIGJAX_STORE_SECONDS)'
        why = f'{type(error).__name__}: {first_line(error)}'
        _given_up.append(Broken(f'{what}: the store has failed {how}, at last with {why}; sealed '
                                'checkpoints are intact: run the same command again when it is back'))
    return _given_up[0]


def _theirs(error: BaseException) -> bool:
    """Whether an error is one of the network or of a store's client, and no mistake in the program."""
    return isinstance(error, OSError) or type(error).__module__.partition('.')[0] in CLIENTS


def _of_store(path, error: BaseException) -> bool:
    """Whether an error of a library came from the store."""
    theirs = _theirs(error) or SCHEME in str(error) or '/storage/v1/' in str(error)  # TensorStore's: ValueErrors that name it
    return remote(path) and theirs and not isinstance(error, UserError | Broken)


def blamed(path, error: BaseException) -> BaseException:
    """What a library's own client of a store fails with, after all that it has tried, as `Broken`, or as a UserError where the
    store refuses; any other error as it is.
    """
    if _of_store(path, error) and not _given_up and (no := refusal(path, error)):
        return no
    return _broken(path, error, 'all tries of its client') if _given_up or passing(path, error) else error


def passing(path, error: BaseException) -> bool:
    """Whether an error of a library is the store's fault and may pass, and the store has not been given up."""
    return _of_store(path, error) and not gave_up() and refusal(path, error) is None


@contextlib.contextmanager
def blaming(path):
    """Raises what is inside raised by a library as `blamed`."""
    try:
        yield
    except Exception as error:
        if (other := blamed(path, error)) is error:
            raise
        raise other from error
