"""Subgroups from a CSV: categories, terciles, whom they hold, and what is refused."""

from pathlib import Path

import pytest

from medseg3d.errors import DataError
from medseg3d.scoring.subgroups import MOST_GROUPS, read_subgroups

CASES = [f"c{number}" for number in range(1, 7)]
PATIENTS = ["ann", "ann", "bob", "cy", "dan", "eve"]


def read(folder: Path, text: str, *, encoding: str = "utf-8") -> tuple[dict, list[str]]:
    """Cases of each group by attribute and group, and the notes."""
    path = folder / "attributes.csv"
    path.write_bytes(text.encode(encoding))
    subgroups, notes = read_subgroups(path, CASES, PATIENTS)
    found: dict = {}
    for each in subgroups:
        members = [case for case, is_member in zip(CASES, each.members, strict=True) if is_member]
        found.setdefault(each.attribute, {})[each.group] = members
    return found, notes


def test_texts_are_categories_in_their_order(tmp_path: Path) -> None:
    text = "case,site,sex\nc1,Ulm,f\nc2,Bonn,m\nc3,Ulm,f\nc4,Bonn,f\nc5,Ulm,m\nc6,Ulm,m\n"
    found, notes = read(tmp_path, text)
    assert found == {
        "site": {"Bonn": ["c2", "c4"], "Ulm": ["c1", "c3", "c5", "c6"]},
        "sex": {"f": ["c1", "c3", "c4"], "m": ["c2", "c5", "c6"]},
    }
    assert list(found["site"]) == ["Bonn", "Ulm"]
    assert not notes


def test_numbers_are_cut_into_terciles(tmp_path: Path) -> None:
    text = "case,size_ml\n" + "".join(
        f"c{n},{size}\n" for n, size in enumerate((4, 1, 9, 2, 30, 7), 1)
    )
    found, _ = read(tmp_path, text)
    # 1 2 4 7 9 30: a third of the way is 3.33, two thirds 7.67
    assert found == {
        "size_ml": {
            "up to 3.333": ["c2", "c4"],
            "3.333 to 7.667": ["c1", "c6"],
            "over 7.667": ["c3", "c5"],
        }
    }
    assert list(found["size_ml"]) == ["up to 3.333", "3.333 to 7.667", "over 7.667"]


def test_terciles_are_those_of_the_cases_compared(tmp_path: Path) -> None:
    rows = [f"c{n},{n}\n" for n in range(1, 7)] + [f"other{n},{n}\n" for n in range(100, 200)]
    found, _ = read(tmp_path, "case,age\n" + "".join(rows))
    assert [len(members) for members in found["age"].values()] == [2, 2, 2]


def test_a_few_different_numbers_are_categories(tmp_path: Path) -> None:
    found, _ = read(tmp_path, "case,grade\nc1,10\nc2,2\nc3,2.0\nc4,3\nc5,10\nc6,3\n")
    assert found == {"grade": {"2": ["c2", "c3"], "3": ["c4", "c6"], "10": ["c1", "c5"]}}
    assert list(found["grade"]) == ["2", "3", "10"]


def test_what_is_known_of_a_patient_holds_for_all_cases(tmp_path: Path) -> None:
    found, _ = read(tmp_path, "Patient,sex\nann,f\nbob,m\ncy,m\ndan,m\neve,f\n")
    assert found == {"sex": {"f": ["c1", "c2", "c6"], "m": ["c3", "c4", "c5"]}}


def test_names_of_patients_are_no_attribute(tmp_path: Path) -> None:
    rows = [f"{case},{patient},f\n" for case, patient in zip(CASES, PATIENTS, strict=True)]
    assert read(tmp_path, "case,Patient,sex\n" + "".join(rows)) == ({"sex": {"f": CASES}}, [])


def test_terciles_of_patients_count_each_once(tmp_path: Path) -> None:
    path = tmp_path / "patients.csv"
    ages = {f"p{number}": number for number in range(6)}
    path.write_text("patient,age\n" + "".join(f"{name},{age}\n" for name, age in ages.items()))
    patients = ["p0"] * 50 + list(ages)
    subgroups, _ = read_subgroups(path, [f"c{n}" for n in range(56)], patients)
    members = [{p for p, m in zip(patients, each.members, strict=True) if m} for each in subgroups]
    assert members == [{"p0", "p1"}, {"p2", "p3"}, {"p4", "p5"}]


def test_unknown_cells_and_absent_cases_are_said(tmp_path: Path) -> None:
    found, notes = read(tmp_path, "case,sex\nc1,f\nc2,\nc3,m\nc4,f\n")
    assert found == {"sex": {"f": ["c1", "c4"], "m": ["c3"]}}
    assert notes == [
        "attributes.csv lacks 2 of 6 cases (c5, c6), which are in no subgroup",
        "sex is empty for 1 of 4 cases",
    ]


def test_names_and_remarks_make_no_subgroups(tmp_path: Path) -> None:
    cases = [f"c{number}" for number in range(MOST_GROUPS + 1)]
    path = tmp_path / "a.csv"
    path.write_text("case,remark\n" + "".join(f"{case},remark on {case}\n" for case in cases))
    subgroups, notes = read_subgroups(path, cases, cases)
    assert not subgroups
    assert notes == [f"remark has {MOST_GROUPS + 1} different values and makes no subgroups"]


@pytest.mark.parametrize(
    "text",
    [
        "\ufeffcase;site\r\nc1;Köln\r\nc2;Köln\r\n",
        "case\tsite\nc1\tKöln\nc2\tKöln\n",
        'case , site\n\n"c1","Köln"\nc2,Köln\n,\n',
    ],
    ids=["as Excel writes it", "tabs", "quotes and empty lines"],
)
def test_tables_come_in_many_spellings(tmp_path: Path, text: str) -> None:
    found, _ = read(tmp_path, text)
    assert found == {"site": {"Köln": ["c1", "c2"]}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must begin with a line of headings.*found nothing"),
        ("id,site\nc1,Ulm\n", "first case or patient.*found id, site"),
        ("case\nc1\n", "at least one attribute; found case"),
        ("case,patient\nc1,ann\n", "at least one attribute; found case, patient"),
        ("case,,site\nc1,1,2\n", "must begin with a line of headings"),
        ("case,site,site\nc1,1,2\n", "two columns of one name"),
        ("case,site\nc1,Ulm,3\n", "has 3 cells for case c1; expected 2"),
        ("case,site\nc1,Ulm\nc1,Bonn\n", "has case c1 twice"),
        ("case,site\nd1,Ulm\n", "has no case of those compared, such as c1"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(tmp_path, text)


def test_a_table_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read as UTF-8 text"):
        read(tmp_path, "case,site\nc1,Köln\n", encoding="latin-1")
    with pytest.raises(DataError, match=r"nowhere\.csv cannot be read"):
        read_subgroups(tmp_path / "nowhere.csv", CASES, PATIENTS)
