"""The table in each format and layout: written whole, read back, and readable by others."""

import math
import os
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medseg3d.config.score import TABLES
from medseg3d.errors import ConfigError, DataError, RunError
from medseg3d.scoring import sheets, table
from medseg3d.scoring.case import Row
from medseg3d.scoring.table import FORMATS, Layout, read_table, score_names, write_table

NAN = math.nan


def row(case: str, label: int, name: str, dice: float, assd: float, **others: Any) -> Row:
    scores = {"dice": dice, "assd_mm": assd}
    facts = {"prediction_ml": 1.5, "reference_ml": 1.25, "status": "ok"} | others
    return Row(case=case, label=label, name=name, scores=scores, **facts)


OK = row("a", 1, "liver", 0.9, 0.5, patient="ann", model="unet")
EMPTY = row(
    "a", 2, 'the "big", ü', NAN, NAN,
    prediction_ml=0.0, reference_ml=0.0, status="both_empty", patient="ann", model="unet",
)  # fmt: skip
MISSED = row("007", 1, "liver", 0.0, 300.0, prediction_ml=0.0, status="missed", patient="7")
ROWS = [OK, EMPTY, MISSED]

each_format = pytest.mark.parametrize("suffix", list(FORMATS))
each_layout = pytest.mark.parametrize("layout", ["wide", "long"])


def same(found: list[Row], expected: list[Row]) -> bool:
    """Equality for which ``nan`` is ``nan``; types count."""
    return list(map(repr, found)) == list(map(repr, expected))


def test_every_format_is_an_option() -> None:
    assert tuple(FORMATS) == TABLES


@each_format
@each_layout
def test_what_is_written_is_read_back(tmp_path: Path, suffix: str, layout: Layout) -> None:
    path = tmp_path / f"scores{suffix}"
    write_table(ROWS, path, layout=layout)
    assert same(read_table(path), ROWS)
    assert list(tmp_path.iterdir()) == [path]


def test_the_wide_file_is_plain_csv_with_empty_cells_for_undefined(tmp_path: Path) -> None:
    path = tmp_path / "scores.csv"
    odd = row("c", 3, "x", NAN, 2 / 3, prediction_ml=0.1 + 0.2, status="spurious")
    write_table([OK, odd], path)
    assert path.read_bytes().decode() == (
        "case,patient,model,label,name,dice,assd_mm,prediction_ml,reference_ml,status\n"
        "a,ann,unet,1,liver,0.9,0.5,1.5,1.25,ok\n"
        "c,,,3,x,,0.666667,0.3,1.25,spurious\n"
    )


def test_the_long_file_has_a_line_for_each_metric(tmp_path: Path) -> None:
    path = tmp_path / "scores.csv"
    write_table([OK, EMPTY], path, layout="long")
    assert path.read_text(encoding="utf-8").splitlines() == [
        "case,patient,model,label,name,metric,value,prediction_ml,reference_ml,status",
        "a,ann,unet,1,liver,dice,0.9,1.5,1.25,ok",
        "a,ann,unet,1,liver,assd_mm,0.5,1.5,1.25,ok",
        'a,ann,unet,2,"the ""big"", ü",dice,,0.0,0.0,both_empty',
        'a,ann,unet,2,"the ""big"", ü",assd_mm,,0.0,0.0,both_empty',
    ]


def test_columns_of_different_rows_are_put_together(tmp_path: Path) -> None:
    other = replace(OK, case="b", scores={"recall": 0.5})
    assert score_names([OK, other]) == ("dice", "assd_mm", "recall")
    path = tmp_path / "scores.csv"
    write_table([OK, other], path)
    first, second = read_table(path)
    assert repr(first.scores) == "{'dice': 0.9, 'assd_mm': 0.5, 'recall': nan}"
    assert repr(second.scores) == "{'dice': nan, 'assd_mm': nan, 'recall': 0.5}"
    write_table([OK, other], path, columns=["recall"])
    assert [one.scores for one in read_table(path)][1] == {"recall": 0.5}


@each_format
def test_what_rounds_to_nothing_has_no_sign(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"scores{suffix}"
    write_table([replace(OK, scores={"volume_difference_ml": -1e-9})], path)
    assert repr(read_table(path)[0].scores) == "{'volume_difference_ml': 0.0}"


@each_format
def test_an_empty_table_has_a_header(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"scores{suffix}"
    write_table([], path, columns=["dice"])
    assert read_table(path) == []
    [header] = FORMATS[suffix].read(path)
    assert ",".join(map(str, header)) == (
        "case,patient,model,label,name,dice,prediction_ml,reference_ml,status"
    )


@each_format
def test_a_failure_leaves_the_old_table(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / f"scores{suffix}"
    write_table([OK], path)

    def fail(target: Path, *_: object) -> None:
        target.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setitem(FORMATS, suffix, replace(FORMATS[suffix], write=fail))
    with pytest.raises(KeyboardInterrupt):
        write_table([MISSED], path)
    assert read_table(path) == [OK]
    assert list(tmp_path.iterdir()) == [path]


@each_format
def test_names_of_files_are_texts_whatever_they_begin_with(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"scores{suffix}"
    cases = ["=1+1", "#N/A", "0012", "1e3", "true", " a ", "-", "it's\ttwo\nlines"]
    rows = [replace(OK, case=case, patient=case) for case in cases]
    write_table(rows, path)
    assert read_table(path) == rows


def test_no_text_in_a_sheet_is_a_formula(tmp_path: Path) -> None:
    from openpyxl import load_workbook

    path = tmp_path / "scores.xlsx"
    write_table([replace(OK, case="=1+1", name="a\x07b")], path)
    sheet = load_workbook(path)["scores"]
    assert [(cell.value, cell.data_type) for cell in (sheet["A2"], sheet["E2"], sheet["F2"])] == [
        ("=1+1", "s"),
        ("a\N{REPLACEMENT CHARACTER}b", "s"),
        (0.9, "n"),
    ]
    assert sheet.freeze_panes == "A2"


@each_format
def test_a_name_that_is_no_text_for_others_is_still_written(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"scores{suffix}"
    case = os.fsdecode(b"caf\xe9")
    write_table([replace(OK, case=case)], path)
    [found] = read_table(path)
    assert found.case == (case if suffix == ".csv" else r"caf\udce9")


def test_parquet_has_types(tmp_path: Path) -> None:
    from pyarrow import parquet

    path = tmp_path / "scores.parquet"
    write_table(ROWS, path)
    schema = parquet.read_schema(path)
    assert {str(schema.field(name).type) for name in ("case", "model", "status")} == {"string"}
    assert str(schema.field("label").type) == "int64"
    assert {str(schema.field(name).type) for name in ("dice", "reference_ml")} == {"double"}
    assert parquet.read_table(path).column("dice").null_count == 1


@pytest.mark.parametrize("layout", ["wide", "long"])
def test_what_a_sheet_does_not_hold_goes_on_in_the_next(
    tmp_path: Path, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    from openpyxl import load_workbook

    monkeypatch.setattr(sheets, "MOST_LINES", 3)
    path = tmp_path / "scores.xlsx"
    write_table(ROWS, path, layout=layout)
    book = load_workbook(path)
    lengths = {
        "wide": {"scores": 3, "scores 2": 2},
        "long": dict.fromkeys(("scores", "scores 2", "scores 3"), 3),
    }
    assert {sheet.title: sheet.max_row for sheet in book} == lengths[layout]
    assert same(read_table(path), ROWS)


@pytest.mark.parametrize("cut", [200, 600, 1500])
def test_a_damaged_workbook_is_told(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "scores.xlsx"
    write_table(ROWS, path)
    with ZipFile(path) as book:
        parts = {name: book.read(name) for name in book.namelist()}
    sheet = "xl/worksheets/sheet1.xml"
    with ZipFile(path, "w") as book:
        for name, content in parts.items():
            book.writestr(name, content[:cut] if name == sheet else content)
    with pytest.raises(DataError, match=r"cannot be read as an Excel file .*; write it again"):
        read_table(path)


def test_wherever_a_byte_of_a_workbook_is_damaged_it_is_told_or_read(tmp_path: Path) -> None:
    path = tmp_path / "scores.xlsx"
    write_table(ROWS, path)
    whole = path.read_bytes()
    for place in range(0, len(whole), len(whole) // 60):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
        with suppress(DataError):
            assert len(read_table(path)) == len(ROWS)


@pytest.mark.parametrize("suffix", [".xlsx", ".parquet"])
def test_an_absent_package_is_named_with_its_remedy(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table, "find_spec", lambda _: None)
    told = r'which is not installed; pip install "medseg3d\[tables\]"'
    for touch in (read_table, lambda path: write_table([OK], path)):
        with pytest.raises(RunError, match=told):
            touch(tmp_path / f"scores{suffix}")
    write_table([OK], tmp_path / "scores.csv")


def test_other_suffixes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"s\.txt is no table .* in \.csv, \.xlsx, \.parquet$"):
        write_table([OK], tmp_path / "s.txt")


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (("reference_ml,", ""), "no column reference_ml"),
        (("0.9", "much"), "line 2: dice is 'much'; expected a number or an empty cell"),
        ((",1,liver", ",one,liver"), "line 2: label is 'one'; expected a number"),
        ((",1,liver", ",1.5,liver"), "line 2: label is '1.5'; expected a whole number"),
        ((",1,liver", ",,liver"), "line 2: label is ''; expected a whole number"),
        ((",1.25,ok", ",ok"), "line 2: 9 cells found where the header has 10"),
        ((",ok", ",fine"), "line 2: status 'fine' is unknown; expected one of ok, missed"),
        (("007,7,", "a,ann,unet"), "line 3: case a, label 1 of model unet is there twice"),
    ],
    ids=["column", "score", "label", "fraction", "no label", "short", "status", "twice"],
)
def test_a_foreign_table_is_refused(tmp_path: Path, edit: tuple[str, str], message: str) -> None:
    path = tmp_path / "scores.csv"
    write_table([OK, MISSED], path)
    before = path.read_text()
    path.write_text(before.replace(*edit, 1))
    assert path.read_text() != before
    with pytest.raises(DataError, match=message):
        read_table(path)


def test_a_metric_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "scores.csv"
    write_table([OK], path, layout="long")
    path.write_text(path.read_text().replace("assd_mm", "dice"))
    with pytest.raises(DataError, match=r"line 3: .* label 1 and metric dice of model unet is"):
        read_table(path)


@each_format
def test_what_cannot_be_read_is_told(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"scores{suffix}"
    with pytest.raises(DataError, match="is not there; expected a table from medseg3d score"):
        read_table(path)
    for content in (b"", b"PK\x03\x04 no archive", b"\x00\xff" * 100):
        path.write_bytes(content)
        with pytest.raises(DataError, match="medseg3d score") as caught:
            read_table(path)
        assert "\n" not in str(caught.value)


def test_a_table_that_excel_has_saved_is_still_read(tmp_path: Path) -> None:
    from openpyxl import load_workbook

    path = tmp_path / "scores.csv"
    write_table([OK, MISSED], path)
    text = path.read_text().replace("\n", "\r\n") + ",,,,,,,,,\r\n"
    path.write_text(text, encoding="utf-8-sig", newline="")
    assert read_table(path) == [OK, MISSED]
    path = tmp_path / "scores.xlsx"
    write_table([OK, MISSED], path)
    book = load_workbook(path)
    book["scores"]["A3"].value = 7  # typed anew
    book.save(path)
    assert read_table(path) == [OK, replace(MISSED, case="7")]


def test_a_table_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    path = tmp_path / "scores.csv"
    path.write_text(
        "case,label,name,dice,surface_dice,prediction_ml,reference_ml,status\n"
        "a,1,liver,0.9,,1.5,1.25,ok\n"
    )
    [found] = read_table(path)
    assert (found.case, found.patient, found.model) == ("a", "", "")
    assert repr(found.scores) == "{'dice': 0.9, 'surface_dice': nan}"


names = st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), max_size=5)
numbers = st.one_of(
    st.just(NAN), st.just(math.inf), st.floats(-1e6, 1e6).map(lambda x: round(x, 6) + 0.0)
)


@settings(max_examples=40)
@given(
    rows=st.lists(
        st.builds(
            row, names, st.integers(0, 2**32), names, numbers, numbers, patient=names, model=names
        ),
        unique_by=lambda one: (one.case, one.model, one.label),
        max_size=4,
    ),
    layout=st.sampled_from(["wide", "long"]),
    suffix=st.sampled_from(list(FORMATS)),
)
def test_any_rows_survive_any_format(
    tmp_path_factory: pytest.TempPathFactory, rows: list[Row], layout: Layout, suffix: str
) -> None:
    path = tmp_path_factory.mktemp("t") / f"scores{suffix}"
    write_table(rows, path, layout=layout)
    assert same(read_table(path), rows)
