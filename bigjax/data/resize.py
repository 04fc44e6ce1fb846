"""Resizing of images on the host, one function for whole images and crops."""
import numpy as np


def resize(image: np.ndarray, size: int | None) -> np.ndarray:
    """[size, size, C] of an image [H, W, C], or the image as it is where `size` is None or 0; the aspect is not kept.

    An axis that shrinks is averaged over areas, an axis that grows is interpolated. OpenCV's area averaging needs both axes to
    shrink: where one grows it samples single rows or columns of the other, so stripes alias. The two are then resized one after
    the other.
    """
    height, width = image.shape[:2]
    if not size or (height, width) == (size, size):
        return image
    import cv2
    cv2.setNumThreads(0)  # the input pipeline has its own threads
    shrunk = min(height, size), min(width, size)
    if shrunk != (height, width):
        image = cv2.resize(image, shrunk[::-1], interpolation=cv2.INTER_AREA)
    if shrunk != (size, size):
        image = cv2.resize(image, (size, size), interpolation=cv2.INTER_LINEAR)
    return image.reshape(size, size, -1)
