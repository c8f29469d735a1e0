"""Handwritten digits included in scikit-learn: 1,797 gray images of 8x8 pixels."""

from __future__ import annotations

import numpy as np
import torch

from zeromean.study.data.split import UnsplitDataset

# As in scikit-learn's own example; a smaller test set would be too coarse.
TEST_FRACTION = 0.5


def read_digits() -> UnsplitDataset:
    """Read the digits (values 0 to 16); half of each class is the test set."""
    from sklearn.datasets import load_digits  # slow to import

    digits = load_digits()
    return UnsplitDataset(
        "digits",
        torch.from_numpy(digits.images.astype(np.uint8))[:, None],
        digits.target.astype(np.int64),
        tuple(map(str, digits.target_names)),
        TEST_FRACTION,
    )
