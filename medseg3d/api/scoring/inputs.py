"""What there is to score: the cases of each model, and the patients they are of."""

import os
from collections.abc import Sequence
from itertools import count
from pathlib import Path

from medseg3d.api.scoring.pairs import Pair
from medseg3d.config import ScoreConfig
from medseg3d.data.case_table import patients_in
from medseg3d.data.cases import pair_by_id, patient_of
from medseg3d.errors import ConfigError


def find_pairs(config: ScoreConfig) -> list[Pair]:
    """Pair the label maps of every model with the references.

    Returns:
        Sorted by case, then in the order of the models. A case has one id, however the files of
        the models are named.

    Raises:
        ConfigError: If predictions are given twice.
        DataError: If partners are missing, or the table of patients lacks some.
    """
    folders = (config.predictions, *config.also)
    models = model_names(folders) if config.also else [""]
    found = [
        pair_by_id(folder, config.references, skip_unpaired=config.skip_unpaired)
        for folder in folders
    ]
    ids: dict[Path, str] = {}
    for case_id, _, reference in sorted(one for of_model in found for one in of_model):
        ids[reference] = min(ids.get(reference, case_id), case_id, key=len)
    patients = (
        {case_id: patient_of(case_id) for case_id in ids.values()}
        if config.patients is None
        else patients_in(config.patients, sorted(ids.values()))
    )
    pairs = [
        Pair(ids[reference], prediction, reference, model, patients[ids[reference]])
        for model, of_model in zip(models, found, strict=True)
        for _, prediction, reference in of_model
    ]
    return sorted(pairs, key=lambda pair: pair.case)


def model_names(folders: Sequence[Path]) -> list[str]:
    """Names of the folders, with as many of those above as it takes to tell them apart.

    Raises:
        ConfigError: If one is given twice.

    Examples:
        >>> model_names([Path("runs/unet"), Path("runs/vnet")])
        ['unet', 'vnet']
        >>> model_names([Path("a/predictions"), Path("b/predictions/")])
        ['a/predictions', 'b/predictions']
    """
    places = [Path(os.path.abspath(folder)).parts for folder in folders]  # noqa: PTH100  (links stay)
    for folder, place in zip(folders, places, strict=True):
        if places.count(place) > 1:
            raise ConfigError(f"the predictions {folder} are given twice; name each model once")
    return shortest_ends(places)


def shortest_ends(paths: Sequence[Sequence[str]]) -> list[str]:
    """The ends of different paths, with as many of their parts as it takes to tell them apart.

    Examples:
        >>> shortest_ends([("a", "validation", "scores"), ("b", "validation", "scores")])
        ['a/validation/scores', 'b/validation/scores']
    """
    for depth in count(1):
        ends = ["/".join(path[-depth:]) for path in paths]
        if len(set(ends)) == len(ends):
            return ends
    raise AssertionError  # different paths differ somewhere
