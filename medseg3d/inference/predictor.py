"""A bundle ready to label volumes."""

from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np
import numpy.typing as npt
from torch import device as Device  # noqa: N812
from torch import nn

from medseg3d.bundle import Bundle, load_bundle, load_weights
from medseg3d.data.canonical import CanonicalCase
from medseg3d.data.preprocess import Placement, preprocess
from medseg3d.device import Precision
from medseg3d.errors import ConfigError, DataError
from medseg3d.inference.sliding_window import Advance, predict_logits
from medseg3d.machine import in_words, memory_limit
from medseg3d.networks import build_network
from medseg3d.types import LabelMap


@dataclass(frozen=True)
class Segmentation:
    """Logits of one case with the way back to its native grid.

    Attributes:
        logits: ``(L, i, j, k)`` on the working grid.
        placement: Where that grid lies in the native one.
        label_values: Value of each logit channel in the label map.
    """

    logits: npt.NDArray[np.float32]
    placement: Placement
    label_values: tuple[int, ...]

    def labels(self) -> LabelMap:
        """Label map ``(I, J, K)`` on the native grid."""
        return self.placement.restore_labels(self.logits, self.label_values)

    def probabilities(self) -> npt.NDArray[np.float32]:
        """Probabilities ``(L, I, J, K)`` on the native grid."""
        return self.placement.restore_probabilities(self.logits)


class Predictor:
    """Network and plan of one bundle.

    Args:
        bundle: The model file's description.
        network: The network with the bundle's weights.
        device: Where to compute.
        precision: Arithmetic of the network.
        overlap: Fraction of a window shared with its neighbor.
        mirror: Whether to average over copies mirrored along the axes of the training.

    Raises:
        ConfigError: If copies are wanted of a model that was trained without mirroring.
    """

    def __init__(
        self,
        bundle: Bundle,
        network: nn.Module,
        *,
        device: Device,
        precision: Precision,
        overlap: float = 0.5,
        mirror: bool = False,
    ) -> None:
        self.bundle = bundle
        self.network = network.to(device).eval()
        self.device = device
        self.precision = precision
        self.overlap = overlap
        self.mirror_axes: tuple[int, ...] = bundle.plan.mirror_axes if mirror else ()
        if mirror and not self.mirror_axes:
            raise ConfigError(
                "this model was trained without mirroring, so mirrored copies would mislead it; "
                "leave out --mirror, or train with fit --mirror"
            )

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        device: Device,
        precision: Precision,
        overlap: float = 0.5,
        mirror: bool = False,
    ) -> "Predictor":
        """Load a bundle.

        Raises:
            ModelError: If the file is damaged or its weights do not fit its network.
            ConfigError: If copies are wanted of a model that was trained without mirroring.
        """
        bundle, weights = load_bundle(path)
        network = build_network(
            bundle.network, bundle.channels, bundle.plan.num_labels, options=bundle.options
        )
        load_weights(network, weights, source=str(path))
        return cls(
            bundle, network, device=device, precision=precision, overlap=overlap, mirror=mirror
        )

    def segment(self, case: CanonicalCase, *, advance: Advance | None = None) -> Segmentation:
        """Preprocess one case as in training and predict its logits.

        Raises:
            DataError: If the case does not fit the plan, or its logits not the memory.
        """
        plan = self.bundle.plan
        working = preprocess(case, plan)
        needed = 4 * plan.num_labels * prod(working.image.shape[1:])
        if needed > memory_limit():
            raise DataError(
                f"the logits of {plan.num_labels} labels on {working.image.shape[1:]} voxels take "
                f"{in_words(needed)} where this machine allows {in_words(memory_limit())}; cut the "
                "image, or use a larger machine"
            )
        logits = predict_logits(
            self.network,
            working.image,
            window=plan.patch_size,
            overlap=self.overlap,
            mirror_axes=self.mirror_axes,
            mirrored_labels=plan.mirrored_labels,
            device=self.device,
            precision=self.precision,
            advance=advance,
        )
        return Segmentation(logits, working.placement, tuple(sorted(plan.labels)))
