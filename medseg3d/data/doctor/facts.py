"""What is known of cases after they were read: numbers, no volumes."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from medseg3d.config import FitConfig
from medseg3d.data.canonical import Box
from medseg3d.data.cases import Case, Dataset
from medseg3d.data.doctor.findings import Finding, Severity
from medseg3d.data.doctor.structures import Part
from medseg3d.geometry.grid import Grid
from medseg3d.types import Spacing

FOLDS: int = FitConfig.model_fields["folds"].default
"""What fit makes if nobody says otherwise."""


@dataclass(frozen=True)
class Folding:
    """How a set is to be split.

    Attributes:
        count: Number of folds.
        seed: Of the dealing.
        given: Name of the fold that holds out a case, where folds are given; None to deal them.
    """

    count: int = FOLDS
    seed: int = 0
    given: Mapping[str, str] | None = None


AS_FIT_DEALS = Folding()

MANY_STRANGE = 50
"""With more values than this that nobody named, it is no label map."""


@dataclass(frozen=True)
class ChannelFacts:
    """Intensities of one channel of one case.

    Attributes:
        minimum: Smallest value.
        maximum: Largest value.
        percentiles: The 1st, 25th, 50th, 75th and 99th percentile of the voxels that are not 0,
            estimated from a sample.
    """

    minimum: float
    maximum: float
    percentiles: tuple[float, float, float, float, float]


@dataclass(frozen=True)
class CaseFacts:
    """What a case holds whose files can be read.

    Attributes:
        case: The case.
        grid: Grid of the image.
        num_channels: Channels of the image.
        label_counts: Voxels of each label value that occurs, background included.
        digest: Hash of the voxels of the image; equal images have equal ones.
        notes: Oddities of the files that were dealt with, one sentence each.
        channels: Intensities of each channel.
        label_means: Mean of the first channel in each label, if the label map lies on the image.
        label_sds: Standard deviation of the same.
        parts: Small connected parts of the labels inside ``box``.
        box: Part of the volume in which any channel is not 0.
        is_turned: Whether the label map is stored in another order of axes than the image.
        is_image: Whether the label map is a copy of the image.
        label_names: What the label map itself calls the values that occur.
    """

    case: Case
    grid: Grid
    num_channels: int
    label_counts: dict[int, int]
    digest: str
    notes: tuple[str, ...] = ()
    channels: tuple[ChannelFacts, ...] = ()
    label_means: dict[int, float] = field(default_factory=dict)
    label_sds: dict[int, float] = field(default_factory=dict)
    parts: tuple[Part, ...] = ()
    box: Box = (slice(None), slice(None), slice(None))
    is_turned: bool = False
    is_image: bool = False
    label_names: dict[int, str] = field(default_factory=dict)

    def without(self, label: int | None) -> "CaseFacts":
        """The same without a label, such as that of voxels that nobody annotated."""
        if label not in self.label_counts:
            return self
        return replace(
            self,
            label_counts={value: n for value, n in self.label_counts.items() if value != label},
            label_means={value: x for value, x in self.label_means.items() if value != label},
            label_sds={value: x for value, x in self.label_sds.items() if value != label},
            parts=tuple(part for part in self.parts if part.label != label),
            label_names={value: x for value, x in self.label_names.items() if value != label},
        )

    @property
    def case_id(self) -> str:
        """Id of the case."""
        return self.case.id

    def about_image(
        self, severity: Severity, code: str, message: str, fix: str | None = None
    ) -> Finding:
        """A finding about the image."""
        return Finding(
            severity=severity,
            code=code,
            case=self.case.id,
            file=self.case.images[0],
            message=message,
            fix=fix,
        )

    def about_labels(
        self, severity: Severity, code: str, message: str, fix: str | None = None
    ) -> Finding:
        """A finding about the label map."""
        return Finding(
            severity=severity,
            code=code,
            case=self.case.id,
            file=self.case.labels,
            message=message,
            fix=fix,
        )


@dataclass(frozen=True)
class Survey:
    """What is known of a set after every case was read.

    Attributes:
        dataset: The set.
        facts: One entry per case that could be read, in the order of the cases.
        faults: What is wrong with the files of the others.
        pictures: PNG by case id, of the cases that could be drawn, if pictures were wanted.
        folding: How the set is to be split.
        spacing: Of the working grid in mm, in RAS order; None for that which fit would choose.
    """

    dataset: Dataset
    facts: tuple[CaseFacts, ...]
    faults: tuple[Finding, ...]
    pictures: Mapping[str, bytes] = field(default_factory=dict)
    folding: Folding = AS_FIT_DEALS
    spacing: Spacing | None = None

    @cached_property
    def labeled(self) -> tuple[CaseFacts, ...]:
        """Those of ``facts`` whose label map was read and is none that is an image."""
        return tuple(one for one in self.facts if one.label_counts and not self.holds_image(one))

    def holds_image(self, facts: CaseFacts) -> bool:
        """Whether a label map has far more values than are declared, or than others have."""
        declared = self.dataset.label_names
        if declared is not None:
            strange = len(facts.label_counts.keys() - declared.keys())
        else:
            strange = len(facts.label_counts) - self._usual_values
        return facts.is_image or strange > MANY_STRANGE

    @cached_property
    def _usual_values(self) -> int:
        found = [len(facts.label_counts) for facts in self.facts if facts.label_counts]
        return int(np.median(found or [0]))

    def label(self, value: int) -> str:
        """A label value with its name, if it has one."""
        name = (self.dataset.label_names or {}).get(value)
        return f"label {value}" + (f" ({name})" if name else "")
