"""``predictions.json``: what was predicted, by what, how long it took, and what is finished."""

import fcntl
import json
import logging
import os
import re
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from medseg3d import __version__
from medseg3d.api.predicting.targets import MOST_NAMED, place_of
from medseg3d.config import PredictConfig
from medseg3d.data.cases import Case
from medseg3d.errors import RunError
from medseg3d.io import atomic, case_stem, sources

log = logging.getLogger("medseg3d")

Stamps: TypeAlias = dict[str, tuple[int, int]]
"""Size in bytes and time of the last change in ns of files, by path."""

NAME = "predictions.json"
OF_ANY = re.compile(r"predictions(-\d+of\d+)?\.json")
"""What the file is called, and those of the parts of a folder that machines do (--shard)."""

BESIDE = r"_(probabilities|uncertainty|samples_entropy|sample_\d+)\.nii\.gz"
"""How names of what is written beside a label map end."""

PAUSE = 20.0
"""Times as long as the file took to write are others' before it is written again."""

MATTERS = (
    *("overlap", "mirror", "crop", "roi", "roi_mask", "precision", "backend", "format"),
    *("probabilities", "uncertainty", "replace_nonfinite", "postprocess", "cleaning"),
)
"""Options that decide what is in an output; of two runs with equal ones, one is enough."""

OF_SAMPLES = ("samples", "seed")
"""Such options where samples are drawn."""


@dataclass(frozen=True)
class Record:
    """One case that is finished.

    Attributes:
        case: Name of the case.
        inputs: Size in bytes and time of the last change in ns of each of its files, by path,
            and of the mask of its region.
        outputs: Size in bytes of each file written, by path.
        seconds: Time of each stage: ``read``, ``prepare``, ``network``, ``stitch``, ``restore``,
            ``clean``, ``samples``, ``classify``, ``compute`` (all from ``network`` on), ``write``
            and ``total``.
        volumes_ml: Volume of each foreground label.
        windows: Windows that the network saw.
        skipped: Windows that held only air.
        peak_memory_bytes: Most that the process had held until then.
        backend: What computed the network.
        precision: Its arithmetic.
        notes: What was odd about the case.
        cleaning: What was done after the network to each label that is cleaned: the rule in
            words, and the mL removed and filled.
        classes: Probability of each class of the image, if the model knows classes.
        written: Time of the last change in ns of each file written, by path.
    """

    case: str
    inputs: Stamps
    outputs: dict[str, int]
    seconds: dict[str, float]
    volumes_ml: dict[str, float]
    windows: int
    skipped: int
    peak_memory_bytes: int
    backend: str
    precision: str
    notes: tuple[str, ...] = ()
    cleaning: dict[str, dict[str, Any]] = field(default_factory=dict)
    classes: dict[str, float] = field(default_factory=dict)
    written: dict[str, int] = field(default_factory=dict)


@dataclass
class Records:
    """The finished cases of a folder, in memory and in its ``predictions.json``.

    Several processes with the same work may keep the file together. What is made anew is planned
    in one file of the folder, and on record in none.

    Attributes:
        path: The file.
        models: SHA-256 of each model, by path.
        options: What decides the outputs beside the model.
        cases: Finished cases by their labels' path.
        planned: Outputs that this work was to make or replace when it was begun; one that is there
            now without a record it has made before it was killed, or was to replace.
        elsewhere: What the files of other parts of the folder hold.
        is_of_other_work: Whether the file was of other models or options, or could not be read.
        made: Files that any work with this folder has made of each case, by its labels' path.
        is_kept: Whether this work is put on record.
    """

    path: Path
    models: dict[str, str]
    options: dict[str, Any]
    cases: dict[str, Record] = field(default_factory=dict)
    planned: set[str] = field(default_factory=set)
    elsewhere: "list[Records]" = field(default_factory=list)
    is_of_other_work: bool = False
    made: dict[str, set[str]] = field(default_factory=dict)
    is_kept: bool = True
    _version: str = __version__
    _begun: set[str] = field(default_factory=set)
    _mine: set[str] = field(default_factory=set)
    _next: float = 0.0

    @classmethod
    def open(cls, path: Path, models: dict[str, str], config: PredictConfig) -> "Records":
        """Go on with the file if the same models and options made it, else begin a new one.

        Those of other parts of the folder, and of the whole, are looked at too.
        """
        matters = (*MATTERS, *OF_SAMPLES) if config.samples else MATTERS
        options = config.model_dump(mode="json", include=set(matters))
        if config.roi_mask is not None:
            options["roi_mask"] = place_of(config.roi_mask)
        records = cls._stored(path, models, options)
        records.elsewhere = [cls._stored(other, models, options) for other in _others(path)]
        every = (records, *records.elsewhere)
        versions = {each._version for each in every if each.cases} - {__version__}
        if versions and not config.overwrite:
            log.warning(
                "%s: finished cases are of medseg3d %s and this is %s; give --overwrite to have "
                "them made anew",
                *(path.parent, ", ".join(sorted(versions)), __version__),
            )
        return records

    @classmethod
    def _stored(cls, path: Path, models: dict[str, str], options: dict[str, Any]) -> "Records":
        records = cls(path, models, options)
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
            same = list(stored["models"].values()) == list(models.values())
            records.is_of_other_work = not same or stored["options"] != options
            records.made = {key: {*facts["outputs"]} for key, facts in stored["cases"].items()}
            if not records.is_of_other_work:
                records.cases = {key: _record(facts) for key, facts in stored["cases"].items()}
                records.planned = set(stored["planned"])
                records._version = str(stored.get("medseg3d"))
        except FileNotFoundError:
            pass
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            log.warning("%s cannot be read, so no case in it counts as finished", path)
            records.is_of_other_work = True
        return records

    @property
    def ours(self) -> set[str]:
        """Outputs that this work, or that on another part of the folder, was to make and has not.

        What is on record is finished, or somebody has changed it since; but where the label map is
        gone the rest of the case may go too.
        """
        every = (self, *self.elsewhere)
        planned = set().union(*(each.planned for each in every))
        done: set[str] = set()
        for each in every:
            for place, case in each.cases.items():
                (done if os.path.lexists(place) else planned).update(case.outputs)
        return planned - done

    @property
    def is_begun(self) -> bool:
        """Whether the folder has this work on record, and no other."""
        every = (self, *self.elsewhere)
        return not self.is_of_other_work and any(each.cases or each.planned for each in every)

    @property
    def is_mixed(self) -> bool:
        """Whether other models or options have made label maps in this folder."""
        return any(each.is_of_other_work for each in (self, *self.elsewhere))

    def expect_one_work(self, labels: Sequence[Path], *, overwrite: bool) -> None:
        """Refuse to mix label maps of other models or options with these, or to forget them.

        Args:
            labels: The label map of every case of this work, those of other parts too.
            overwrite: Whether what is there is replaced.

        Raises:
            RunError: Naming some that are on record and would stay, or may not be replaced.
        """
        now = {Path(place_of(each)).with_name(case_stem(each)) for each in labels}
        of_others = [
            (each, place)
            for each in (self, *self.elsewhere)
            if each.is_of_other_work
            for place in map(Path, each.made)
            if os.path.lexists(place)
        ]
        left = {place for _, place in of_others if place.with_name(case_stem(place)) not in now}
        own = {place for each, place in of_others if each is self}
        refused = sorted(left if overwrite else left | own)
        if refused:
            named = ", ".join(map(str, refused[:MOST_NAMED]))
            more = ", ..." if len(refused) > MOST_NAMED else ""
            raise RunError(
                f"{len(refused)} outputs exist already ({named}{more}), made by another model or "
                "with other options; choose another -o, or "
                + ("remove them" if left else "give --overwrite to replace them")
            )

    def left_of(self, files: Sequence[Path], ours: Collection[str]) -> tuple[Path, ...]:
        """What was made beside the labels of a case and is still there, without ``files``.

        Args:
            files: Outputs of the case that are made now, its labels first.
            ours: As :attr:`ours` says.
        """
        labels, wanted = Path(place_of(files[0])), set(map(place_of, files))
        made = set().union(*(each.made.get(str(labels), ()) for each in (self, *self.elsewhere)))
        if str(labels) in ours:  # a killed --overwrite has noted what it was to remove
            stem = re.escape(str(labels.with_name(case_stem(labels))))
            made |= {file for file in ours if re.fullmatch(stem + BESIDE, file)}
        return tuple(path for path in map(Path, sorted(made - wanted)) if os.path.lexists(path))

    def is_finished(self, case: Case, files: Sequence[Path], beside: Sequence[Path] = ()) -> bool:
        """Whether the case was predicted before, from the same files, and all of it is there.

        What a part of the folder has done goes on the record of the whole.

        Args:
            case: The case.
            files: Its outputs.
            beside: What decides them beside its images.
        """
        place = place_of(files[0])
        known = self._known(place)
        if not known:
            return False
        expected = stamps(case, beside), sizes(files)
        record = next((each for each in known if (each.inputs, each.outputs) == expected), None)
        if record is None or len(record.outputs) != len(files):
            return False
        if self.path.name == NAME and self.cases.get(place) != record:
            self.cases[place] = record
            self._mine.add(place)
        return True

    def is_outdated(self, case: Case, files: Sequence[Path], beside: Sequence[Path] = ()) -> bool:
        """Whether the outputs are on record as they are, but of other inputs than there are now.

        Args:
            case: The case.
            files: Its outputs.
            beside: What decides them beside its images.
        """
        now = sizes(files)
        known = [each for each in self._known(place_of(files[0])) if each.outputs == now]
        return bool(known) and stamps(case, beside) not in [each.inputs for each in known]

    def is_as_made(self, labels: Path) -> bool:
        """Whether this work has made a label map that nobody has changed since."""
        place = place_of(labels)
        known = [(each.outputs.get(place), each.written.get(place)) for each in self._known(place)]
        with suppress(OSError):
            status = labels.stat()
            return (status.st_size, status.st_mtime_ns) in known
        return False

    def begin(self, files: Iterable[Path]) -> None:
        """Note, on the disk too, which outputs will be made now.

        What any work with this folder has on record of them counts no more.
        """
        new = set(map(place_of, files))
        if not new and not self._mine:
            return
        if not self.is_kept:
            self._forget_everywhere(new)
            return
        self._begun |= new
        self.planned |= new
        self.cases = {place: each for place, each in self.cases.items() if place not in new}
        with _one_at_a_time(self.path.parent):
            for other in _others(self.path):
                _forget(other, new)
        self.save()

    def add(self, record: Record) -> None:
        """Put a case on record that is finished; call :meth:`save` at the end."""
        if not self.is_kept:
            return
        place = next(iter(record.outputs))
        self.cases.pop(place, None)  # so that the last one is the latest
        self.cases[place] = record
        self._mine.add(place)
        if time.monotonic() >= self._next:
            self.save()

    def end(self, files: Iterable[Path], *, is_whole: bool) -> None:
        """Write the file at the end of the work; if nothing was made, there is none.

        What was not made is not planned any more: who makes it later keeps it.

        Args:
            files: Outputs of every case of this work.
            is_whole: Whether every case was tried; else what is there stays planned, since it may
                be what was to be replaced.
        """
        if not self.is_kept:
            return
        ended = self._begun.union(map(place_of, files))
        with _one_at_a_time(self.path.parent):
            self._catch_up()
            self.planned = {
                file
                for file in self.planned
                if file not in ended or (not is_whole and Path(file).exists())
            }
            if self.cases or self.planned:
                self._write()
                return
            self.path.unlink(missing_ok=True)
            with suppress(OSError):  # others' files are in it
                self.path.parent.rmdir()

    def save(self) -> None:
        """Write the file; of thousands of cases that would take long, so not for each of them."""
        begun = time.monotonic()
        with _one_at_a_time(self.path.parent):
            self._catch_up()
            self._write()
        now = time.monotonic()
        self._next = now + PAUSE * (now - begun)

    def _forget_everywhere(self, outputs: Collection[str]) -> None:
        if every := _every(self.path.parent):
            with _one_at_a_time(self.path.parent):
                for each in every:
                    _forget(each, outputs)

    def _known(self, place: str) -> list[Record]:
        return [each.cases[place] for each in (self, *self.elsewhere) if place in each.cases]

    def _catch_up(self) -> None:
        """Take over what other processes with the same work have written meanwhile."""
        stored = self._stored(self.path, self.models, self.options)
        if stored.is_of_other_work:
            return
        mine = {place: each for place, each in self.cases.items() if place in self._mine}
        kept = stored.cases.keys() - self._begun - self._mine
        self.cases = {place: each for place, each in stored.cases.items() if place in kept} | mine
        self.planned = (stored.planned - self._begun) | (self.planned & self._begun)

    def _write(self) -> None:
        content = {
            "medseg3d": __version__,
            "models": self.models,
            "options": self.options,
            "cases": {key: asdict(each) for key, each in self.cases.items()},
            "planned": sorted(self.planned - self.cases.keys()),
        }
        _write(self.path, content)


def lying_beside(folder: Path) -> dict[str, list[Path]]:
    """Files of a folder that are named as what is written beside label maps, by their stems."""
    found: dict[str, list[Path]] = {}
    for file in sorted(folder.iterdir()):
        if match := re.fullmatch(f"(.+){BESIDE}", file.name):
            found.setdefault(match[1], []).append(file)
    return found


def stamps(case: Case, beside: Sequence[Path] = ()) -> Stamps:
    """Size and time of the last change of every file of a case's images, and of others."""
    found = {}
    for path in (*case.images, *beside):
        for file in sources(path):
            status = file.stat()
            found[place_of(file)] = (status.st_size, status.st_mtime_ns)
    return found


def sizes(files: Sequence[Path]) -> dict[str, int]:
    """Bytes of each file that is there."""
    return {place_of(file): file.stat().st_size for file in files if file.is_file()}


def times(files: Sequence[Path]) -> dict[str, int]:
    """Time of the last change in ns of each file that is there."""
    return {place_of(file): file.stat().st_mtime_ns for file in files if file.is_file()}


def _every(folder: Path) -> list[Path]:
    """The files of a folder and of its parts."""
    every = folder.iterdir() if folder.is_dir() else ()
    return [each for each in sorted(every) if OF_ANY.fullmatch(each.name)]


def _others(path: Path) -> list[Path]:
    """Files of other parts of the same folder."""
    return [each for each in _every(path.parent) if each.name != path.name]


def _forget(path: Path, outputs: Collection[str]) -> None:
    """Take outputs out of the file of another part; one that holds no others is removed."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        cases = {place: each for place, each in content["cases"].items() if place not in outputs}
        planned = [file for file in content["planned"] if file not in outputs]
        if (len(cases), len(planned)) == (len(content["cases"]), len(content["planned"])):
            return
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return  # none of its cases counts as finished
    if cases or planned:
        _write(path, content | {"cases": cases, "planned": planned})
    else:
        path.unlink(missing_ok=True)


def _write(path: Path, content: dict[str, Any]) -> None:
    with atomic(path) as beside:
        beside.write_text(json.dumps(content, indent=1), encoding="utf-8")


@contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    """Wait until no other process is in the same section, where the disk has locks."""
    with ExitStack() as stack:
        with suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(folder, os.O_RDONLY)
            stack.callback(os.close, descriptor)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield


def _record(facts: dict[str, Any]) -> Record:
    inputs = {file: (int(size), int(time)) for file, (size, time) in facts["inputs"].items()}
    return Record(**facts | {"inputs": inputs, "notes": tuple(facts["notes"])})
