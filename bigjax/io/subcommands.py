"""The verbs of a command other than an experiment's: `python -m bigjax.ROOM VERB ARGUMENT …`."""
import sys
from collections.abc import Callable, Mapping, Sequence

from bigjax.errors import DONE, FAILED, USER, UserError
from bigjax.io.text import printable


def run(room: str, doc: str, verbs: Mapping[str, tuple[Callable[..., int], int, int]], argv: Sequence[str]) -> int:
    """Runs one verb and returns its exit code; without a verb, or with --help, prints `doc`.

    Args:
      room: 'weights' of the command `bigjax.weights`.
      verbs: {verb: (function of the arguments, the fewest, the most of them)}.

    Raises:
      UserError: no such verb, or another number of arguments; 'ROOM/verb', 'ROOM/arguments'.
    """
    if not argv or argv[0] in ('-h', '--help'):
        print(doc.strip())
        return DONE if argv else USER
    verb, *rest = argv
    if verb not in verbs:
        raise UserError(f"'{printable(verb)}': got no verb, expected one of {', '.join(verbs)}; fix: --help shows them",
                        code=f'{room}/verb')
    function, least, most = verbs[verb]
    if not least <= len(rest) <= most:
        expected = f'{least} to {most}' if most > least else str(least)
        raise UserError(f"'{verb}': got {len(rest)} arguments, expected {expected}; fix: --help shows them",
                        code=f'{room}/arguments')
    try:
        return function(*rest)
    except OSError as error:  # a store, a disk, a closed pipe
        print(f'bigjax.{room}: {error}', file=sys.stderr)
        return FAILED
