"""The page that shows a run while it trains: ``index.html`` of the run folder."""

import math
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import numpy as np

from medseg3d.config import FitConfig
from medseg3d.data.annotation import only_annotated
from medseg3d.data.cache import CachedCase
from medseg3d.data.plan import Plan
from medseg3d.device import Device, Precision
from medseg3d.progress import duration
from medseg3d.report.overlay import overlay
from medseg3d.report.training_page import TrainingState, write_training_page
from medseg3d.training.live import Bystander, Moment
from medseg3d.types import LabelMap

PAGE = "index.html"

VERDICTS = {
    "training": "training",
    "stopped": "stopped; --resume goes on",
    "over": "training is over; scores of the held-out cases: validation/scores.csv",
}


class Watch:
    """Collects what is worth seeing of a run, and writes its page.

    Args:
        folder: Run folder.
        config: Options of the run.
        plan: Its plan.
        held_out: Cases that it is validated on; a slice of one of them is shown.
        device: Where it trains.
        precision: Arithmetic of the training.
    """

    def __init__(
        self,
        folder: Path,
        config: FitConfig,
        plan: Plan,
        held_out: Sequence[CachedCase],
        *,
        device: Device,
        precision: Precision,
    ) -> None:
        self.path = folder / PAGE
        self._config = config
        self._plan = plan
        self._labels = plan.scored
        self._device = f"{device}, {precision}"
        shown = [case for case in held_out if case.labels_present] or list(held_out)
        self._case = shown[0] if shown else None
        self._slice: int | None = None
        self._prediction: LabelMap | None = None
        self._bystander = Bystander("the picture for the page of this run")

    def look(self, case: CachedCase, labels: LabelMap) -> None:
        """Keep the slice to be shown of a validated case, if it is that case.

        Args:
            case: A held-out case.
            labels: Prediction ``(I, J, K)``, channel indices.
        """
        if case is not self._case:
            return
        with self._bystander.attempt():
            if self._slice is None:
                self._slice = richest_slice(case)
            self._prediction = labels[:, :, self._slice].copy()

    def publish(self, moment: Moment) -> None:
        """Write the page.

        Raises:
            RunError: If it cannot be written.
        """
        picture = self._picture()
        shown = f"{self._case.case_id}, slice {self._slice}" if self._case else ""
        state = TrainingState(
            title=self.path.parent.absolute().name,
            verdict=VERDICTS[moment.state],
            facts=list(self._facts(moment).items()),
            labels=self._labels,
            rows=moment.rows,
            picture=picture,
            caption=f"{shown}: prediction outlined in colors, reference in white"
            + ("; labels, not regions" if self._plan.regions else ""),
            goes_on=moment.state == "training",
        )
        write_training_page(self.path, state)

    def _facts(self, moment: Moment) -> dict[str, str]:
        config, plan = self._config, self._plan
        validated = [row for row in moment.rows if not math.isnan(row.get("dice", math.nan))]
        best = max(validated, key=lambda row: float(row["dice"]), default=None)
        left = moment.seconds_left
        facts = {
            "progress": f"{moment.used:.0%} of the budget, step {moment.step}",
            "time": duration(moment.seconds),
            "best Dice": "" if best is None else f"{best['dice']:.4f}, epoch {best['epoch']}",
            "data": f"{config.data}, fold {config.fold}",
            "network": f"{config.network.name}, loss {config.loss.name}",
            "patch": f"{plan.batch_size} of {' x '.join(map(str, plan.patch_size))} voxels",
            "device": self._device,
            "written": f"{datetime.now().astimezone():%Y-%m-%d %H:%M:%S}",
        }
        if moment.state == "training" and left is not None:
            facts["time"] += f" so far, {duration(left)} left"
        return {name: value for name, value in facts.items() if value}

    def _picture(self) -> bytes | None:
        case, k = self._case, self._slice
        if case is None or k is None or self._prediction is None:
            return None
        size_i, size_j, _ = case.shape
        box = (0, 0, k), (size_i, size_j, 1)
        image, reference = case.read_image(*box)[0, ..., 0], case.read_labels(*box)[..., 0]
        shown = only_annotated(self._prediction, reference, self._plan.ignore_index)
        values = np.asarray(sorted(self._plan.labels))
        ours, theirs = (values[labels] for labels in shown)
        return overlay(image, ours, theirs, self._plan.spacing[:2])


def richest_slice(case: CachedCase) -> int:
    """The axial slice with the most labels; of equal ones that with the largest area of them.

    Counted on the stored foreground voxels, of which large labels have a sample.
    """
    labels, voxels = np.zeros((2, case.shape[2]), dtype=np.int64)
    for label in case.labels_present:
        counts = np.bincount(case.coordinates(label)[:, 2], minlength=case.shape[2])
        labels += counts > 0
        voxels += counts
    if not voxels.any():
        return case.shape[2] // 2
    return int(np.lexsort((voxels, labels))[-1])
