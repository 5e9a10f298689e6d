"""Conversions kept beside the model file, so that each is made once.

One folder per conversion, which appears complete or not at all::

    model.medseg3d.cache/openvino-2026.4.1-0123456789abcdef/
        model.xml, model.bin    the conversion
        conversion.json         what it was made of, and the SHA-256 of each file
"""

import json
import logging
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from medseg3d.inference.backends.conversion import Converter, convert
from medseg3d.inference.backends.source import Source
from medseg3d.io.atomic import half_made, sweep
from medseg3d.io.digests import sha256_of
from medseg3d.types import Size3

log = logging.getLogger("medseg3d")

M = TypeVar("M")

STEM = "model"
MANIFEST = "conversion.json"


def converted(source: Source, converter: Converter[M]) -> tuple[M, Size3]:
    """The network in another form, and what divides the edges of its windows.

    It is read from the folder beside the model file, or else from the user's cache. If it is
    in neither, or damaged, it is made anew and kept in the first that can be written.

    Raises:
        UnfitBackendError: If the network cannot be converted.
        ModelError: If the model file is damaged.
    """
    name = f"{converter.name}-{converter.version}-{source.key[:16]}"
    for place in _places(source.path):
        found = _read(place / name, source, converter)
        if found is not None:
            return found
    log.info("converting the network for %s, once", converter.name)
    network = source.network()
    divisor: Size3 = getattr(network, "divisor", (1, 1, 1))
    model = convert(converter, network, source.bundle.channels)
    for place in _places(source.path):
        with suppress(OSError):
            _keep(place / name, model, converter, {"key": source.key, "divisor": divisor})
            found = _read(place / name, source, converter)
            if found is not None:
                return found  # unlike the one in memory, it does not hold torch's weights
    log.info("no folder keeps the conversion, so every start repeats it")
    return model, divisor


def cache_folder(path: Path) -> Path:
    """Where what belongs to a model file is kept, beside it."""
    return path.with_name(f"{path.name}.cache")


def _places(path: Path) -> Iterator[Path]:
    yield cache_folder(path)
    with suppress(RuntimeError):  # a user without a home
        yield Path.home() / ".cache" / "medseg3d"


def _read(folder: Path, source: Source, converter: Converter[M]) -> tuple[M, Size3] | None:
    """A conversion whose digests are right, or nothing."""
    try:
        facts = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        if facts["key"] != source.key or facts["files"] != _digests(folder):
            return None
        i, j, k = facts["divisor"]
        return converter.load(folder, STEM), (int(i), int(j), int(k))
    except FileNotFoundError:
        return None
    except Exception as error:  # a file from elsewhere may hold anything
        log.debug("the conversion in %s is not used: %s", folder, error)
        return None


def _keep(folder: Path, model: M, converter: Converter[M], facts: dict[str, Any]) -> None:
    """Write a conversion beside its place and rename; a damaged one there is replaced."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    sweep(folder.parent)
    beside = half_made(folder)
    beside.mkdir()
    try:
        converter.save(model, beside, STEM)
        told = json.dumps(facts | {"files": _digests(beside)}, indent=1)
        (beside / MANIFEST).write_text(told, encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)
        beside.rename(folder)
    except RuntimeError as error:  # how libraries tell of a full disk
        raise OSError(str(error)) from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _digests(folder: Path) -> dict[str, str]:
    files = (path for path in sorted(folder.iterdir()) if path.name != MANIFEST)
    return {path.name: sha256_of(path) for path in files}
