"""The end of a run: held-out cases labeled as ``predict`` would label them, and scored."""

import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import get_args

import numpy as np
import torch

from medseg3d.api.fitting import cleaning_table
from medseg3d.api.fitting.cleaning_choice import Trial, candidates, outcomes_of, tried
from medseg3d.api.fitting.validating import dice_by_label
from medseg3d.api.fitting.verdict import Verdict, evenly, is_comparable, judged
from medseg3d.api.scoring.run import ScoreResult, write_scores
from medseg3d.config import Cleaning, FitConfig
from medseg3d.data.annotation import only_annotated
from medseg3d.data.canonical import canonical, labels_on
from medseg3d.data.cases import Case
from medseg3d.data.plan import Plan
from medseg3d.data.regions import region_mask
from medseg3d.data.threads import in_threads
from medseg3d.device import Precision
from medseg3d.errors import ModelError, about_case
from medseg3d.geometry.grid import Grid
from medseg3d.inference.cleaning import clean
from medseg3d.inference.predictor import Predictor
from medseg3d.io import Volume, read_image, read_labels, write_labels
from medseg3d.progress import track
from medseg3d.runs import SCORES
from medseg3d.scoring import Row, score_case
from medseg3d.training.faults import enough_memory
from medseg3d.types import LabelMap

log = logging.getLogger("medseg3d")

VERDICT = "arithmetic.json"
SMALLER_CASE = "resume on a machine with more memory"


@dataclass(frozen=True)
class FinalValidation:
    """The held-out cases of a run, labeled on their native grids as ``predict`` labels them.

    What is found is kept, so that a run that was stopped need not find it again.

    Attributes:
        config: Options of the run.
        plan: Of the run.
        cases: All that are held out.
        model: Bundle with the weights.
        folder: Gets label maps, the verdict and the scores.
        device: Where to compute.
    """

    config: FitConfig
    plan: Plan
    cases: Sequence[Case]
    model: Path
    folder: Path
    device: torch.device

    def verdict(self, precision: Precision, with_foreground: Sequence[Case]) -> Verdict:
        """In which arithmetic to validate, found out on some of the cases.

        Args:
            precision: Arithmetic that the run was trained in.
            with_foreground: Cases that can tell.
        """
        kept = self.folder / VERDICT
        found = Verdict.read(kept)
        if found is None or found.tried != precision:  # begun on another processor
            self._forget_labels(found)
            found = self._compared(precision, with_foreground)
            found.write(kept)
        return found

    def cleaning(self, precision: Precision) -> dict[str, Cleaning]:
        """What is done to each label after the network, found out on all cases.

        What was tried is kept beside the scores.

        Args:
            precision: Arithmetic to label them in.

        Returns:
            Rules by the name of the label.
        """
        if self.config.postprocess == "none":
            return {}
        if self.plan.ignore_label is not None:
            log.info("no post-processing is tried, because not all voxels are annotated")
            return {}
        table = self.folder / cleaning_table.NAME
        if not table.is_file():
            predictor = cache(lambda: self._open(precision))
            rules = candidates(self.config.postprocess_volumes_mm3)

            def trial(case: Case) -> Trial:
                self._path(case).unlink(missing_ok=True)  # cleaned in a way that is not known
                raw = self._path(case, precision)
                labels, reference, grid = self._labels(case, raw, _segmenting(predictor))
                with _enough_memory(case):
                    return tried(
                        labels,
                        reference,
                        grid,
                        values=sorted(self.plan.foreground),
                        rules=rules,
                        regions=self.plan.regions.values(),
                    )

            found = in_threads(trial, self.cases, threads=1)
            found = track(found, "Trying post-processing", total=len(self.cases), unit="case")
            outcomes = outcomes_of(list(found), rules, self.plan.foreground)
            cleaning_table.write_table(outcomes, table)
            cleaning_table.tell(outcomes)
        return cleaning_table.read_choice(table)

    def scores(
        self, precision: Precision, cleaning: Mapping[str, Cleaning] | None = None
    ) -> ScoreResult:
        """Label all cases in that arithmetic and compare them with their references.

        Args:
            precision: The arithmetic.
            cleaning: What is done to each label after the network, by its name.
        """
        predictor = cache(lambda: self._open(precision))
        chosen = cleaning or {}
        rules = {
            value: chosen[name] for value, name in self.plan.foreground.items() if name in chosen
        }

        def score(case: Case) -> list[Row]:
            path, raw = self._path(case), self._path(case, precision)
            if raw.is_file() and not rules:
                raw.replace(path)

            def cleaned(volume: Volume) -> LabelMap:
                labels: LabelMap
                if raw.is_file():
                    labels = np.require(read_labels(raw).labels, requirements="W")
                else:
                    labels = predictor().segment(canonical(volume))
                clean(labels, rules, voxel_mm3=volume.grid.voxel_volume_ml * 1000)
                return labels

            labels, reference, grid = self._labels(case, path, cleaned)
            labels, reference = self._annotated(labels, reference)
            scored = partial(score_case, case.id, grid=grid, patient=case.patient)
            rows = scored(labels, reference, labels=self.plan.foreground)
            for number, name in self.plan.region_numbers.items():
                values = self.plan.regions[name]
                masks = (region_mask(each, values) for each in (labels, reference))
                rows += [replace(row, label=number) for row in scored(*masks, labels={1: name})]
            return rows

        # in another thread, so that an interrupt need not wait for a large case
        scored = in_threads(score, self.cases, threads=1)
        found = track(scored, "Validating", total=len(self.cases), unit="case")
        rows = [row for rows in found for row in rows]
        result = write_scores(rows, self.folder / SCORES, regions=self.plan.region_numbers)
        self._forget_compared()
        return result

    def _compared(self, precision: Precision, with_foreground: Sequence[Case]) -> Verdict:
        cases = evenly(with_foreground, self.config.evidence_cases)
        if not cases or not is_comparable(precision, self.device):
            return Verdict(precision, precision)
        dice, backend = self._dice(cases, precision, backend="auto")
        dice_fp32, _ = self._dice(cases, "fp32", backend=backend)
        return judged(precision, dice, dice_fp32)

    def _dice(
        self, cases: Sequence[Case], precision: Precision, *, backend: str
    ) -> tuple[list[list[float]], str]:
        """Dice per label of each case, and the backend that computed them."""
        predictor = self._open(precision, backend=backend)

        def dice(case: Case) -> list[float]:
            path = self._path(case, precision)
            try:
                labels, reference, _ = self._labels(case, path, _segmenting(lambda: predictor))
            except ModelError:  # not finite
                if precision == "fp32":
                    raise
                return [0.0] * len(self.plan.foreground)
            labels, reference = self._annotated(labels, reference)
            return dice_by_label(labels, reference, sorted(self.plan.foreground))

        found = in_threads(dice, cases, threads=1)
        found = track(found, f"Validating in {precision}", total=len(cases), unit="case")
        return list(found), predictor.network.backend

    def _labels(
        self, case: Case, path: Path, make: Callable[[Volume], LabelMap]
    ) -> tuple[LabelMap, LabelMap, Grid]:
        """Labels that are kept or made now, the reference, and the grid of both."""
        assert case.labels is not None
        with about_case(case.id), _enough_memory(case):
            volume = read_image(case.images)
            if path.is_file():
                labels = read_labels(path).labels
            else:
                labels = make(volume)
                write_labels(path, labels, volume)
            return labels, labels_on(read_labels(case.labels), volume.grid), volume.grid

    def _annotated(self, labels: LabelMap, reference: LabelMap) -> tuple[LabelMap, LabelMap]:
        return only_annotated(labels, reference, self.plan.ignore_label)

    def _open(self, precision: Precision, *, backend: str = "auto") -> Predictor:
        return Predictor.open(
            self.model,
            device=self.device,
            precision=precision,
            backend=backend,
            overlap=self.config.overlap,
        )

    def _path(self, case: Case, precision: Precision | None = None) -> Path:
        """Where a label map lies: the final one, or one that is compared."""
        folder = self.folder / precision if precision else self.folder
        return folder / f"{case.id}.nii.gz"

    def _forget_labels(self, verdict: Verdict | None) -> None:
        """Remove labels whose arithmetic is not known, or another one."""
        (self.folder / cleaning_table.NAME).unlink(missing_ok=True)
        for case in self.cases:
            self._path(case).unlink(missing_ok=True)
        if verdict is not None:
            self._forget_compared()

    def _forget_compared(self) -> None:
        for precision in get_args(Precision):
            shutil.rmtree(self.folder / precision, ignore_errors=True)


def _segmenting(predictor: Callable[[], Predictor]) -> Callable[[Volume], LabelMap]:
    """Labels as the network gives them."""
    return lambda volume: predictor().segment(canonical(volume))


def _enough_memory(case: Case) -> AbstractContextManager[None]:
    return enough_memory(f"validating case {case.id}", SMALLER_CASE)
