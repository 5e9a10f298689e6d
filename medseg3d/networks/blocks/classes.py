"""What a network learns about a whole image: the labels that it shows, or a class that is given."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional


def presence(labels: Tensor, num_labels: int) -> tuple[Tensor, Tensor]:
    """Which labels an image shows, and of which of them that is known.

    What the voxels that nobody annotated hold is not known, so that only a label that was seen
    elsewhere is known to be there.

    Args:
        labels: ``(B, 1, *sp)`` integers; ``num_labels`` stands for voxels not annotated.
        num_labels: Labels ``L``, background included.

    Returns:
        Two of ``(B, L - 1)`` bool, without the background.

    Examples:
        >>> shown, known = presence(torch.tensor([[[0, 2, 2]], [[0, 2, 3]]]), num_labels=3)
        >>> shown.tolist(), known.tolist()
        ([[False, True], [False, True]], [[True, True], [False, True]])
    """
    voxels = labels.flatten(1).int()  # whose type holds ``num_labels``
    shown = torch.stack([(voxels == label).any(1) for label in range(1, num_labels)], dim=1)
    return shown, shown | (voxels < num_labels).all(1, keepdim=True)


def presence_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean binary cross-entropy of whether each label is there, where that is known.

    Args:
        logits: ``(B, L - 1)``, without the background.
        labels: ``(B, 1, *sp)``, as for :func:`presence`.

    Returns:
        Scalar, at least float32; 0 if nothing is known.
    """
    logits = _exact(logits)
    shown, known = presence(labels, logits.shape[1] + 1)
    costs = functional.binary_cross_entropy_with_logits(logits, shown.to(logits), reduction="none")
    return (costs * known).sum() / known.sum().clamp_min(1)


def class_loss(logits: Tensor, labels: Tensor, classes: Tensor | None) -> Tensor:
    """Cross-entropy of the class of each image, or :func:`presence_loss` if none is given.

    Args:
        logits: ``(B, K)``, one per class, or ``(B, L - 1)``.
        labels: ``(B, 1, *sp)``.
        classes: ``(B,)`` integers from 0 to ``K - 1``.
    """
    if classes is None:
        return presence_loss(logits, labels)
    return functional.cross_entropy(_exact(logits), classes)


def annotated_loss(
    loss: Callable[[Tensor, Tensor], Tensor], logits: Tensor, labels: Tensor
) -> Tensor:
    """The loss over those images of a batch of which any voxel was annotated.

    One of several processes asks the loss in any case, since it may wait there for the others, to
    add up sums over the patches of all.

    Args:
        loss: ``loss(logits, labels)``.
        logits: ``(B, L, *sp)``.
        labels: ``(B, 1, *sp)``; ``L`` stands for voxels not annotated.

    Returns:
        Scalar; 0, with gradients of 0, if nothing was annotated.
    """
    known = (labels.int() < logits.shape[1]).flatten(1).any(1)
    if known.any():
        return loss(logits[known], labels[known])
    if distributed.is_available() and distributed.is_initialized():
        return loss(logits, labels)
    return (0 * _exact(logits)).sum()


class Diagnosing(nn.Module, ABC):
    """A network that segments an image and tells the class of the whole of it.

    The class of each image is given, or the labels that it shows are what is to be told.
    """

    @abstractmethod
    def encode(self, x: Tensor) -> list[Tensor]:
        """Features of the image ``(B, C, *sp)``, finest first."""

    @abstractmethod
    def decode(self, features: Sequence[Tensor], size: Sequence[int]) -> Tensor:
        """Logits ``(B, L, *size)`` of these features."""

    @abstractmethod
    def diagnose(self, deepest: Tensor) -> Tensor:
        """Logits ``(B, K)`` of the classes, from the last of the features."""

    def forward(self, x: Tensor) -> Tensor:
        """Logits of the image."""
        return self.decode(self.encode(x), x.shape[2:])

    def classify(self, x: Tensor) -> Tensor:
        """Logits of the class of the image, ``(B, K)``."""
        return self.diagnose(self.encode(x)[-1])

    def objective(
        self,
        loss: Callable[[Tensor, Tensor], Tensor],
        image: Tensor,
        labels: Tensor,
        classes: Tensor | None = None,
    ) -> Tensor:
        """The loss of the images that are annotated plus the cross-entropy of all classes.

        Images that nobody annotated come with given classes only.

        Args:
            loss: ``loss(logits, labels)``.
            image: ``(B, C, *sp)``.
            labels: ``(B, 1, *sp)`` integers; ``L`` stands for voxels that nobody annotated.
            classes: ``(B,)`` integers from 0, if classes are given.
        """
        features = self.encode(image)
        logits = self.decode(features, image.shape[2:])
        of_classes = class_loss(self.diagnose(features[-1]), labels, classes)
        if classes is None:  # the loss may need all images, to put slices together
            return loss(logits, labels) + of_classes
        return annotated_loss(loss, logits, labels) + of_classes


def num_classes(classes: int | None, out_channels: int) -> int:
    """Logits of a class head: one per class, or one per label but the background."""
    return classes or max(1, out_channels - 1)


def averaged(x: Tensor, size: tuple[int, ...]) -> Tensor:
    """Means over so many parts of each axis, ``(B, C, *size)``."""
    pool = {2: functional.adaptive_avg_pool2d, 3: functional.adaptive_avg_pool3d}[len(size)]
    means: Tensor = pool(x, size)  # type: ignore[arg-type]
    return means


def _exact(logits: Tensor) -> Tensor:
    """At least in float32."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
