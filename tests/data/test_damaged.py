"""Damaged images in the middle of an epoch: named, and skipped only where the run was told to."""
import numpy as np
import pytest
from made_up import encode, smooth, write_folder

from bigjax.data import images, pipeline, sources
from bigjax.data.datasets import open_data
from bigjax.data.loaders import own
from bigjax.errors import UserError
from tests import tiny
from tests.refused import refused

BAD = 'cat/2.jpg'  # record 2 of the folder


@pytest.fixture
def folder(tmp_path):
    root = write_folder(tmp_path / 'pics', kind='.jpg')
    (root / BAD).write_bytes((root / BAD).read_bytes()[:-300])
    return root


def batches(source, **options):
    made = pipeline.TrainBatches(source, 0, 6, False, 0, 4, **options)
    ahead = pipeline.read(made, threads=2, workers=0)
    return [next(ahead) for _ in range(4)]


@pytest.mark.parametrize('encoded', [False, True])
def test_a_damaged_image_is_named_and_skipped_when_told_to(folder, encoded, monkeypatch, capfd):
    monkeypatch.setattr(own, 'IMAGES_IN_MEMORY_BYTES', 0)  # read record by record
    source = open_data(f'folder:{folder}', image_size=24, encoded=encoded, val_fraction=0).train
    transform = (lambda e, rng, train: images.cropped(e, rng, train, size=16)) if encoded else None
    with refused('data/image', BAD, 'record 2', '--config.damaged=skip'):
        batches(source, transform=transform)
    first, _, third, _ = batches(source, transform=transform, skip=True)
    assert first['label'].tolist() == [0, 0, 0, 0, 1, 1]
    if not encoded:
        np.testing.assert_array_equal(first['image'][2], first['image'][3])  # record 3 stands for record 2
    np.testing.assert_array_equal(third['label'], first['label'])  # the next epoch
    lines = [line for line in capfd.readouterr().err.splitlines() if 'skipped' in line]
    assert len(lines) == 1 and BAD in lines[0] and 'record 2' in lines[0]


def test_images_of_a_parquet_file_stay_encoded(folder):
    pa, pq = pytest.importorskip('pyarrow'), pytest.importorskip('pyarrow.parquet')
    files = sorted(folder.rglob('*.jpg'))[3:]
    rows = [{'image': {'bytes': file.read_bytes(), 'path': None}, 'label': i % 3} for i, file in enumerate(files)]
    pq.write_table(pa.Table.from_pylist(rows), folder / 'a.parquet')
    image = open_data(f'parquet:{folder}/a.parquet', encoded=True, val_fraction=0).train[4]['image']
    np.testing.assert_array_equal(image.crop(1, 2, 9, 8), images.decode(files[4].read_bytes(), 'here')[1:10, 2:10])


def test_a_folder_that_would_be_kept_in_memory(folder):
    source = open_data(f'folder:{folder}', image_size=24).train  # a part is held out
    assert sources.array_shapes(source) is None
    with refused('data/image', BAD, '--config.damaged=skip'):
        sources.check_opened(source)
    assert len(batches(source, skip=True)) == 4
    (folder / BAD).write_bytes(encode(smooth()))
    assert sources.array_shapes(open_data(f'folder:{folder}', image_size=24).train) is not None


def test_a_damaged_first_record_does_not_hide_the_shapes(folder):
    (folder / 'cat/0.jpg').write_bytes(b'')
    assert len(sources.identity(open_data(f'folder:{folder}', encoded=True, val_fraction=0))) > 0
    splits = open_data(f'folder:{folder}', val_fraction=0)
    assert splits.info['image_size'] == 24 and len(batches(splits.train, skip=True)) == 4


def test_nothing_but_damaged_images_ends_the_run(folder):
    for path in folder.rglob('*.jpg'):
        path.write_bytes(b'')
    with refused('data/image', 'cat/0.jpg', 'record 0'):
        open_data(f'folder:{folder}', val_fraction=0)


def test_another_error_is_never_skipped(folder):
    def fails(example, rng, train):
        raise ValueError('no')
    with pytest.raises(ValueError, match='no'):
        batches(open_data(f'folder:{folder}', encoded=True, val_fraction=0).train, transform=fails, skip=True)


def test_pixels_that_are_no_numbers_are_named(tmp_path):
    image = np.zeros((4, 8, 8, 1), np.float32)
    image[2, 3, 3] = np.nan
    np.savez(tmp_path / 'a.npz', image=image, label=np.arange(4))
    with refused('data/not-finite', 'record 2', 'image'):
        open_data(f'npz:{tmp_path}/a.npz')


@pytest.mark.parametrize('split', ['train', 'test'])
def test_a_run_refuses_what_was_found_damaged_on_opening(split):
    experiment = tiny.experiment()
    source = {'train': experiment.data.train, **experiment.data.evals}[split]
    source.damaged = UserError('a.jpg: got 3 bytes that are not an image', code='data/image')
    with refused('data/image', 'a.jpg', '--config.damaged=skip'):
        tiny.program([experiment])
    assert tiny.program([experiment], damaged='skip').settings.damaged == 'skip'
