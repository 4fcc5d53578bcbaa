"""Pixels: files to uint8 pictures, pictures to network input, and how training varies them.

What is imported here is plain data and costs neither numpy nor Pillow until it is called. Decoding, which needs both,
is in its own module: `from mobilenets.image.decode import decode`.
"""

from __future__ import annotations

from mobilenets.image.augmentation import Augmentation
from mobilenets.image.preprocess import Preprocess, apply, fit, normalize

__all__ = ["Augmentation", "Preprocess", "apply", "fit", "normalize"]
