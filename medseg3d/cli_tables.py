"""Tables on stdout: drawn on a terminal, plain where another program reads them."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from rich.console import RenderableType

    from medseg3d.api import Prediction
    from medseg3d.scoring import Summary

WIDTH_OF_FILES = 120


def show_rows(rows: Sequence[dict[str, Any]]) -> None:
    """Print one line per row under the names of all columns."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    columns = list(dict.fromkeys(column for row in rows for column in row))
    cells = [[_cell(row.get(column)) for column in columns] for row in rows]
    console = Console()
    if not console.is_terminal:
        typer.echo("\n".join("\t".join(line) for line in [columns, *cells]))
        return
    table = Table(*columns, box=box.SIMPLE)
    for line in cells:
        table.add_row(*map(Text, line))
    console.print(table)


def _cell(value: Any) -> str:
    if isinstance(value, (tuple, list)):
        return ", ".join(map(str, value))
    return "" if value is None else str(value)


def show_predictions(predictions: "Iterable[Prediction]") -> None:
    """Print each label map with the volume of every label."""
    for prediction in predictions:
        volumes = (f"{name} {volume:.4g} mL" for name, volume in prediction.volumes_ml.items())
        typer.echo(f"{prediction.path}\t{', '.join(volumes)}")


def show_summary(summary: "Summary") -> None:
    """Print the means of scores."""
    from medseg3d.scoring import summary_table

    show(summary_table(summary))


def show(what: "RenderableType") -> None:
    """Print as wide as the terminal, or as WIDTH_OF_FILES."""
    from rich.console import Console

    console = Console()
    if not console.is_terminal:
        console.width = WIDTH_OF_FILES
    console.print(what)
