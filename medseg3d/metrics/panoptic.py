"""Panoptic quality: how many lesions were recognized, times how well these fit.

Lesions are connected components, matched one to one by their intersection over union. Without
lesions in both masks a quality is undefined (``nan``), with lesions in one of them it is 0.
"""

from medseg3d.metrics.masks import MaskPair, metric
from medseg3d.metrics.matching import Connectivity, LesionMatches, LesionRules, match_lesions

KIRILLOV = "Kirillov et al., CVPR 2019. https://doi.org/10.1109/CVPR.2019.00963"


@metric(
    "recognition_quality",
    unit="1",
    better="higher",
    definition=(
        "TP / (TP + FP / 2 + FN / 2) over connected components matched one to one by their "
        "intersection over union; 0 if only one mask has any"
    ),
    source=KIRILLOV,
)
def recognition_quality(
    masks: MaskPair,
    *,
    threshold: float = 0.5,
    strict: bool = True,
    connectivity: Connectivity = 26,
    min_voxels: int = 1,
    min_mm3: float = 0.0,
) -> float:
    """F1 of the lesions matched one to one (RQ), a factor of :func:`panoptic_quality`.

    The options, errors and source are those of :func:`panoptic_quality`.

    Returns:
        Value in [0, 1]; ``nan`` if neither mask has lesions, 0 if only one has.
    """
    found = _matches_by_iou(masks, threshold, strict, connectivity, min_voxels, min_mm3)
    return found.share(2 * len(found.ious), found.num_reference + found.num_predicted)


@metric(
    "segmentation_quality",
    unit="1",
    better="higher",
    definition=(
        "mean intersection over union of the connected components matched one to one by it; 0 if "
        "none match"
    ),
    source=KIRILLOV,
)
def segmentation_quality(
    masks: MaskPair,
    *,
    threshold: float = 0.5,
    strict: bool = True,
    connectivity: Connectivity = 26,
    min_voxels: int = 1,
    min_mm3: float = 0.0,
) -> float:
    """How well the matched lesions fit (SQ), a factor of :func:`panoptic_quality`.

    The options, errors and source are those of :func:`panoptic_quality`.

    Returns:
        Value in [0, 1]; ``nan`` if neither mask has lesions, 0 if none match.
    """
    found = _matches_by_iou(masks, threshold, strict, connectivity, min_voxels, min_mm3)
    return found.share(float(found.ious.sum()), len(found.ious))


@metric(
    "panoptic_quality",
    unit="1",
    better="higher",
    definition=(
        "sum of the matches' intersection over union / (TP + FP / 2 + FN / 2) over connected "
        "components matched one to one by it; 0 if none match"
    ),
    source=KIRILLOV,
)
def panoptic_quality(
    masks: MaskPair,
    *,
    threshold: float = 0.5,
    strict: bool = True,
    connectivity: Connectivity = 26,
    min_voxels: int = 1,
    min_mm3: float = 0.0,
) -> float:
    """Panoptic quality of one label's lesions: recognition times segmentation quality.

    Args:
        masks: Predicted and reference mask, ``(I, J, K)``.
        threshold: Intersection over union at which two lesions match.
        strict: Whether it must be exceeded, not only reached.
        connectivity: Neighbors that make one lesion: 6, 18 or 26.
        min_voxels: Lesions of fewer voxels do not exist.
        min_mm3: Lesions of less volume do not exist.

    Returns:
        Value in [0, 1]; ``nan`` if neither mask has lesions, 0 if none match.

    Raises:
        DataError: If the masks cannot be compared, or a spacing is needed and there is none.
        ConfigError: If an option is out of its range.

    References:
        Kirillov et al., CVPR 2019. https://doi.org/10.1109/CVPR.2019.00963
    """
    found = _matches_by_iou(masks, threshold, strict, connectivity, min_voxels, min_mm3)
    lesions = found.num_reference + found.num_predicted
    return found.share(2.0 * float(found.ious.sum()), lesions)


def _matches_by_iou(
    masks: MaskPair,
    threshold: float,
    strict: bool,
    connectivity: Connectivity,
    min_voxels: int,
    min_mm3: float,
) -> LesionMatches:
    rules = LesionRules("iou", threshold, strict, connectivity, min_voxels, min_mm3)
    return masks.once(match_lesions, rules=rules)
