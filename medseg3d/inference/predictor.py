"""A bundle ready to label volumes."""

from collections.abc import Sequence
from contextlib import suppress
from copy import copy
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medseg3d.bundle import Bundle, read_bundle
from medseg3d.data.body import body_box
from medseg3d.data.canonical import Box, CanonicalCase
from medseg3d.data.plan import Plan
from medseg3d.data.preprocess import WorkingCase, preprocess, preprocessing_key
from medseg3d.device import Device
from medseg3d.errors import ConfigError
from medseg3d.inference.backends import open_network
from medseg3d.inference.ensemble import Ensemble
from medseg3d.inference.evidence import TrialOverError, UntilOver, on_trial
from medseg3d.inference.network import WindowNetwork
from medseg3d.inference.planes import PlaneSink
from medseg3d.inference.stream import Timing, stream
from medseg3d.inference.windows import Advance
from medseg3d.machine import freed_memory_kept, num_processors
from medseg3d.types import LabelMap

GPU_BATCH = 2
"""Windows at once; a CPU gains nothing from more than one."""


@dataclass(frozen=True)
class Segmentation:
    """What became of one case.

    Attributes:
        labels: ``(I, J, K)`` in the order of the file.
        timing: Where the time went.
    """

    labels: LabelMap
    timing: Timing


class Predictor:
    """Network and plan of one bundle.

    Args:
        bundle: The model file's description.
        network: The network with the bundle's weights.
        device: Where it computes.
        overlap: Fraction of a window shared with its neighbor.
        mirror: Whether to average over copies mirrored along the axes of the training.
        crop: Whether to look only at the box around the body.
        threads: Processors to use beside the network; None for all that are allowed.

    Raises:
        ConfigError: If copies are wanted of a model that was trained without mirroring.
    """

    def __init__(
        self,
        bundle: Bundle,
        network: WindowNetwork,
        *,
        device: Device,
        overlap: float,
        mirror: bool = False,
        crop: bool = True,
        threads: int | None = None,
    ) -> None:
        self.bundle = bundle
        self.network = network
        self.device = device
        self.overlap = overlap
        self.crop = crop
        self.threads = threads or num_processors()
        self.batch_size = 1 if device.type == "cpu" else GPU_BATCH
        self.mirror_axes: tuple[int, ...] = bundle.plan.mirror_axes if mirror else ()
        if mirror and not self.mirror_axes:
            raise ConfigError(
                "this model was trained without mirroring, so mirrored copies would mislead it; "
                "leave out --mirror, or train with fit --mirror"
            )

    @classmethod
    def open(
        cls,
        path: Path | Sequence[Path],
        *,
        device: Device,
        overlap: float,
        precision: str = "auto",
        backend: str = "auto",
        mirror: bool = False,
        crop: bool = True,
        threads: int | None = None,
    ) -> "Predictor":
        """Load a bundle, or several whose probabilities are averaged.

        Raises:
            ModelError: If a file is damaged or its weights do not fit its network.
            ConfigError: If a backend or precision cannot be had, copies are wanted of a model
                that was trained without mirroring, or several models do not go together.
        """
        paths = [path] if isinstance(path, Path) else list(path)
        bundles = [read_bundle(each) for each in paths]
        _expect_alike([bundle.plan for bundle in bundles], paths)
        networks = [
            open_network(
                each,
                bundle,
                backend=backend,
                precision=precision,
                device=device,
                threads=threads,
            )
            for each, bundle in zip(paths, bundles, strict=True)
        ]
        return cls(
            bundles[0],
            networks[0] if len(networks) == 1 else Ensemble(networks),
            device=device,
            overlap=overlap,
            mirror=mirror,
            crop=crop,
            threads=threads,
        )

    def with_network(self, network: WindowNetwork) -> "Predictor":
        """The same with another network for the same windows."""
        other = copy(self)
        other.network = network
        return other

    def prepare(self, case: CanonicalCase, *, part: Box | None = None) -> WorkingCase:
        """Preprocess one case, or a part of it, as in training.

        Args:
            case: The case in RAS+ order.
            part: Box of voxels that matter; None for the body, or for everything if the
                predictor does not crop.

        Raises:
            DataError: If the case does not fit the plan.
        """
        if part is None and self.crop:
            part = body_box(case, self.bundle.plan)
        return preprocess(case, self.bundle.plan, part=part, threads=self.threads)

    def label(
        self,
        working: WorkingCase,
        *,
        planes: Sequence[PlaneSink] = (),
        max_slab_bytes: int | None = None,
        advance: Advance | None = None,
    ) -> Segmentation:
        """Labels of a prepared case on its native grid.

        Args:
            working: The prepared case.
            planes: Take the logits of each native plane.
            max_slab_bytes: Memory that half-finished logits may take.
            advance: Told of each window.
        """
        while on_trial(self.network):
            # once it is over the case is begun anew, so that its labels do not depend on its turn
            with suppress(TrialOverError):
                until_over = UntilOver(self.network)
                found = self._labeled(until_over, working, planes, max_slab_bytes, advance)
                until_over.end_of_case()
                return found
        return self._labeled(self.network, working, planes, max_slab_bytes, advance)

    def _labeled(
        self,
        network: WindowNetwork,
        working: WorkingCase,
        planes: Sequence[PlaneSink],
        max_slab_bytes: int | None,
        advance: Advance | None,
    ) -> Segmentation:
        plan = self.bundle.plan
        values = np.asarray(sorted(plan.labels))
        native, canonical = working.placement.empty_labels(values)
        with freed_memory_kept():
            timing = stream(
                network,
                working.image,
                working.placement.maps(),
                canonical,
                values.astype(canonical.dtype),
                window=plan.window,
                overlap=self.overlap,
                slice_axis=plan.single_slices,
                mirror_axes=self.mirror_axes,
                mirrored_labels=plan.mirrored_labels,
                batch_size=self.batch_size,
                max_slab_bytes=max_slab_bytes,
                threads=self.threads,
                planes=planes,
                advance=advance,
            )
        return Segmentation(native, timing)

    def segment(self, case: CanonicalCase, *, advance: Advance | None = None) -> LabelMap:
        """Label map ``(I, J, K)`` of one case, in the order of its file.

        Raises:
            DataError: If the case does not fit the plan.
        """
        return self.label(self.prepare(case), advance=advance).labels


def _expect_alike(plans: Sequence[Plan], paths: Sequence[Path]) -> None:
    """Models are averaged window by window, so they must see the same windows."""
    first = plans[0]
    order = [channel.name for channel in first.channels]
    for plan, path in zip(plans[1:], paths[1:], strict=True):
        names = [channel.name for channel in plan.channels]
        if names != order and sorted(names) == sorted(order):
            raise ConfigError(
                f"{path} takes its channels in the order {', '.join(names)}, {paths[0]} in the "
                f"order {', '.join(order)}, so they cannot be averaged; predict with each alone"
            )
        same = (
            preprocessing_key(plan) == preprocessing_key(first)
            and plan.patch_size == first.patch_size
            and plan.labels == first.labels
            and plan.classes == first.classes
            and plan.mirror_axes == first.mirror_axes
        )
        if not same:
            raise ConfigError(
                f"{path} was trained by another plan than {paths[0]}, so they cannot be averaged; "
                "train them with the same plan (fit --set plan=RUN/plan.yaml)"
            )
