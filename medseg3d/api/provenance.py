"""What a model came from: files, versions and options, beside the run and inside its bundle."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from medseg3d.api.versions import versions_of
from medseg3d.bundle import Bundle
from medseg3d.config import FitConfig
from medseg3d.data.cache import content_digest
from medseg3d.data.cases import Case
from medseg3d.data.plan import Plan
from medseg3d.data.threads import in_threads
from medseg3d.device import Precision
from medseg3d.errors import RunError
from medseg3d.io import sources
from medseg3d.io.atomic import spelled_out, write_text
from medseg3d.progress import track

PACKAGES = ("torch", "monai", "torchio", "lightning", "nibabel", "SimpleITK", "numpy", "scipy")


@dataclass(frozen=True)
class Origin:
    """What the model of a run comes from.

    Attributes:
        config: Options of the run.
        training: Cases that are learned from.
        held_out: Cases that are not.
        digests: SHA-256 of every case's files, by case id.
    """

    config: FitConfig
    training: Sequence[Case]
    held_out: Sequence[Case]
    digests: Mapping[str, str]

    @classmethod
    def of(cls, config: FitConfig, training: Sequence[Case], held_out: Sequence[Case]) -> "Origin":
        """Read the files of all cases."""
        cases = [*training, *held_out]
        found = track(in_threads(digest_of, cases), "Hashing", total=len(cases), unit="case")
        digests = {case.id: digest for case, digest in zip(cases, found, strict=True)}
        return cls(config, training, held_out, digests)

    def write(self, path: Path, *, device: str, precision: Precision) -> None:
        """Write it for people.

        Args:
            path: JSON file; where a resumed run has one, the cases must be the same.
            device: Where the run computes.
            precision: Arithmetic of the training.

        Raises:
            RunError: If cases have changed since the run was begun, or the file cannot be
                written.
        """
        data = {
            case.id: {
                "files": [path.name for path in case.images],
                "sha256": self.digests[case.id],
            }
            | ({} if case.class_name is None else {"class": case.class_name})
            for case in (*self.training, *self.held_out)
        }
        if path.is_file():
            before = json.loads(path.read_text(encoding="utf-8"))["data"]
            changed = [name for name, facts in data.items() if before.get(name) != facts]
            if changed:
                raise RunError(
                    f"{len(changed)} cases have changed since the run was begun, such as "
                    f"{changed[0]}; restore them, or start a new run"
                )
        facts = {
            "versions": versions_of(PACKAGES),
            "seed": self.config.seed,
            "device": device,
            "precision": precision,
            "data": data,
        }
        write_text(path, json.dumps(facts, indent=1))

    def describe(
        self,
        network: nn.Module,
        options: dict[str, Any],
        plan: Plan,
        *,
        precision: Precision,
        scores: Mapping[str, float],
    ) -> Bundle:
        """What a bundle says about the weights.

        Args:
            network: With the weights.
            options: It was built with.
            plan: Of the run.
            precision: Arithmetic in which the scores were reached.
            scores: Dice per label name, and their mean.
        """
        stage = getattr(network, "stage", None)
        return Bundle(
            network=self.config.network.name,
            options=options | ({} if stage is None else {"stage": stage}),
            plan=plan,
            channels=len(plan.channels),
            precision=precision,
            scores=known(scores),
            cases=self._unnamed_digests(),
            training={
                "data": spelled_out(self.config.data.resolve().name),
                "fold": self.config.fold,
                "seed": self.config.seed,
                "versions": versions_of(PACKAGES),
            },
        )

    def _unnamed_digests(self) -> dict[str, str]:
        """Digests without case ids, which may be personal; provenance.json has both."""
        parts = {"training": self.training, "held_out": self.held_out}
        return {
            f"{part}_{number:04d}": self.digests[case.id]
            for part, cases in parts.items()
            for number, case in enumerate(cases, start=1)
        }


def known(scores: Mapping[str, float]) -> dict[str, float]:
    """Scores rounded for the bundle, without the undefined ones, which JSON cannot hold.

    Examples:
        >>> known({"liver": 0.91234567, "cyst": math.nan})
        {'liver': 0.912346}
    """
    return {name: round(score, 6) for name, score in scores.items() if math.isfinite(score)}


def digest_of(case: Case) -> str:
    """SHA-256 of the files of a case.

    Raises:
        DataError: If one cannot be read.
    """
    volumes = [*case.images, *([case.labels] if case.labels else [])]
    return content_digest([file for volume in volumes for file in sources(volume)])
