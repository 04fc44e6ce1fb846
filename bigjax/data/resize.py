"""Resizing of images on the host, one function for whole images and crops."""
import numpy as np

QUICK = 2.5  # times that an axis may shrink under linear interpolation; up to 2 every pixel counts, here four of five


def resize(image: np.ndarray, size: int | tuple[int, int] | None, quick: bool = False) -> np.ndarray:
    """[h, w, C] of an image [H, W, C]: `size` is both sides or (h, w); None or 0 keeps the image. The aspect is not kept.

    An axis that shrinks is averaged over areas, an axis that grows is interpolated. OpenCV's area averaging needs both axes to
    shrink: where one grows it samples single rows or columns of the other, so stripes alias. The two are then resized one after
    the other.

    Args:
      quick: interpolate where both axes shrink by less than `QUICK`, too. Area averaging costs as much as decoding a JPEG.
    """
    height, width = image.shape[:2]
    if not size:
        return image
    wanted = size if isinstance(size, tuple) else (size, size)
    if (height, width) == wanted:
        return image
    import cv2
    cv2.setNumThreads(0)  # the input pipeline has its own threads
    shrunk = min(height, wanted[0]), min(width, wanted[1])
    if quick and height < QUICK * wanted[0] and width < QUICK * wanted[1]:
        shrunk = height, width
    if shrunk != (height, width):
        image = cv2.resize(image, shrunk[::-1], interpolation=cv2.INTER_AREA)
    if shrunk != wanted:
        image = cv2.resize(image, wanted[::-1], interpolation=cv2.INTER_LINEAR)
    return image.reshape(*wanted, -1)
