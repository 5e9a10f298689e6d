"""Options of the runs of a bake-off: what they share, and what one network has of its own."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medseg3d.api.fitting.planning import refuse_idle_options, refuse_what_cannot_be_built
from medseg3d.config import BakeoffConfig, FitConfig, validated
from medseg3d.config.bakeoff import ALL_NETWORKS
from medseg3d.config.options import default_part, laid_over
from medseg3d.data.sizes import WIDE
from medseg3d.errors import ConfigError
from medseg3d.networks import NETWORKS
from medseg3d.runs import MAY_CHANGE, OPTIONS, from_anywhere, interrupted_run, stored_options

DEFAULT_MINUTES = 10.0


def network_names(config: BakeoffConfig) -> list[str]:
    """The networks that are asked for.

    Raises:
        ConfigError: If there is no such network.
    """
    # one that adapts to another domain needs images of it
    everyone = [name for name in NETWORKS if not hasattr(NETWORKS[name], "translate")]
    listed = [everyone if name == ALL_NETWORKS else [name] for name in config.networks]
    names = list(dict.fromkeys(name for several in listed for name in several))
    for name in (*names, *config.own):
        NETWORKS[name]
    return names


def shared_options(config: BakeoffConfig, folder: Path) -> FitConfig:
    """Options of fit that all networks share, stored ones where the bake-off was begun.

    Unless they say otherwise, all networks are wide: some have a width of their own, beside which
    those that a short time makes narrow could not be compared.

    Raises:
        ConfigError: If one is wrong, or differs from the stored one.
    """
    fit = {
        name: laid_over(FitConfig, name, default_part(FitConfig, name), value)
        for name, value in config.fit.items()
    }
    given = fit | {"data": config.data, "out": folder}
    if config.max_minutes is not None:
        given["max_minutes"] = config.max_minutes
    if (folder / OPTIONS).is_file():
        resumed = validated(FitConfig, given | {"resume": True}, source="fit")
        return interrupted_run(resumed)[1]
    if given.get("epochs") is None:
        given = {"max_minutes": DEFAULT_MINUTES} | given
    if given.get("plan") is None:
        given = {"width": WIDE} | given
    recipe = validated(FitConfig, given, source="fit")
    refuse_what_cannot_be_built(recipe)
    return recipe


def own_options(recipe: FitConfig, own: Mapping[str, Any], name: str) -> FitConfig:
    """Options of the run of one network.

    Args:
        recipe: Options of all.
        own: Options of this one only.
        name: Of the network.

    Raises:
        ConfigError: If one of its own is wrong or would have no effect.
    """
    assert recipe.out is not None
    place = recipe.out / name.replace(":", "_")  # which not all file systems allow
    values = recipe.model_dump() | {"network": {"name": name}, "out": place, "resume": False}
    for option, value in own.items():
        values[option] = laid_over(FitConfig, option, values.get(option), value)
    if own.get("plan") is not None:
        for option in ("width", "memory_gb"):  # not those of all, beside a plan that has chosen
            values[option] = own.get(option)
    options = validated(FitConfig, values, source=f"own.{name}")
    # the width of all is part of the plan that they share, whoever takes it
    refuse_idle_options(options if "width" in own else options.model_copy(update={"width": None}))
    return options


def place_of(options: FitConfig) -> Path:
    """Run folder of a network."""
    assert options.out is not None
    return options.out


def expect_same(name: str, options: FitConfig) -> None:
    """Refuse to compare a network that was begun with other options.

    Raises:
        ConfigError: Naming what is different.
    """
    place = place_of(options)
    if not (place / OPTIONS).is_file():
        return
    both = (from_anywhere(each) for each in (stored_options(place), options))
    before, now = (each.model_dump(mode="json") for each in both)
    changed = [key for key in now if key not in MAY_CHANGE and before[key] != now[key]]
    if changed:
        raise ConfigError(
            f"network {name} was begun with another {' and '.join(changed)}; give what it was "
            f"begun with, or remove {place} to train it anew"
        )
