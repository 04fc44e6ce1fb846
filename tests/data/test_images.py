"""Decoding pictures and folders of them; every damaged picture is named."""
import pickle
import struct

import numpy as np
import pytest
from made_up import encode, smooth, write_folder

from bigjax.data import images
from bigjax.errors import UserError

cv2 = pytest.importorskip('cv2')


@pytest.mark.parametrize('kind, close', [('.jpg', 6), ('.png', 0), ('.webp', 6), ('.bmp', 0)])
def test_decode_gives_back_the_picture(kind, close):
    out = images.decode(encode(smooth(), kind), 'here')
    assert out.dtype == np.uint8 and out.shape == (24, 30, 3)
    assert np.abs(out.astype(int) - smooth()).mean() <= close  # swapped channels differ by 40


def test_decode_grey_alpha_and_16_bits_to_rgb():
    grey = smooth()[..., 0]
    np.testing.assert_array_equal(images.decode(encode(grey, '.png'), 'here'), np.repeat(grey[..., None], 3, -1))
    rgb, alpha = smooth(), np.tile(np.linspace(0, 255, 30).astype(np.uint8), (24, 1))
    bgra = np.concatenate([rgb[..., ::-1], alpha[..., None]], -1)
    over_white = rgb * (alpha[..., None] / 255) + 255 * (1 - alpha[..., None] / 255)
    assert np.abs(images.decode(encode(bgra, '.png'), 'here') - over_white).max() <= 0.5 + 1e-9
    deep = (rgb[..., ::-1].astype(np.uint16) * 257)
    np.testing.assert_array_equal(images.decode(cv2.imencode('.png', deep)[1].tobytes(), 'here'), rgb)
    jpeg = cv2.imencode('.jpg', grey)[1].tobytes()
    assert images.decode(jpeg, 'here').shape == (24, 30, 3)


def test_resize():
    out = images.decode(encode(smooth(40, 40), '.png'), 'here', 20)
    want = smooth(40, 40).reshape(20, 2, 20, 2, 3).mean((1, 3))  # area averaging
    assert out.shape == (20, 20, 3) and np.abs(out - want).max() <= 1
    assert images.resize(smooth()[..., :1], 50).shape == (50, 50, 1)


def thumbnailed(jpeg):
    """The JPEG with an EXIF-like segment that holds an end mark of its own."""
    payload = b'Exif\0\0' + b'\xff\xd8thumbnail\xff\xd9'
    return jpeg[:2] + b'\xff\xe1' + struct.pack('>H', len(payload) + 2) + payload + jpeg[2:]


@pytest.mark.parametrize('make', [
    lambda: encode(smooth())[:-400], lambda: encode(smooth())[:-2], lambda: thumbnailed(encode(smooth()))[:-300],
    lambda: encode(smooth(), '.png')[:-200], lambda: b'', lambda: b'not a picture', lambda: encode(smooth())[:20]],
    ids=['cut jpeg', 'no end mark', 'cut, with a thumbnail', 'cut png', 'empty', 'text', 'header only'])
def test_damaged_picture_is_named(make):
    with pytest.raises(UserError, match=r'^a/b\.jpg \(record 5\): not a picture, or a damaged one'):
        images.decode(make(), 'a/b.jpg (record 5)')


@pytest.mark.parametrize('cut', [2, 300, 500])
def test_a_cut_picture_is_not_whole(cut):
    """Some versions of the decoder fill in what is missing with grey."""
    for data in (encode(smooth()), thumbnailed(encode(smooth())), encode(smooth(), '.png')):
        assert not images.whole(data[:-cut if data[:2] == b'\xff\xd8' else -cut - 70])


def test_whole_pictures_are_whole():
    for data in (encode(smooth()), thumbnailed(encode(smooth())), encode(smooth()) + b'trailing bytes',
                 cv2.imencode('.jpg', smooth(), [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1].tobytes()):
        assert images.whole(data) and images.decode(data, 'here').shape == (24, 30, 3)


def test_folder_source(tmp_path):
    source = images.FolderSource(write_folder(tmp_path), image_size=16)
    assert source.classes == ['cat', 'dog', 'owl'] and len(source) == 12
    np.testing.assert_array_equal(source.labels, np.repeat([0, 1, 2], 4))
    example = source[5]
    np.testing.assert_array_equal(example['image'], images.decode((tmp_path / 'dog' / '1.jpg').read_bytes(), '', 16))
    assert example['label'] == 1 and example['label'].dtype == np.int32
    assert images.FolderSource(tmp_path)[0]['image'].shape == (24, 30, 3)
    assert pickle.loads(pickle.dumps(source))[11]['label'] == 2


def test_damaged_picture_of_a_folder_names_file_and_record(tmp_path):
    source = images.FolderSource(write_folder(tmp_path))
    (tmp_path / 'dog' / '2.jpg').write_bytes((tmp_path / 'dog' / '2.jpg').read_bytes()[:300])
    with pytest.raises(UserError, match=r'dog/2\.jpg \(record 6 of folder:'):
        source[6]
    (tmp_path / 'dog' / '2.jpg').unlink()
    with pytest.raises(UserError, match=r'dog/2\.jpg \(record 6'):
        source[6]


@pytest.mark.parametrize('make, words', [
    (lambda root: root / 'none', ['there is no such folder']),
    (lambda root: root, ['no sub-folders', 'CLASS']),
    (lambda root: [(root / 'a.jpg').write_bytes(b''), root][1], ['pictures but no sub-folders']),
    (lambda root: (root / 'cat').mkdir() or root, ['no pictures']),
    (lambda root: (write_folder(root) / 'zebra').mkdir() or root, ['zebra', 'no pictures'])])
def test_folder_refuses(tmp_path, make, words):
    with pytest.raises(UserError) as error:
        images.FolderSource(make(tmp_path))
    assert all(word in str(error.value) for word in words), error.value


def test_folder_with_given_classes(tmp_path):
    write_folder(tmp_path / 'train')
    write_folder(tmp_path / 'test', classes=('owl',))
    test = images.FolderSource(tmp_path / 'test', classes=['cat', 'dog', 'owl'])
    np.testing.assert_array_equal(test.labels, [2] * 4)
    with pytest.raises(UserError, match='sub-folder owl is not one of the 2 classes'):
        images.FolderSource(tmp_path / 'test', classes=['cat', 'dog'])
