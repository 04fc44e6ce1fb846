"""One script per paper: `python -m experiments.NAME`; `python -m experiments` lists them."""
import sys


class _Unknown:
    """Turns `python -m experiments.TYPO` into one line and exit 2: the last finder, active only while Python looks for -m."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.startswith(f'{__name__}.') and sys.argv[:1] == ['-m']:
            from bigjax.errors import UserError
            from bigjax.experiment import choose
            from experiments.__main__ import names
            try:
                choose('experiments', name.removeprefix(f'{__name__}.'), dict.fromkeys(names()))
            except UserError as error:
                print(error, file=sys.stderr)
                sys.exit(2)
        return None


if sys.argv[:1] == ['-m']:
    sys.meta_path.append(_Unknown)
