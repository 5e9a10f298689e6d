"""How ``predict`` cleans label maps, and what it says of that."""

from collections.abc import Mapping, Sequence
from typing import Any

from medseg3d.bundle import Bundle
from medseg3d.config import Cleaning, PredictConfig
from medseg3d.errors import ConfigError
from medseg3d.inference.cleaning import Change

Rules = Mapping[int, Cleaning]
"""What is done to each label."""


def rules_of(config: PredictConfig, bundles: Sequence[Bundle]) -> Rules:
    """What the options say, and for other labels what the models have chosen.

    Raises:
        ConfigError: If an option names a label that the models do not have.
    """
    values = {name: value for value, name in bundles[0].plan.foreground.items()}
    if unknown := [name for name in config.cleaning if name not in values]:
        raise ConfigError(
            f"cleaning is given for {unknown[0]!r}, which is no label of this model; its labels "
            f"are {', '.join(values)}"
        )
    chosen = _in_common(bundles) if config.postprocess == "auto" else {}
    wanted = {values[name]: rule for name, rule in (chosen | config.cleaning).items()}
    return {value: rule for value, rule in wanted.items() if rule != Cleaning()}


def _in_common(bundles: Sequence[Bundle]) -> dict[str, Cleaning]:
    """What all models do to a label, as gently as the gentlest of them."""
    found = {}
    for name in bundles[0].cleaning:
        rules = [bundle.cleaning.get(name, Cleaning()) for bundle in bundles]
        found[name] = Cleaning(
            keep_largest=all(rule.keep_largest for rule in rules),
            min_volume_mm3=min(rule.min_volume_mm3 for rule in rules),
            fill_holes=all(rule.fill_holes for rule in rules),
        )
    return found


def rules_in_words(rules: Rules, names: Mapping[int, str]) -> str:
    """All rules in one line.

    Examples:
        >>> rules_in_words({2: Cleaning(fill_holes=True)}, {0: "background", 2: "liver"})
        'liver: holes filled'
    """
    return "; ".join(f"{names[value]}: {rule.in_words}" for value, rule in rules.items())


def cleaning_facts(
    rules: Rules, changes: Mapping[int, Change], names: Mapping[int, str], *, voxel_ml: float
) -> dict[str, dict[str, Any]]:
    """What was done to the labels of one case, for its record.

    Examples:
        >>> rules, names = {2: Cleaning(fill_holes=True)}, {0: "background", 2: "liver"}
        >>> cleaning_facts(rules, {2: Change(filled=3)}, names, voxel_ml=0.5)
        {'liver': {'rule': 'holes filled', 'removed_ml': 0.0, 'filled_ml': 1.5}}
    """
    return {
        names[value]: {
            "rule": rules[value].in_words,
            "removed_ml": change.removed * voxel_ml,
            "filled_ml": change.filled * voxel_ml,
        }
        for value, change in changes.items()
    }


def changes_in_words(facts: Mapping[str, Mapping[str, Any]]) -> str:
    """What changed, in one line; an empty text if nothing did.

    Examples:
        >>> changes_in_words({"liver": {"removed_ml": 1.25, "filled_ml": 0.0}})
        'liver 1.25 mL removed'
    """
    told = [
        f"{name} {each[f'{what}_ml']:.4g} mL {what}"
        for name, each in facts.items()
        for what in ("removed", "filled")
        if each[f"{what}_ml"] > 0
    ]
    return ", ".join(told)
