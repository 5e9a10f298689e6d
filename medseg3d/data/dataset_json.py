"""``dataset.json`` as nnU-Net and the Medical Segmentation Decathlon (MSD) write it.

nnU-Net names channels in ``channel_names`` and labels as name to integer; MSD names them in
``modality`` and as integer to name, and lists its cases under ``training``. Both are read
by what they hold, not by who wrote them.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medseg3d.errors import DataError

FILE_NAME = "dataset.json"
LARGEST_LABEL = 2**31 - 1
IGNORE = "ignore"
"""Name by which nnU-Net and we know voxels that nobody annotated."""


@dataclass(frozen=True)
class Description:
    """What a ``dataset.json`` says.

    Attributes:
        path: The file.
        label_names: Name of each label value, background included, or None if not given.
        ignore_label: Value of voxels that nobody annotated, named ``ignore``, or None.
        channel_names: Name of each channel in order, or None if not given.
        training: Image files and label file of each listed case.
    """

    path: Path
    label_names: dict[int, str] | None = None
    channel_names: tuple[str, ...] | None = None
    training: tuple[tuple[tuple[Path, ...], Path], ...] = ()
    ignore_label: int | None = None


def description_in(folder: Path) -> Description:
    """What ``dataset.json`` in a folder says; nothing if there is none.

    Raises:
        DataError: If it cannot be understood.
    """
    path = folder / FILE_NAME
    return read_description(path) if path.is_file() else Description(path)


def read_description(path: Path) -> Description:
    """Read a ``dataset.json``.

    Raises:
        DataError: Naming the file and the place, if it is no valid JSON, contradicts itself
            or points outside its folder.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as UTF-8 text ({error})") from error
    try:
        content = json.loads(text, object_pairs_hook=_object)
    except json.JSONDecodeError as error:
        raise DataError(
            f"{path} is no valid JSON: line {error.lineno}, column {error.colno}: {error.msg}"
        ) from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is no valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise DataError(f"{path} holds a {type(content).__name__}, expected an object {{...}}")
    labels = content.get("labels")
    channels = content.get("channel_names", content.get("modality"))
    names = None if labels is None else _label_names(path, labels)
    return Description(
        path,
        names and {value: name for value, name in names.items() if not _is_ignored(name)},
        None if channels is None else _channel_names(path, channels),
        _training(path, content.get("training")),
        next((value for value, name in (names or {}).items() if _is_ignored(name)), None),
    )


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Keys and values; the standard library would keep the last of equal keys silently."""
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {twice!r} is there twice in one object")
    return found


def _label_names(path: Path, labels: Any) -> dict[int, str]:
    if not isinstance(labels, dict) or not labels:
        raise DataError(f"{path}: 'labels' must map names to integers, found {labels!r:.60}")
    if all(_as_int(key) is not None for key in labels):
        pairs = [(key, str(name)) for key, name in labels.items()]
    else:
        pairs = [(value, str(name)) for name, value in labels.items()]
    wrong = [f"{name!r}: {value!r}" for value, name in pairs if _as_int(value) is None]
    if wrong:
        raise DataError(
            f"{path}: 'labels' must give one integer from 0 per name, found {', '.join(wrong)}"
        )
    names: dict[int, str] = {}
    for value, name in pairs:
        number = int(value)
        if number > LARGEST_LABEL:
            raise DataError(f"{path}: 'labels' gives {name!r} more than {LARGEST_LABEL}")
        if number in names:
            raise DataError(
                f"{path}: 'labels' gives {number} to both {names[number]!r} and {name!r}; "
                "give each name its own value"
            )
        names[number] = name
    ignored = [value for value, name in names.items() if _is_ignored(name)]
    if len(ignored) > 1 or 0 in ignored:
        raise DataError(
            f"{path}: 'labels' gives {' and '.join(map(str, ignored))} to {IGNORE!r}, the voxels "
            "that nobody annotated; expected one value above 0"
        )
    return dict(sorted(({0: "background"} | names).items()))


def _is_ignored(name: str) -> bool:
    return name.strip().lower() == IGNORE


def _channel_names(path: Path, channels: Any) -> tuple[str, ...]:
    if isinstance(channels, dict):
        by_place = {_as_int(key): str(name) for key, name in channels.items()}
        if channels and set(by_place) == set(range(len(channels))):
            return tuple(by_place[place] for place in range(len(channels)))
    if isinstance(channels, list) and channels and all(isinstance(c, str) for c in channels):
        return tuple(channels)
    raise DataError(
        f'{path}: channels must be numbered from "0", as in {{"0": "CT"}}, found {channels!r:.60}'
    )


def _training(path: Path, listed: Any) -> tuple[tuple[tuple[Path, ...], Path], ...]:
    if not isinstance(listed, list):
        return ()
    cases = []
    for place, entry in enumerate(listed):
        images = entry.get("image") if isinstance(entry, dict) else None
        names = [images] if isinstance(images, str) else images
        label = entry.get("label") if isinstance(entry, dict) else None
        if not isinstance(names, list) or not all(isinstance(n, str) for n in [*names, label]):
            raise DataError(
                f"{path}: entry {place} of 'training' must be like "
                f'{{"image": "...", "label": "..."}}, found {entry!r:.60}'
            )
        files = [_inside(path, name) for name in [*names, str(label)]]
        if not any(file.name.startswith("._") for file in files):
            cases.append((tuple(files[:-1]), files[-1]))
    return tuple(cases)


def _inside(path: Path, name: str) -> Path:
    """The file that a name means, which must lie below the folder of ``path``."""
    folder = os.path.normpath(path.parent.absolute())
    target = os.path.normpath(Path(folder, name))
    if os.path.commonpath([folder, target]) != folder:
        raise DataError(f"{path}: {name!r} lies outside of the folder; name files below it")
    return path.parent / os.path.relpath(target, folder)


def _as_int(value: object) -> int | None:
    if isinstance(value, str) and value.isascii() and value.isdigit():
        return int(value)
    return value if type(value) is int and value >= 0 else None
