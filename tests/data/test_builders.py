"""Made-up idx files and pictures prepared as TFDS folders, and read back without TensorFlow."""
import sys

import numpy as np
import pytest
from made_up import write_folder, write_idx

from bigjax.data import builders, encoded, folders
from bigjax.data.datasets import open_data
from bigjax.data.loaders import find, registry, tfds_hf
from tests.refused import refused

tfds = pytest.importorskip('tensorflow_datasets', reason='tensorflow-datasets is not installed')


@pytest.fixture(autouse=True)
def nowhere(monkeypatch, tmp_path):
    monkeypatch.delenv('BIGJAX_DATA', raising=False)
    monkeypatch.setenv('HOME', str(tmp_path / 'home'))
    monkeypatch.setenv('TFDS_DATA_DIR', str(tmp_path / 'tfds'))


def multiset(image, label):
    """Records in any order: TFDS shuffles what it writes."""
    return sorted((int(k), x.tobytes()) for x, k in zip(np.asarray(image), np.asarray(label), strict=True))


@pytest.mark.parametrize('name', ['mnist', 'fashion_mnist'])
def test_idx_files_to_tfds_and_back(tmp_path, refusals, name):
    parts = {'train': write_idx(tmp_path / 'idx', 'train', 30),
             'test': write_idx(tmp_path / 'idx', 't10k', 20, gz=False, seed=1)}
    argv = [name, f'--from={tmp_path / "idx"}', f'--to={tmp_path / "tfds"}']
    assert builders.main(argv) == 0
    for split, (image, label) in parts.items():
        examples = list(tfds.data_source(name, split=split, data_dir=str(tmp_path / 'tfds')))
        assert multiset([e['image'] for e in examples], [e['label'] for e in examples]) == multiset(image, label)
    for spec in (name, f'tfds:{name}'):  # found through the variable TFDS_DATA_DIR
        splits = open_data(spec)
        for split, source in (('train', splits.train), *splits.evals.items()):
            assert multiset(source.arrays['image'], source.arrays['label']) == multiset(*parts[split])
            assert source.arrays['image'].dtype == np.uint8 and source.arrays['label'].dtype == np.int32
        assert str(tmp_path / 'tfds') in splits.info['source'] and len(splits.info['classes']) == 10
    assert 'tensorflow' not in sys.modules
    assert builders.main(argv) == 2 and refusals[-1] == 'builders/exists'


def test_folder_to_tfds_and_back(tmp_path):
    write_folder(tmp_path / 'pics' / 'train')
    write_folder(tmp_path / 'pics' / 'val', each=1, kind='.png')
    builders.build_folder('my_pets', tmp_path / 'pics', tmp_path / 'tfds')
    splits = open_data('tfds:my_pets', image_size=16)
    assert splits.info['classes'] == ['cat', 'dog', 'owl'] and splits.info['records'] == {'train': 12, 'val': 3}
    want = folders.FolderSource(tmp_path / 'pics' / 'train', 16)
    assert multiset(splits.train.arrays['image'], splits.train.arrays['label']) == multiset(
        [want[i]['image'] for i in range(12)], want.labels)
    assert 'tensorflow' not in sys.modules
    with refused('data/no-split', "'tset'", 'train, validation'):
        tfds_hf.tfds('my_pets', 'tset')


def test_refuses(tmp_path, capsys, refusals):
    (tmp_path / 'empty').mkdir()
    assert builders.main(['mnist', f'--from={tmp_path / "empty"}', f'--to={tmp_path}']) == 2
    assert 'train-images-idx3-ubyte' in (message := capsys.readouterr().err) and 'curl' in message
    assert refusals[-1] == 'data/not-found'
    write_idx(tmp_path / 'idx', 'train', 30, labels=[10] * 30)
    assert builders.main(['mnist', f'--from={tmp_path / "idx"}', f'--to={tmp_path}']) == 2
    assert 'record 0' in capsys.readouterr().err and refusals[-1] == 'data/label-range'
    write_folder(tmp_path / 'pics')
    (tmp_path / 'pics' / 'cat' / '1.jpg').write_bytes(b'x')
    assert builders.main(['folder', '--name=pets', f'--from={tmp_path / "pics"}', f'--to={tmp_path / "tfds"}']) == 2
    assert 'cat/1.jpg' in capsys.readouterr().err and refusals[-1] == 'data/image' and not (tmp_path / 'tfds' / 'pets').exists()
    assert builders.main(['folder', '--name=My Pets', f'--from={tmp_path / "pics"}', f'--to={tmp_path}']) == 2
    assert 'My Pets' in capsys.readouterr().err and refusals[-1] == 'builders/name'


def test_unprepared_tfds_data_says_the_command(tmp_path):
    for name, words in (('cifar10', "file_format='array_record'"), ('mnist', 'python -m bigjax.data.builders mnist')):
        with refused('data/not-prepared', words, str(tmp_path / 'tfds')):
            open_data(f'tfds:{name}')


def test_other_formats_are_refused(tmp_path):
    """TFDS's own default, tfrecord, which TensorFlow alone reads."""
    builders.build_folder('pets', write_folder(tmp_path / 'pics'), tmp_path / 'tfds')
    info = next((tmp_path / 'tfds' / 'pets').rglob('dataset_info.json'))
    info.write_text(info.read_text().replace('array_record', 'tfrecord'))
    with refused('data/tfrecord'):
        tfds_hf.tfds('pets', 'train')


def test_the_images_of_a_large_set_stay_encoded(tmp_path):
    write_folder(tmp_path / 'pics' / 'train', each=2)
    write_folder(tmp_path / 'pics' / 'val', each=1)
    builders.build_folder('photos', tmp_path / 'pics', tmp_path / 'tfds')
    want = folders.FolderSource(tmp_path / 'pics' / 'train')
    splits = find.tfds_large_images(registry.lookup('imagenet2012')[0], 'photos', '', str(tmp_path / 'tfds'))
    examples = [splits.train[i] for i in range(6)]
    assert all(isinstance(e['image'], encoded.Encoded) for e in examples) and splits.info['records'] == {'train': 6, 'val': 3}
    assert multiset([e['image'].crop(2, 3, 10, 12) for e in examples], [e['label'] for e in examples]) == multiset(
        [want[i]['image'][2:12, 3:15] for i in range(6)], want.labels)
