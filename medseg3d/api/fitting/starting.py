"""``fit --from``: begin with the weights of a model that is there already.

The run folder keeps a copy of the model, so that a run can be resumed when the model is gone, and
``start.json`` tells what was taken from it.
"""

import json
import logging
import shutil
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from medseg3d.bundle import Bundle, inspect_bundle, load_bundle, read_bundle
from medseg3d.config import FitConfig, NetworkPart, validated
from medseg3d.data.plan import Plan
from medseg3d.data.stages import divisible
from medseg3d.errors import ConfigError
from medseg3d.io import atomic
from medseg3d.io.atomic import write_text
from medseg3d.networks import SLICES, build_network
from medseg3d.runs import find_bundle
from medseg3d.training.warm_start import Ends, refuse_another, take_weights

log = logging.getLogger("medseg3d")

START = "start.medseg3d"
TAKEN = "start.json"

CLASSES = "classes"
"""Option of networks that tell classes of images apart: how many, which the cases decide."""


def refuse_other_network(config: FitConfig) -> None:
    """Find out before the work that the model to begin with is of another network.

    Raises:
        ConfigError: If another network is asked for, or one of other dimensions or width.
        ModelError: If there is no usable model.
    """
    model = _model(config)
    if model is None:
        return
    name, given = model.network.removeprefix(SLICES), config.model_fields_set
    is_named = "network" in given and "name" in config.network.model_fields_set
    if is_named and config.network.name not in (name, model.network):
        raise ConfigError(
            f"{config.start_from} is a {name}, not a {config.network.name}; leave out --network, "
            "or --from"
        )
    slab = _slab_of_model(model)
    was = {"dims": 2 if slab else 3, "slab": slab or 1, "width": model.plan.width}
    for option, value in was.items():
        wanted = getattr(config, option)
        if option in given and wanted not in (None, value):
            raise ConfigError(
                f"{config.start_from} has {option} {value}, not {wanted}; leave out {option}, or "
                "--from"
            )


def with_own_start(config: FitConfig, folder: Path) -> FitConfig:
    """The options of a run that is resumed, with its own copy of the model if it has one."""
    kept = folder / START
    if config.start_from is None or not kept.is_file():
        return config
    return config.model_copy(update={"start_from": kept})


def keep_start(config: FitConfig, folder: Path) -> None:
    """Copy the model to begin with, if there is one, into a run folder that has no copy yet.

    Raises:
        ModelError: If there is no such model.
        RunError: If the run folder cannot be written.
    """
    kept = folder / START
    if config.start_from is not None and not kept.is_file():
        with atomic(kept) as beside:
            shutil.copyfile(find_bundle(config.start_from), beside)


def with_network_of_model(config: FitConfig) -> FitConfig:
    """The options with the name of the model's network, its dimensions and slices, if any."""
    model = _model(config)
    if model is None:
        return config
    name, slab = model.network.removeprefix(SLICES), _slab_of_model(model)
    network = config.network.model_copy(update={"name": name})
    changes = {"network": network, "dims": 2 if slab else 3, "slab": slab or 1}
    return config.model_copy(update=changes)


def started(config: FitConfig) -> FitConfig:
    """The options with the network that is built: in two dimensions, or of the model to begin with.

    Options of the network that are given stand above those of the model.
    """
    model, network = _model(config), config.network
    if model is not None:
        own = {name: value for name, value in model.options.items() if name != CLASSES}
        network = NetworkPart(name=model.network, options=own | network.options)
    elif config.dims == 2:
        name = SLICES + network.name.removeprefix(SLICES)
        network = NetworkPart(name=name, options={"slab": config.slab} | network.options)
    return config.model_copy(update={"network": network})


def slab_of(config: FitConfig) -> int | None:
    """Slices that a network of two dimensions will see at once; None for one of volumes."""
    model = _model(config)
    if model is not None:
        return _slab_of_model(model)
    return config.slab if config.dims == 2 else None


def _slab_of_model(model: Bundle) -> int | None:
    return model.options.get("slab", 1) if model.network.startswith(SLICES) else None


def like_the_model(config: FitConfig) -> FitConfig:
    """The options with the geometry of the model to begin with, where none is given."""
    model = _model(config)
    if model is None:
        return config
    plan = model.plan
    geometry = {
        "spacing": config.spacing or plan.spacing,
        "patch_size": config.patch_size or plan.patch_size,
        "width": plan.width,
    }
    return config.model_copy(update=geometry)


def as_the_model(plan: Plan, config: FitConfig) -> Plan:
    """A measured plan with the stages of the model to begin with and its normalization.

    Channels of equal names are normalized as they were when the weights were learned, unless they
    are of another kind: names may be numbers only.
    """
    model = _model(config)
    if model is None:
        return plan
    was = model.plan
    rules = {(rule.name, rule.scheme): rule for rule in was.channels}
    schemes = {rule.name: rule.scheme for rule in was.channels}
    others = [
        f"{rule.name} ({schemes[rule.name]} there, {rule.scheme} here)"
        for rule in plan.channels
        if schemes.get(rule.name, rule.scheme) != rule.scheme
    ]
    if others:
        log.warning(
            "%s was trained with other intensities in %s, normalized as measured instead; if the "
            "model's rule is right, put it into the channels of plan.yaml and give that with "
            "--set plan=",
            *(config.start_from, ", ".join(others)),
        )
    changes = {
        "patch_size": divisible(plan.patch_size, was.strides),
        "slice_axis": was.slice_axis,
        "strides": was.strides,
        "kernels": was.kernels,
        "max_width": was.max_width,
        "channels": [rules.get((rule.name, rule.scheme), rule) for rule in plan.channels],
    }
    return validated(Plan, plan.model_dump() | changes, source=str(config.start_from))


def refuse_other_weights(
    network: nn.Module, options: dict[str, Any], plan: Plan, config: FitConfig
) -> None:
    """Find out before the work that the weights of the model do not fit.

    Args:
        network: Built for the plan, perhaps without memory.
        options: It was built with.
        plan: Of the run.
        config: Options of the run.

    Raises:
        ConfigError: If they do not.
        ModelError: If the model cannot be read.
    """
    if config.start_from is None:
        return
    model, weights = load_bundle(find_bundle(config.start_from))
    build = partial(_build, model.network, options)
    refuse_another(network, weights, was=_ends(model.plan), now=_ends(plan), build=build)


def begin(
    network: nn.Module, options: dict[str, Any], plan: Plan, config: FitConfig, folder: Path
) -> dict[str, Any]:
    """Put the weights of the model to begin with into the network.

    Args:
        network: Built for the plan, changed in place.
        options: It was built with.
        plan: Of the run.
        config: Options of the run.
        folder: Of the run; gets a copy of the model and ``start.json``.

    Returns:
        What a bundle tells about it; nothing if there is no model to begin with.

    Raises:
        ConfigError: If the model is of another network.
        ModelError: If it cannot be read.
        RunError: If the run folder cannot be written.
    """
    if config.start_from is None:
        return {}
    keep_start(config, folder)
    kept = folder / START
    model, weights = load_bundle(kept)
    build = partial(_build, model.network, options)
    taken = take_weights(network, weights, was=_ends(model.plan), now=_ends(plan), build=build)
    if not config.resume:
        log.info("begun with %s: %s", config.start_from, taken)
    facts = {"sha256": inspect_bundle(kept).sha256, "network": model.network}
    write_text(folder / TAKEN, json.dumps(facts | asdict(taken), indent=1))
    return {"started_from": facts["sha256"]}


def _model(config: FitConfig) -> Bundle | None:
    return None if config.start_from is None else read_bundle(find_bundle(config.start_from))


def _build(
    name: str, options: dict[str, Any], channels: int, labels: int, classes: int
) -> nn.Module:
    own = {option: value for option, value in options.items() if option != CLASSES}
    if classes:
        own[CLASSES] = classes
    return build_network(name, channels, labels, options=own)


def _ends(plan: Plan) -> Ends:
    return Ends(
        channels=tuple(rule.name for rule in plan.channels),
        labels=tuple(name for _, name in sorted(plan.labels.items())),
        classes=tuple(plan.classes),
    )
