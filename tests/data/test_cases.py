"""Layouts are recognised as they lie, and everything that is missing is told at once."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medseg3d.data.cases import (
    Dataset,
    find_inputs,
    label_names_near,
    pair_by_id,
    patient_of,
)
from medseg3d.data.layouts import find_cases
from medseg3d.errors import DataError

SAMPLE = Path(__file__).parents[2] / "sample_data"


def put(root: Path, *names: str) -> Path:
    """Empty files below ``root``: finding cases reads no voxel."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def describe(root: Path, content: Any, *, bom: bool = False) -> Path:
    text = content if isinstance(content, str) else json.dumps(content)
    (root / "dataset.json").write_text(text, encoding="utf-8-sig" if bom else "utf-8")
    return root


def relative(dataset: Dataset) -> dict[str, tuple[list[str], str]]:
    return {
        case.id: (
            [path.relative_to(dataset.root).as_posix() for path in case.images],
            case.labels.relative_to(dataset.root).as_posix() if case.labels else "",
        )
        for case in dataset.cases
    }


def refusal(root: Path) -> str:
    with pytest.raises(DataError) as caught:
        find_cases(root)
    return str(caught.value)


@pytest.mark.parametrize(
    ("images", "labels"),
    [("images", "labels"), ("images", "masks"), ("image", "segs"), ("Images", "Segmentations")],
)
def test_images_and_labels_of_one_name_are_a_case(tmp_path: Path, images: str, labels: str) -> None:
    put(tmp_path, f"{images}/b.nii.gz", f"{images}/a.v1.NII.GZ")
    put(tmp_path, f"{labels}/a.v1.nii", f"{labels}/b.mha")
    dataset = find_cases(tmp_path)
    assert relative(dataset) == {
        "a.v1": ([f"{images}/a.v1.NII.GZ"], f"{labels}/a.v1.nii"),
        "b": ([f"{images}/b.nii.gz"], f"{labels}/b.mha"),
    }
    assert dataset.label_names is None
    assert dataset.channel_names is None


def test_label_files_may_say_that_they_are_labels(tmp_path: Path) -> None:
    put(tmp_path, "images/a_image.nii.gz", "images/b_image.nii.gz")
    put(tmp_path, "labels/a_seg.nii.gz", "labels/b_seg.nii.gz")
    assert list(relative(find_cases(tmp_path))) == ["a", "b"]


def test_channels_of_nnunet_are_sorted_into_their_cases(tmp_path: Path) -> None:
    put(tmp_path, *(f"imagesTr/{c}_000{n}.nii.gz" for c in ("case1", "case10") for n in (1, 0)))
    put(tmp_path, "labelsTr/case1.nii.gz", "labelsTr/case10.nii.gz")
    describe(
        tmp_path,
        {
            "channel_names": {"1": "T2", "0": "T1"},
            "labels": {"tumor": 2, "background": 0, "organ": 1},
            "file_ending": ".nii.gz",
        },
        bom=True,
    )
    dataset = find_cases(tmp_path)
    assert dataset.layout.startswith("nnU-Net")
    assert dataset.channel_names == ("T1", "T2")
    assert dataset.label_names == {0: "background", 1: "organ", 2: "tumor"}
    assert relative(dataset)["case10"] == (
        ["imagesTr/case10_0000.nii.gz", "imagesTr/case10_0001.nii.gz"],
        "labelsTr/case10.nii.gz",
    )


def test_nnunet_folders_work_without_a_description(tmp_path: Path) -> None:
    put(tmp_path, "imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz", "imagesTs/b_0000.nii.gz")
    assert relative(find_cases(tmp_path)) == {
        "a": (["imagesTr/a_0000.nii.gz"], "labelsTr/a.nii.gz")
    }


def test_four_digits_are_a_number_where_the_label_maps_have_them_too(tmp_path: Path) -> None:
    names = [f"case_000{n}.nii.gz" for n in range(3)]
    put(tmp_path, *(f"{folder}/{name}" for folder in ("images", "labels") for name in names))
    assert list(relative(find_cases(tmp_path))) == ["case_0000", "case_0001", "case_0002"]


def test_listed_pairs_of_msd_are_taken_as_listed(tmp_path: Path) -> None:
    put(tmp_path, "imagesTr/a.nii.gz", "labelsTr/a.nii.gz", "imagesTr/extra.nii.gz")
    pair = {"image": "./imagesTr/a.nii.gz", "label": "./labelsTr/a.nii.gz"}
    junk = {"image": "./imagesTr/._a.nii.gz", "label": "./labelsTr/._a.nii.gz"}
    describe(
        tmp_path,
        {
            "modality": {"0": "MRI"},
            "labels": {"0": "background", "1": "Front"},
            "training": [pair, junk],
        },
    )
    dataset = find_cases(tmp_path)
    assert relative(dataset) == {"a": (["imagesTr/a.nii.gz"], "labelsTr/a.nii.gz")}
    assert dataset.label_names == {0: "background", 1: "Front"}
    assert dataset.channel_names == ("MRI",)


def test_listed_images_may_exist_as_numbered_channels_only(tmp_path: Path) -> None:
    put(tmp_path, "imagesTr/a_0000.nii.gz", "imagesTr/a_0001.nii.gz", "labelsTr/a.nii.gz")
    pair = {"image": "./imagesTr/a.nii.gz", "label": "./labelsTr/a.nii.gz"}
    describe(tmp_path, {"modality": {"0": "A", "1": "B"}, "training": [pair]})
    assert len(find_cases(tmp_path).cases[0].images) == 2


def test_real_hippocampus_data_is_recognised(shared_data: Path) -> None:
    dataset = find_cases(shared_data / "hippocampus")
    assert len(dataset.cases) == 208
    assert dataset.label_names == {0: "background", 1: "Anterior", 2: "Posterior"}
    assert dataset.channel_names == ("MRI",)
    assert all(case.patient == case.id for case in dataset.cases)


def test_sample_data_are_recognised() -> None:
    dataset = find_cases(SAMPLE)
    assert [case.id for case in dataset.cases] == [f"abdomen_0{n}" for n in range(1, 9)]
    assert dataset.label_names == {0: "background", 1: "liver", 2: "tumor"}


def test_brats_folders_have_channels_by_name(tmp_path: Path) -> None:
    for patient in ("BraTS_001", "BraTS_002"):
        endings = ("t1", "flair", "t2", "seg", "t1ce")
        put(tmp_path, *(f"{patient}/{patient}_{end}.nii.gz" for end in endings))
    dataset = find_cases(tmp_path)
    assert dataset.channel_names == ("flair", "t1", "t1ce", "t2")
    images, labels = relative(dataset)["BraTS_002"]
    assert labels == "BraTS_002/BraTS_002_seg.nii.gz"
    assert [name.split("_")[-1] for name in images] == [
        "flair.nii.gz",
        "t1.nii.gz",
        "t1ce.nii.gz",
        "t2.nii.gz",
    ]


def test_a_folder_per_patient_needs_no_prefix(tmp_path: Path) -> None:
    put(tmp_path, *(f"P{n}/{name}.nii.gz" for n in (1, 2) for name in ("ct", "seg")))
    put(tmp_path, "notes/readme.txt", ".cache/x_seg.nii.gz")
    dataset = find_cases(tmp_path)
    assert relative(dataset)["P1"] == (["P1/ct.nii.gz"], "P1/seg.nii.gz")
    assert dataset.channel_names == ("ct",)


def test_single_images_of_different_names_are_one_channel(tmp_path: Path) -> None:
    put(tmp_path, "P1/a17.nii.gz", "P1/label.nii.gz", "P2/b4.nii.gz", "P2/label.nii.gz")
    assert find_cases(tmp_path).channel_names is None


def test_patients_without_a_channel_are_named(tmp_path: Path) -> None:
    put(tmp_path, *(f"P{n}/{name}.nii.gz" for n in (1, 2) for name in ("t1", "t2", "seg")))
    (tmp_path / "P2" / "t2.nii.gz").unlink()
    assert "P2 lacks t2; every patient needs t1, t2" in refusal(tmp_path)


def test_files_of_patients_are_ordered_as_dataset_json_names_them(tmp_path: Path) -> None:
    for patient in ("P1", "P2"):
        put(tmp_path, *(f"{patient}/{patient}_{end}.nii.gz" for end in ("flair", "T1_ce", "seg")))
    describe(tmp_path, {"channel_names": {"0": "t1 CE", "1": "FLAIR"}})
    dataset = find_cases(tmp_path)
    assert dataset.channel_names == ("t1 CE", "FLAIR")
    assert relative(dataset)["P2"][0] == ["P2/P2_T1_ce.nii.gz", "P2/P2_flair.nii.gz"]


@pytest.mark.parametrize("names", [["T1", "T2"], ["T1"], ["T1", "T1"], ["T1", "FLAIR", "T2"]])
def test_other_names_in_dataset_json_than_in_patient_folders_are_told(
    tmp_path: Path, names: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    put(tmp_path, *(f"P{n}/{name}.nii.gz" for n in (1, 2) for name in ("flair", "t1", "seg")))
    describe(tmp_path, {"channel_names": dict(zip("012", names, strict=False))})
    assert relative(find_cases(tmp_path))["P2"][0] == ["P2/flair.nii.gz", "P2/t1.nii.gz"]
    assert f"names the channels {', '.join(names)} and the files" in caplog.text
    assert "are called flair, t1; they are paired in this order" in caplog.text


def test_two_label_maps_of_a_patient_are_refused(tmp_path: Path) -> None:
    put(tmp_path, "P1/ct.nii.gz", "P1/seg.nii.gz", "P1/mask.nii.gz")
    assert "P1 has 2 label maps (mask.nii.gz, seg.nii.gz), expected one" in refusal(tmp_path)


@pytest.mark.parametrize("name", ["ct.seg.nrrd", "liver.seg.nrrd", "Segmentation.SEG.NRRD"])
def test_a_segmentation_of_slicer_is_the_label_map_whatever_its_name(
    tmp_path: Path, name: str
) -> None:
    put(tmp_path, "P1/ct.nrrd", f"P1/{name}", "P2/ct.nrrd", "P2/seg.nii.gz")
    assert relative(find_cases(tmp_path)) == {
        "P1": (["P1/ct.nrrd"], f"P1/{name}"),
        "P2": (["P2/ct.nrrd"], "P2/seg.nii.gz"),
    }


def test_a_segmentation_of_slicer_is_no_channel(tmp_path: Path) -> None:
    put(tmp_path, "P1/ct.nrrd", "P1/liver.seg.nrrd", "P1/mask.nii.gz")
    told = "P1 has 2 label maps (liver.seg.nrrd, mask.nii.gz), expected one"
    assert told in refusal(tmp_path)


def test_a_segmentation_of_slicer_is_no_image_to_predict(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    put(tmp_path, "ct.nrrd", "Segmentation.seg.nrrd")
    assert [case.id for case in find_inputs([tmp_path])] == ["ct"]
    assert caplog.messages == [f"1 label map (Segmentation.seg.nrrd) left out of {tmp_path}"]
    with pytest.raises(DataError, match="is a segmentation, not an image"):
        find_inputs([tmp_path / "Segmentation.seg.nrrd"])


def test_junk_beside_the_data_is_skipped(tmp_path: Path) -> None:
    put(tmp_path, *(f"{folder}/a.nii.gz" for folder in ("images", "labels")))
    for junk in ("._a.nii.gz", ".DS_Store", "b.nii.gz.part", "a.nii.gz~", "notes.txt"):
        put(tmp_path, f"images/{junk}", f"labels/{junk}")
    assert list(relative(find_cases(tmp_path))) == ["a"]


def test_awkward_names_are_kept(tmp_path: Path) -> None:
    names = ("größe 1 [x].nii.gz", "-dash.nii.gz", "a*b?.nii.gz")
    put(tmp_path, *(f"{folder}/{name}" for folder in ("images", "labels") for name in names))
    assert set(relative(find_cases(tmp_path))) == {"größe 1 [x]", "-dash", "a*b?"}


def test_all_missing_partners_are_named_in_both_directions(tmp_path: Path) -> None:
    put(tmp_path, *(f"images/i{n:02d}.nii.gz" for n in range(12)), "images/both.nii.gz")
    put(tmp_path, "labels/x.nii.gz", "labels/both.nii.gz")
    told = refusal(tmp_path)
    assert "12 images (i00, i01, i02, i03, i04, i05, i06, i07, i08, i09, and 2 more)" in told
    assert "without label map" in told
    assert "1 label map (x) without image" in told


def test_a_label_folder_of_another_set_is_recognised_as_such(tmp_path: Path) -> None:
    put(tmp_path, *(f"images/ct{n}.nii.gz" for n in range(5)))
    put(tmp_path, *(f"labels/mr{n}.nii.gz" for n in range(4)))
    told = refusal(tmp_path)
    assert "the 5 images (ct0, ct1, ct2, and 2 more)" in told
    assert "the 4 label maps (mr0, mr1, mr2, and 1 more) share no id" in told


def test_holes_in_the_channels_are_named(tmp_path: Path) -> None:
    put(tmp_path, "imagesTr/a_0000.nii.gz", "imagesTr/a_0001.nii.gz", "imagesTr/a_0002.nii.gz")
    put(tmp_path, "imagesTr/b_0000.nii.gz", "imagesTr/b_0002.nii.gz")
    put(tmp_path, "labelsTr/a.nii.gz", "labelsTr/b.nii.gz")
    assert "b lacks b_0001; every case needs channels 0000 to 0002" in refusal(tmp_path)


def test_more_channels_than_described_are_refused(tmp_path: Path) -> None:
    put(tmp_path, "imagesTr/a_0000.nii.gz", "imagesTr/a_0001.nii.gz", "labelsTr/a.nii.gz")
    describe(tmp_path, {"channel_names": {"0": "CT"}})
    assert "names 1 channels (CT), but there are files of channel 0001" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("a.nii", "a.nii.gz"), "a is there twice"),
        (("a.nii.gz", "A.nii.gz"), "images/a.nii.gz differ by letter case only"),
    ],
)
def test_ids_that_would_share_an_output_are_refused(
    tmp_path: Path, names: tuple[str, str], message: str
) -> None:
    put(tmp_path, *(f"images/{name}" for name in names), "labels/a.nii.gz")
    assert message in refusal(tmp_path)


def test_what_is_no_regular_file_is_refused(tmp_path: Path) -> None:
    put(tmp_path, "images/a.nii.gz", "labels/a.nii.gz", "images/folder.nii.gz/x.txt")
    (tmp_path / "images" / "gone.nii.gz").symlink_to("nowhere.nii.gz")
    (tmp_path / "images" / "self.nii.gz").symlink_to("self.nii.gz")
    os.mkfifo(tmp_path / "images" / "pipe.nii.gz")
    told = refusal(tmp_path)
    for name in ("folder", "gone", "self", "pipe"):
        assert f"{name}.nii.gz is not a regular file" in told


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{\n "labels" 1}', r"line 2, column 11"),
        ("[1, 2, 3]", "holds a list, expected an object"),
        ({"labels": {"background": 0, "a": "one"}}, "'a': 'one'"),
        ({"labels": {"background": 0, "whole": [1, 2]}}, r"'whole': \[1, 2\]"),
        ({"labels": {"background": 0, "a": 1, "b": 1}}, "gives 1 to both 'a' and 'b'"),
        ({"labels": []}, "must map names to integers"),
        ({"channel_names": {"1": "CT"}}, 'numbered from "0"'),
        ({"training": ["a.nii.gz"]}, "entry 0 of 'training'"),
        ({"training": [{"image": "../../x.nii.gz", "label": "y.nii.gz"}]}, "outside"),
        ({"training": [{"image": "/etc/x.nii.gz", "label": "y.nii.gz"}]}, "outside"),
    ],
)
def test_faulty_descriptions_are_refused(tmp_path: Path, content: Any, message: str) -> None:
    describe(tmp_path, content)
    with pytest.raises(DataError, match=message):
        find_cases(tmp_path)


def test_all_listed_files_that_do_not_exist_are_named(tmp_path: Path) -> None:
    pairs = [{"image": f"i{n}.nii.gz", "label": f"l{n}.nii.gz"} for n in range(2)]
    describe(tmp_path, {"training": pairs})
    told = refusal(tmp_path)
    assert "4 files" in told
    assert all(name in told for name in ("i0.nii.gz", "i1.nii.gz", "l0.nii.gz", "l1.nii.gz"))


def test_a_missing_folder_suggests_a_close_one(tmp_path: Path) -> None:
    put(tmp_path, "hippocampus/images/a.nii.gz")
    with pytest.raises(DataError, match=r"no folder .*did you mean .*hippocampus\?"):
        find_cases(tmp_path / "hipocampus")


def test_a_folder_without_cases_tells_what_was_looked_for(tmp_path: Path) -> None:
    told = refusal(tmp_path)
    assert all(word in told for word in ("images/", "imagesTr/", "dataset.json", "per patient"))
    put(tmp_path, "Task04/imagesTr/a.nii.gz")
    assert f"did you mean {tmp_path / 'Task04'}?" in refusal(tmp_path)
    assert "expected one of labels, masks" in refusal(tmp_path / "Task04")


def test_a_folder_of_images_stands_for_its_cases(tmp_path: Path) -> None:
    put(tmp_path, "b.nii.gz", "a.mha", "notes.txt", "inner/c.nii.gz")
    cases = find_inputs([tmp_path])
    assert [(case.id, case.images, case.labels) for case in cases] == [
        ("a", (tmp_path / "a.mha",), None),
        ("b", (tmp_path / "b.nii.gz",), None),
    ]


def test_numbered_files_are_the_channels_of_one_input(tmp_path: Path) -> None:
    names = ("case_0001.nii.gz", "case_0000.nii.gz")
    put(tmp_path, *names)
    by_file, by_folder = find_inputs([tmp_path / name for name in names]), find_inputs([tmp_path])
    assert by_file == by_folder
    (case,) = by_file
    assert case.id == "case"
    assert [path.name for path in case.images] == sorted(names)


def test_numbers_that_do_not_begin_at_zero_are_part_of_the_id(tmp_path: Path) -> None:
    put(tmp_path, "scan_0001.nii.gz", "scan_0002.nii.gz")
    assert [case.id for case in find_inputs([tmp_path])] == ["scan_0001", "scan_0002"]


def test_a_file_named_twice_is_one_input(tmp_path: Path) -> None:
    put(tmp_path, "a.nii.gz")
    assert len(find_inputs([tmp_path, tmp_path / "a.nii.gz"])) == 1


def test_all_faulty_inputs_are_told_at_once(tmp_path: Path) -> None:
    put(tmp_path, "x/liver.nii.gz", "y/liver.nii.gz", "notes.txt", "empty/readme")
    paths = [tmp_path / n for n in ("x", "y", "notes.txt", "empty", "x/lever.nii.gz")]
    with pytest.raises(DataError) as caught:
        find_inputs(paths)
    told = str(caught.value)
    assert "case liver is there twice" in told
    assert "notes.txt has no known image suffix" in told
    assert "empty holds no file with a suffix of .nii.gz" in told
    assert "lever.nii.gz does not exist; did you mean" in told


def test_inputs_with_a_channel_too_few_are_refused(tmp_path: Path) -> None:
    put(tmp_path, "a_0000.nii.gz", "a_0001.nii.gz", "b_0000.nii.gz", "c.nii.gz")
    with pytest.raises(DataError, match=r"c\.nii\.gz lacks the channel number.* b lacks b_0001"):
        find_inputs([tmp_path])


def test_the_voxel_half_of_a_pair_may_be_named_and_stands_for_both(tmp_path: Path) -> None:
    put(tmp_path, "a.hdr", "a.img")
    assert [case.id for case in find_inputs([tmp_path / "a.img"])] == ["a"]
    assert len(find_inputs([tmp_path])) == 1


def test_an_input_that_is_no_regular_file_is_a_case_for_reading_to_refuse(tmp_path: Path) -> None:
    put(tmp_path, "b.nii.gz")
    (tmp_path / "a.nii.gz").symlink_to("nowhere.nii.gz")
    assert [case.id for case in find_inputs([tmp_path / "a.nii.gz"])] == ["a"]
    assert [case.id for case in find_inputs([tmp_path])] == ["a", "b"]


def test_no_inputs_are_refused() -> None:
    with pytest.raises(DataError, match="no images given"):
        find_inputs([])


def test_predictions_meet_references_by_id(tmp_path: Path) -> None:
    put(tmp_path, "p/b.nii.gz", "p/a.nii.gz", "p/a_probabilities.nii.gz", "p/scores.csv")
    put(tmp_path, "r/a.nii", "r/b.nii.gz")
    assert pair_by_id(tmp_path / "p", tmp_path / "r") == [
        ("a", tmp_path / "p" / "a.nii.gz", tmp_path / "r" / "a.nii"),
        ("b", tmp_path / "p" / "b.nii.gz", tmp_path / "r" / "b.nii.gz"),
    ]
    one = tmp_path / "p" / "b.nii.gz"
    assert pair_by_id(one, tmp_path / "r") == [("b", one, tmp_path / "r" / "b.nii.gz")]


def test_what_prediction_writes_beside_a_label_map_is_no_prediction(tmp_path: Path) -> None:
    beside = ("uncertainty", "sample_01", "sample_12", "samples_entropy")
    put(tmp_path, "p/a.nii.gz", *(f"p/a_{name}.nii.gz" for name in beside), "r/a.nii.gz")
    assert [pair[0] for pair in pair_by_id(tmp_path / "p", tmp_path / "r")] == ["a"]
    put(tmp_path, "p/b_sample_01.nii.gz", "r/b_sample_01.nii.gz")  # there is no b
    found = pair_by_id(tmp_path / "p", tmp_path / "r")
    assert [pair[0] for pair in found] == ["a", "b_sample_01"]


def test_roles_in_names_are_ignored_only_where_plain_ids_do_not_meet(tmp_path: Path) -> None:
    put(tmp_path, "p/a_pred.nii.gz", "p/b_pred.nii.gz", "r/a_label.nii.gz", "r/b_label.nii.gz")
    assert [pair[0] for pair in pair_by_id(tmp_path / "p", tmp_path / "r")] == ["a", "b"]
    put(tmp_path, "r/a_pred.nii.gz")
    with pytest.raises(DataError, match=r"1 prediction \(b_pred\) without reference"):
        pair_by_id(tmp_path / "p", tmp_path / "r")


def test_two_single_files_are_a_pair_whatever_their_names(tmp_path: Path) -> None:
    put(tmp_path, "mine.nii.gz", "expert.nii.gz")
    mine, expert = tmp_path / "mine.nii.gz", tmp_path / "expert.nii.gz"
    assert pair_by_id(mine, expert) == [("mine", mine, expert)]


def test_missing_predictions_and_references_are_all_named(tmp_path: Path) -> None:
    put(tmp_path, "p/a.nii.gz", "p/x.nii.gz", "r/a.nii.gz", "r/y.nii.gz", "r/z.nii.gz")
    with pytest.raises(DataError) as caught:
        pair_by_id(tmp_path / "p", tmp_path / "r")
    assert "1 prediction (x) without reference" in str(caught.value)
    assert "2 references (y, z) without prediction" in str(caught.value)


def test_label_names_are_found_beside_a_folder_of_label_maps(tmp_path: Path) -> None:
    names = {0: "background", 1: "liver", 2: "tumor"}
    assert label_names_near(SAMPLE / "labelsTs") == names
    assert label_names_near(SAMPLE / "labelsTs" / "abdomen_09.nii.gz") == names
    assert label_names_near(tmp_path) == {}


@pytest.mark.parametrize(
    ("case_id", "patient"),
    [
        ("sub-01_ses-02", "sub-01"),
        ("sub-01", "sub-01"),
        ("P7_visit1_left", "P7"),
        ("BraTS-GLI-00012-001", "BraTS-GLI-00012"),
        ("liver_12", "liver_12"),
        ("case_0001", "case_0001"),
    ],
)
def test_patients_are_split_off_only_where_named(case_id: str, patient: str) -> None:
    assert patient_of(case_id) == patient


@given(st.text(min_size=1, max_size=20))
def test_a_patient_is_the_start_of_the_id_and_its_own_patient(case_id: str) -> None:
    patient = patient_of(case_id)
    assert patient
    assert case_id.startswith(patient)
    assert patient_of(patient) == patient


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"labels": {"a": 1, "a": 2}}', "the key 'a' is there twice"),
        ("[" * 100_000, "no valid JSON"),
        ('{"labels": {"a": ' + "9" * 5000 + "}}", "no valid JSON"),
        ('{"labels": {"background": 0, "a": 99999999999}}', "gives 'a' more than 2147483647"),
        ('{"labels": {"a": 1, "ignore": 0}}', "gives 0 to 'ignore', the voxels that nobody"),
        ('{"labels": {"background": 0, "a": 1, "ignore": -1}}', "integer from 0 per name"),
        ('{"labels": {"0": "a", "2": "Ignore", "3": "ignore"}}', "gives 2 and 3 to 'ignore'"),
    ],
)
def test_json_that_says_too_much_is_refused(tmp_path: Path, text: str, reason: str) -> None:
    put(tmp_path, "images/a.nii.gz", "labels/a.nii.gz")
    message = refusal(describe(tmp_path, text))
    assert "dataset.json" in message
    assert reason in message


def test_ids_that_differ_by_the_coding_of_accents_are_refused(tmp_path: Path) -> None:
    put(tmp_path, "caf\u00e9.nii.gz", "cafe\u0301.nii")
    with pytest.raises(DataError, match="differ by the coding of accents only"):
        find_inputs([tmp_path])


def test_names_too_long_for_the_disk_are_told() -> None:
    with pytest.raises(DataError, match="name too long"):
        find_inputs(["x" * 300 + ".nii.gz"])


@pytest.mark.parametrize(
    "names",
    [
        ("images/a.nii.gz", "images/b.nii.gz", "labels/b.nii.gz", "labels/c.nii.gz"),
        ("a/ct.nii.gz", "b/ct.nii.gz", "b/seg.nii.gz", "c/seg.nii.gz"),
    ],
)
def test_what_has_no_partner_is_left_out_on_demand(
    tmp_path: Path, names: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    put(tmp_path, *names)
    with pytest.raises(DataError, match="give --skip-unpaired"):
        find_cases(tmp_path)
    assert [case.id for case in find_cases(tmp_path, skip_unpaired=True).cases] == ["b"]
    assert caplog.messages == [
        "1 image (a) without label map left out",
        "1 label map (c) without image left out",
    ]


@pytest.mark.parametrize(
    "names",
    [
        ("images/a_0000.nii", "images/b_0000.nii", "images/b_0001.nii", "labels/b.nii"),
        ("a/t1.nii", "b/t1.nii", "b/t2.nii", "b/seg.nii"),
        ("a/t1.nii", "a/t1.nii.gz", "b/t1.nii", "b/seg.nii"),
    ],
)
def test_channels_of_what_is_left_out_may_lack(tmp_path: Path, names: tuple[str, ...]) -> None:
    put(tmp_path, *names)
    refusal(tmp_path)
    assert [case.id for case in find_cases(tmp_path, skip_unpaired=True).cases] == ["b"]


def test_listed_pairs_without_partner_are_left_out_on_demand(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    put(tmp_path, "i/a.nii", "i/b.nii", "l/b.nii", "l/c.nii")
    pairs = [{"image": f"i/{name}.nii", "label": f"l/{name}.nii"} for name in "abc"]
    describe(tmp_path, {"training": pairs})
    assert "names 2 files" in refusal(tmp_path)
    assert "give --skip-unpaired" in refusal(tmp_path)
    assert [case.id for case in find_cases(tmp_path, skip_unpaired=True).cases] == ["b"]
    assert caplog.messages == ["2 pairs (a, c) of dataset.json left out, since a file is missing"]


def test_a_listed_channel_that_is_missing_is_no_missing_partner(tmp_path: Path) -> None:
    put(tmp_path, "t1.nii", "a.nii", "u1.nii", "u2.nii", "b.nii")
    pairs = [
        {"image": ["t1.nii", "t2.nii"], "label": "a.nii"},
        {"image": ["u1.nii", "u2.nii"], "label": "b.nii"},
    ]
    describe(tmp_path, {"training": pairs})
    with pytest.raises(DataError, match=r"t2\.nii\) that do not exist; add or remove$"):
        find_cases(tmp_path, skip_unpaired=True)


def test_two_sets_that_never_meet_are_refused_all_the_same(tmp_path: Path) -> None:
    put(tmp_path, "images/a.nii.gz", "labels/b.nii.gz")
    with pytest.raises(DataError, match="share no id"):
        find_cases(tmp_path, skip_unpaired=True)


def test_predictions_without_a_reference_are_left_out_on_demand(tmp_path: Path) -> None:
    put(tmp_path, "ours/a.nii.gz", "ours/b.nii.gz", "theirs/b.nii.gz", "theirs/c.nii.gz")
    with pytest.raises(DataError, match="give --skip-unpaired"):
        pair_by_id(tmp_path / "ours", tmp_path / "theirs")
    pairs = pair_by_id(tmp_path / "ours", tmp_path / "theirs", skip_unpaired=True)
    assert [case_id for case_id, _, _ in pairs] == ["b"]


def test_files_in_no_known_format_are_not_passed_over_in_silence(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    put(tmp_path, "a.nii.gz", "b.nii.bz2", "c.hdr.gz", "c.img.gz", "notes.txt", "d.json", ".e.nii")
    assert [case.id for case in find_inputs([tmp_path])] == ["a"]
    [told] = caplog.messages
    assert told.startswith(f"3 files (b.nii.bz2, c.hdr.gz, c.img.gz) left out of {tmp_path}")


def test_voxels_without_their_header_are_a_case_for_reading_to_refuse(tmp_path: Path) -> None:
    put(tmp_path, "a.nii.gz", "b.img", "c.img", "C.HDR")
    assert [case.id for case in find_inputs([tmp_path])] == ["C", "a", "b"]


def test_what_prediction_wrote_beside_an_image_is_no_case(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    put(tmp_path, "imagesTr/a.nii.gz", "imagesTr/a_seg.nii.gz", "labelsTr/a.nii.gz")
    put(tmp_path, "imagesTr/b.nii.gz", "imagesTr/b_seg.nii.gz", "labelsTr/b.nii.gz")
    assert [case.id for case in find_cases(tmp_path).cases] == ["a", "b"]
    assert "2 label maps (a_seg.nii.gz, b_seg.nii.gz) left out of" in caplog.text
