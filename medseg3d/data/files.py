"""Files and folders that a user names: what is a volume there, and what is wrong instead.

Faults are collected as text, so that the caller can report all of them in one error.
"""

import logging
import re
from collections.abc import Callable, Iterable, Sequence
from difflib import get_close_matches
from pathlib import Path

from medseg3d.data.partners import Fault, count
from medseg3d.errors import DataError
from medseg3d.io import OUTPUTS, SUFFIXES, case_stem
from medseg3d.io.dicom import chosen_in
from medseg3d.io.dicom.sniff import Kind, files_in, holds_volume, kind_of, segmentation_in, why_none
from medseg3d.io.formats import FORMATS, format_of, sources

LOGGER = logging.getLogger("medseg3d")
DICOM_SUFFIX = OUTPUTS["dicom-seg"]
DEEPEST = 8
"""Folders between the one that was given and a DICOM series, as patient, study and series."""

SLICER_SUFFIX = OUTPUTS["seg.nrrd"]
NO_IMAGE = "is a segmentation, not an image; give the image or series that it was made from"
WHOLE = (Kind.FRAMES, Kind.SEGMENTATION)
"""Kinds of which one file is a volume."""

BESIDE = r"_(?:probabilities|uncertainty|sample_\d+|samples_entropy)"
RESULT = re.compile(rf"(.+)_seg(?:{BESIDE})?")
CHOICE = re.compile(r"_[a-z]+=.*")
"""How the results of prediction are named after the image beside them."""

LOOKED_FOR = (
    "images/ + labels/ (also masks/, segs/, segmentations/), nnU-Net's imagesTr/ + labelsTr/, "
    "a dataset.json that lists 'training' pairs, or one folder per patient with the images and "
    "a *seg, *label, *mask or .seg.nrrd file"
)


def expect_folder(root: Path) -> Path:
    """The folder itself, or a :class:`DataError` that says what is there instead."""
    if root.is_dir():
        return root
    if root.exists():
        raise DataError(f"{root} is a file; expected a folder with {LOOKED_FOR}")
    raise DataError(f"no folder {root}{_suggestion(root) or f'; expected one with {LOOKED_FOR}'}")


def input_files(path: Path, faults: list[str], *, to_predict: bool = False) -> dict[Path, str]:
    """The volumes that a path given by the user stands for, and the case name of each.

    A folder of DICOM slices is one volume. Of any other folder, what lies directly inside
    counts; where that is nothing, the DICOM series further below do. With ``to_predict``
    these count in any case, and label maps do not.
    """
    if whole := chosen_in(path):
        return {path: f"{_stem(whole)}_{path.name}"}
    try:
        if path.is_dir():
            return _inside(path, faults, to_predict=to_predict)
        if not (path.exists() or path.is_symlink()):
            faults.append(f"{path} does not exist{_suggestion(path)}")
            return {}
        format_of(path)
        if to_predict and is_segmentation(path):
            faults.append(f"{path} {NO_IMAGE}")
            return {}
    except OSError as error:
        faults.append(f"{path} cannot be looked at: {error.strerror}")
        return {}
    except DataError as error:
        faults.append(str(error))
        return {}
    return {path: case_stem(path)}


def label_maps(files: Iterable[Path]) -> list[Path]:
    """Files without what prediction wrote beside its label maps.

    A name such as ``a_sample_01`` only counts as that if there is an ``a`` too.
    """
    files = [file for file in files if not case_stem(file).endswith("_probabilities")]
    stems = {case_stem(file) for file in files}
    beside = re.compile(rf"(.+){BESIDE}")
    return [
        file
        for file in files
        if not ((match := beside.fullmatch(case_stem(file))) and match[1] in stems)
    ]


def volumes_in(folder: Path, faults: list[str], *, broken_too: bool = False) -> list[Path]:
    """Volumes directly inside a folder, without hidden files and other junk.

    Those are image and label files, subfolders that hold a DICOM series, and the folder
    itself if slices lie in it. A pipe, folder or broken link with the name of a volume is a
    fault, or with ``broken_too`` a volume, for reading it to say what is wrong.
    """
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        faults.append(f"{folder} cannot be listed ({error.strerror})")
        return []
    found: list[Path] = []
    unnamed: dict[Path, Kind] = {}
    for entry in entries:
        if entry.name.startswith("."):
            continue
        named = entry.name.lower().endswith(SUFFIXES)
        if named and not entry.name.lower().endswith(DICOM_SUFFIX):
            if broken_too or _is(Path.is_file, entry):
                found.append(entry)
            else:
                faults.append(f"{entry} is not a regular file but a folder, pipe or broken link")
        elif _is(Path.is_dir, entry):
            found += [entry] if holds_volume(entry) else []
        elif kind := kind_of(entry):
            unnamed[entry] = kind
        elif named:
            found.append(entry)  # reading it says what is wrong with it
    has_slices = Kind.SLICE in unnamed.values()
    for entry, kind in unnamed.items():
        is_whole = kind in WHOLE
        if is_whole or (kind is Kind.OTHER and not has_slices and _is_named_dicom(entry)):
            found.append(entry)
    return sorted([*found, folder] if has_slices else found)


def without_reports(folder: Path, files: Sequence[Path]) -> list[Path]:
    """The volumes without the reports, contours and such that lie beside a DICOM series."""
    others = [file for file in files if not file.is_dir() and kind_of(file) is Kind.OTHER]
    if others:
        LOGGER.warning(
            "%s left out of %s, DICOM files that hold neither an image nor a segmentation",
            count([file.name for file in others], "file"),
            folder,
        )
    return [file for file in files if file not in others]


def is_there(path: Path) -> bool:
    """Whether a path that a list names is a file or a folder of DICOM slices."""
    return path.is_file() or holds_volume(path)


def is_segmentation(path: Path) -> bool:
    """Whether a path is a segmentation by its format, whatever else its name says.

    That is one of 3D Slicer, or of DICOM, or a folder of nothing else.
    """
    if path.is_dir():
        return segmentation_in(path) is not None
    if path.name.lower().endswith(SLICER_SUFFIX):
        return True
    named = path.name.lower().endswith(SUFFIXES) and not _is_named_dicom(path)
    return not named and kind_of(path) is Kind.SEGMENTATION


def subfolders(folder: Path) -> list[Path]:
    """Folders directly inside a folder, without hidden ones."""
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise DataError(f"{folder} cannot be listed ({error.strerror})") from error
    return [entry for entry in entries if _is(Path.is_dir, entry) and entry.name[0] != "."]


def _suggestion(path: Path) -> str:
    """Say which name that exists is close to a path that does not."""
    parent = path.absolute().parent
    if not parent.is_dir():
        return f" ({parent} does not exist either)"
    close = get_close_matches(path.name, [entry.name for entry in parent.iterdir()], n=1)
    return f"; did you mean {path.parent / close[0]}?" if close else ""


def _inside(folder: Path, faults: list[str], *, to_predict: bool) -> dict[Path, str]:
    found = volumes_in(folder, faults, broken_too=True)
    found = sorted([*found, *_halves_alone(folder)])
    if strange := _strange(folder, found):
        LOGGER.warning(
            "%s left out of %s, in no format that is read; unpack or convert what is meant",
            count(strange, "file"),
            folder,
        )
    if folder in found:
        beside = [file for file in found if file != folder and file.is_file()]
        others = [file for file in beside if not kind_of(file)]
        if broken := [file for file in others if _is_named_dicom(file)]:
            faults.append(f"{broken[0]} {why_none(broken[0])}; copy it again")
        others = [file for file in others if file not in broken]
        if others:
            faults.append(
                f"{folder} holds the slices of a DICOM series and {len(others)} other images "
                f"({others[0].name}); put them into folders of their own"
            )
        if to_predict and not is_segmentation(folder):
            faults += _hidden(folder, [path for path in series_below(folder) if path != folder])
        return {folder: _stem(folder)}
    if found and not to_predict:
        return {path: case_stem(path) for path in found}
    below = [path for path in series_below(folder) if path not in (folder, *found)]
    named = {path: case_stem(path) for path in found} | {
        path: "_".join((*path.relative_to(folder).parts[:-1], case_stem(path)))
        if path.is_file()
        else "_".join(path.relative_to(folder).parts)
        for path in below
    }
    if to_predict and named:
        return _images_of(folder, named, faults)
    if not below:
        inside = [sub.name for sub in subfolders(folder) if volumes_in(sub, [])]
        hint = f"; did you mean {folder / inside[0]}?" if inside else ""
        faults.append(
            f"{folder} holds no file with a suffix of {', '.join(SUFFIXES)} and no DICOM "
            f"series{hint}"
        )
    return named


def _images_of(folder: Path, named: dict[Path, str], faults: list[str]) -> dict[Path, str]:
    """The volumes without segmentations and without what prediction wrote beside its images."""
    labels = [path for path in named if is_segmentation(path)]
    images = [path for path in named if path not in labels]
    labels += results_among(images)
    images = [path for path in images if path not in labels]
    told = count([path.relative_to(folder).as_posix() for path in sorted(labels)], "label map")
    if not images and len(labels) == 1:
        faults.append(f"{labels[0]} {NO_IMAGE}")
    elif not images:
        faults.append(f"{folder} holds {told} and no image to predict")
    elif labels:
        LOGGER.warning("%s left out of %s", told, folder)
    return {path: named[path] for path in images}


def results_among(images: Sequence[Path]) -> list[Path]:
    """Those of some files that prediction has made, going by their names, of others of them."""
    return [path for path in images if _is_result(path, images)]


def _is_result(path: Path, images: Sequence[Path]) -> bool:
    """Whether a file is named as prediction names what it makes of an image beside it."""
    match = None if path.is_dir() else RESULT.fullmatch(case_stem(path))
    if not match:
        return False
    stem = CHOICE.sub("", match[1])
    names = {case_stem(image) for image in images if image.parent == path.parent}
    if {stem, f"{stem}_0000"} & names:
        return True
    # a series further below was named by its way
    parts = path.absolute().parent.parts[-DEEPEST:]
    ways = ["_".join(parts[place:]) for place in range(len(parts))]
    folders = {image.name for image in images if image.is_dir() and image.parent == path.parent}
    return any(stem == f"{way}_{name}" for way in ways for name in folders)


def deeper_series(folder: Path, volumes: Sequence[Path]) -> list[Path]:
    """DICOM series further below a folder than the volumes that were found in it."""
    return [path for sub in subfolders(folder) if sub not in volumes for path in series_below(sub)]


def warn_of(folder: Path, deeper: Sequence[Path]) -> None:
    """Tell of series that are too far below a folder to be taken."""
    if deeper:
        LOGGER.warning(
            "%s left out of %s, since they lie too far below; move or name them if they count",
            count([path.relative_to(folder).as_posix() for path in deeper], "folder"),
            folder,
        )


def _hidden(folder: Path, below: Sequence[Path]) -> list[Fault]:
    """What is wrong with series below a folder that holds the slices of one itself."""
    stem = _stem(folder)
    names = {
        path: "_".join((stem, *path.relative_to(folder).parts))
        for path in below
        if not is_segmentation(path)
    }
    return [
        Fault(
            f"{path} is not looked at, since the slices of another series lie in {folder} itself; "
            f"move those into a folder of their own, or name {path}",
            [name],
            path,
        )
        for path, name in names.items()
    ]


def series_below(root: Path) -> list[Path]:
    """DICOM volumes below ``root``: folders, or files where a folder holds several.

    A link that leads back is not followed.
    """
    found: list[Path] = []
    seen: set[tuple[int, int]] = set()
    waiting = [(root, 0)]
    while waiting:
        folder, depth = waiting.pop()
        try:
            status = folder.stat()
            if (status.st_dev, status.st_ino) in seen or depth > DEEPEST:
                continue
            inside = subfolders(folder)
        except (OSError, DataError):
            LOGGER.warning("%s cannot be looked into and is left out", folder)
            continue
        seen.add((status.st_dev, status.st_ino))
        if holds_volume(folder):
            found.append(folder)
        elif folder != root:
            found += [file for file in files_in(folder) if kind_of(file) in WHOLE]
        waiting += [(sub, depth + 1) for sub in reversed(inside)]
    return sorted(found)


def _halves_alone(folder: Path) -> list[Path]:
    """Voxels whose header is gone; reading them says so."""
    names = {entry.name.lower() for entry in folder.iterdir()}
    halves = tuple(half for row in FORMATS for half in row.halves)
    return [
        entry
        for entry in folder.iterdir()
        if entry.name.lower().endswith(halves)
        and entry.name[0] != "."
        and f"{case_stem(entry).lower()}.hdr" not in names
    ]


def parts_of(file: Path) -> tuple[Path, ...]:
    """All files that a volume is read from; only itself where it is none."""
    try:
        return sources(file)
    except DataError:
        return (file,)


def _strange(folder: Path, found: Sequence[Path]) -> list[str]:
    """Names that speak of volumes and are in no known format, such as ``a.nii.bz2``."""
    words = {word for row in FORMATS for suffix in row.suffixes for word in suffix.split(".")}
    words |= {half.strip(".") for row in FORMATS for half in row.halves}
    known = (*SUFFIXES, *(half for row in FORMATS for half in row.halves))
    return [
        entry.name
        for entry in sorted(folder.iterdir())
        if entry not in found
        and entry.name[0] != "."
        and not entry.name.lower().endswith(known)
        and words & set(entry.name.lower().split(".")[1:]) - {"", "gz"}
    ]


def _is(kind: Callable[[Path], bool], path: Path) -> bool:
    """Whether a path is of a kind, as far as one may look."""
    try:
        return kind(path)
    except OSError:
        return False


def _stem(path: Path) -> str:
    """The case name of a path, even of ``.``, which has no name itself."""
    return case_stem(path if path.name not in ("", "..") else path.resolve())


def _is_named_dicom(path: Path) -> bool:
    return path.name.lower().endswith(DICOM_SUFFIX)
