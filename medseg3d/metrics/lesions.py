"""How many lesions were found, and how many were invented.

What a lesion is and when two match is told by the options, which are those of
:class:`medseg3d.metrics.matching.LesionRules`. Without lesions in both masks a ratio is
undefined (``nan``), with lesions in one of them it is 0.
"""

from medseg3d.metrics.masks import MaskPair, metric
from medseg3d.metrics.matching import Connectivity, LesionRules, Rule, match_lesions

COMMOWICK = "Commowick et al., Sci. Rep. 8, 2018. https://doi.org/10.1038/s41598-018-31911-7"


@metric(
    "lesion_sensitivity",
    unit="1",
    better="higher",
    definition=(
        "share of the reference's connected components that match one of the prediction; 0 if "
        "only one mask has any"
    ),
    source=COMMOWICK,
)
def lesion_sensitivity(
    masks: MaskPair,
    *,
    rule: Rule = "overlap",
    threshold: float = 0.1,
    strict: bool = True,
    connectivity: Connectivity = 26,
    min_voxels: int = 1,
    min_mm3: float = 0.0,
    dilation_mm: float = 0.0,
) -> float:
    """Share of the lesions of the reference that were found.

    Args:
        masks: Predicted and reference mask, ``(I, J, K)``.
        rule: ``"overlap"``, ``"iou"`` (one to one) or ``"centroid"``.
        threshold: Intersection over union for ``"iou"``.
        strict: Whether the threshold must be exceeded, not only reached.
        connectivity: Neighbors that make one lesion: 6, 18 or 26.
        min_voxels: Lesions of fewer voxels do not exist.
        min_mm3: Lesions of less volume do not exist.
        dilation_mm: Grow the reference by this distance first.

    Returns:
        Value in [0, 1]; ``nan`` if neither mask has lesions, 0 if only one has.

    Raises:
        DataError: If the masks cannot be compared, or a spacing is needed and there is none.
        ConfigError: If an option is out of its range.

    References:
        Commowick et al., Sci. Rep. 8, 2018. https://doi.org/10.1038/s41598-018-31911-7

    Examples:
        >>> import numpy as np
        >>> reference = np.array([[[True, False, True, True, False]]])
        >>> prediction = np.array([[[False, False, False, True, True]]])
        >>> lesion_sensitivity(prediction, reference)
        0.5
    """
    rules = LesionRules(rule, threshold, strict, connectivity, min_voxels, min_mm3, dilation_mm)
    found = masks.once(match_lesions, rules=rules)
    return found.share(found.num_found, found.num_reference)


@metric(
    "lesion_precision",
    unit="1",
    better="higher",
    definition=(
        "share of the prediction's connected components that match one of the reference; 0 if "
        "only one mask has any"
    ),
    source=COMMOWICK,
)
def lesion_precision(
    masks: MaskPair,
    *,
    rule: Rule = "overlap",
    threshold: float = 0.1,
    strict: bool = True,
    connectivity: Connectivity = 26,
    min_voxels: int = 1,
    min_mm3: float = 0.0,
    dilation_mm: float = 0.0,
) -> float:
    """Share of the predicted lesions that are in the reference.

    The options, errors and source are those of :func:`lesion_sensitivity`.

    Returns:
        Value in [0, 1]; ``nan`` if neither mask has lesions, 0 if only one has.
    """
    rules = LesionRules(rule, threshold, strict, connectivity, min_voxels, min_mm3, dilation_mm)
    found = masks.once(match_lesions, rules=rules)
    return found.share(found.num_right, found.num_predicted)


@metric(
    "lesion_f1",
    unit="1",
    better="higher",
    definition=(
        "harmonic mean of the lesion-wise sensitivity and precision; 0 if only one mask has "
        "connected components"
    ),
    source=COMMOWICK,
)
def lesion_f1(
    masks: MaskPair,
    *,
    rule: Rule = "overlap",
    threshold: float = 0.1,
    strict: bool = True,
    connectivity: Connectivity = 26,
    min_voxels: int = 1,
    min_mm3: float = 0.0,
    dilation_mm: float = 0.0,
) -> float:
    """Harmonic mean of :func:`lesion_sensitivity` and :func:`lesion_precision`.

    One to one this is ``2 TP / (2 TP + FP + FN)`` over lesions. The options, errors and source
    are those of :func:`lesion_sensitivity`.

    Returns:
        Value in [0, 1]; ``nan`` if neither mask has lesions, 0 if only one has.
    """
    rules = LesionRules(rule, threshold, strict, connectivity, min_voxels, min_mm3, dilation_mm)
    found = masks.once(match_lesions, rules=rules)
    sensitivity = found.share(found.num_found, found.num_reference)
    precision = found.share(found.num_right, found.num_predicted)
    if sensitivity == precision == 0.0:
        return 0.0
    return 2.0 * sensitivity * precision / (sensitivity + precision)


@metric(
    "lesion_false_positives",
    unit="1",
    better="lower",
    definition=(
        "number of the prediction's connected components that match none of the reference, in "
        "each case; 0, not undefined, if both masks are empty"
    ),
    source=COMMOWICK,
)
def lesion_false_positives(
    masks: MaskPair,
    *,
    rule: Rule = "overlap",
    threshold: float = 0.1,
    strict: bool = True,
    connectivity: Connectivity = 26,
    min_voxels: int = 1,
    min_mm3: float = 0.0,
    dilation_mm: float = 0.0,
) -> float:
    """Predicted lesions that are not in the reference; its mean is the false positives per case.

    A case without lesions in which none were predicted has 0 and stays in that mean. The
    options, errors and source are those of :func:`lesion_sensitivity`.

    Returns:
        A count.
    """
    rules = LesionRules(rule, threshold, strict, connectivity, min_voxels, min_mm3, dilation_mm)
    found = masks.once(match_lesions, rules=rules)
    return float(found.num_predicted - found.num_right)
