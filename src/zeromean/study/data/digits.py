"""Handwritten digits that come with scikit-learn: 1,797 gray images of 8x8 pixels."""

from __future__ import annotations

import numpy as np
from sklearn.datasets import load_digits

from zeromean.study.data.split import UnsplitDataset

# As in scikit-learn's own example: with fewer test images, one of them would weigh too much.
TEST_FRACTION = 0.5


def read_digits() -> UnsplitDataset:
    """Reads the digits (values 0 to 16); half of each class is for testing."""
    bunch = load_digits()
    return UnsplitDataset(
        "digits",
        bunch.images.astype(np.uint8)[:, None],
        bunch.target.astype(np.int64),
        tuple(str(name) for name in bunch.target_names),
        TEST_FRACTION,
    )
