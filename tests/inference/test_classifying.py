"""The class of a whole image from windows."""

import numpy as np
import pytest
import torch
from torch import nn

from medseg3d.inference.classifying import Classifier


class Bright(nn.Module):
    """Finds the second class in bright images."""

    def classify(self, x: torch.Tensor) -> torch.Tensor:
        mean = x.mean((1, 2, 3, 4))
        return torch.stack([torch.zeros_like(mean), mean], 1)


def test_probabilities_are_means_of_windows_that_cover_the_image() -> None:
    image = np.zeros((1, 6, 4, 4), np.float32)
    image[:, 4:] = 2.0  # the second window begins at voxel 2: half of it
    found = Classifier(Bright(), window=(4, 4, 4), device=torch.device("cpu"))(image)
    expected = (0.5 + 1 / (1 + np.exp(-1.0))) / 2
    assert found.tolist() == pytest.approx([1 - expected, expected])


def test_an_image_smaller_than_the_window_lies_in_its_middle_in_zeros() -> None:
    image = np.full((1, 2, 4, 4), 2.0, np.float32)
    found = Classifier(Bright(), window=(8, 4, 4), device=torch.device("cpu"))(image)
    assert found[1] == pytest.approx(1 / (1 + np.exp(-0.5)))
