"""Retries of calls to an object store: transient faults are retried for a while, refusals are raised at once.

Transient faults are 408, 429, 5xx, a connection that is cut, no answer for `silence_s()` seconds. Calls are retried with
growing pauses, and a line on stderr tells why. When the store stays unavailable for `retry_s()` seconds, the first call to find
out raises `StorageUnavailable`, and every later one raises it at once.
"""
import contextlib
import os
import random
import re
import sys
import time
from collections.abc import Callable
from typing import Any

from bigjax.errors import UserError
from bigjax.io.text import first_line
from bigjax.io.uri import SCHEME, remote

SHORTEST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 30.0  # gcsfs has tried six times before, with pauses of its own
REPORT_S = 60.0  # between two lines about a store that does not answer
TRANSIENT = (408, 410, 429)  # 410: an upload that the store has dropped; the next try is a new one
CLIENTS = ('gcsfs', 'aiohttp', 'fsspec', 'google', 'requests', 'urllib3', 'asyncio')


class StorageUnavailable(OSError):
    """The store has failed for longer than `retry_s()`."""


def retry_s() -> float:
    """Seconds for which calls are retried (the variable BIGJAX_STORE_SECONDS)."""
    return float(os.environ.get('BIGJAX_STORE_SECONDS') or 300)


def silence_s() -> float:
    """Seconds without a byte after which a connection is closed (the variable BIGJAX_STORE_SILENCE)."""
    return float(os.environ.get('BIGJAX_STORE_SILENCE') or 60)


_unavailable: list[StorageUnavailable] = []


def given_up() -> bool:
    """Whether this process has given the store up; threads of libraries may still be waiting for it."""
    return bool(_unavailable)


def retry(call: Callable[[], Any], what) -> Any:
    """The result of `call`, retried while it fails with a transient fault of the store.

    Raises:
      FileNotFoundError: the store has no such file.
      UserError: the store refuses.
      StorageUnavailable: the fault lasted for `retry_s()` seconds, here or before.
    """
    until, pause = time.monotonic() + retry_s(), SHORTEST_PAUSE_S
    while not _unavailable:
        try:
            return call()
        except (FileNotFoundError, UserError):
            raise
        except Exception as error:
            if no := refusal(what, error):
                raise no from error
            if not _of_client(error):
                raise
            left = until - time.monotonic()
            if left <= 0:
                raise _unavailable_error(what, error) from error
            _report(what, error, left)
        time.sleep(min(left, pause * random.uniform(0.5, 1)))
        pause = min(2 * pause, LONGEST_PAUSE_S)
    raise _unavailable[0]


_reported: list[float] = []  # when the last line was printed


def _report(what, error: Exception, left: float) -> None:
    """Prints why a call is repeated; without it a start from an unreachable store is silent for minutes."""
    now = time.monotonic()
    if _reported and now - _reported[0] < REPORT_S:
        return
    _reported[:] = [now]
    with contextlib.suppress(OSError, ValueError):  # stderr may be closed
        print(f'{what}: no answer from the store ({type(error).__name__}: {first_line(error)}); it is tried for {left:.0f} s '
              'more (BIGJAX_STORE_SECONDS)', file=sys.stderr, flush=True)


def refusal(what, error: BaseException) -> UserError | None:
    """The error of a store that a retry would not change, in one line; None for a transient one."""
    code, said = _code(error), [line for line in str(error).splitlines() if line.strip()]
    forbidden, bad = (bool(said) and said[0].startswith(word) for word in ('Forbidden', 'Bad Request'))  # gcsfs, without a code
    why = first_line(Exception(said[-1])) if forbidden or bad else first_line(error)
    why = 'a condition on it is not met' if isinstance(error, FileExistsError) else why  # gcsfs has only the address
    if _unknown_user(error, code) or forbidden or code == 403:
        return credentials(what, why)
    if bad or isinstance(error, FileExistsError) or (400 <= code < 500 and code not in (401, *TRANSIENT)):
        return UserError(f'{what}: the store does not take it ({why}); fix the name, or the settings of the bucket',
                         code='storage/refused')
    return None


def credentials(what, why: str) -> UserError:
    """The store does not accept the credentials of this machine."""
    return UserError(f'{what}: the store refuses ({why}); look at the credentials of this machine '
                     '(gcloud auth application-default login)', code='storage/credentials')


def _code(error: BaseException) -> int:
    """The HTTP status in an error of a client, or 0."""
    for value in (getattr(error, 'code', None), getattr(error, 'status', None)):
        if str(value).isdigit():
            return int(value)
    status = re.search(r'HTTP response code: (\d{3})', str(error))  # TensorStore's
    return int(status[1]) if status else 0


def _unknown_user(error: BaseException, code: int) -> bool:
    """Whether the credentials are at fault; a server of tokens that cannot be reached just now is the network's fault."""
    chain = [error]
    while len(chain) < 4 and chain[-1].__cause__ is not None:
        chain.append(chain[-1].__cause__)
    if any(type(e).__name__ == 'TransportError' or getattr(e, 'retryable', False) is True for e in chain):
        return False
    return code == 401 or type(error).__module__.startswith('google.auth') or type(error).__name__ == 'NonRetryableError'


def _unavailable_error(what, error: BaseException, how: str = '') -> StorageUnavailable:
    """Gives the store up; returns the error, one line."""
    if not _unavailable:
        how = how or f'for {retry_s():.0f} s (BIGJAX_STORE_SECONDS)'
        why = f'{type(error).__name__}: {first_line(error)}'
        _unavailable.append(StorageUnavailable(f'{what}: the store has failed {how}, at last with {why}; committed '
                                'checkpoints are intact: run the same command again when it is back'))
    return _unavailable[0]


def _of_client(error: BaseException) -> bool:
    """Whether an error comes from the network or a store's client, not from a mistake in the program."""
    return isinstance(error, OSError) or type(error).__module__.partition('.')[0] in CLIENTS


def _of_store(path, error: BaseException) -> bool:
    """Whether an error of a library came from the store."""
    named = SCHEME in str(error) or '/storage/v1/' in str(error)  # TensorStore raises ValueErrors that name the store
    return remote(path) and (named or _of_client(error)) and not isinstance(error, UserError | StorageUnavailable)


def translate(path, error: BaseException) -> BaseException:
    """An error of a library's own client of a store as `StorageUnavailable`, or as a UserError where the store refuses.

    Any other error is returned unchanged. The client has already retried.
    """
    if _of_store(path, error) and not _unavailable and (no := refusal(path, error)):
        return no
    return _unavailable_error(path, error, 'all tries of its client') if _unavailable or is_transient(path, error) else error


def is_transient(path, error: BaseException) -> bool:
    """Whether an error of a library is a transient fault of the store, which has not been given up."""
    return _of_store(path, error) and not given_up() and refusal(path, error) is None


@contextlib.contextmanager
def translating(path):
    """Raises an error of a library inside as `translate` returns it."""
    try:
        yield
    except Exception as error:
        if (other := translate(path, error)) is error:
            raise
        raise other from error
