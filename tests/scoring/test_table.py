"""The CSV table: written whole, read back, and readable by others."""

from pathlib import Path

import numpy as np
import pytest

from medseg3d.errors import DataError
from medseg3d.scoring.case import Row
from medseg3d.scoring.table import COLUMNS, read_csv, write_csv

NAN = float("nan")
OK = Row("a", 1, "liver", 0.9, 0.8, 0.85, 0.95, 4.5, 2.25, 0.5, 0.75, 1.5, 1.25, "ok")
EMPTY = Row("a", 2, 'the "big", ü', *[NAN] * 8, 0.0, 0.0, "both_empty")
MISSED = Row("b", 1, "liver", 0.0, 0.0, 0.0, 0.0, 300.0, 300.0, 300.0, 0.0, 0.0, 1.25, "missed")


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "scores.csv"
    write_csv([OK, EMPTY, MISSED], path)
    first, second, third = read_csv(path)
    assert (first, third) == (OK, MISSED)
    assert (second.name, second.status, second.prediction_ml) == ('the "big", ü', "both_empty", 0)
    assert np.isnan(second.dice)


def test_the_file_is_plain_csv_with_empty_cells_for_undefined(tmp_path: Path) -> None:
    path = tmp_path / "scores.csv"
    write_csv([OK, Row("c", 3, "x", *[NAN] * 8, 0.1 + 0.2, 1 / 3, "both_empty")], path)
    assert path.read_bytes().decode() == (
        "case,label,name,dice,iou,precision,recall,hausdorff_mm,hausdorff_95_mm,assd_mm,"
        "surface_dice,prediction_ml,reference_ml,status\n"
        "a,1,liver,0.9,0.8,0.85,0.95,4.5,2.25,0.5,0.75,1.5,1.25,ok\n"
        "c,3,x,,,,,,,,,0.3,0.333333,both_empty\n"
    )


def test_a_failure_leaves_the_old_table(tmp_path: Path) -> None:
    path = tmp_path / "scores.csv"
    write_csv([OK], path)

    def rows():
        yield MISSED
        raise DataError("case b: broken")

    with pytest.raises(DataError, match="case b: broken"):
        write_csv(rows(), path)
    assert read_csv(path) == [OK]
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (("assd_mm,", ""), "no column assd_mm"),
        (("0.9", "much"), "line 2: could not convert string to float: 'much'; expected a number"),
        (("a,1,", "a,one,"), "line 2: .*'one'; expected a number"),
        ((",1.25,ok", ""), "line 2: "),
        ((",ok", ",fine"), "status 'fine' is unknown; expected one of ok, missed"),
    ],
    ids=["column", "score", "label", "short line", "status"],
)
def test_a_foreign_table_is_refused(tmp_path: Path, edit, message: str) -> None:
    path = tmp_path / "scores.csv"
    write_csv([OK], path)
    path.write_text(path.read_text().replace(*edit))
    with pytest.raises(DataError, match=message):
        read_csv(path)


def test_an_empty_table_has_a_header(tmp_path: Path) -> None:
    path = tmp_path / "scores.csv"
    write_csv([], path)
    assert path.read_text() == ",".join(COLUMNS) + "\n"
    assert read_csv(path) == []
