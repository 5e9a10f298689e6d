"""Where predictions go, and what is refused before any work is done."""

import os
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from medseg3d.api.places import expect_writable
from medseg3d.api.predicting.needs import expect_disk
from medseg3d.api.predicting.targets import Target, expect_new, find_targets
from medseg3d.config import PredictConfig, validated
from medseg3d.data.cases import Case
from medseg3d.errors import ConfigError, RunError


def cases(folder: Path, *names: str) -> list[Case]:
    found = []
    for name in names:
        image = folder / name
        image.parent.mkdir(parents=True, exist_ok=True)
        image.write_bytes(b"image")
        case_id = name.rpartition("/")[2].removesuffix(".nii.gz")
        found.append(Case(case_id, (image,), None, case_id))
    return found


def targets(found: list[Case], **options: object) -> list[Target]:
    images = tuple(case.images[0] for case in found)
    return find_targets(found, validated(PredictConfig, {"inputs": images} | options))


def names(found: list[Target], folder: Path) -> list[str]:
    return [file.relative_to(folder).as_posix() for target in found for file in target.files]


def everything(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, ["in/a_seg.nii.gz", "in/b_seg.nii.gz"]),
        ({"format": "nrrd"}, ["in/a_seg.nrrd", "in/b_seg.nrrd"]),
        ({"out": "out"}, ["out/a.nii.gz", "out/b.nii.gz"]),
        ({"out": "out", "format": "seg.nrrd"}, ["out/a.seg.nrrd", "out/b.seg.nrrd"]),
        ({"out": "out", "format": "mgz"}, ["out/a.mgz", "out/b.mgz"]),
        (
            {"out": "o", "format": "mha", "probabilities": True},
            ["o/a.mha", "o/a_probabilities.nii.gz", "o/b.mha", "o/b_probabilities.nii.gz"],
        ),
        (
            {"out": "o", "format": "mha", "samples": 2},
            [
                *("o/a.mha", "o/a_sample_01.nii.gz", "o/a_sample_02.nii.gz"),
                *("o/a_samples_entropy.nii.gz", "o/b.mha", "o/b_sample_01.nii.gz"),
                *("o/b_sample_02.nii.gz", "o/b_samples_entropy.nii.gz"),
            ],
        ),
        ({"out": "in/deeper"}, ["in/deeper/a.nii.gz", "in/deeper/b.nii.gz"]),
        ({"out": "v1.2"}, ["v1.2/a.nii.gz", "v1.2/b.nii.gz"]),
    ],
)
def test_outputs_are_named_after_their_cases(
    tmp_path: Path, options: dict[str, object], expected: list[str]
) -> None:
    found = cases(tmp_path / "in", "a.nii.gz", "b.nii.gz")
    before = everything(tmp_path)
    if "out" in options:
        options["out"] = tmp_path / str(options["out"])
    assert names(targets(found, **options), tmp_path) == expected
    assert everything(tmp_path) == before, "nothing is made before the work"


def test_outputs_are_the_same_from_another_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    options = {"probabilities": True, "uncertainty": True, "samples": 2, "out": Path("out")}
    [target] = targets(cases(tmp_path / "in", "a.nii.gz"), **options)
    assert [tmp_path / file for file in target.files] == list(target.absolute().files)
    assert len(target.files) == 6


def test_a_folder_of_images_gets_a_folder_beside_it(tmp_path: Path) -> None:
    found = cases(tmp_path / "in", "a.nii.gz", "b.nii.gz")
    assert names(targets(found, inputs=(tmp_path / "in",)), tmp_path) == [
        "in_seg/a.nii.gz",
        "in_seg/b.nii.gz",
    ]


def test_one_file_is_taken_by_its_suffix(tmp_path: Path) -> None:
    found = cases(tmp_path, "a.nii.gz")
    for name in ("x.nii.gz", "X.NII.GZ", "x.nii", "x.seg.nrrd", "x.nrrd", "x.mha", "x.mgz"):
        assert names(targets(found, out=tmp_path / name), tmp_path) == [name]
    (tmp_path / "folder.nii.gz").mkdir()
    found_there = targets(found, out=tmp_path / "folder.nii.gz")
    assert names(found_there, tmp_path) == ["folder.nii.gz/a.nii.gz"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format": "png"}, "unknown --format 'png'; known: nii.gz, nii"),
        ({"out": "x.nrrd", "format": "mha"}, r"does not end in \.mha"),
        ({"out": "x.mhd"}, r"not written as \.mhd"),
        ({"out": "x.nhdr"}, r"not written as \.nhdr"),
        ({"format": "dicom-seg"}, r"a\.nii\.gz is no DICOM; choose another format"),
        ({"out": "x.dcm"}, r"a\.nii\.gz is no DICOM"),
        ({"overwrite": True, "skip_existing": True}, "exclude each other"),
    ],
)
def test_contradictory_options_are_refused(
    tmp_path: Path, options: dict[str, object], message: str
) -> None:
    if "out" in options:
        options["out"] = tmp_path / str(options["out"])
    with pytest.raises(ConfigError, match=message):
        targets(cases(tmp_path, "a.nii.gz"), **options)


def test_one_file_for_two_cases_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="one file for 2 cases"):
        targets(cases(tmp_path, "a.nii.gz", "b.nii.gz"), out=tmp_path / "c.nii.gz")


def test_two_cases_never_share_an_output(tmp_path: Path) -> None:
    found = cases(tmp_path / "in", "a.nii.gz", "a_probabilities.nii.gz")
    assert len(targets(found, out=tmp_path / "out")) == 2
    with pytest.raises(RunError, match=r"two cases .*out/a_probabilities\.nii\.gz"):
        targets(found, out=tmp_path / "out", probabilities=True)


def test_outputs_do_not_go_into_the_folder_of_the_inputs(tmp_path: Path) -> None:
    found = cases(tmp_path / "in", "a_0000.nii.gz", "b_0000.nii.gz")
    (tmp_path / "link").symlink_to(tmp_path / "in")
    for out in (tmp_path / "in", tmp_path / "link", tmp_path / "in" / ".." / "in"):
        with pytest.raises(RunError, match="folder of the inputs"):
            targets([Case("a", found[0].images, None, "a")], out=out, overwrite=True)


def test_an_output_never_replaces_an_input(tmp_path: Path) -> None:
    [case] = cases(tmp_path, "a.nii.gz")
    (tmp_path / "deep").mkdir()
    link, hard = tmp_path / "deep" / "link.nii.gz", tmp_path / "deep" / "hard.nii.gz"
    link.symlink_to(case.images[0])
    hard.hardlink_to(case.images[0])
    through = Case("link", (link,), None, "link")
    for found, out in ((case, case.images[0]), (through, case.images[0]), (case, hard)):
        with pytest.raises(RunError, match="is an input"):
            targets([found], out=out, overwrite=True)
    # of a link in the output's place, only the link is lost
    assert targets([case], out=link, overwrite=True) == [Target(link)]


def test_existing_files_are_kept_unless_told_otherwise(tmp_path: Path) -> None:
    found = cases(tmp_path / "in", "a.nii.gz", "b.nii.gz")
    out = tmp_path / "out"
    out.mkdir()
    (out / "b.nii.gz").write_bytes(b"mine")
    wanted = targets(found, out=out)
    assert [target.is_there for target in wanted] == [False, True]
    with pytest.raises(RunError, match=r"1 outputs exist already .*--overwrite.*--skip-existing"):
        expect_new(wanted, skip_existing=False)
    expect_new(wanted, skip_existing=True)
    expect_new(wanted, skip_existing=False, ours={str(out / "b.nii.gz")})
    doubted = targets(found, out=out, uncertainty=True)
    (out / "a_uncertainty.nii.gz").write_bytes(b"of a case that was not finished")
    told = (
        r"^1 outputs exist already \(.*b\.nii\.gz\), but not all .* give --overwrite .* another -o"
    )
    with pytest.raises(RunError, match=told):
        expect_new(doubted, skip_existing=True)
    expect_new(doubted, skip_existing=True, ours={str(out / "b.nii.gz")})
    (out / "b.nii.gz").unlink()
    (out / "b.nii.gz").symlink_to("nowhere")
    for skip_existing in (False, True):
        with pytest.raises(RunError, match="exist already"):
            expect_new(wanted, skip_existing=skip_existing, ours={str(out / "b.nii.gz")})


def test_a_folder_in_the_place_of_an_output_is_refused(tmp_path: Path) -> None:
    found = cases(tmp_path / "in", "a.nii.gz")
    (tmp_path / "out" / "a.nii.gz").mkdir(parents=True)
    with pytest.raises(RunError, match="is a folder"):
        targets(found, out=tmp_path / "out", overwrite=True)


def test_the_longest_names_work_and_longer_ones_are_refused(tmp_path: Path) -> None:
    long = cases(tmp_path, "n" * 248 + ".nii.gz")
    [target] = targets(long, out=tmp_path / "out")
    assert len(target.labels.name) == 255
    with pytest.raises(RunError, match="259 bytes and the disk allows 255; rename the image"):
        targets(long)
    umlauts = cases(tmp_path, "ö" * 124 + ".nii.gz")
    assert len(targets(umlauts, out=tmp_path / "out")) == 1
    with pytest.raises(RunError, match="name a shorter file with -o"):
        targets(umlauts, probabilities=True, out=tmp_path / "out")


def test_places_that_cannot_be_written_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "nowhere").symlink_to("absent")
    expect_writable([tmp_path / "new" / "deep", tmp_path])
    assert everything(tmp_path) == {"file", "nowhere"}
    for place, message in (
        ("file", "is a file, not a folder"),
        ("file/deep", "is a file, not a folder"),
        ("nowhere/deep", "a link that leads nowhere"),
        ("p" * 300, "name is too long"),
    ):
        with pytest.raises(RunError, match=message):
            expect_writable([tmp_path / place])


def test_a_folder_without_permission_is_refused() -> None:
    with TemporaryDirectory() as place:  # pytest's own folders are closed to other accounts
        Path(place).chmod(0o755)
        folder = Path(place) / "locked"
        folder.mkdir(mode=0o555)
        account = os.geteuid()
        if account == 0:
            os.seteuid(65534)  # permission bits do not bind the administrator
        try:
            with pytest.raises(RunError, match="new cannot be written: permission is denied"):
                expect_writable([folder / "new"])
        finally:
            os.seteuid(account)


def test_a_read_only_disk_is_refused(tmp_path: Path) -> None:
    place = Path("/sys/kernel")
    if not place.is_dir():
        pytest.skip("no read-only disk at hand")
    with pytest.raises(RunError, match=r"cannot be written: (permission|the file system)"):
        expect_writable([place / "out"])


def test_too_little_room_is_said_with_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("medseg3d.machine.free_disk", lambda _folder: 5 << 20)
    new = tmp_path / "new"
    expect_disk([(new, 2 << 20), (tmp_path, 2 << 20)])
    with pytest.raises(RunError, match=r"new has 5.0 MiB free and the outputs need about 6.0 MiB"):
        expect_disk([(new, 2 << 20), (tmp_path, 3 << 20)])
