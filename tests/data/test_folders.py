"""Folders of images: classes, splits, and a line for what is left out."""
import os
import pickle

import numpy as np
import pytest
from made_up import encode, smooth, write_folder

from bigjax.data import folders, images
from bigjax.data.datasets import open_data
from tests.refused import refused


def test_folder_source(tmp_path):
    source = folders.FolderSource(write_folder(tmp_path), image_size=16)
    assert source.classes == ['cat', 'dog', 'owl'] and len(source) == 12
    np.testing.assert_array_equal(source.labels, np.repeat([0, 1, 2], 4))
    example = source[5]
    np.testing.assert_array_equal(example['image'], images.decode((tmp_path / 'dog' / '1.jpg').read_bytes(), '', 16))
    assert example['label'] == 1 and example['label'].dtype == np.int32
    assert folders.FolderSource(tmp_path)[0]['image'].shape == (24, 30, 3)
    assert pickle.loads(pickle.dumps(source))[11]['label'] == 2


def test_damaged_image_of_a_folder_names_file_and_record(tmp_path):
    source = folders.FolderSource(write_folder(tmp_path))
    (tmp_path / 'dog' / '2.jpg').write_bytes((tmp_path / 'dog' / '2.jpg').read_bytes()[:300])
    with refused('data/image', 'dog/2.jpg (record 6 of folder:'):
        source[6]
    (tmp_path / 'dog' / '2.jpg').unlink()
    with refused('data/unreadable', 'dog/2.jpg (record 6'):
        source[6]


@pytest.mark.parametrize('make, code, names', [
    (lambda root: root / 'none', 'data/no-folder', []), (lambda root: root, 'data/no-classes', ['0 images', 'CLASS']),
    (lambda root: [(root / 'a.jpg').write_bytes(b''), root][1], 'data/no-classes', ['1 images']),
    (lambda root: (root / 'cat').mkdir() or root, 'data/no-images', ['cat']),
    (lambda root: (write_folder(root) / 'zebra').mkdir() or root, 'data/no-images', ['zebra'])])
def test_folder_refuses(tmp_path, make, code, names):
    with refused(code, *names):
        folders.FolderSource(make(tmp_path))


def test_folder_with_given_classes(tmp_path):
    write_folder(tmp_path / 'train')
    write_folder(tmp_path / 'test', classes=('owl',))
    test = folders.FolderSource(tmp_path / 'test', classes=['cat', 'dog', 'owl'])
    np.testing.assert_array_equal(test.labels, [2] * 4)
    with refused('data/unknown-class', 'owl', '2 classes'):
        folders.FolderSource(tmp_path / 'test', classes=['cat', 'dog'])


def test_hidden_names_at_every_depth_are_left_out_and_counted(tmp_path):
    write_folder(tmp_path, classes=('cat', 'dog'), each=2)
    image = encode(smooth())
    for name in ('cat/.ipynb_checkpoints/0-checkpoint.jpg', 'cat/._0.jpg', 'dog/deep/.git/1.jpg', '__MACOSX/cat/._0.jpg',
                 'dog/.DS_Store'):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(image)
    splits = open_data(f'folder:{tmp_path}', val_fraction=0)
    assert splits.info['records'] == {'train': 4} and splits.info['classes'] == ['cat', 'dog']
    assert '5 hidden' in splits.info['found'][-1]


def test_links_are_followed_and_each_folder_is_read_once(tmp_path):
    root = write_folder(tmp_path / 'set', classes=('cat', 'dog'), each=2)
    write_folder(tmp_path / 'elsewhere', classes=('more',), each=3)
    (root / 'cat' / 'linked').symlink_to(tmp_path / 'elsewhere' / 'more')
    (root / 'cat' / 'again').symlink_to(tmp_path / 'elsewhere' / 'more')
    (root / 'cat' / 'circle').symlink_to(root / 'cat')
    (root / 'dog' / 'gone.jpg').symlink_to(root / 'nowhere.jpg')
    splits = open_data(f'folder:{root}', val_fraction=0)
    assert splits.info['records'] == {'train': 7} and '1 broken links or devices' in splits.info['found'][-1]


def test_images_are_known_by_ending_or_by_their_first_bytes(tmp_path):
    root = write_folder(tmp_path, classes=('cat', 'dog'), each=1)
    (root / 'cat' / 'A.JPG').write_bytes(encode(smooth()))
    (root / 'cat' / 'b.gif').write_bytes(encode(smooth(), '.gif'))
    (root / 'cat' / 'photo').write_bytes(encode(smooth(), '.png'))
    (root / 'cat' / 'README').write_text('not one')
    (root / 'cat' / 'notes.txt').write_text('not one')
    (root / 'loose.jpg').write_bytes(encode(smooth()))
    splits = open_data(f'folder:{root}', val_fraction=0)
    assert splits.info['records'] == {'train': 5}
    said = splits.info['found'][-1]
    assert '1 .txt' in said and '1 without an ending' in said and '1 outside the class folders' in said


@pytest.mark.parametrize('train, other, split', [
    ('Train', 'Val', 'val'), ('training', 'testing', 'test'), ('TRAIN', 'eval', 'val'), ('train', 'evaluation', 'val')])
def test_split_folders_in_any_case_are_splits(tmp_path, train, other, split):
    write_folder(tmp_path / train)
    write_folder(tmp_path / other, classes=('dog', 'owl'), each=2)
    write_folder(tmp_path / 'unlabelled', classes=('x',), each=1)
    splits = open_data(f'folder:{tmp_path}')
    assert splits.info['records'] == {'train': 12, split: 4} and splits.info['classes'] == ['cat', 'dog', 'owl']
    assert 'unlabelled (not a split)' in splits.info['found'][-1]


def test_splits_that_are_no_whole_are_refused(tmp_path):
    write_folder(tmp_path / 'val')
    with refused('data/no-train', 'val'):
        open_data(f'folder:{tmp_path}')
    write_folder(tmp_path / 'train')
    write_folder(tmp_path / 'Validation')
    with refused('data/two-splits', 'Validation', 'val'):
        open_data(f'folder:{tmp_path}')


@pytest.mark.parametrize('names', [('Train.csv', 'EVAL.csv'), ('training.csv', 'dev.csv')])
def test_tables_of_splits_in_any_case(tmp_path, names):
    for name in names:
        (tmp_path / name).write_text('a,label\n1,0\n2,1\n')
    assert open_data(f'csv:{tmp_path}').info['records'] == {'train': 2, 'val': 2}
    os.rename(tmp_path / names[0], tmp_path / 'other.csv')
    with refused('data/no-train', 'train.csv'):
        open_data(f'csv:{tmp_path}')


def test_one_folder_under_two_names_is_no_two_classes(tmp_path):
    write_folder(tmp_path)
    (tmp_path / 'zebra').symlink_to(tmp_path / 'cat')
    with refused('data/two-classes', 'cat', 'zebra'):
        folders.FolderSource(tmp_path)


def test_hidden_folders_beside_the_classes_are_counted(tmp_path):
    write_folder(tmp_path)
    for name in ('.git', '__MACOSX'):
        (tmp_path / name).mkdir()
        (tmp_path / name / '0.jpg').write_bytes(b'')
    (tmp_path / '.DS_Store').write_bytes(b'')
    assert folders.FolderSource(tmp_path).left_out['hidden'] == 3


@pytest.mark.parametrize('ending', ['jfif', 'jpe', 'JPE'])
def test_every_ending_of_a_jpeg_is_an_image(tmp_path, ending):
    write_folder(tmp_path)
    (tmp_path / 'cat' / '0.jpg').rename(tmp_path / 'cat' / f'0.{ending}')
    assert len(folders.FolderSource(tmp_path)) == 12
