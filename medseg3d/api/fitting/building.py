"""What a run builds from its options and its plan: the network, its stages and the loss."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from torch import nn

from medseg3d.api.fitting.starting import started
from medseg3d.config import FitConfig
from medseg3d.config.fit import StageConfig
from medseg3d.data.cache import CachedCase
from medseg3d.data.plan import Plan
from medseg3d.losses import LOSSES
from medseg3d.losses.building import build_loss
from medseg3d.losses.regions import build_region_loss
from medseg3d.networks import NETWORKS, build_network, planned_options
from medseg3d.networks.topology import Topology


def make_network(config: FitConfig, plan: Plan) -> tuple[nn.Module, dict[str, Any]]:
    """The network of the run and all the options it was built with."""
    config = started(config)
    topology = Topology(
        patch_size=plan.patch_size,
        strides=plan.strides,
        kernels=plan.kernels,
        width=plan.width,
        max_width=plan.max_width,
        slice_axis=plan.slice_axis,
    )
    options = planned_options(config.network.name, topology) | config.network.options
    if plan.classes:
        options["classes"] = len(plan.classes)
    network = build_network(
        config.network.name, len(plan.channels), plan.num_labels, options=options
    )
    if stages := stages_of(config):
        for stage in stages:
            network.set_stage(stage.name)  # type: ignore[operator]
        network.set_stage(stages[0].name)  # type: ignore[operator]
    return network, options


def stages_of(config: FitConfig) -> tuple[StageConfig, ...]:
    """The training stages that are asked for, or that the network cannot do without."""
    shares = getattr(NETWORKS[config.network.name], "default_stages", {})
    return config.stages or tuple(
        StageConfig(name=name, share=share) for name, share in shares.items()
    )


def make_loss(config: FitConfig, plan: Plan, cases: Sequence[CachedCase] = ()) -> nn.Module:
    """The loss of a run that learns from these cases, or from some that are still to be read."""
    if (own := own_loss(config)) is not None:
        return own
    build = (
        partial(build_region_loss, regions=plan.region_indices)
        if plan.regions
        else partial(build_loss, num_labels=plan.num_labels)
    )
    return build(
        config.loss.name,
        config.loss.options,
        spacing=plan.spacing,
        ignore_index=plan.ignore_index,
        label_counts=_label_counts(cases) or None,
    )


def own_loss(config: FitConfig) -> nn.Module | None:
    """The loss of a network that learns without labels; of all others nothing."""
    name = getattr(NETWORKS[config.network.name], "unsupervised", None)
    if name is None:
        return None
    loss: nn.Module = LOSSES.build(
        name, **(config.loss.options if config.loss.name == name else {})
    )
    return loss


def _label_counts(cases: Sequence[CachedCase]) -> list[int]:
    """Voxels of each label in all of them, background first."""
    return [sum(counts) for counts in zip(*(case.label_counts for case in cases), strict=True)]
