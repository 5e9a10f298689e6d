"""``bakeoff``: several networks by one recipe, as ordinary runs side by side in one folder.

::

    runs/<data>_bakeoff/
      config.yaml plan.yaml split.json     the recipe: every network is trained by it
      <network>/                           an ordinary run, and what was measured of it
      bakeoff.csv bakeoff.md bakeoff.png   written anew after each network
"""

import json
import logging
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medseg3d.api.contest.contestant import FAULT
from medseg3d.api.contest.options import (
    expect_same,
    network_names,
    own_options,
    place_of,
    shared_options,
)
from medseg3d.api.contest.own_process import run_apart
from medseg3d.api.contest.tables import (
    CSV,
    contestant,
    fault_of,
    is_measured,
    remove_tables,
    write_tables,
)
from medseg3d.api.fitting.planning import planned
from medseg3d.api.provenance import Origin
from medseg3d.config import BakeoffConfig, FitConfig, given
from medseg3d.data.cases import Case
from medseg3d.data.partners import count
from medseg3d.errors import RunError
from medseg3d.io.atomic import write_text
from medseg3d.progress import LOGGER, duration
from medseg3d.report.bakeoff_table import Contestant, ranked
from medseg3d.runs import (
    OPTIONS,
    OURS,
    PLAN,
    PROVENANCE,
    RUNS,
    SPLIT,
    is_finished,
    locked,
    options_text,
    stored_options,
)

log = logging.getLogger("medseg3d")

CHILD = "medseg3d.api.contest.contestant"
HANDED_ON = ("data", "device", "workers", "cache")


@dataclass(frozen=True)
class Bakeoff:
    """Networks that were compared.

    Attributes:
        folder: Holds a run folder for each network.
        contestants: The best first, then those that failed.
        csv: The table; bakeoff.md beside it is the same for people.
        figure: The figure, None if none was asked for or no network is done.
    """

    folder: Path
    contestants: tuple[Contestant, ...]
    csv: Path
    figure: Path | None

    @property
    def failed(self) -> tuple[Contestant, ...]:
        """Networks that failed."""
        return tuple(one for one in self.contestants if one.status == "failed")


def bakeoff(data: Path | str | BakeoffConfig, **options: Any) -> Bakeoff:
    """Train several networks by the same recipe, patches, budget, split and seed.

    Each is a run of its own in a process of its own. What an earlier call finished is not done
    again, what it began goes on, and what failed is tried again.

    Args:
        data: Folder of labeled cases, or all options.
        **options: See :class:`medseg3d.config.BakeoffConfig`.

    Returns:
        The table, in which networks that failed say why.

    Raises:
        ConfigError: If an option or a name is wrong, or the folder was begun with other options.
        DataError: If the cases cannot be trusted; all faulty ones are listed.
        RunError: If the folder holds other things or networks trained by other cases, is in use or
            cannot be written.
    """
    config = given(BakeoffConfig, "data", data, options)
    names = network_names(config)
    folder = config.out or RUNS / f"{config.data.resolve().name}_bakeoff"
    _expect_ours(folder)
    recipe = shared_options(config, folder)
    runs = {name: own_options(recipe, config.own.get(name, {}), name) for name in names}
    for name in runs.keys() & config.own.keys():
        expect_same(name, runs[name])
    with locked(folder):
        contest = _Contest(config, folder, runs)
        if not recipe.resume:
            contest.write()  # by which the folder is known from here on
        try:
            dataset, _, parts = planned(recipe, folder)
        except Exception:
            if not recipe.resume:
                remove_tables(folder)
            raise
        try:
            ids = {*parts.training, *parts.validation}
            contest.expect_same_cases(recipe, [case for case in dataset.cases if case.id in ids])
            return contest.hold()
        except KeyboardInterrupt:
            log.warning("stopped; the same command goes on")
            raise


class _Contest:
    """The networks of one folder, one after the other.

    Args:
        config: Options of the bake-off.
        folder: Holds the recipe.
        runs: Options of each network's run.
    """

    def __init__(self, config: BakeoffConfig, folder: Path, runs: Mapping[str, FitConfig]) -> None:
        self.config = config
        self.folder = folder
        self.runs = runs
        others = [path.parent for path in folder.glob(f"*/{OPTIONS}")]
        self._places = {stored_options(place).network.name: place for place in sorted(others)}
        self._places |= {name: place_of(run) for name, run in runs.items()}
        self._rows: dict[str, Contestant] = {}

    def expect_same_cases(self, recipe: FitConfig, cases: Sequence[Case]) -> None:
        """Refuse to compare with networks that other cases trained.

        Args:
            recipe: Options of all.
            cases: Those of the recipe, as they are now.

        Raises:
            RunError: If cases have changed since a network was begun.
        """
        begun = {
            name: place / PROVENANCE
            for name, place in self._places.items()
            if (place / PROVENANCE).is_file()
        }
        if not begun:
            return
        digests = Origin.of(recipe, cases, ()).digests
        for name, path in begun.items():
            before = json.loads(path.read_text(encoding="utf-8"))["data"]
            changed = sorted(
                case_id
                for case_id in before.keys() & digests.keys()
                if before[case_id]["sha256"] != digests[case_id]
            )
            if changed:
                raise RunError(
                    f"{recipe.data} holds other cases than those that trained network {name} in "
                    f"{self.folder}: {count(changed, 'case')} changed; restore what was there, "
                    f"choose another folder with -o, or remove {self.folder} to begin anew"
                )

    def hold(self) -> Bakeoff:
        """Train and measure every network that is not finished."""
        self.write()
        left = [name for name in self.runs if not is_measured(self._places[name])]
        if finished := len(self.runs) - len(left):
            log.info("%d of %d networks are finished", finished, len(self.runs))
        minutes = next(iter(self.runs.values())).max_minutes
        for number, name in enumerate(left):
            to_go = 60 * (minutes or 0) * (len(left) - number)
            told = f", {duration(to_go)} of training to go" if to_go else ""
            log.info("network %s, %d of %d%s", name, number + 1, len(left), told)
            self._run(name)
            self.write()
        result = self.write()
        if result.failed:
            log.error(
                "%d of %d networks failed (%s); the same command tries them again",
                *(len(result.failed), len(result.contestants)),
                ", ".join(one.network for one in result.failed),
            )
        return result

    def write(self) -> Bakeoff:
        """Write table and figure of what there is."""
        for name, place in self._places.items():
            if name not in self._rows or self._rows[name].status != "done":
                self._rows[name] = contestant(name, place)
        rows = ranked(self._rows.values())
        figure = write_tables(rows, self.folder, data=self.config.data, form=self.config.figure)
        return Bakeoff(self.folder, tuple(rows), self.folder / CSV, figure)

    def _run(self, name: str) -> None:
        """Train and measure one network; what goes wrong is put on record."""
        options, place = self.runs[name], self._places[name]
        self._begin(options, place)
        (place / FAULT).unlink(missing_ok=True)
        handed_on = options.model_copy(update={"out": place, "resume": True})
        values = handed_on.model_dump(mode="json", include={*HANDED_ON, "out", "resume"})
        text = json.dumps(values)  # pydantic's own refuses paths that are no UTF-8
        steps = ["measure"] if is_finished(place) else ["train", "measure"]
        for step in steps:
            code = run_apart(CHILD, [step, text, str(LOGGER.getEffectiveLevel())])
            if code == 0:
                continue
            if not (place / FAULT).is_file():
                write_text(place / FAULT, _ended(code))
            log.error("network %s failed: %s", name, fault_of(place))
            return

    def _begin(self, options: FitConfig, place: Path) -> None:
        """Lay down options, plan and split of a run, as if it had been interrupted."""
        if (place / OPTIONS).is_file():
            return
        if not self.config.own.get(options.network.name, {}).keys() - {"network"}:
            for name in (PLAN, SPLIT):
                write_text(place / name, (self.folder / name).read_text(encoding="utf-8"))
        write_text(place / OPTIONS, options_text(options))


def _expect_ours(folder: Path) -> None:
    """Refuse a folder that holds other things than a bake-off."""
    if folder.is_dir():
        entries = [entry for entry in sorted(folder.iterdir()) if not entry.match(OURS)]
        if not entries or (folder / CSV).is_file():
            return
        found = f"holds {entries[0].name} and no {CSV}"
    elif folder.exists():
        found = "is no folder"
    else:
        return
    raise RunError(f"{folder} {found}, so it is no bake-off to go on with; choose another with -o")


def _ended(code: int) -> str:
    """Why a process ended that could not say so itself."""
    if code >= 0:
        return f"its process ended with exit code {code}; see what it wrote last"
    if -code == signal.SIGKILL:
        return (
            "its process was killed, probably because memory ran out; give it smaller options in "
            "own, or a machine with more memory"
        )
    return f"its process was ended by signal {-code}; give the command again"
