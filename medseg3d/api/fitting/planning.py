"""Before a run: whether its options can work, its cases are sound, and how it is to go."""

import inspect
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import nn

from medseg3d.api.fitting.building import make_loss, make_network, own_loss, stages_of
from medseg3d.api.fitting.preparing import learns_from_labels, maps_that_change_sides
from medseg3d.api.fitting.splitting import (
    dealt_folds,
    given_folds,
    read_split,
    split_file,
    wanted,
    write_split,
)
from medseg3d.api.fitting.starting import (
    CLASSES,
    as_the_model,
    like_the_model,
    refuse_other_network,
    refuse_other_weights,
    slab_of,
    started,
)
from medseg3d.api.fitting.target_domain import refuse_other_domains
from medseg3d.config import FitConfig, NetworkPart
from medseg3d.data.augment import Augmentation
from medseg3d.data.case_table import with_patients
from medseg3d.data.cases import Case, Dataset
from medseg3d.data.checks import check_cases
from medseg3d.data.classes import class_names, with_classes
from medseg3d.data.doctor.facts import Folding
from medseg3d.data.fingerprint import measure
from medseg3d.data.layouts import find_cases
from medseg3d.data.plan import Plan, make_plan
from medseg3d.data.sizes import NARROW, WIDE, Resources
from medseg3d.data.split import Split, with_unlabeled
from medseg3d.data.threads import in_threads
from medseg3d.device import resolve_device, resolve_precision
from medseg3d.errors import ConfigError, DataError, RunError
from medseg3d.io.atomic import write_text
from medseg3d.losses.building import build_loss
from medseg3d.machine import memory_limit, num_processors
from medseg3d.networks import NETWORKS, SLICES, planned_options
from medseg3d.networks.topology import Topology
from medseg3d.progress import Progress, track
from medseg3d.runs import OPTIONS, PLAN, options_text
from medseg3d.training.loggers import require_package

log = logging.getLogger("medseg3d")

DEFAULT_MINUTES = 60.0
PLANNED_GPU_GB = 10.0
CHANNELS = 2
"""Parameters of a network that are no options: how many channels go in and come out."""

SCALED = {"ct": "as CT, by those of all cases", "zscore": "each image by its own"}
"""By what the intensities of a channel are scaled, by its scheme in words."""

PLANNED = ("spacing", "patch_size", "batch_size", "width", "mirror", "memory_gb")


def refuse_what_cannot_be_built(config: FitConfig) -> None:
    """Find wrong names and options before the hours of work, not after them.

    Raises:
        ConfigError: Saying which.
    """
    refuse_other_network(config)
    _refuse_decided_options(config)
    whole = started(config)
    network, name = NETWORKS[whole.network.name], whole.network.name.removeprefix(SLICES)
    NETWORKS.expect_options(name, config.network.options, taken=CHANNELS)
    if not config.resume:  # a run that was begun goes on as it was
        refuse_idle_options(config)
    if config.stages and not hasattr(network, "set_stage"):
        raise ConfigError(
            f"network {name!r} has no training stages; leave out stages, or set "
            "stages=[] if they come from a file"
        )
    if config.classes is not None and slab_of(config) is not None:
        raise ConfigError(
            "classes are learned from whole volumes; leave out --dims 2 (or the model of slices "
            "to begin with), or classes"
        )
    if config.classes is not None and "classes" not in inspect.signature(network).parameters:
        raise ConfigError(
            f"network {name!r} learns no classes; choose one that does, such as ynet_3d, or leave "
            "out classes"
        )
    refuse_other_domains(whole)
    _refuse_to_correct(whole)
    if config.early_stop and stages_of(whole):
        raise ConfigError(
            f"network {whole.network.name!r} is trained in stages, each of which begins anew; "
            "leave out early_stop"
        )
    if own_loss(whole) is None:
        build_loss(config.loss.name, config.loss.options)
    elif config.loss.name != getattr(network, "unsupervised", None):
        _refuse_unused_loss(config, name)
    Augmentation(**config.augmentation.model_dump())
    resolve_precision(config.precision, resolve_device(config.device))
    if config.logger is not None:
        require_package(config.logger)


def _refuse_decided_options(config: FitConfig) -> None:
    """Refuse options of the network that the dimensions of the run decide."""
    if config.network.name.startswith(SLICES):
        raise ConfigError(
            f"network {config.network.name!r} is what a model calls it; give --dims 2 --network "
            f"{config.network.name.removeprefix(SLICES)}"
        )
    decided = {"spatial_dims"} if config.dims == 3 else {"spatial_dims", "slice_axis", "slab"}
    if taken := sorted(decided & config.network.options.keys()):
        raise ConfigError(
            f"network.options: {', '.join(taken)} cannot be given, because dims"
            f"{' and slab decide' if config.dims == 2 else ' decides'}; leave it out"
        )


def refuse_idle_options(config: FitConfig) -> None:
    """Refuse options that the network has no use for, or that the cases decide.

    Raises:
        ConfigError: Saying which.
    """
    name = started(config).network.name.removeprefix(SLICES)
    if CLASSES in config.network.options and hasattr(NETWORKS[name], "classify"):
        raise ConfigError(
            f"network.options: {CLASSES} cannot be given, because the CSV with the class of each "
            "case decides how many there are; give that as classes, or leave it out"
        )
    if config.width is None or config.start_from is not None:  # the model has a width, checked
        return
    if not _differs_by_width(NetworkPart(name=name)):
        has_own = "width" in inspect.signature(NETWORKS[name]).parameters
        instead = (
            f"give network.options.width={config.width} instead" if has_own else "leave it out"
        )
        raise ConfigError(
            f"width {config.width} would have no effect, because network {name!r} takes no width "
            f"from the plan{'' if has_own else ' and has no such option'}; {instead} (width=null "
            "takes back what a file says)"
        )


def planned(config: FitConfig, folder: Path) -> tuple[Dataset, Plan, Split]:
    """Cases, plan and split of a run, as its folder holds them or made now.

    Raises:
        DataError: If the cases cannot be trusted; all faulty ones are listed.
        RunError: If cases of a run that is resumed are gone.
    """
    if (folder / PLAN).is_file() and split_file(config, folder).is_file():
        return _planned_before(config, folder)
    return _planned_now(config, folder)


def _planned_before(config: FitConfig, folder: Path) -> tuple[Dataset, Plan, Split]:
    dataset = _found(config)
    plan = Plan.load(folder / PLAN).mirrored_along(config.augmentation.mirror_axes)
    parts = read_split(config, folder)
    absent = {*parts.training, *parts.validation} - {case.id for case in dataset.cases}
    if absent:
        raise RunError(
            f"{config.data} lacks {len(absent)} cases of the run in {folder}, such as "
            f"{min(absent)}; give the folder that the run was begun with"
        )
    return dataset, plan, parts


def _planned_now(config: FitConfig, folder: Path) -> tuple[Dataset, Plan, Split]:
    """Check and measure the cases; the run can be resumed from the first moment on."""
    stored = folder / OPTIONS
    if not config.resume:
        write_text(stored, options_text(config))
    try:
        dataset = _found(config)
        dataset = dataset.ignoring(config.ignore_label)
        log.info("%s: %d cases (%s)", config.data, len(dataset.cases), dataset.layout)
        given = given_folds(config, dataset.cases)
        with Progress("Checking", total=len(dataset.cases), unit="case") as bar:
            num_folds = max(2, len(given)) if given else config.folds
            fixed: Plan | FitConfig = like_the_model(config)
            if config.plan is not None:
                fixed = Plan.load(config.plan)
            fold_of = {case: name for name, part in given.items() for case in part.validation}
            folding = Folding(num_folds, config.seed, fold_of or None)
            checked = check_cases(
                dataset, folding=folding, spacing=fixed.spacing, advance=bar.advance
            )
        folds = given or dealt_folds(config, dataset, checked.survey.facts)
        declared = dataset.ignore_label is not None
        if any(case.labels is None for case in dataset.cases):
            folds = with_unlabeled(folds, dataset.cases, learn=not given)
            known = fixed.labels if isinstance(fixed, Plan) else {}
            dataset = dataset.ignoring_missing([*checked.label_values, *known])
        parts = wanted(config, folds)
        plan = _plan(config, dataset, checked.label_values, parts)
        if dataset.ignore_label is not None:  # else what the plan says stands
            plan = plan.model_copy(update={"ignore_is_free": not declared})
        with torch.device("meta"):
            network, options = make_network(config, plan)
        refuse_other_weights(network, options, plan, config)
        maps_that_change_sides(network, make_loss(started(config), plan), plan)
        _refuse_what_own_loss_ignores(network, plan, config)
        _refuse_slices_of_one_side(plan, config)
    except Exception:
        if not config.resume:
            stored.unlink(missing_ok=True)
        raise
    plan.save(folder / PLAN)
    write_split(config, folder, folds)
    return dataset, plan, parts


def _refuse_unused_loss(config: FitConfig, network: str) -> None:
    """Refuse a loss that is asked for where the network learns by one of its own."""
    if config.loss != FitConfig.model_fields["loss"].default:
        raise ConfigError(
            f"network {network!r} learns by a loss of its own, so {config.loss.name} would have no "
            "effect; leave out --loss"
        )


def _refuse_what_own_loss_ignores(network: nn.Module, plan: Plan, config: FitConfig) -> None:
    """Refuse a loss and regions for a network that learns by a loss of its own."""
    name, has_own_loss = config.network.name, getattr(network, "has_own_loss", False)
    if has_own_loss:
        _refuse_unused_loss(config, name)
    if plan.regions and (has_own_loss or own_loss(config) is not None):
        raise ConfigError(
            f"network {name!r} learns by a loss of its own, so it would not learn the regions "
            f"{', '.join(plan.regions)}; leave out regions (or set regions={{}} if they come from "
            "a file) and give them to score, or choose another network"
        )


def _refuse_slices_of_one_side(plan: Plan, config: FitConfig) -> None:
    """Refuse to compare left with right in slices that do not hold both."""
    name, mirror_axis = config.network.name.removeprefix(SLICES), "mirror_axis"
    if plan.slice_axis != 0 or mirror_axis in config.network.options:
        return
    if mirror_axis in inspect.signature(NETWORKS[name]).parameters:
        raise ConfigError(
            f"network {name!r} compares left with right, which sagittal slices do not hold both "
            f"of; leave out --dims 2, or name another axis by network.options.{mirror_axis}"
        )


def _refuse_to_correct(config: FitConfig) -> None:
    """Refuse to correct labels that a network does not learn from, or not at all times."""
    if config.self_correction and (stages_of(config) or not learns_from_labels(config)):
        raise ConfigError(
            f"self_correction needs a network that learns from labels all the time, but "
            f"{config.network.name!r} learns in stages or without them; leave it out, or choose "
            "another network"
        )
    if config.self_correction == 1:
        raise ConfigError(
            "self_correction 1 would change nothing, because labels are outvoted from the second "
            "cycle on; choose 2 or more, 4 for instance"
        )


def _found(config: FitConfig) -> Dataset:
    """The cases of a run; where something else is learned, they may lack a label map."""
    dataset = find_cases(
        config.data,
        skip_unpaired=config.skip_unpaired,
        unlabeled=config.classes is not None or not learns_from_labels(started(config)),
    )
    dataset = with_patients(dataset, config.patients)
    return with_classes(dataset, config.classes) if config.classes is not None else dataset


def _plan(config: FitConfig, dataset: Dataset, label_values: Sequence[int], parts: Split) -> Plan:
    if config.plan is not None:
        fixed = [name for name in PLANNED if getattr(config, name) not in (None, False)]
        if fixed:
            raise ConfigError(
                f"{', '.join(fixed)} cannot be given beside a plan, which has chosen already; "
                f"edit {config.plan}"
            )
        plan = Plan.load(config.plan).mirrored_along(config.augmentation.mirror_axes)
        _refuse_other_dimensions(plan, config)
        plan = plan.ignoring(dataset.ignore_label).with_regions(config.regions)
        return plan.with_classes(class_names(dataset.cases))
    cases = _to_measure(config, dataset, parts)
    measured_case = partial(measure, ignore_label=dataset.ignore_label)
    measured = list(
        track(in_threads(measured_case, cases), "Measuring", total=len(cases), unit="case")
    )
    values = [value for value in sorted(label_values) if value != dataset.ignore_label]
    names = {0: "background"} | {value: f"label {value}" for value in values}
    names = distinct_names(names | (dataset.label_names or {}))
    num_channels = len(measured[0].foreground)
    channels = dataset.channel_names or tuple(f"channel {n}" for n in range(num_channels))
    device = resolve_device(config.device)
    config, slab = like_the_model(config), slab_of(config)
    plan = make_plan(
        measured,
        label_names=dict(sorted(names.items())),
        channel_names=channels,
        resources=Resources(
            on_gpu=device.type == "cuda",
            memory_gb=config.memory_gb or _memory_gb(device),
            processor_minutes=_processor_minutes(config),
        ),
        spacing=config.spacing,
        patch_size=config.patch_size,
        batch_size=config.batch_size,
        width=config.width,
        mirror=config.mirror,
        mirror_axes=config.augmentation.mirror_axes,
        slab=slab,
    )
    plan = as_the_model(plan, config).ignoring(dataset.ignore_label)
    plan = plan.with_regions(config.regions).with_classes(class_names(dataset.cases))
    log.info(
        "plan: spacing %s mm, patch %s, batch %d, %d stages, width %d",
        " x ".join(f"{edge:g}" for edge in plan.spacing),
        " x ".join(map(str, plan.patch_size)),
        plan.batch_size,
        len(plan.kernels),
        plan.width,
    )
    log.info(
        "intensities: %s",
        ", ".join(f"{rule.name} {SCALED[rule.scheme]}" for rule in plan.channels),
    )
    return plan


def _to_measure(config: FitConfig, dataset: Dataset, parts: Split) -> list[Case]:
    """Cases with a label map, by which the plan is made: of those to learn from, if they have any.

    Raises:
        DataError: If they have none and the network learns from labels.
    """
    training = set(parts.training)
    labeled = [case for case in dataset.cases if case.labels is not None]
    found = [case for case in labeled if case.id in training]
    if found or not learns_from_labels(started(config)):
        return found or labeled
    raise DataError(
        f"none of the {len(parts.training)} training cases has a label map, so no label can be "
        "learned; add some, or hold out fewer of those that have one"
    )


def _refuse_other_dimensions(plan: Plan, config: FitConfig) -> None:
    """Refuse a plan for volumes where slices are learned from, and the other way round."""
    if (plan.slice_axis is None) == (slab_of(config) is None):
        return
    if plan.slice_axis is None:
        raise ConfigError(
            f"{config.plan} is a plan for volumes; leave out --dims 2, or the plan, or begin with "
            "the plan.yaml of a run with --dims 2"
        )
    raise ConfigError(f"{config.plan} is a plan for slices; give --dims 2, or leave the plan out")


def distinct_names(names: dict[int, str]) -> dict[int, str]:
    """Names by value; a name that two values share, or that tables use, gets its value added.

    Examples:
        >>> distinct_names({0: "background", 1: "cyst", 2: "cyst", 3: "mean"})
        {0: 'background', 1: 'cyst 1', 2: 'cyst 2', 3: 'mean 3'}
    """
    counts = Counter(names.values())
    return {
        value: f"{name} {value}" if counts[name] > 1 or name == "mean" else name
        for value, name in names.items()
    }


def _processor_minutes(config: FitConfig) -> float | None:
    """Time that training on a CPU has in all; None if it says nothing about the width.

    That is so if steps and not time are counted, if the network has a width of its own, and for
    slices.
    """
    if config.epochs is not None or slab_of(config) is not None:
        return None
    if not _differs_by_width(started(config).network):
        return None
    return (config.max_minutes or DEFAULT_MINUTES) * num_processors()


def _differs_by_width(network: NetworkPart) -> bool:
    """Whether the width of a plan changes the network with these options."""
    common = Topology(patch_size=(64,) * 3, strides=((2,) * 3,) * 4, kernels=((3,) * 3,) * 5)
    narrow, wide = (
        planned_options(network.name, replace(common, width=width)) | network.options
        for width in (NARROW, WIDE)
    )
    return narrow != wide


def _memory_gb(device: torch.device) -> float:
    """Memory that training may take: a common GPU's, or half of the machine's.

    A plan for all of a large GPU would give windows that no other machine can predict with.
    """
    if device.type == "cuda":
        return min(PLANNED_GPU_GB, torch.cuda.mem_get_info(device)[0] / 1e9 * 0.8)
    return memory_limit() / 1e9 / 2
