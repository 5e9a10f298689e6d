"""The course of a run as a table and a picture."""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medseg3d.io.atomic import atomic, spelled_out, write_csv

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FIXED = ("epoch", "step", "minutes", "learning_rate", "loss", "dice")


@dataclass
class History:
    """One row per epoch; Dice only where the epoch was validated.

    Attributes:
        label_names: Foreground labels, in the order of their Dice columns.
        rows: Values by column.
    """

    label_names: Sequence[str]
    rows: list[dict[str, Any]] = field(default_factory=list)

    @property
    def columns(self) -> list[str]:
        """Column names of the table."""
        return [*FIXED, *(f"dice_{name}" for name in self.label_names)]

    def write_csv(self, path: Path) -> None:
        """Write the table beside the target and rename."""
        columns = self.columns
        write_csv(path, columns, ([_short(row.get(name)) for name in columns] for row in self.rows))

    def draw(self, path: Path) -> None:
        """Draw loss and validation Dice over the minutes as a PNG."""
        from matplotlib import rc_context

        settings: dict[Any, Any] = {"text.parse_math": False}  # names may hold dollar signs
        with rc_context(settings), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Glyph .* missing from")
            figure = self._figure()
            with atomic(path) as partial:
                figure.savefig(partial, dpi=110, format="png")

    def _figure(self) -> "Figure":
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        figure = Figure(figsize=(8, 4.5), layout="constrained")
        FigureCanvasAgg(figure)
        loss_axis = figure.subplots()
        minutes = [row["minutes"] for row in self.rows]
        loss_axis.plot(minutes, [row["loss"] for row in self.rows], color="0.55", label="loss")
        loss_axis.set_xlabel("minutes")
        loss_axis.set_ylabel("training loss")
        dice_axis = loss_axis.twinx()
        dice_axis.set_ylabel("validation Dice, whole cases")
        dice_axis.set_ylim(0, 1)
        validated = [row for row in self.rows if row.get("dice") is not None]
        at = [row["minutes"] for row in validated]
        for name in self.label_names:
            values = [row[f"dice_{name}"] for row in validated]
            dice_axis.plot(at, values, marker=".", linewidth=1, label=spelled_out(name))
        if len(self.label_names) > 1:
            mean = [row["dice"] for row in validated]
            dice_axis.plot(at, mean, color="black", linewidth=2, label="mean")
        if validated:
            dice_axis.legend(loc="lower right")
        known = [row for row in validated if not math.isnan(row["dice"])]
        if known:
            best = max(known, key=lambda row: float(row["dice"]))
            figure.suptitle(f"best mean Dice {best['dice']:.3f} after {best['minutes']:.1f} min")
        return figure


def _short(value: Any) -> Any:
    return f"{value:.6g}" if isinstance(value, float) else value
