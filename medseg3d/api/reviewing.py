"""``review``: a page to look at predictions with, worst case first."""

import hashlib
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from medseg3d.api.batch import Failures, failed_csv
from medseg3d.api.places import expect_writable
from medseg3d.api.scoring.origin import predictions_scored, region_rows
from medseg3d.api.scoring.regions import ignored_label, plan_near
from medseg3d.config import ReviewConfig, given
from medseg3d.data.case_table import patients_in
from medseg3d.data.cases import Case, Dataset, description_near, label_names_near
from medseg3d.data.dataset_json import Description, description_in
from medseg3d.data.layouts import find_cases as find_labeled
from medseg3d.data.partners import Fault, count, without_role
from medseg3d.errors import ConfigError, DataError
from medseg3d.io import case_stem, sources
from medseg3d.io.atomic import sweep
from medseg3d.io.digests import sha256_of
from medseg3d.progress import track
from medseg3d.review.blocks import values_of
from medseg3d.review.finding import find_cases
from medseg3d.review.folder import (
    PAGE,
    expect_free,
    new_folder,
    write_assets,
    write_case,
    write_list,
    write_picture,
)
from medseg3d.review.outliers import measure
from medseg3d.review.slices import ANY_LABEL, worst_slices
from medseg3d.review.thumbnails import thumbnail
from medseg3d.review.volumes import CaseFiles, CaseVolumes, for_page, load, script_of
from medseg3d.review.worklist import Entry, script_name, thumbnail_name, work_list
from medseg3d.runs import HELD_OUT, OPTIONS, stored_options
from medseg3d.scoring import Row, read_table, score_case

log = logging.getLogger("medseg3d")

DEFAULT = Path("review")


@dataclass(frozen=True)
class Review:
    """A page that was written.

    Attributes:
        page: Open this in a browser.
        num_cases: Cases on it.
    """

    page: Path
    num_cases: int


@dataclass(frozen=True)
class _Inputs:
    """What is reviewed, by whatever it was named.

    ``ignore_label`` is the value in references of voxels that nobody annotated, if there is one.
    """

    predictions: Path
    images: Sequence[Path] | Mapping[str, Case]
    references: Path | None
    scores: Path | None
    out: Path
    title: str
    label_names: Mapping[int, str]
    channel_name: str
    ignore_label: int | None = None


@dataclass
class _Page:
    """What has been found for the page so far.

    ``scored`` has the digests of what was scored by case and model, as far as they are known, and
    ``outdated`` the cases whose predictions are others.
    """

    inputs: _Inputs
    config: ReviewConfig
    table: Mapping[str, list[Row]]
    scored: Mapping[tuple[str, str], list[str]]
    entries: list[Entry] = field(default_factory=list)
    names: dict[int, str] = field(default_factory=dict)
    outdated: list[str] = field(default_factory=list)

    def add(self, files: CaseFiles, folder: Path) -> None:
        """Write the files of one case and remember its line of the list."""
        case = load(files, channel=self.config.channel)
        measures = measure(case.prediction, case.grid.voxel_volume_ml, case.uncertainty)
        case = case.annotated(self.inputs.ignore_label)
        names = self._names_in(case)
        rows = self._rows(files, case, names)
        worst = worst_slices(case.prediction, case.reference, case.grid.spacing)
        page = for_page(case, channel_name=self.inputs.channel_name)
        k = worst[ANY_LABEL].voxel[2] // page.block[2]
        picture = thumbnail(page.case, k, page.window)
        entry = Entry(
            id=files.id,
            patient=next((row.patient for row in rows if row.patient), files.patient),
            has_reference=files.reference is not None,
            measures=measures,
            rows=rows,
            digest=_digest(files.prediction),
        )
        number = len(self.entries) + 1
        write_case(folder, script_name(number), script_of(files.id, page, worst))
        write_picture(folder, thumbnail_name(number), picture)
        self.entries.append(entry)
        self.names |= names | {row.label: row.name for row in rows}

    def _names_in(self, case: CaseVolumes) -> dict[int, str]:
        """Names of the labels that are known or found."""
        values = values_of(case.prediction)
        if case.reference is not None:
            values |= values_of(case.reference)
        found = {label: f"label {label}" for label in sorted(values) if label != 0}
        return dict(sorted((found | dict(self.inputs.label_names)).items()))

    def _rows(self, files: CaseFiles, case: CaseVolumes, names: Mapping[int, str]) -> list[Row]:
        """Scores from the table, or computed now where there is a reference."""
        if self.inputs.scores is not None:
            rows = _rows_of(files, self.table)
            if not rows:
                log.warning("%s has no scores of case %s", self.inputs.scores, files.id)
            elif self._is_outdated(files, rows[0]):
                self.outdated.append(files.id)
                return []
            return rows
        if case.reference is None:
            return []
        return score_case(
            files.id,
            case.prediction,
            case.reference,
            case.grid,
            labels=self.config.labels or names,
            patient=files.patient,
        )

    def _is_outdated(self, files: CaseFiles, row: Row) -> bool:
        """Whether another label map was scored than the one that is there now."""
        known = self.scored.get((row.case, row.model))
        return known is not None and known != sorted(map(sha256_of, sources(files.prediction)))


def review(predictions: Path | str | ReviewConfig, **options: Any) -> Review:
    """Write a folder with a page for looking at predictions; it opens without a server.

    Args:
        predictions: A label map, a folder of them, or a run for its held-out cases; or all
            options.
        **options: See :class:`medseg3d.config.ReviewConfig`.

    Raises:
        ConfigError: If an option is wrong, or no images are given.
        DataError: If nothing is found that could be shown.
        RunError: If the folder cannot be written, or some cases could not be shown; the others
            are on the page.
    """
    config = given(ReviewConfig, "predictions", predictions, options)
    inputs = _inputs(config)
    out = inputs.out
    sweep(Path(os.path.realpath(out)).parent)
    expect_free(out, overwrite=config.overwrite)
    expect_writable([out.absolute().parent])
    unusable: list[Fault] = []
    cases = find_cases(inputs.predictions, inputs.images, inputs.references, unusable=unusable)
    table = {} if inputs.scores is None else _table(inputs.scores, inputs.predictions)
    failures = Failures(
        len(cases) + len(unusable), out.absolute().parent, name=failed_csv(out.name)
    )
    for fault in unusable:
        failures.add(", ".join(fault.cases), fault.file, fault)
    scored = {} if inputs.scores is None else predictions_scored(inputs.scores)
    page = _Page(inputs, config, table, scored)
    with new_folder(out) as folder:
        write_assets(folder)
        for files in track(cases, "Preparing the review", unit="case"):
            with failures.of(files.id, files.prediction):
                page.add(files, folder)
        if not page.entries:
            failures.end("cases could not be shown")
        if page.outdated:
            log.warning(
                "%s has scores of other label maps than those in %s for %s, which are shown "
                "without scores; score them again",
                *(inputs.scores, inputs.predictions, count(page.outdated, "case")),
            )
        failed = {failure.case: failure.error for failure in failures.found}
        listed = work_list(
            page.entries,
            title=inputs.title,
            names=dict(sorted(page.names.items())),
            regions=() if inputs.scores is None else region_rows(inputs.scores),
            failed=failed,
        )
        write_list(folder, listed)
    failures.end(f"cases could not be shown, the others are on {out / PAGE}")
    return Review(out / PAGE, len(page.entries))


def _inputs(config: ReviewConfig) -> _Inputs:
    """What is given, completed by what a run says about itself."""
    run = config.predictions
    is_run = (run / OPTIONS).is_file() and (run / HELD_OUT).is_dir()
    if not is_run and config.images is None:
        raise ConfigError(
            f"{run} needs the images that were predicted: --images FOLDER (a run folder knows its "
            "own)"
        )
    images: Sequence[Path] | Mapping[str, Case] = config.images or ()
    names = config.labels or _names_near(config.references, run, *(config.images or ()))
    channels = _channels_near(config.images or ())
    predictions = run / HELD_OUT if is_run else run
    known: Description | Dataset | None = None
    if config.references is not None:
        known = description_near(config.references)
    title = case_stem(run.absolute())
    if is_run and config.images is None:
        trained = stored_options(run)
        try:
            dataset = find_labeled(
                trained.data, skip_unpaired=trained.skip_unpaired, unlabeled=True
            )
            patients = {} if trained.patients is None else patients_in(trained.patients, [])
        except DataError as error:
            raise DataError(
                f"the cases of {run} cannot be used: {error}; others are given with --images and "
                "--references"
            ) from error
        dataset = dataset.ignoring(trained.ignore_label)
        known = known or dataset
        images = {
            case.id: replace(case, patient=patients.get(case.id, case.patient))
            for case in dataset.cases
        }
        names = names or dataset.label_names or {}
        channels = dataset.channel_names or ()
    ignored = None if known is None else ignored_label(known, plan_near(predictions))
    return _Inputs(
        predictions=predictions,
        images=images,
        references=config.references,
        scores=config.scores,
        out=config.out or (run / DEFAULT if is_run else DEFAULT),
        title=config.title or (f"{title}: held-out cases" if is_run else title),
        label_names={value: name for value, name in names.items() if value not in (0, ignored)},
        channel_name=channels[config.channel] if config.channel < len(channels) else "",
        ignore_label=ignored,
    )


def _names_near(*places: Path | None) -> Mapping[int, str]:
    """Label names of the first place that has them beside it."""
    found = (label_names_near(place) for place in places if place is not None)
    return next((names for names in found if names), {})


def _channels_near(images: Iterable[Path]) -> Sequence[str]:
    """Channel names from a ``dataset.json`` beside the images or their folder."""
    for place in images:
        start = place.absolute() if place.is_dir() else place.absolute().parent
        for folder in (start, start.parent):
            if names := description_in(folder).channel_names:
                return names
    return ()


def _table(path: Path, predictions: Path) -> dict[str, list[Row]]:
    """The scores of each case, of the model that is reviewed.

    Raises:
        DataError: If the table holds several models and none has the name of the folder, with
            as many of those above as ``score`` took to tell them apart.
    """
    if not path.is_file():
        raise DataError(f"no table {path}; write one with medseg3d score")
    rows = read_table(path)
    models = sorted({row.model for row in rows})
    if len(models) > 1:
        place = Path(os.path.abspath(predictions)).parts  # noqa: PTH100  (links stay)
        ends = {"/".join(place[start:]) for start in range(len(place))}
        wanted = max(ends.intersection(models), key=len, default=None)
        if wanted is None:
            raise DataError(
                f"{path} holds {count(models, 'model')} and none is called {place[-1]}, as the "
                "folder of the predictions is; give a table with the scores of these predictions"
            )
        rows = [row for row in rows if row.model == wanted]
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row.case, []).append(row)
    return found


def _rows_of(files: CaseFiles, table: Mapping[str, list[Row]]) -> list[Row]:
    """The rows of a case, which may be called as its image or as its prediction."""
    names = (files.id, case_stem(files.prediction))
    bare = {without_role(case): rows for case, rows in table.items()}
    for name in names:
        if name in table:
            return table[name]
    return next((bare[key] for name in names if (key := without_role(name)) in bare), [])


def _digest(prediction: Path) -> str:
    """SHA-256 of the files of a label map."""
    digest = hashlib.sha256()
    for file in sources(prediction):
        with file.open("rb") as opened:
            hashlib.file_digest(opened, lambda: digest)
    return digest.hexdigest()
