"""The preparation of data sets as TFDS folders in array_record, offline and without TensorFlow.

  python -m bigjax.data.builders mnist --from=FOLDER_OF_IDX_FILES --to=TFDS_FOLDER
  python -m bigjax.data.builders fashion_mnist --from=… --to=…
  python -m bigjax.data.builders folder --name=pets --from=FOLDER --to=TFDS_FOLDER

--from may be gs://BUCKET/FOLDER, which is copied to this machine first.
`folder` takes images, one sub-folder per class, with or without `train`, `val` and `test` above them. Afterwards
`tfds.data_source(name, data_dir=TFDS_FOLDER)`, `--config.data=tfds:NAME` and, for the first two, the named set read it.
"""
import argparse
import io
import os
import pathlib
import sys

from bigjax.data import folders, images
from bigjax.data.loaders import formats, registry, tfds_hf
from bigjax.errors import DONE, UserError, command
from bigjax.io import local_copy, storage, uri
from bigjax.io.text import first_line


def build(name: str, source: str | os.PathLike, to: str | os.PathLike) -> pathlib.Path:
    """Prepares MNIST or Fashion-MNIST from its four idx files.

    The records are those of TFDS's own builder, as PNG and label; TFDS's builder itself needs TensorFlow.

    Args:
      name: 'mnist' or 'fashion_mnist'.
      source: the folder of the idx files, gzipped or not.
      to: the TFDS folder.

    Returns:
      The folder of the prepared version.

    Raises:
      UserError: missing or damaged idx files; a package is missing; `to` has the set already.
    """
    tfds, dataset, source, to = tfds_hf.tfds_module(), name, local_copy.copied(storage.place(source)), _target(to)
    named, _ = registry.lookup(name)
    shape, classes = named.shapes('')['image'][0], len(named.info('')['classes'])
    parts = {}
    for split, prefix in (('train', 'train'), ('test', 't10k')):
        parts[split] = formats.idx_pair(source, prefix, shape, classes)
        if parts[split] is None:
            get = named.get.format(data_dir=pathlib.Path(source).parent, variant=name)
            raise UserError(f'{source}: got no {prefix}-images-idx3-ubyte and {prefix}-labels-idx1-ubyte (or .gz), expected '
                            f'both; fix: {get}', code='data/not-found')
    official = {'mnist': tfds.image_classification.MNIST, 'fashion_mnist': tfds.image_classification.FashionMNIST}[name]

    class Prepared(official, skip_registration=True):
        name = dataset

        def _split_generators(self, dl_manager):
            return {split: self._generate_examples(split) for split in parts}

        def _generate_examples(self, split):
            for i, (image, label) in enumerate(zip(parts[split]['image'], parts[split]['label'], strict=True)):
                yield i, {'image': io.BytesIO(images.encode_png(image)), 'label': int(label)}

    return _prepare(Prepared, name, to)


def build_folder(name: str, source: str | os.PathLike, to: str | os.PathLike) -> pathlib.Path:
    """Prepares a folder of images, one sub-folder per class; JPEG files are kept as they are, others become PNG.

    Args:
      name: of the data set: lower-case letters, digits and underscores.
      source: the folder; where it holds `train`, then its splits.
      to: the TFDS folder.

    Raises:
      UserError: a bad name; a folder without images; a damaged image; `to` has the set already.
    """
    if not name.isidentifier() or name.lower() != name:
        raise UserError(f'--name: got {name!r}, expected lower-case letters, digits and underscores; fix: such as my_pets',
                        code='builders/name')
    tfds, dataset, to = tfds_hf.tfds_module(), name, _target(to)
    parts, *_ = folders.open_folder(local_copy.copied(storage.place(source)))
    if not isinstance(parts['train'], folders.FolderSource):
        raise UserError(f'{source}: got a folder of sounds, expected images; fix: read it as it is, with '
                        f'--config.data=folder:{source}', code='builders/no-images')
    splits = {'val': 'validation'}  # TFDS's name
    for part in parts.values():  # a damaged image ends the command before anything is written
        for i in range(len(part)):
            part[i]

    class Prepared(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        name = dataset
        VERSION = tfds.core.Version('1.0.0')

        def _info(self):
            features = {'image': tfds.features.Image(shape=(None, None, 3)),
                        'label': tfds.features.ClassLabel(names=parts['train'].classes)}
            return tfds.core.DatasetInfo(builder=self, description=f'The images of {source}.',
                                         features=tfds.features.FeaturesDict(features))

        def _split_generators(self, dl_manager):
            return {splits.get(split, split): self._generate_examples(part) for split, part in parts.items()}

        def _generate_examples(self, part):
            for i, (file, label) in enumerate(zip(part.files, part.labels, strict=True)):
                data = pathlib.Path(file).read_bytes()
                if not file.lower().endswith(('.jpg', '.jpeg')):  # a PNG may be grey or transparent; the feature is RGB
                    data = images.encode_png(images.decode(data, file))
                yield i, {'image': io.BytesIO(data), 'label': int(label)}

    return _prepare(Prepared, name, to)


def _target(to: str | os.PathLike) -> str:
    """The TFDS folder, a path of this machine."""
    path = uri.named(to)
    if uri.remote(path):
        raise UserError(f'--to: got {path}, expected a folder of this machine, which TFDS writes to; fix: name one, and '
                        'copy it there afterwards', code='builders/remote-folder')
    return os.path.abspath(os.path.expanduser(path))


def _prepare(builder_class: type, name: str, to: str) -> pathlib.Path:
    if tfds_hf.prepared(name, to):
        raise UserError(f'--to: got {to}, which has {name} already, expected a folder without it; fix: remove it, or '
                        'another --to', code='builders/exists')
    try:
        builder = builder_class(data_dir=to, file_format='array_record')
        builder.download_and_prepare()
    except ImportError as error:
        raise UserError(f'TFDS: got {first_line(error)}, expected the packages that it writes with; fix: pip install '
                        'array_record importlib_resources', code='builders/package') from error
    return pathlib.Path(builder.data_dir)


@command('builders')
def main(argv: list[str] | None = None) -> int:
    """The command at the top of this file; returns its exit code."""
    parser = argparse.ArgumentParser(prog='python -m bigjax.data.builders', description=__doc__.splitlines()[0])
    parser.add_argument('what', choices=['mnist', 'fashion_mnist', 'folder'])
    parser.add_argument('--from', dest='source', required=True, help='the folder of idx files, or of images')
    parser.add_argument('--to', required=True, help='the TFDS folder')
    parser.add_argument('--name', default='', help='of the prepared data set (folder)')
    args = parser.parse_args(argv)
    if args.what == 'folder':
        where = build_folder(args.name, args.source, args.to)
    else:
        where = build(args.what, args.source, args.to)
    print(f'prepared {where}')
    return DONE


if __name__ == '__main__':
    sys.exit(main())
