"""Where predictions go, and everything about that which can be refused before the work."""

import os
import stat
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from medseg3d.api.places import expect_writable
from medseg3d.config import PredictConfig
from medseg3d.data.cases import Case
from medseg3d.errors import ConfigError, DataError, RunError, UnknownNameError
from medseg3d.io import OUTPUTS, READ_ONLY, SUFFIXES, case_stem
from medseg3d.io.dicom import chosen_in
from medseg3d.io.formats import format_of

DEFAULT = "nii.gz"
DICOM = "dicom-seg"
PROBABILITIES, UNCERTAINTY = "_probabilities.nii.gz", "_uncertainty.nii.gz"
SAMPLE, ENTROPY = "_sample_{:02d}.nii.gz", "_samples_entropy.nii.gz"
MOST_NAMED = 3


@dataclass(frozen=True)
class Target:
    """Where the outputs of one case go.

    Attributes:
        labels: The label map.
        probabilities: The probabilities, None if they are not asked for.
        uncertainty: Their entropy, likewise.
        samples: Label maps that are drawn.
        entropy: That of their labels, None without any.
        stale: Files of the case that an earlier prediction left and that are not asked for now.
    """

    labels: Path
    probabilities: Path | None = None
    uncertainty: Path | None = None
    samples: tuple[Path, ...] = ()
    entropy: Path | None = None
    stale: tuple[Path, ...] = ()

    @property
    def files(self) -> tuple[Path, ...]:
        """All files of the case."""
        every = (self.labels, self.probabilities, self.uncertainty, *self.samples, self.entropy)
        return tuple(file for file in every if file is not None)

    def absolute(self) -> "Target":
        """The same files, wherever the current folder is."""
        return Target(
            self.labels.absolute(),
            self.probabilities and self.probabilities.absolute(),
            self.uncertainty and self.uncertainty.absolute(),
            tuple(file.absolute() for file in self.samples),
            self.entropy and self.entropy.absolute(),
            tuple(file.absolute() for file in self.stale),
        )

    @property
    def is_there(self) -> bool:
        """Whether every file is there; none is ever there in part."""
        return all(file.is_file() for file in self.files)


def find_targets(cases: Sequence[Case], config: PredictConfig) -> list[Target]:
    """Where the outputs of each case go; nothing is written yet, nor need it be absent.

    Raises:
        ConfigError: If a file, its suffix and ``--format`` contradict each other.
        RunError: If an output would replace an input or the output of another case, or cannot
            be written there.
    """
    suffix = _suffix(config)
    targets = [
        Target(
            path,
            _beside(path, PROBABILITIES) if config.probabilities else None,
            _beside(path, UNCERTAINTY) if config.uncertainty else None,
            tuple(_beside(path, SAMPLE.format(n + 1)) for n in range(config.samples)),
            _beside(path, ENTROPY) if config.samples else None,
        )
        for path in _label_paths(cases, config, suffix)
    ]
    _expect_short_names(targets)
    _expect_apart(cases, targets, config)
    expect_writable(file.parent for target in targets for file in target.files)
    return targets


def is_dicom(path: Path) -> bool:
    """Whether an output is a DICOM segmentation."""
    return path.name.lower().endswith(OUTPUTS[DICOM])


def _suffix(config: PredictConfig) -> str:
    if config.format is None:
        return OUTPUTS[DEFAULT]
    suffix = OUTPUTS.get(config.format)
    if suffix is None:
        raise UnknownNameError(f"unknown --format {config.format!r}; known: {', '.join(OUTPUTS)}")
    return suffix


def _label_paths(cases: Sequence[Case], config: PredictConfig, suffix: str) -> list[Path]:
    out = config.out
    if out is None:
        folders = {_real(path) for path in config.inputs if path.is_dir()}
        paths = [_default_path(case, folders, suffix) for case in cases]
    elif _names_a_file(out):
        _expect_one_file(out, cases, config, suffix)
        paths = [out]
    else:
        paths = [out / f"{case.id}{suffix}" for case in cases]
    if is_dicom(paths[0]):
        strange = [case for case in cases if OUTPUTS[DICOM] not in _suffixes_of(case.images[0])]
        if strange:
            raise ConfigError(
                f"a DICOM segmentation refers to the DICOM series it was made from, but "
                f"{strange[0].images[0]} is no DICOM; choose another format, such as nii.gz"
            )
    return paths


def _names_a_file(out: Path) -> bool:
    known = (*SUFFIXES, *OUTPUTS.values())
    return out.name.lower().endswith(known) and not out.is_dir()


def _expect_one_file(out: Path, cases: Sequence[Case], config: PredictConfig, suffix: str) -> None:
    name = out.name.lower()
    if not name.endswith(tuple(OUTPUTS.values())) or name.endswith(READ_ONLY):
        raise ConfigError(
            f"-o {out}: label maps are not written as {out.suffix}; use "
            f"{', '.join(dict.fromkeys(OUTPUTS.values()))}"
        )
    if config.format is not None and not name.endswith(suffix):
        raise ConfigError(f"-o {out} does not end in {suffix} as --format {config.format} does")
    if len(cases) > 1:
        raise ConfigError(f"-o {out} names one file for {len(cases)} cases; name a folder")


def _suffixes_of(image: Path) -> tuple[str, ...]:
    try:
        return format_of(image).suffixes
    except DataError:
        return ()


def _default_path(case: Case, folders: set[Path], suffix: str) -> Path:
    """Beside the image, or in a folder beside the folder that was given."""
    image = case.images[0]
    if whole := chosen_in(image):
        image = whole.absolute()
    folder = _real(image.parent)
    if folder in folders:
        return folder.with_name(f"{folder.name}_seg") / f"{case.id}{suffix}"
    return image.parent / f"{case.id}_seg{suffix}"


def _beside(labels: Path, suffix: str) -> Path:
    return labels.with_name(case_stem(labels) + suffix)


def _expect_short_names(targets: Sequence[Target]) -> None:
    """Names may be as long as the disk allows, suffix included."""
    longest: dict[Path, int] = {}
    for target in targets:
        for file in target.files:
            if file.parent not in longest:
                longest[file.parent] = _longest_name(file.parent)
            length = len(os.fsencode(file.name))
            if length > longest[file.parent]:
                raise RunError(
                    f"the output name {file.name} has {length} bytes and the disk allows "
                    f"{longest[file.parent]}; rename the image, or name a shorter file with -o"
                )


def _longest_name(folder: Path) -> int:
    place = folder.absolute()
    while place != place.parent:
        with suppress(OSError, ValueError):
            return os.pathconf(place, "PC_NAME_MAX")
        place = place.parent
    return 255


def _expect_apart(cases: Sequence[Case], targets: Sequence[Target], config: PredictConfig) -> None:
    """No output may take the place of an input, of another output, or lie among the inputs."""
    images = [image for case in cases for image in case.images]
    taken = {place for image in images for place in (place_of(image), str(_real(image)))}
    same = {identity for image in images if (identity := _identity(image))}
    owners: dict[str, Path] = {}
    for target in targets:
        for file in target.files:
            if place_of(file) in taken or _identity(file) in same:
                raise RunError(f"{file} is an input; choose another -o so that nothing is lost")
            if file.is_dir() and not file.is_symlink():
                raise RunError(f"{file} is a folder; remove it or choose another -o")
            other = owners.setdefault(place_of(file).casefold(), file)
            if other is not file:
                raise RunError(f"two cases would be written to {file}; rename one, or split them")
    if config.out is None or _names_a_file(config.out):
        return
    places = {_real(image.parent) for image in images} | {
        _real(path) for path in (*config.inputs, *images) if path.is_dir()
    }
    if _real(config.out) in places:
        raise RunError(
            f"-o {config.out} is the folder of the inputs, where outputs would be taken for "
            "images the next time; choose another folder"
        )


def expect_new(
    targets: Sequence[Target], *, skip_existing: bool, ours: Collection[str] = ()
) -> None:
    """Refuse outputs that are there already and would be replaced.

    Args:
        targets: Where outputs go.
        skip_existing: Whether cases that have all of them are left out; see :func:`in_the_way`.
        ours: Paths of outputs that may be replaced without asking.

    Raises:
        RunError: Naming some of them.
    """
    existing = [
        file
        for target in targets
        if not (skip_existing and target.is_there)
        for file in in_the_way(target, skip_existing=skip_existing, ours=ours)
    ]
    if not existing:
        return
    named = ", ".join(map(str, existing[:MOST_NAMED]))
    more = ", ..." if len(existing) > MOST_NAMED else ""
    if skip_existing:
        raise RunError(
            f"{len(existing)} outputs exist already ({named}{more}), but not all that belongs to "
            "them, and this command did not make them; give --overwrite to replace them, or "
            "choose another -o"
        )
    raise RunError(
        f"{len(existing)} outputs exist already ({named}{more}); give --overwrite to replace "
        "them, or --skip-existing to make only those that lack"
    )


def place_of(file: Path) -> str:
    """One text for a file however its folder is spelled; a link of its own is not followed."""
    return str(_real(file.parent) / file.name)


def in_the_way(target: Target, *, skip_existing: bool, ours: Collection[str] = ()) -> list[Path]:
    """Files of a case that are there already and may not be replaced or removed unasked.

    Args:
        target: Where the outputs of the case go.
        skip_existing: Whether those beside the label map are replaced, where some are missing.
        ours: Paths of outputs that may be replaced without asking.
    """
    replaced = target.files[1:] if skip_existing else ()
    return [
        file
        for file in (*target.files, *target.stale)
        if os.path.lexists(file)
        and not (file.is_file() and (file in replaced or place_of(file) in ours))
    ]


def _real(path: Path) -> Path:
    """The path with its links followed, as far as they do not lead in a circle."""
    return Path(os.path.realpath(path))


def _identity(path: Path) -> tuple[int, int] | None:
    """What tells one regular file from all others, whatever its names."""
    with suppress(OSError):
        status = path.lstat()
        if stat.S_ISREG(status.st_mode):
            return status.st_dev, status.st_ino
    return None
