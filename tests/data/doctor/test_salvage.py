"""What is wrong with the structure is told, and the whole cases are found nevertheless."""

import json
from collections.abc import Iterable
from pathlib import Path

import pytest

from medseg3d.data.doctor.salvage import find_whole_cases
from medseg3d.errors import DataError


def files(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return root


def in_folder(folder: str, names: Iterable[str]) -> list[str]:
    return [f"{folder}/{name}.nii.gz" for name in names]


def whole(root: Path) -> tuple[list[str], str]:
    dataset, findings = find_whole_cases(root)
    return [case.id for case in dataset.cases], "; ".join(map(str, findings))


def test_a_sound_folder_has_no_findings(tmp_path: Path) -> None:
    files(tmp_path, *in_folder("images", "ab"), *in_folder("labels", "ab"))
    assert whole(tmp_path) == (["a", "b"], "")


def test_cases_without_partner_are_told_and_left_out(tmp_path: Path) -> None:
    files(tmp_path, *in_folder("images", "abc"), *in_folder("labels", "bcd"))
    cases, told = whole(tmp_path)
    assert cases == ["b", "c"]
    assert "1 image (a) without label map" in told
    assert "1 label map (d) without image" in told


def test_cases_that_lack_a_channel_are_left_out(tmp_path: Path) -> None:
    channels = ["a_0000", "a_0001", "b_0000", "c_0000", "c_0001"]
    files(tmp_path, *in_folder("imagesTr", channels), *in_folder("labelsTr", "abc"))
    cases, told = whole(tmp_path)
    assert cases == ["a", "c"]
    assert "b lacks b_0001" in told


def test_cases_of_a_broken_json_are_found_by_their_folders(tmp_path: Path) -> None:
    files(tmp_path, *in_folder("imagesTr", "ab"), *in_folder("labelsTr", "ab"))
    (tmp_path / "dataset.json").write_text('{"labels": {"a": 1,}}')
    cases, told = whole(tmp_path)
    assert cases == ["a", "b"]
    assert "no valid JSON: line 1" in told


def test_listed_files_that_are_missing_are_all_told(tmp_path: Path) -> None:
    files(tmp_path, *in_folder("im", "ab"), *in_folder("la", "ac"))
    listed = [{"image": f"im/{n}.nii.gz", "label": f"la/{n}.nii.gz"} for n in "abc"]
    (tmp_path / "dataset.json").write_text(json.dumps({"training": listed}))
    cases, told = whole(tmp_path)
    assert cases == ["a"]
    assert "la/b.nii.gz" in told
    assert "im/c.nii.gz" in told


def test_patients_without_label_map_are_left_out(tmp_path: Path) -> None:
    files(tmp_path, "P1/ct.nii.gz", "P1/seg.nii.gz", "P2/ct.nii.gz", "P3/ct.nii.gz", "P3/seg.nii")
    cases, told = whole(tmp_path)
    assert cases == ["P1", "P3"]
    assert "P2" in told


def test_a_segmentation_of_slicer_is_the_label_map_of_a_patient(tmp_path: Path) -> None:
    files(tmp_path, "P1/ct.nrrd", "P1/liver.seg.nrrd", "P2/ct.nrrd")
    cases, told = whole(tmp_path)
    assert cases == ["P1"]
    assert "P2" in told


def test_channels_of_patients_are_ordered_as_dataset_json_names_them(tmp_path: Path) -> None:
    files(tmp_path, *(f"P1/P1_{name}.nii.gz" for name in ("flair", "t1", "seg")))
    files(tmp_path, *(f"P2/P2_{name}.nii.gz" for name in ("flair", "t1")))
    (tmp_path / "dataset.json").write_text('{"channel_names": {"0": "T1", "1": "FLAIR"}}')
    dataset, findings = find_whole_cases(tmp_path)
    assert [finding.code for finding in findings] == ["structure"]
    assert [path.name for path in dataset.cases[0].images] == ["P1_t1.nii.gz", "P1_flair.nii.gz"]


def test_an_id_that_is_there_twice_is_left_out(tmp_path: Path) -> None:
    files(tmp_path, *in_folder("images", ["a", "b", "B"]), *in_folder("labels", ["a", "b", "B"]))
    cases, told = whole(tmp_path)
    assert cases == ["a"]
    assert "differ by letter case only" in told


def test_of_a_folder_without_cases_only_the_fault_is_left(tmp_path: Path) -> None:
    cases, told = whole(files(tmp_path, "notes.txt"))
    assert cases == []
    assert "holds no labelled cases" in told
    with pytest.raises(DataError, match="no folder"):
        find_whole_cases(tmp_path / "gone")
