"""A model file whose weights are read only if somebody needs them."""

from __future__ import annotations

import hashlib
import json
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from medseg3d import __version__
from medseg3d.bundle import Bundle, inspect_bundle, load_network
from medseg3d.bundle.archive import opened
from medseg3d.bundle.layout import WEIGHTS

if TYPE_CHECKING:
    from torch import nn


class Source:
    """A model file.

    Args:
        path: The file.
        bundle: Its description.
    """

    def __init__(self, path: Path, bundle: Bundle) -> None:
        self.path = path
        self.bundle = bundle

    @cached_property
    def key(self) -> str:
        """Digest of all that the network's logits follow from, and of nothing else.

        Scores that are added to a bundle leave it as it is. The whole file is checked.

        Raises:
            ModelError: If the file is damaged.
        """
        inspect_bundle(self.path)
        with opened(self.path) as archive:
            weights = archive.members[WEIGHTS].sha256
        facts = self.bundle.model_dump(mode="json", include={"network", "options", "channels"})
        facts |= {"labels": self.bundle.plan.num_labels, "weights": weights, "by": __version__}
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    def network(self) -> nn.Module:
        """The network with its weights, in float32 on the CPU, in ``eval()`` mode.

        Raises:
            ModelError: If the file is damaged or its weights do not fit its network.
        """
        return load_network(self.path).float().eval()
