"""The errors that end a command, and its exit codes."""
import functools
import sys
from collections.abc import Callable

DONE = 0
FAILED = 1  # a fault of the program or the machine
USER = 2  # the input is wrong; nothing was touched
NONFINITE = 3  # a loss, gradient or update was not finite; the step was not applied
NO = 4  # done, and the answer is no: an expected result was missed, a plan does not fit, a file is damaged
PREEMPTED = 75  # the state is saved; the same command resumes


class UserError(Exception):
    """The user's input is wrong: a flag, a config key, a file, the data.

    The message is one line, `what: got X, expected Y; fix: …`. The command line prints it and exits with `USER`.

    Attributes:
      code: the kind of error, 'room/kind' such as 'config/unknown-key'; tests and callers match it, never the message.
    """

    def __init__(self, *args, code: str = ''):
        super().__init__(*args)
        self.code = code

    def __reduce__(self):  # worker processes send errors to the main process by pickle, which must keep the code
        return _with_code, (type(self), self.args, self.code)


def _with_code(kind, args, code):
    error = kind(*args)
    error.code = code
    return error


def command(name: str) -> Callable:
    """Decorator of a command `main(argv, …) -> exit code` other than an experiment's: wrong input is one line, exit `USER`."""
    def decorate(main):
        @functools.wraps(main)
        def run(*args, **kwargs) -> int:
            try:
                return main(*args, **kwargs)
            except UserError as error:
                print(f'{name}: {error}', file=sys.stderr, flush=True)
                return USER
            except SystemExit as stop:  # argparse, after --help or a wrong flag
                return stop.code or DONE
        return run
    return decorate


class NonFinite(Exception):
    """A loss, gradient or update was not finite; the message names the step and the folder that holds its batch and state."""

    shared = True  # all processes of a run raise it at the same step


class Preempted(Exception):
    """The run received SIGTERM or Ctrl-C and has saved its state; the same command resumes it."""

    shared = True  # all processes of a run leave after the same step
