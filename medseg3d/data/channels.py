"""The files of each case by channel: told by their numbers or their names, and what lacks."""

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from medseg3d.data.dataset_json import FILE_NAME
from medseg3d.data.partners import Fault, expect_distinct, some
from medseg3d.io import case_stem

CHANNEL = re.compile(r"(.+)_(\d{4})")


def group(
    files: Sequence[Path],
    faults: list[str],
    label_ids: Collection[str] = (),
    stems: Mapping[Path, str] | None = None,
) -> dict[str, dict[int, Path]]:
    """Files by case id and channel number; the ids of label maps tell ``_0000`` from a number."""
    stems = {file: stems[file] if stems else case_stem(file) for file in files}
    matches = {file: CHANNEL.fullmatch(stem) for file, stem in stems.items()}
    plain = sum(stem in label_ids for stem in stems.values())
    bare = sum(match[1] in label_ids for match in matches.values() if match)
    numbered = any(match and match[2] == "0000" for match in matches.values()) and bare >= plain
    groups: dict[str, dict[int, Path]] = {}
    several = any(match and int(match[2]) for match in matches.values())
    for file, match in matches.items():
        if numbered and several and match is None:
            told = f"{file} lacks the channel number that others have; name it like case_0000"
            faults.append(Fault(told, [stems[file]], file))
            continue
        case_id, channel = (match[1], int(match[2])) if numbered and match else (stems[file], 0)
        channels = groups.setdefault(case_id, {})
        if channel in channels:
            told = f"{case_id} is there twice ({channels[channel]} and {file}), keep one"
            faults.append(Fault(told, [case_id], file))
        channels[channel] = file
    expect_distinct(firsts(groups), faults)
    return groups


def expect_all_channels(
    groups: Mapping[str, Mapping[int, Path]], names: Sequence[str] | None, faults: list[str]
) -> None:
    """Every case needs channels 0 to the highest of any case."""
    if not groups:
        return
    present = set().union(*groups.values())
    highest = max(max(present), len(names or ()) - 1 if present != {0} else 0)
    lacking = {
        case_id: f"{case_id} lacks "
        + ", ".join(f"{case_id}_{channel:04d}" for channel in absent[:3])
        for case_id, channels in groups.items()
        if (absent := [channel for channel in range(highest + 1) if channel not in channels])
    }
    if lacking:
        told = (
            f"channels are missing: {some([*lacking.values()], '; ')}; every case needs channels "
            f"0000 to {highest:04d}"
        )
        faults.append(Fault(told, lacking, firsts(groups)[min(lacking)]))
    if names and highest + 1 > len(names):
        faults.append(
            f"{FILE_NAME} names {len(names)} channels ({', '.join(names)}), but there are files of "
            f"channel {highest:04d}"
        )


def by_channel(
    folder: Path, files: Sequence[Path], starts: Sequence[str], faults: list[str]
) -> dict[str, Path]:
    """Image files by what their names say after the name of the folder or case."""
    found: dict[str, Path] = {}
    for file in files:
        stem = case_stem(file)
        fitting = [start for start in starts if start and stem.startswith(start)]
        name = stem[max(map(len, fitting), default=0) :].strip("_-. ").lower() or "image"
        if name in found:
            faults.append(
                f"{folder.name} has channel {name} twice ({found[name].name}, {file.name})"
            )
        found[name] = file
    return found


def common_channels(
    images: Mapping[str, Mapping[str, Path]], faults: list[str]
) -> tuple[str, ...] | None:
    """Sorted channel names; every patient needs the same unless each has a single image."""
    names = sorted(set().union(*images.values()))
    if all(len(files) == 1 for files in images.values()) and len(names) > 1:
        return None
    lacking = [
        f"{patient} lacks {some(absent, most=3)}"
        for patient, files in images.items()
        if (absent := [name for name in names if name not in files])
    ]
    if lacking:
        faults.append(
            f"channels are missing: {some(lacking, '; ')}; every patient needs {some(names)}"
        )
    return tuple(names)


def firsts(groups: Mapping[str, Mapping[Any, Path]]) -> dict[str, Path]:
    """The first file of each case."""
    return {case_id: next(iter(files.values())) for case_id, files in groups.items()}
