"""An image cut into square patches side by side."""
import jax

from bigjax.errors import UserError


def patches(image_BxHxWxC: jax.Array, side: int, what: str) -> jax.Array:
    """[B, H, W, C] -> [B, T, P P C]: T patches row by row, the pixels of each row by row.

    Args:
      side: P. what: the model, for the message.

    Raises:
      UserError: patches do not tile the image; 'model/not-divisible'.
    """
    B, H, W, C = image_BxHxWxC.shape
    if H % side or W % side:
        raise UserError(f'{what}: got an image of {H} x {W}, expected multiples of the patch size {side}; fix: choose another '
                        'config.image_size', code='model/not-divisible')
    h, w = H // side, W // side
    return image_BxHxWxC.reshape(B, h, side, w, side, C).swapaxes(2, 3).reshape(B, h * w, side * side * C)
