"""The demo's data: scikit-learn's handwritten digits, brought from 8x8 to 16x16 pixels."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from sklearn import datasets, model_selection
from torch import Tensor
from torch.nn import functional as F

IMAGE_SIZE = 16
CLASSES = 10
TEST_FRACTION = 0.2


@dataclass(frozen=True)
class Digits:
    """Images ``(N, 1, 16, 16)`` float32, of mean 0 and deviation 1 in training, and labels ``(N,)`` int64."""

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor


def load_digits(seed: int) -> Digits:
    """The 1,797 digits that scikit-learn ships; ``seed`` decides which fifth of every class is for tests."""
    digits = datasets.load_digits()
    train_images, test_images, train_labels, test_labels = model_selection.train_test_split(
        digits.images, digits.target, test_size=TEST_FRACTION, stratify=digits.target, random_state=seed
    )
    train, test = _enlarge(train_images), _enlarge(test_images)
    std, mean = torch.std_mean(train)
    return Digits(
        train_images=(train - mean) / std,
        train_labels=torch.as_tensor(train_labels, dtype=torch.int64),
        test_images=(test - mean) / std,
        test_labels=torch.as_tensor(test_labels, dtype=torch.int64),
    )


def _enlarge(images: object) -> Tensor:
    """``(N, 8, 8)`` to ``(N, 1, 16, 16)``, bilinear."""
    small = torch.as_tensor(images, dtype=torch.float32).unsqueeze(1)
    return F.interpolate(small, size=(IMAGE_SIZE, IMAGE_SIZE), mode="bilinear", align_corners=False)
