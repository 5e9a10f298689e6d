"""The class of each image for ``predict``, from models that learned classes beside labels."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from medseg3d.bundle import read_bundle
from medseg3d.inference.classifying import Classifier
from medseg3d.inference.predictor import Predictor
from medseg3d.types import Image


class Diagnoses:
    """Tells the class of images, case by case.

    Args:
        predictor: Says where to compute, and which classes there are.
        models: The bundles; the probabilities of several are averaged.
    """

    def __init__(self, predictor: Predictor, models: Sequence[Path]) -> None:
        from medseg3d.inference.backends.source import Source

        plan = predictor.bundle.plan
        self._names = plan.classes
        self._classifiers = [
            Classifier(
                Source(model, read_bundle(model)).network(),
                window=plan.patch_size,
                device=predictor.device,
                threads=predictor.threads,
            )
            for model in models
        ]

    def __call__(self, image: Image) -> dict[str, float]:
        """Probability of each class by name.

        Args:
            image: ``(C, I, J, K)``, preprocessed.
        """
        mean = np.mean([classify(image) for classify in self._classifiers], axis=0)
        return {name: round(float(p), 4) for name, p in zip(self._names, mean, strict=True)}


def in_words(classes: dict[str, float]) -> str:
    """The most probable class and its probability.

    Examples:
        >>> in_words({"healthy": 0.07, "ill": 0.93})
        'ill (0.93)'
    """
    found = max(classes, key=lambda name: classes[name])
    return f"{found} ({classes[found]:.2f})"
