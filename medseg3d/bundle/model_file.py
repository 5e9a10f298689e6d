"""Saving and loading bundles."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

from medseg3d.bundle.archive import Archive, opened, write_archive
from medseg3d.bundle.description import LARGEST_DESCRIPTION, Bundle, from_json, to_json
from medseg3d.bundle.layout import DESCRIPTION, WEIGHTS
from medseg3d.bundle.network import build, load_weights, refuse_misfits
from medseg3d.bundle.refusal import UnfitError
from medseg3d.bundle.tensors import DTYPES, read_header, read_weights, serialized
from medseg3d.errors import ModelError

if TYPE_CHECKING:
    from torch import Tensor, nn

SUFFIX = ".medseg3d"
FILE_NAME = f"model{SUFFIX}"
BEST = Path("checkpoints") / f"best{SUFFIX}"
"""Where a run keeps its best weights so far."""


@dataclass(frozen=True)
class Contents:
    """What is in a bundle whose digests were all found right.

    Attributes:
        bundle: The description.
        num_parameters: Numbers in its floating-point weights.
        num_weights: Tensors.
        size: Bytes of the file.
        sha256: Digest of the whole file.
    """

    bundle: Bundle
    num_parameters: int
    num_weights: int
    size: int
    sha256: str


def save_bundle(path: Path, bundle: Bundle, network: "nn.Module") -> None:
    """Write weights and description beside the target and rename.

    Raises:
        ModelError: If they cannot be stored.
        RunError: If the file cannot be written.
    """
    description = to_json(bundle)
    try:
        from_json(description)
    except UnfitError as error:
        raise ModelError(f"{path} could not be read again: {error}") from None
    write_archive(path, [description], serialized(network.state_dict()))


def read_bundle(path: Path) -> Bundle:
    """Read only the description.

    Raises:
        ModelError: If the file is missing, damaged or not a bundle.
    """
    with _refusing(path), opened(path) as archive:
        return _description(archive)


def load_bundle(path: Path) -> "tuple[Bundle, dict[str, Tensor]]":
    """Read description and weights, and compare them with their digests and the network.

    Raises:
        ModelError: If the file is missing, damaged, not a bundle, or its weights are not those
            of the network it names.
    """
    with _refusing(path), opened(path) as archive:
        bundle = _description(archive)
        weights = read_header(archive)
        refuse_misfits(bundle, weights)
        return bundle, read_weights(archive, weights)


def load_network(path: Path) -> "nn.Module":
    """The network of a bundle with its weights, as they are stored.

    Raises:
        ModelError: As :func:`load_bundle` does.
    """
    bundle, weights = load_bundle(path)
    network = build(bundle)
    load_weights(network, weights, source=str(path))
    return network


def inspect_bundle(path: Path) -> Contents:
    """Check all digests without keeping the weights or importing torch.

    Raises:
        ModelError: If the file is missing, damaged or not a bundle.
    """
    with _refusing(path):
        return _inspected(path)


def _inspected(path: Path) -> Contents:
    with opened(path) as archive:
        bundle = _description(archive)
        weights = read_header(archive)
        digest = hashlib.sha256()
        for piece in archive.pieces(WEIGHTS):
            digest.update(piece)
        archive.refuse_if_changed(WEIGHTS, digest.hexdigest())
        floating = [each for each in weights if "float" in DTYPES[each.code][0]]
        return Contents(
            bundle=bundle,
            num_parameters=sum(prod(each.shape) for each in floating),
            num_weights=len(weights),
            size=archive.size,
            sha256=archive.sha256(),
        )


def _description(archive: Archive) -> Bundle:
    return from_json(archive.read(DESCRIPTION, at_most=LARGEST_DESCRIPTION))


@contextmanager
def _refusing(path: Path) -> Iterator[None]:
    """Turn what goes wrong while ``path`` is read into one sentence."""
    try:
        yield
    except UnfitError as error:
        raise ModelError(f"{path}: {error}{_last_good(path)}") from None
    except OSError as error:
        reason = error.strerror or error
        raise ModelError(f"{path}: cannot be read ({reason}); check name and rights") from None


def _last_good(path: Path) -> str:
    """Where in the same run folder whole weights are, if there are any."""
    beside = path.parents[1] / FILE_NAME if path.parent.name == BEST.parent.name else path
    for other in (path.parent / BEST, beside):
        if other != path and other.is_file():
            with suppress(UnfitError, OSError):
                _inspected(other)
                return f"; the last good model of this run is {other}"
    return ""
