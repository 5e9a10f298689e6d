"""No loss calls what torch refuses on a GPU where a run is to be deterministic."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from medseg3d.losses import LOSSES

REFUSED = {
    *("histc", "put", "put_", "median.dim", "nanmedian.dim", "kthvalue"),
    *("grid_sampler_2d_backward", "grid_sampler_3d_backward", "_ctc_loss_backward"),
    *("reflection_pad2d_backward", "reflection_pad3d_backward", "avg_pool3d_backward"),
    *("_adaptive_avg_pool2d_backward", "_adaptive_avg_pool3d_backward"),
    *("adaptive_max_pool2d_backward", "adaptive_max_pool3d_backward"),
    *("upsample_linear1d_backward", "upsample_bilinear2d_backward"),
    *("upsample_bicubic2d_backward", "upsample_trilinear3d_backward"),
}
NO_REDUCTION = 0


class Watch(TorchDispatchMode):
    """Collects the calls that have no deterministic form on a GPU, as torch documents them."""

    def __init__(self) -> None:
        super().__init__()
        self.refused: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func).removeprefix("aten.").removesuffix(".default")
        if (
            name in REFUSED
            or (name == "cumsum" and args[0].is_floating_point())
            or (name == "nll_loss2d_forward" and args[3] != NO_REDUCTION)
            or (name == "bincount" and any(isinstance(each, Tensor) for each in args[1:]))
        ):
            self.refused.add(name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", LOSSES.names())
def test_every_loss_has_a_deterministic_form(name: str) -> None:
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(2, 3, 4, 5, 6, generator=generator).requires_grad_()
    target = torch.randint(0, 4, (2, 1, 4, 5, 6), generator=generator)
    with Watch() as watch:
        if LOSSES.facts(name).get("target") == "image":
            LOSSES.build(name)(logits, target.float()).backward()
        else:
            LOSSES.build(name, ignore_index=3)(logits, target).backward()
    assert not watch.refused


def test_what_is_refused_is_seen() -> None:
    logits = torch.zeros(1, 2, 3, 3, 3, requires_grad=True)
    labels = torch.zeros(1, 3, 3, 3, dtype=torch.long)
    with Watch() as watch:
        functional.cross_entropy(logits, labels, reduction="none").sum().backward()
        labels.flatten().cumsum(0)
        labels.flatten().bincount(minlength=2)
        assert not watch.refused
        functional.cross_entropy(logits, labels)
        logits.cumsum(0)
        labels.flatten().bincount(torch.ones(27))
        functional.interpolate(logits, scale_factor=2, mode="trilinear").sum().backward()
    assert watch.refused == {
        "nll_loss2d_forward",
        "cumsum",
        "bincount",
        "upsample_trilinear3d_backward",
    }
