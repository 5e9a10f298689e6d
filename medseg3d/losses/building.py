"""Losses by name, alone or in a weighted sum."""

import inspect
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from medseg3d.errors import ConfigError
from medseg3d.losses import LOSSES
from medseg3d.losses.case_maps import CutMaps, split_maps
from medseg3d.losses.voxels import check_weights

LABELS = "labels"
"""What most losses compare the logits with; others name their own, such as the image."""

PRESENCE = "presence"
"""What a loss compares with that knows which labels a patch shows, and not where."""

BACKGROUND = "include_background"
"""The option of losses that can leave label 0 out."""

ONE_PER_LABEL = ("weight", "alpha")
"""Options that weigh labels, when they are lists."""


class WeightedSum(nn.Module):
    """Sum of losses, each times its weight.

    Args:
        losses: The parts, of the same logits and target.
        weights: One per part.

    Attributes:
        finest: The same sum for the finest of several levels, if a part has another one for it.
    """

    def __init__(self, losses: Sequence[nn.Module], weights: Sequence[float]) -> None:
        super().__init__()
        self.losses = nn.ModuleList(losses)
        self.weights = tuple(weights)
        at_finest = [getattr(loss, "finest", None) for loss in losses]
        self.finest: WeightedSum | None = None
        if any(other is not None for other in at_finest):
            parts = [
                loss if other is None else other
                for loss, other in zip(losses, at_finest, strict=True)
            ]
            self.finest = WeightedSum(parts, weights)

    def forward(self, logits: Tensor, target: Tensor, maps: CutMaps | None = None) -> Tensor:
        """Loss of logits ``(B, L, *spatial)`` against labels ``(B, 1, *spatial)``.

        Args:
            logits: Of the labels.
            target: Labels.
            maps: Of the whole case, those of the parts one after the other.
        """
        shares = split_maps(list(self.losses), maps, logits.shape[1])
        parts = [
            weight * (loss(logits, target) if share is None else loss(logits, target, share))
            for weight, loss, share in zip(self.weights, self.losses, shares, strict=True)
        ]
        return torch.stack(parts).sum()


def build_loss(
    name: str,
    options: Mapping[str, Any] | None = None,
    *,
    spacing: Sequence[float] | None = None,
    ignore_index: int | None = None,
    label_counts: Sequence[int] | None = None,
    num_labels: int | None = None,
) -> nn.Module:
    """A loss by name, or a sum of several such as ``dice+0.5*focal``.

    Losses of regions that stand without one of voxels count the background too, unless the
    options say otherwise: nothing else would keep one label from taking all of it. So do losses
    of distances that stand without either.

    Args:
        name: A registered loss, or terms joined by ``+``, each with a factor and ``*`` if it
            weighs other than 1.
        options: Options of the loss; of a sum, options by name of its parts, and any other
            goes to all parts that have it.
        spacing: Given to losses that measure distances, unless the options do.
        ignore_index: Index of voxels that nobody annotated, given to all parts.
        label_counts: Voxels of each label in the training cases, given to losses that weigh
            labels by them.
        num_labels: Background included; lists of weights of labels are then refused here if they
            are of another length, and not at the first patch.

    Raises:
        ConfigError: If a name, a factor or an option is wrong, a loss compares with something
            else than labels or stands alone and does not look where they are, or it cannot leave
            out voxels.

    Examples:
        >>> type(build_loss("dice", {"batch": True})).__name__
        'Dice'
        >>> build_loss("dice+0.5*focal", {"focal": {"gamma": 1.0}}).weights
        (1.0, 0.5)
    """
    given = dict(options or {})
    is_sum = "+" in name or "*" in name
    terms = [_term(text.strip(), name) for text in name.split("+")] if is_sum else [(1.0, name)]
    names = [part for _, part in terms]
    if all(LOSSES.facts(part).get("target") == PRESENCE for part in names):
        raise ConfigError(
            f"loss {name!r} tells which labels a patch shows and not where; add it to another, "
            f"such as dice_ce+{names[0]}"
        )
    facts = {"spacing": spacing, "ignore_index": ignore_index, "label_counts": label_counts}
    build = partial(_build, num_labels=num_labels)
    facts_of = {part: facts | {BACKGROUND: True} for part in _that_count_background(names)}
    if not is_sum:
        return build(name, given, facts_of.get(name, facts))
    common = {key: value for key, value in given.items() if key not in names}
    parts: list[nn.Module] = []
    taken: set[str] = set()
    for part in names:
        known = inspect.signature(LOSSES[part]).parameters
        shared = {key: value for key, value in common.items() if key in known}
        taken.update(shared)
        own = given.get(part) or {}
        if not isinstance(own, Mapping):
            raise ConfigError(
                f"loss {name!r}: {part} has options by name, as {part}: {{...}}, got {own!r}; its "
                f"weight is a factor in the name, such as 0.5*{part}"
            )
        parts.append(build(part, shared | dict(own), facts_of.get(part, facts)))
    unknown = [key for key in common if key not in taken]
    if unknown:
        raise ConfigError(
            f"loss {name!r}: no part has an option {unknown[0]!r}; name the options of a part "
            f"under it, as {names[0]}: {{...}}"
        )
    return WeightedSum(parts, [weight for weight, _ in terms])


def _that_count_background(names: Sequence[str]) -> list[str]:
    """The losses of a sum that count the background because no other does."""
    if not all(map(_says_nothing_of_background, names)):
        return []
    for kind in ("region", "centerline", "distance"):
        if found := [name for name in names if LOSSES.facts(name).get("by") == kind]:
            return found
    return []


def _says_nothing_of_background(name: str) -> bool:
    """Whether a loss leaves the background out unless it is told otherwise."""
    facts = LOSSES.facts(name)
    if facts.get("target") == PRESENCE:
        return True
    return "by" in facts and BACKGROUND in inspect.signature(LOSSES[name]).parameters


def _term(text: str, whole: str) -> tuple[float, str]:
    """Weight and name of one term of a sum."""
    factor, times, name = text.rpartition("*")
    try:
        weight = float(factor) if times else 1.0
    except ValueError:
        weight = -1.0
    if not (name and 0.0 < weight < float("inf")):
        raise ConfigError(
            f"loss {whole!r}: {text!r} is no term of a sum; expected a name such as dice, or a "
            "factor above 0 and a name such as 0.5*focal"
        )
    return weight, name.strip()


def _build(
    name: str, options: Mapping[str, Any], facts: Mapping[str, Any], *, num_labels: int | None
) -> nn.Module:
    target = LOSSES.facts(name).get("target", LABELS)
    if target not in (LABELS, PRESENCE):
        raise ConfigError(
            f"loss {name!r} compares with the {target} instead of labels; it belongs to the "
            "networks that bring it, choose another loss"
        )
    known = inspect.signature(LOSSES[name]).parameters
    taken = {key: value for key, value in facts.items() if value is not None and key in known}
    if facts["ignore_index"] is not None and "ignore_index" not in known:
        raise ConfigError(
            f"loss {name!r} cannot leave out voxels that nobody annotated; choose another, such as "
            "dice_ce"
        )
    loss: nn.Module = LOSSES.build(name, **(taken | dict(options)))
    for option in ONE_PER_LABEL:
        if num_labels is not None and isinstance(weights := options.get(option), list | tuple):
            check_weights(name, weights, num_labels, option=option)
    return loss
