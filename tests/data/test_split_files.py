"""Folds from files: nnU-Net's list of splits, and a table of sites."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medseg3d.data.cases import Case
from medseg3d.data.split import Folds, Split, holding_out
from medseg3d.data.split_files import given_splits, leave_one_site_out, read_splits, splits_text
from medseg3d.errors import DataError

CASES = [Case(f"c{n}", (), None, f"p{n // 2}") for n in range(6)]  # two cases of each patient


def written(folder: Path, content: Any) -> Path:
    path = folder / "splits_final.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def fold(train: Any, val: Any, **more: Any) -> dict[str, Any]:
    return {"train": train, "val": val, **more}


def test_the_file_of_nnunet_is_read(tmp_path: Path) -> None:
    path = written(tmp_path, [fold(["c3", "c2", "c5"], ["c1", "c0"]), fold(["c0"], ["c2"])])
    assert given_splits(path, CASES) == {
        "0": Split(("c2", "c3", "c5"), ("c0", "c1")),
        "1": Split(("c0",), ("c2",)),
    }


ids = st.text(min_size=1, max_size=5)
parts = st.dictionaries(ids, st.lists(ids, min_size=1, max_size=4), min_size=2, max_size=5)


@given(parts=parts)
def test_what_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory, parts: dict[str, list[str]]
) -> None:
    distinct = {
        name: [f"{name}/{place}" for place, _ in enumerate(ids)] for name, ids in parts.items()
    }
    folds: Folds = holding_out(distinct)
    path = tmp_path_factory.getbasetemp() / "splits.json"
    path.write_text(splits_text(folds), encoding="utf-8")
    assert read_splits(path) == folds
    assert list(read_splits(path)) == list(folds), "their numbers are their places"


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("[{", "is no valid JSON .*; expected"),
        ({"train": ["c0"], "val": ["c1"]}, "holds no list of folds; expected"),
        ([], "holds no list of folds; expected"),
        ([["c0"], ["c1"]], r"fold 0 is \['c0'\]; expected"),
        ([fold(["c0"], ["c2"]), {"train": ["c0"]}], "fold 1 is {'train': .*; expected"),
        ([fold(["c0"], [])], "fold 0 is .*none of them empty"),
        ([fold([0], [1])], "fold 0 is .*expected"),
        ([fold(["c0"], "c1")], "fold 0 is .*expected"),
        ([fold(["c0", "c1"], ["c2", "c0"])], r"fold 0 names 1 case \(c0\) twice; keep one"),
        ([fold(["c0"], ["c2"], name="1"), fold(["c2"], ["c0"])], "two folds called 1; give"),
        (
            [fold(["c0", "x", "y"], ["c2"])],
            r"fold 0 names 2 cases \(x, y\) that the data does not have; correct",
        ),
        (
            [fold(["c2"], ["c4"]), fold(["c0", "c2"], ["c1", "c4"])],
            r"fold 1 learns from and holds out 1 patient \(p0\); move all cases",
        ),
    ],
)
def test_a_file_that_cannot_be_meant_is_refused_in_a_sentence(
    tmp_path: Path, content: Any, told: str
) -> None:
    path = written(tmp_path, content)
    with pytest.raises(DataError, match=told) as refused:
        given_splits(path, CASES)
    assert str(refused.value).startswith(str(path))
    assert "\n" not in str(refused.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"splits.json cannot be read \(No such file"):
        given_splits(tmp_path / "splits.json", CASES)


def sites(folder: Path, text: str) -> Path:
    path = folder / "sites.csv"
    path.write_text(text, encoding="utf-8-sig")  # as spreadsheets write it
    return path


@pytest.mark.parametrize(
    "text",
    [
        "case,site\nc0,Oslo\nc1,Oslo\nc2,Bern\nc3,Bern\nc4,Oslo\nc5,Oslo\nc9,Rome\n",
        "site,age,patient\nOslo,3,p0\n Bern ,4,p1\nOslo,5,p2\nOslo,5,p2\n",
    ],
)
def test_each_site_is_held_out_once(tmp_path: Path, text: str) -> None:
    folds = leave_one_site_out(sites(tmp_path, text), CASES)
    assert list(folds) == ["Bern", "Oslo"]
    assert folds["Bern"] == Split(("c0", "c1", "c4", "c5"), ("c2", "c3"))
    assert folds["Oslo"] == Split(("c2", "c3"), ("c0", "c1", "c4", "c5"))


BY_PATIENT = "patient,site\np0,A\np1,B\n"
BY_CASE = "case,site\nc0,A\nc1,{}\nc2,B\nc3,B\nc4,B\nc5,B\n"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "has the columns none; expected a CSV"),
        ("case,center\nc0,A\n", "has the columns case, center; expected a CSV"),
        ("id,site\nc0,A\n", "has the columns id, site; expected a CSV"),
        (BY_PATIENT, r"names no site for 1 patient \(p2\); add a line"),
        ("case,site\nc0,A\n", r"names no site for 5 cases \(c1, c2, c3, c4, c5\)"),
        (BY_PATIENT + "p2,\n", "line 4: patient 'p2' has the site ''; expected a name"),
        (BY_PATIENT + "p2\n", "line 4: patient 'p2' has the site ''; expected a name"),
        (BY_PATIENT + "p1,A\n", "line 4: patient p1 has site B and site A; keep one"),
        ("patient,site\np0,A\np1,A\np2,A\n", r"all cases at 1 site \(A\); .* takes two"),
        (BY_CASE.format("B"), "patient p0 has cases of the sites A and B, .* one site"),
    ],
)
def test_sites_that_cannot_be_meant_are_refused_in_a_sentence(
    tmp_path: Path, text: str, told: str
) -> None:
    with pytest.raises(DataError, match=told) as refused:
        leave_one_site_out(sites(tmp_path, text), CASES)
    assert "\n" not in str(refused.value)


def test_sites_in_another_coding_or_place(tmp_path: Path) -> None:
    path = tmp_path / "sites.csv"
    with pytest.raises(DataError, match="cannot be read as CSV in UTF-8: No such file"):
        leave_one_site_out(path, CASES)
    path.write_bytes("case,site\nc0,Zürich\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"cannot be read as CSV in UTF-8: .*codec"):
        leave_one_site_out(path, CASES)
