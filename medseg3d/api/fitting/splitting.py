"""The folds of a run: dealt, from a file, or one for each site; and where they are kept."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path

from medseg3d.config import FitConfig
from medseg3d.config.fit import ALL_FOLDS
from medseg3d.data.cases import Case, Dataset
from medseg3d.data.doctor.facts import CaseFacts
from medseg3d.data.partners import count
from medseg3d.data.split import Folds, Split, chosen_fold, deal_folds
from medseg3d.data.split_files import given_splits, leave_one_site_out, read_splits, splits_text
from medseg3d.errors import ConfigError, DataError
from medseg3d.io.atomic import write_text
from medseg3d.runs import SPLIT, SPLITS

log = logging.getLogger("medseg3d")


def given_folds(config: FitConfig, cases: Sequence[Case]) -> Folds:
    """Folds that the user gives as a file of splits or of sites; empty if there is no such file.

    Raises:
        ConfigError: If the fold that is asked for is none of them.
        DataError: If the file cannot be used, or a case would be held out twice.
    """
    if config.splits is not None:
        folds = given_splits(config.splits, cases)
    elif config.sites is not None:
        folds = leave_one_site_out(config.sites, cases)
        for number, (site, part) in enumerate(folds.items()):
            log.info("fold %d holds out %s: %d cases", number, site, len(part.validation))
    else:
        return {}
    wanted(config, folds)
    if config.fold == ALL_FOLDS:
        _expect_held_out_once(folds, cases, source=config.splits or config.sites)
    return folds


def dealt_folds(config: FitConfig, dataset: Dataset, facts: Sequence[CaseFacts]) -> Folds:
    """Deal the cases with labels, each label evenly, all of a patient into one fold.

    Args:
        config: Options of the run.
        dataset: The cases.
        facts: What each of them holds.

    Raises:
        ConfigError: If more folds are asked for than there are patients.
        DataError: If all cases are of one patient.
    """
    cases = [case for case in dataset.cases if case.labels is not None]
    patients = len({case.patient for case in cases})
    if 1 < patients < config.folds:
        if "folds" in config.model_fields_set and not config.resume:  # stored ones are all set
            raise ConfigError(
                f"{config.folds} folds need as many patients, {config.data} has {patients}; give "
                f"--set folds={patients} or less"
            )
        log.warning("%d patients give only %d folds, one patient held out", patients, patients)
    labels_of = {one.case_id: one.label_counts.keys() - {0} for one in facts}
    return deal_folds(cases, folds=config.folds, seed=config.seed, labels_of=labels_of)


def wanted(config: FitConfig, folds: Folds) -> Split:
    """The fold of the run; for all of them, everything to plan for and nothing held out.

    Raises:
        ConfigError: If there is no such fold.
    """
    if config.fold != ALL_FOLDS:
        return chosen_fold(folds, config.fold)
    everything = {
        case_id for part in folds.values() for case_id in (*part.training, *part.validation)
    }
    return Split(tuple(sorted(everything)), ())


def split_file(config: FitConfig, folder: Path) -> Path:
    """Where the folder of a run keeps its fold, or its folds."""
    return folder / (SPLITS if config.fold == ALL_FOLDS else SPLIT)


def write_split(config: FitConfig, folder: Path, folds: Folds) -> None:
    """Keep the fold of a run, or all of them.

    Raises:
        RunError: If the file cannot be written.
    """
    text = splits_text(folds)
    if config.fold != ALL_FOLDS:
        text = json.dumps(wanted(config, folds).as_dict(), indent=1)
    write_text(split_file(config, folder), text)


def read_split(config: FitConfig, folder: Path) -> Split:
    """What :func:`write_split` kept, as :func:`wanted` gives it."""
    path = split_file(config, folder)
    if config.fold == ALL_FOLDS:
        return wanted(config, read_splits(path))
    return Split(**json.loads(path.read_text(encoding="utf-8")))


def _expect_held_out_once(folds: Folds, cases: Sequence[Case], *, source: Path | None) -> None:
    """Each case has one prediction that is out of fold, or none."""
    by_case: dict[str, str] = {}
    for name, part in folds.items():
        for case_id in part.validation:
            if case_id in by_case:
                raise DataError(
                    f"{source}: case {case_id} is held out in the folds {by_case[case_id]} and "
                    f"{name}, so that it would have two predictions; train them one by one with "
                    "--fold, or hold each case out once"
                )
            by_case[case_id] = name
    if never := [case.id for case in cases if case.id not in by_case]:
        log.warning(
            "%s held out in no fold of %s, so without a score", count(never, "case"), source
        )
