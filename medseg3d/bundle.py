"""The model file ``model.medseg3d``: safetensors weights with their description, no code.

One file holds the weights and, in its JSON header, all that ``predict`` needs: network name and
options, plan, labels, versions, validation scores and a SHA-256 of the weights. Opening one
never runs code from it.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from medseg3d import __version__
from medseg3d.config import Options, validated
from medseg3d.data.plan import Plan
from medseg3d.errors import ConfigError, ModelError
from medseg3d.io import atomic

if TYPE_CHECKING:
    from torch import Tensor, nn

SUFFIX = ".medseg3d"
FILE_NAME = f"model{SUFFIX}"
METADATA_KEY = "medseg3d"


class Bundle(Options):
    """What a model file says about its weights."""

    format: Literal[1] = Field(1, description="Version of this description.")
    medseg3d: str = Field(__version__, description="Version that wrote the file.")
    network: str = Field(description="Registered network name.")
    options: dict[str, Any] = Field(description="Options of the network's constructor.")
    plan: Plan = Field(description="Plan of the run.")
    channels: int = Field(gt=0, description="Image channels.")
    precision: Literal["bf16", "fp16", "fp32"] = Field(
        "fp32", description="Arithmetic in which the validation scores were reached."
    )
    scores: dict[str, float] = Field(
        default_factory=dict, description="Validation Dice per label name, and their mean."
    )
    training: dict[str, Any] = Field(
        default_factory=dict, description="Data set, fold, steps, minutes and versions."
    )


def save_bundle(path: Path, bundle: Bundle, network: "nn.Module") -> None:
    """Write weights and description beside the target and rename."""
    from safetensors.torch import save

    weights = {
        name: tensor.detach().to("cpu").contiguous().clone()
        for name, tensor in network.state_dict().items()
    }
    description = bundle.model_dump(mode="json") | {"sha256": _digest(weights)}
    with atomic(path) as partial:
        partial.write_bytes(save(weights, metadata={METADATA_KEY: json.dumps(description)}))


def read_bundle(path: Path) -> Bundle:
    """Read only the description.

    Raises:
        ModelError: If the file is missing, damaged or not a bundle.
    """
    return _describe(path)[0]


def load_bundle(path: Path) -> tuple[Bundle, "dict[str, Tensor]"]:
    """Read description and weights, and check the weights against their digest.

    Raises:
        ModelError: If the file is missing, damaged or not a bundle.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    bundle, digest = _describe(path)
    try:
        weights = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path}: weights cannot be read ({error}); copy it again") from None
    if _digest(weights) != digest:
        raise ModelError(
            f"{path}: weights do not match their SHA-256, the file was damaged or changed; "
            "copy it again from where it was trained"
        )
    return bundle, weights


def load_weights(network: "nn.Module", weights: "Mapping[str, Tensor]", *, source: str) -> None:
    """Put weights into a network built from the same description.

    Raises:
        ModelError: If names or shapes differ; the first three are named.
    """
    own = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    given = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    differing = sorted(name for name in own.keys() | given if own.get(name) != given.get(name))
    if differing:
        shown = ", ".join(
            f"{name} (network {own.get(name, 'lacks it')}, file {given.get(name, 'lacks it')})"
            for name in differing[:3]
        )
        raise ModelError(
            f"{source}: {len(differing)} weights do not fit the network it names: {shown}; "
            "it was made by another version or edited"
        )
    network.load_state_dict(dict(weights))


def _describe(path: Path) -> tuple[Bundle, str]:
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise ModelError(f"{path}: no such model file; give a run folder or a {SUFFIX} file")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise ModelError(
            f"{path}: not a readable {SUFFIX} file ({error}); it is truncated or of another kind"
        ) from None
    if METADATA_KEY not in metadata:
        raise ModelError(f"{path}: safetensors without a medseg3d description; not our bundle")
    try:
        description = json.loads(metadata[METADATA_KEY])
        digest = str(description.pop("sha256"))
        return validated(Bundle, description, source=str(path)), digest
    except (ValueError, KeyError, AttributeError) as error:
        if isinstance(error, ConfigError):
            raise ModelError(str(error)) from None
        raise ModelError(f"{path}: its description is damaged; copy the file again") from None


def _digest(weights: "Mapping[str, Tensor]") -> str:
    import torch

    digest = hashlib.sha256()
    for name in sorted(weights):
        tensor = weights[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
