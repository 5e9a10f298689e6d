"""Small bundles of every registered network."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from medseg3d.bundle import Bundle, save_bundle
from medseg3d.data.plan import Normalization, Plan
from medseg3d.inference.backends.source import Source
from medseg3d.networks import build_network
from tests.networks.rows import ROWS

CPU = torch.device("cpu")

MakeSource = Callable[..., Source]


def windows(*shape: int, seed: int = 0) -> npt.NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's home, so that no test keeps anything in a real one."""
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")
    return tmp_path / "home"


@pytest.fixture
def make_source(tmp_path: Path) -> MakeSource:
    """Writes a bundle of a random network with three labels."""

    def make(network: str = "unet3d", *, channels: int = 2, **facts: Any) -> Source:
        options = ROWS[network].options | facts.pop("options", {})
        rule = {"scheme": "ct", "lower": -100.0, "upper": 200.0, "mean": 40.0, "sd": 20.0}
        plan = Plan(
            num_cases=3,
            labels={0: "background", 2: "liver", 7: "tumor"},
            channels=tuple(Normalization(name=f"c{n}", **rule) for n in range(channels)),
            spacing=(1.0, 1.5, 1.5),
            coarse_axis=None,
            median_shape=(32, 32, 32),
            patch_size=(8, 16, 8),
            batch_size=2,
            strides=((1, 2, 2), (2, 2, 1)),
            kernels=((1, 3, 3), (3, 3, 3), (3, 3, 3)),
            width=4,
            max_width=320,
        )
        bundle = Bundle(network=network, options=options, plan=plan, channels=channels, **facts)
        torch.manual_seed(1)
        path = tmp_path / "models" / "model.medseg3d"
        save_bundle(path, bundle, build_network(network, channels, 3, options=options))
        return Source(path, bundle)

    return make
