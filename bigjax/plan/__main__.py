"""`python -m bigjax.plan FILE.json…`: recorded plans (`plan --out=FILE.json`) in one table."""
import json
import pathlib
import sys

from bigjax.errors import DONE, UserError, command
from bigjax.plan import report


def read(paths) -> list[tuple[str, dict]]:
    """(experiment and row on topology, figures) of every plan in the files.

    Raises:
      UserError: a file is not there, or is no plan.
    """
    plans = []
    for path in map(pathlib.Path, paths):
        try:
            found = json.loads(path.read_text(encoding='utf-8'))
            plans += [(f"{f['experiment']} {f['name']} on {f.get('topology', '?')}", f) for f in found]
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise UserError(f'{path}: got no record of a plan ({type(error).__name__}); fix: write one by plan --out={path}',
                            code='plan/no-record') from None
    return plans


@command('plan')
def main(paths: list[str]) -> int:
    """Prints the table."""
    if not paths:
        raise UserError('got no file; fix: python -m bigjax.plan experiments/results/plan/*.json', code='plan/no-record')
    print(report.several(read(paths)))
    return DONE


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
