"""Preprocessed cases of a run: in the cache or made now, and what lacks among them."""

import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from medseg3d.api.provenance import digest_of
from medseg3d.config import FitConfig
from medseg3d.data.annotation import nowhere_annotated
from medseg3d.data.augment import Augmentation
from medseg3d.data.cache import CachedCase, case_key, is_complete
from medseg3d.data.canonical import load_case
from medseg3d.data.cases import Case
from medseg3d.data.domains import TwoDomains
from medseg3d.data.patches import CaseMaps, PatchDataset
from medseg3d.data.plan import Plan
from medseg3d.data.preprocess import preprocess, preprocessing_key
from medseg3d.data.sides import SAGITTAL
from medseg3d.data.threads import in_threads
from medseg3d.errors import RunError, about_case
from medseg3d.losses.case_maps import MappedLoss, make_maps, mapped_parts, mirrored_maps
from medseg3d.machine import disk_shortage, memory_room
from medseg3d.networks import NETWORKS
from medseg3d.progress import track
from medseg3d.runs import CACHE
from medseg3d.training.faults import enough_memory

log = logging.getLogger("medseg3d")

COPIES_OF_WEIGHTS = 15
"""Bytes of a run folder per byte of weights: two checkpoints of weights, average and two moments,
a third while it is written, and the bundles."""
COPIES_OF_MEAN = 3
"""Of the weights that correct labels, in each of the checkpoints."""
BYTES_PER_CACHED_CHANNEL, BYTES_PER_CACHED_LABEL, BYTES_PER_MAP = 2.0, 0.25, 2.0
BYTES_PER_MEASURED_VOXEL = 80
"""Memory of a distance transform and its maps."""
MAPS_FORMAT = 1
"""Raised whenever losses make other maps of the same labels."""
LEAVE_OUT = "leave the case out or cut it, or use a machine with more memory"


def run_bytes(config: FitConfig, network: nn.Module) -> int:
    """Bytes of a run folder, without the label maps of held-out cases."""
    weights: int = sum(tensor.nbytes for tensor in network.state_dict().values())
    return weights * (COPIES_OF_WEIGHTS + (COPIES_OF_MEAN if config.self_correction else 0))


@dataclass(frozen=True)
class Preparation:
    """Preprocessing of the cases of a run.

    Attributes:
        config: Options of the run.
        plan: How to preprocess.
        digests: Hash of every case's files, by case id.
    """

    config: FitConfig
    plan: Plan
    digests: Mapping[str, str]

    def require_room(
        self,
        cases: Sequence[Case],
        learned: Sequence[Case],
        network: nn.Module,
        loss: nn.Module,
        folder: Path,
    ) -> None:
        """Refuse to begin what the disk will not hold to its end.

        Args:
            cases: To be preprocessed.
            learned: Those to learn from.
            network: To be trained.
            loss: To be trained with.
            folder: The run folder.

        Raises:
            RunError: If there is less room.
        """
        missing = sum(not is_complete(self._place_of(case)) for case in cases)
        voxel = BYTES_PER_CACHED_CHANNEL * len(self.plan.channels) + BYTES_PER_CACHED_LABEL
        cached = missing * voxel
        if parts := parts_with_maps(network, loss):
            maps = sum(part.num_maps(self.plan.num_labels) for part in parts)
            places = [self._maps_place(self._place_of(case), parts) for case in learned]
            cached += sum(not is_complete(place) for place in places) * maps * BYTES_PER_MAP
        cached_bytes = int(cached * math.prod(self.plan.median_shape))
        needed = {self._root: cached_bytes, folder: run_bytes(self.config, network)}
        if short := disk_shortage(needed.items()):
            raise RunError(
                f"the disk of {' and '.join(map(str, short.folders))} has {short.free} free, but "
                f"about {short.needed} are needed; free some space, or choose other folders with "
                "-o and --set cache="
            )

    def prepare(self, cases: Sequence[Case]) -> list[CachedCase]:
        """Preprocess what the cache lacks.

        Raises:
            MedSeg3DError: Naming the case that cannot be.
        """
        found = in_threads(self._prepared, cases)
        return list(track(found, "Preprocessing", total=len(cases), unit="case"))

    def _prepared(self, case: Case) -> CachedCase:
        folder = self._place_of(case)
        if is_complete(folder):
            return CachedCase.open(folder, case.id)
        with about_case(case.id), enough_memory(f"preprocessing case {case.id}", LEAVE_OUT):
            working = preprocess(load_case(case), self.plan)
            labels = working.labels
            if labels is None and self.plan.ignore_index is not None:
                labels = nowhere_annotated(working.image, self.plan.ignore_index)
            self._expect_unchanged(case)
            return CachedCase.write(
                folder,
                case_id=case.id,
                image=working.image,
                labels=labels,
                num_labels=self.plan.num_labels,
                may_ignore=self.plan.ignore_index is not None,
            )

    def _expect_unchanged(self, case: Case) -> None:
        """Refuse to keep what was read under the name of what the files held before."""
        if digest_of(case) != self.digests[case.id]:
            raise RunError(
                f"case {case.id}: its files have changed since this fit began; start a new run "
                "when nothing writes to them any more"
            )

    def maps_of(
        self, cases: Sequence[CachedCase], network: nn.Module, loss: nn.Module
    ) -> CaseMaps | None:
        """The maps of a loss that takes some, in the cache; nothing for other losses.

        Args:
            cases: Preprocessed, to learn from.
            network: To be trained.
            loss: To be trained with.

        Raises:
            MedSeg3DError: Naming the case that it cannot be made of.
        """
        parts = parts_with_maps(network, loss)
        if not parts:
            return None

        def made(case: CachedCase) -> CachedCase:
            folder = self._maps_place(case.folder, parts)
            if is_complete(folder):
                return CachedCase.open(folder, case.case_id)
            what = f"measuring distances in case {case.case_id}"
            with about_case(case.case_id), enough_memory(what, LEAVE_OUT):
                maps = make_maps(loss, case.labels(), self.plan.num_labels)
                return CachedCase.write(
                    folder, case_id=case.case_id, image=maps, labels=None, num_labels=0
                )

        largest = max((math.prod(case.shape) for case in cases), default=0)
        threads = 1 if 2 * BYTES_PER_MEASURED_VOXEL * largest > memory_room() else 2
        measured = in_threads(made, cases, threads=threads)
        found = track(measured, "Measuring distances", total=len(cases), unit="case")
        return CaseMaps(
            cases=tuple(found), mirrored=maps_that_change_sides(network, loss, self.plan)
        )

    def _maps_place(self, case: Path, parts: Sequence[MappedLoss]) -> Path:
        """The folder of the maps of a preprocessed case."""
        facts = [dict(part.map_facts()) for part in parts]
        kind = json.dumps([MAPS_FORMAT, self.plan.num_labels, *facts], sort_keys=True)
        return self._root / case_key(kind, case.name)

    @property
    def _root(self) -> Path:
        return self.config.cache or CACHE

    def _place_of(self, case: Case) -> Path:
        return self._root / case_key(preprocessing_key(self.plan), self.digests[case.id])


def warn_of_absent_labels(
    plan: Plan, training: Sequence[CachedCase], held_out: Sequence[CachedCase], *, fold: int | str
) -> None:
    """Say which labels cannot be learned, or not be scored."""
    for number, (value, name) in enumerate(sorted(plan.labels.items())):
        occurs = [
            any(number in case.labels_present for case in cases) for cases in (training, held_out)
        ]
        if value != 0 and not occurs[0]:
            log.warning(
                "label %d (%s) is in no training case of fold %s and cannot be learned; add "
                "cases that have it, or choose another --fold",
                *(value, name, fold),
            )
        elif value != 0 and not occurs[1]:
            log.warning(
                "label %d (%s) is in no held-out case of fold %s, so nothing will tell how "
                "well it is found",
                *(value, name, fold),
            )


def learns_from_labels(config: FitConfig) -> bool:
    """Whether the network needs labels, or finds by itself what there is."""
    return not hasattr(NETWORKS[config.network.name], "unsupervised")


def parts_with_maps(network: nn.Module, loss: nn.Module) -> list[MappedLoss]:
    """The parts of a loss that get maps of whole cases.

    A network with an objective of its own may compare with other labels than those of the patch.
    """
    return [] if getattr(network, "objective", None) else mapped_parts(loss)


def maps_that_change_sides(network: nn.Module, loss: nn.Module, plan: Plan) -> tuple[int, ...]:
    """Which map takes the place of each in patches mirrored left to right; empty if none are.

    Raises:
        ConfigError: If the loss cannot follow.
    """
    if SAGITTAL not in plan.mirror_axes or not parts_with_maps(network, loss):
        return ()
    return tuple(mirrored_maps(loss, plan.mirrored_labels, plan.num_labels))


def training_patches(
    config: FitConfig,
    plan: Plan,
    cases: Sequence[CachedCase],
    *,
    classes: Sequence[int] | None = None,
    target: Sequence[CachedCase] = (),
    maps: CaseMaps | None = None,
) -> PatchDataset | TwoDomains:
    """Augmented patches of the training cases.

    Args:
        config: Options of the run.
        plan: Of the run.
        cases: To learn from.
        classes: Index of the class of each case, if cases have classes.
        target: Cases of another domain, without labels, if there is one.
        maps: Maps of each case, if the loss takes some.
    """
    ignored = () if plan.ignore_index is None else (plan.ignore_index,)
    augmentation = Augmentation(
        spacing=plan.spacing,
        slice_axis=plan.slice_axis,
        mirrored_labels=(*plan.mirrored_labels, *ignored),
        **config.augmentation.model_dump() | {"mirror_axes": plan.mirror_axes},
    )
    patches = PatchDataset(
        cases,
        plan.patch_size,
        seed=config.seed,
        foreground=config.foreground if learns_from_labels(config) else 0.0,
        augmentation=augmentation,
        classes=classes,
        maps=maps,
    )
    if not target:
        return patches
    others = PatchDataset(
        target,
        plan.patch_size,
        seed=config.seed + 1,  # else both would be turned and shifted alike
        foreground=0.0,
        augmentation=augmentation,
        labeled=False,
    )
    return TwoDomains(patches, others)
