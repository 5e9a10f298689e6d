"""Every broken or awkward input through every command: right, or one sentence and nothing else.

The inputs and what must come of them are those of ``bad_inputs.py``, whose manifest says "ok",
"ok, with a warning" or "error"; further kinds are in ``test_more_bad_inputs``. Each command runs in
this process within 10 s and 2 GiB of memory beyond what the process has already.
"""

import ctypes
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
import pytest
from typer.testing import CliRunner, Result

from medseg3d import cli
from medseg3d.data.files import case_stem
from tests.limits import limited

TOOL = Path(__file__).parents[2].parent / "shared" / "tools" / "bad_inputs.py"
SECONDS, BYTES = 10.0, 2 << 30
LONGEST_MESSAGE = 700
SHAPE = (24, 28, 20)
LABELS = {"background": 0, "organ": 1, "core": 2}
QUICK = {
    "steps_per_epoch": 1,
    "width": 2,
    "batch_size": 1,
    "patch_size": [8, 8, 8],
    "folds": 2,
    "precision": "fp32",
    "checkpoint_minutes": 0,
}

SAME_SPACE = (
    *("plain", "oblique", "affine_rounding", "label_stored_flipped", "label_float_exact"),
    *("label_0_9999", "label_uint64", "label_empty", "label_all_foreground", "trailing_singleton"),
    *("constant_image", "all_zero_image", "smaller_than_patch", "single_slice", "anisotropic"),
    *("long_thin", "uint16_high", "huge_intensity", "float64_image", "scl_slope", "qform_only"),
    *("no_orientation", "big_endian", "nifti2", "pair", "analyze", "unicode_and_space_path"),
    *("long_path", "dots_in_name", "uppercase_suffix", "leading_dash_name", "gz_multi_member"),
    *("header_extension", "symlink_file", "negative_pixdim_with_sform", "bad_bitpix"),
    *("bad_sizeof_hdr", "gz_trailing_garbage"),
)
BAD_IMAGE = (
    *("one_voxel", "image_nan", "image_inf", "image_4d", "image_5d", "image_2d", "image_rgb"),
    *("image_complex", "large_shear", "zero_spacing", "negative_spacing", "nan_spacing"),
    *("affine_nan", "affine_singular", "header_bomb", "negative_dim", "zero_dim", "dim0_wrong"),
    *("bad_datatype", "bad_magic", "vox_offset_past_end", "slope_inf", "truncated_nii"),
    *("truncated_gz", "gz_bad_crc", "zero_byte", "text_renamed", "html_renamed", "plain_named_gz"),
    *("gz_named_nii", "dicom_named_nii", "random_bytes", "hdr_without_img", "mhd_missing_raw"),
    *("nrrd_missing_raw", "nrrd_short", "directory_named_nii_gz", "dangling_symlink"),
    *("symlink_to_itself", "no_permission"),
)
BAD_LABELS = (
    *("label_gap", "label_over_255", "label_half", "label_nan", "label_negative", "label_255"),
    *("label_is_image", "label_onehot_4d", "label_rgb", "shape_mismatch", "shape_transposed"),
    *("affine_shift", "affine_rotated", "spacing_mismatch"),
)
UNPAIRED = ("missing_label", "orphan_label")
SETS = (
    *("duplicate_case_id", "prefix_ids", "mixed_channel_count", "channels_on_different_grids"),
    *("same_image_two_ids", "empty_input_dir"),
)
JSONS = ("json_bad", "json_escape", "json_missing", "json_labels", "json_list")
MODELS = (
    *("checkpoint_pickle", "checkpoint_truncated", "checkpoint_empty", "zip_slip", "zip_absolute"),
    *("zip_backslash", "zip_duplicate_member", "zip_bomb"),
)
OUTPUTS = ("readonly_output_dir",)
KINDS = [*SAME_SPACE, *BAD_IMAGE, *BAD_LABELS, *UNPAIRED, *SETS, *JSONS, *MODELS, *OUTPUTS]

UNDECLARED = ("label_gap", "label_over_255", "label_255", "label_is_image")
"""Whole numbers that only a list of declared labels can call wrong."""

WARNINGS = {
    "label_empty": "background only",
    "label_all_foreground": "no background",
    "constant_image": "is 7 ",
    "all_zero_image": "is 0 ",
    "huge_intensity": r"e\+3[12]",
    "no_orientation": "neither sform nor qform",
    "analyze": "ANALYZE",
    "negative_pixdim_with_sform": "beside a valid sform",
    "bad_bitpix": "bits per voxel",
    "bad_sizeof_hdr": "header size",
    "same_image_two_ids": "same image",
}
"""What the warning of each kind that the manifest marks must say."""

LABELS_ONLY = ("label_empty", "label_all_foreground")
"""Oddities that the image does not have."""

TWO_CHANNELS = ("prefix_ids", "mixed_channel_count", "channels_on_different_grids")
NEEDS_PERMISSIONS = ("no_permission", "readonly_output_dir")


class Entry(NamedTuple):
    """A line of the manifest with its paths made absolute."""

    kind: str
    file: Path
    labels: Path | None
    is_error: bool
    warns: bool


@pytest.fixture(scope="session")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Entry]:
    """All entries by kind."""
    if not TOOL.is_file():
        pytest.skip("the broken inputs are made by ../shared/tools/bad_inputs.py, not found")
    folder = tmp_path_factory.mktemp("bad_inputs") / "made"
    subprocess.run([sys.executable, TOOL, folder], check=True, capture_output=True)
    found = {}
    for line in json.loads((folder / "manifest.json").read_text(encoding="utf-8")):
        found[line["kind"]] = Entry(
            line["kind"],
            folder / line["file"],
            folder / line["label"] if "label" in line else None,
            line["expected"] == "error",
            line.get("warn", False),
        )
    yield found
    assert not (folder / "PICKLE_CODE_RAN").exists()


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory, manifest: dict[str, Entry]) -> dict[int, Path]:
    """A bundle for images of one channel, and one for two, both hardly trained."""
    folder = tmp_path_factory.mktemp("models")
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for channels in (1, 2):
            data = good_cases(folder / f"data{channels}", manifest, channels)
            result = run("fit", data, "-o", f"run{channels}", "--epochs", "1", *quick())
            assert result.exit_code == 0, result.output
            found[channels] = folder / f"run{channels}" / "model.medseg3d"
    return found


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_kind_has_its_place_here(manifest: dict[str, Entry]) -> None:
    assert set(KINDS) == set(manifest)
    assert len(KINDS) == len(set(KINDS)) == 114


@pytest.mark.parametrize("kind", KINDS)
def test_every_input_ends_as_the_catalogue_says(
    kind: str, manifest: dict[str, Entry], models: dict[int, Path], work: Path
) -> None:
    entry = manifest[kind]
    with permissions_matter() if kind in NEEDS_PERMISSIONS else everything_allowed() as started:
        started(lambda: drive(entry, manifest, models, work))


def drive(entry: Entry, manifest: dict[str, Entry], models: dict[int, Path], work: Path) -> None:
    if entry.kind in MODELS:
        drive_model(entry, manifest, work)
    elif entry.kind in JSONS:
        drive_json(entry, manifest, work)
    elif entry.kind in SETS:
        drive_set(entry, manifest, models, work)
    elif entry.kind in OUTPUTS:
        drive_output(entry, manifest, models, work)
    elif entry.kind in UNPAIRED:
        drive_unpaired(entry, manifest, models, work)
    else:
        drive_case(entry, manifest, models, work)


def drive_case(
    entry: Entry, manifest: dict[str, Entry], models: dict[int, Path], work: Path
) -> None:
    """An image with or without labels: predict it, learn from it, score its labels."""
    folder = work / "in"
    shutil.copytree(entry.file.parent, folder, symlinks=True, copy_function=copy_with_mode)
    image = folder / entry.file.name
    bad_image = entry.is_error and entry.kind not in BAD_LABELS
    result = expect(
        "predict",
        image,
        *("-m", models[1]),
        fails=bad_image,
        says=WARNINGS[entry.kind] if entry.warns and entry.kind not in LABELS_ONLY else "",
        names=(image.name, case_stem(image)),
        watch=work,
    )
    if not bad_image:
        expect_in_place(image, Path(result.stdout.split("\t")[0]))
    data = good_cases(work / "data", manifest)
    add_case(data, entry, manifest)
    expect_from_data(entry, data, ("case",), work)
    if entry.labels is not None:
        drive_score(entry, manifest, work)


def drive_score(entry: Entry, manifest: dict[str, Entry], work: Path) -> None:
    """The labels against good ones on the grid of the image, or against themselves."""
    assert entry.labels is not None
    is_fine = not entry.is_error or entry.kind in UNDECLARED or entry.kind in BAD_IMAGE
    fails = entry.kind in ("one_voxel", "image_2d", "large_shear") or (
        entry.is_error and not is_fine
    )
    is_own = is_fine and entry.kind != "label_empty"  # two empty maps leave nothing to score
    reference = entry.labels if is_own else manifest["plain"].labels
    expect(
        *("score", entry.labels, reference, "-o", work / "scores.csv"),
        fails=fails,
        names=(entry.labels.name, "case"),
        watch=work,
    )


def drive_unpaired(
    entry: Entry, manifest: dict[str, Entry], models: dict[int, Path], work: Path
) -> None:
    data = good_cases(work / "data", manifest)
    part = "images" if entry.kind == "missing_label" else "labels"
    shutil.copy(entry.file, data / part / "case.nii.gz")
    expect_from_data(entry, data, ("case",), work)
    if entry.kind == "missing_label":
        expect("predict", entry.file, "-m", models[1], "-o", work / "out.nii.gz", watch=work)


def drive_set(
    entry: Entry, manifest: dict[str, Entry], models: dict[int, Path], work: Path
) -> None:
    channels = 2 if entry.kind in TWO_CHANNELS else 1
    folder = work / "in"
    shutil.copytree(entry.file, folder)
    result = expect(
        *("predict", folder, "-m", models[channels], "-o", work / "out"),
        fails=entry.is_error,
        names=("case1", "b_0001", "a_0001", str(folder)),
        watch=work,
        spared=("a.nii.gz", "out") if entry.kind == "mixed_channel_count" else (),
    )
    if entry.kind == "prefix_ids":
        assert sorted(path.name for path in (work / "out").iterdir()) == [
            *("case1.nii.gz", "case10.nii.gz", "predictions.json")
        ]
        assert len(result.stdout.splitlines()) == 2
    data = folder
    if entry.kind != "empty_input_dir":
        data = good_cases(work / "data", manifest, channels)
        for file in folder.iterdir():
            shutil.copy(file, data / "images" / file.name)
            case_id = case_stem(file).removesuffix("_0000").removesuffix("_0001")
            shutil.copy(manifest["plain"].labels, data / "labels" / f"{case_id}.nii.gz")
    names = ("case1", "b_0001", "a_0001", "a_image", str(data))
    expect_from_data(entry, data, names, work)


def drive_json(entry: Entry, manifest: dict[str, Entry], work: Path) -> None:
    data = good_cases(work / "data", manifest)
    shutil.copy(entry.file, data / "dataset.json")
    expect_from_data(entry, data, ("dataset.json",), work)


def drive_model(entry: Entry, manifest: dict[str, Entry], work: Path) -> None:
    plain = manifest["plain"].file
    expect(
        *("predict", plain, "-m", entry.file, "-o", work / "out.nii.gz"),
        fails=True,
        names=(entry.file.name,),
        watch=work,
    )
    expect("info", entry.file, fails=True, names=(entry.file.name,), watch=work)


def drive_output(
    entry: Entry, manifest: dict[str, Entry], models: dict[int, Path], work: Path
) -> None:
    """A folder that cannot be written into is found before the work."""
    plain = manifest["plain"].file
    expect(
        *("predict", plain, "-m", models[1], "-o", entry.file / "out.nii.gz"),
        fails=True,
        names=(entry.file.name,),
        watch=work,
    )
    data = good_cases(work / "data", manifest)
    expect(
        *("fit", data, "-o", entry.file / "run", "--epochs", "1", *quick()),
        fails=True,
        names=(entry.file.name,),
        watch=work,
    )


def expect_from_data(entry: Entry, data: Path, names: tuple[str, ...], work: Path) -> None:
    """``check`` reports what is to be said, and ``fit`` refuses the same."""
    says = WARNINGS[entry.kind] if entry.warns else ""
    before = snapshot(work)
    with limited(SECONDS):
        result = run("check", data, "--json")
    assert result.exception is None or isinstance(result.exception, SystemExit), result.output
    assert result.exit_code == int(entry.is_error), result.output
    assert snapshot(work) == before
    if result.stdout:
        found = json.loads(result.stdout)["findings"]
        errors = [one["message"] for one in found if one["severity"] == "error"]
        assert bool(errors) is entry.is_error, errors
        assert not errors or any(name in "".join(errors) for name in names), errors
        assert max(map(len, errors), default=0) < LONGEST_MESSAGE + 2 * len(str(work))
        warnings = "\n".join(one["message"] for one in found if one["severity"] == "warning")
        assert re.search(says, warnings), warnings
    else:
        assert any(name in result.stderr for name in names), result.output
    options = ("-o", work / "run", "--epochs", "1", *quick())
    expect("fit", data, *options, fails=entry.is_error, says=says, names=names, watch=work)


def expect(
    verb: str,
    *arguments: Any,
    fails: bool = False,
    says: str = "",
    names: tuple[str, ...] = (),
    spared: tuple[str, ...] = (),
    watch: Path,
) -> Result:
    """Run a command and check how it ends.

    Args:
        verb: The command.
        *arguments: What follows it.
        fails: Whether it must end with one sentence, exit code 1 and nothing written.
        says: Pattern of the warning that is due.
        names: Of which the sentence must have one.
        spared: Names of what the good cases of a batch leave all the same.
        watch: Folder in which nothing may change on failure.
    """
    before = snapshot(watch)
    with limited(SECONDS):
        result = run(verb, *arguments)
    told = f"{verb}: {result.output}"
    assert "Traceback" not in result.output, told
    assert result.exception is None or isinstance(result.exception, SystemExit), told
    assert result.exit_code == int(fails), told
    if fails:
        lines = [line for line in result.stderr.splitlines() if line.startswith("medseg3d ")]
        assert len(lines) == 1, told
        assert lines[0].startswith(f"medseg3d {verb}: "), told
        assert len(lines[0]) < LONGEST_MESSAGE + 2 * len(str(watch)), told
        assert any(name in result.stderr for name in names), told
        after = snapshot(watch)
        assert before <= after, told
        assert {Path(path).name for path, *_ in after - before} == {*spared}, told
    elif says:
        assert re.search(f"warning: .*{says}", result.stderr), told
    return result


def run(verb: str, *arguments: Any) -> Result:
    with bounded_memory():
        return CliRunner().invoke(cli.app, [verb, *map(str, arguments)])


@contextmanager
def bounded_memory() -> Iterator[None]:
    """Let this process map no more than BYTES beyond what it has."""
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (mapped + BYTES, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def snapshot(folder: Path) -> set[tuple[str, int, int]]:
    """Every file below ``folder`` with its size; the cache may grow and failures be listed."""
    found = set()
    for path in folder.rglob("*"):
        status = path.lstat()
        if ".cache" not in path.parts and path.name not in (
            "failed.csv",
            "predictions.json",
            "runs",
        ):
            found.add((str(path), 0 if path.is_dir() else status.st_size, status.st_ino))
    return found


def quick() -> list[str]:
    return [word for key, value in QUICK.items() for word in ("--set", f"{key}={value}")]


def good_cases(folder: Path, manifest: dict[str, Entry], channels: int = 1) -> Path:
    """Three whole cases with declared labels."""
    plain = manifest["plain"]
    for part in ("images", "labels"):
        (folder / part).mkdir(parents=True)
    rng = np.random.default_rng(0)
    source = nib.load(plain.file)
    for number in range(3):
        for channel in range(channels):
            name = f"good_{number}" + (f"_{channel:04d}" if channels > 1 else "")
            voxels = np.asarray(source.dataobj) + rng.integers(0, 9, SHAPE)
            image = nib.Nifti1Image(voxels.astype(np.int16), source.affine)
            nib.save(image, folder / "images" / f"{name}.nii.gz")
        shutil.copy(plain.labels, folder / "labels" / f"good_{number}.nii.gz")
    (folder / "dataset.json").write_text(json.dumps({"labels": LABELS}))
    return folder


def add_case(data: Path, entry: Entry, manifest: dict[str, Entry]) -> None:
    """Put the entry into a data set under the id ``case``."""
    stem = case_stem(entry.file)
    for file in entry.file.parent.iterdir():
        if file == entry.labels or not file.name.startswith(stem):
            continue
        target = data / "images" / f"case{file.name[len(stem) :]}"
        if file.is_symlink() and file.exists():
            shutil.copy(file, target)
        elif file.is_symlink():
            loops = file.readlink().name == file.name
            target.symlink_to(target.name if loops else file.readlink())
        elif file.is_dir():
            shutil.copytree(file, target)
        else:
            copy_with_mode(file, target)
    labels = entry.labels or manifest["plain"].labels
    if entry.kind == "analyze":  # knows no orientation: labels in the same order of voxels
        header = nib.load(entry.file)
        voxels = np.asarray(nib.load(labels).dataobj)
        nib.save(nib.AnalyzeImage(voxels, header.affine), data / "labels" / "case.img")
        return
    shutil.copy(labels, data / "labels" / "case.nii.gz")


def copy_with_mode(source: str | Path, target: str | Path) -> None:
    """Copy also what its mode lets nobody read."""
    if Path(source).is_symlink():
        Path(target).symlink_to(Path(source).readlink())
        return
    mode = Path(source).stat().st_mode
    Path(source).chmod(0o600)
    shutil.copyfile(source, target)
    for file in (source, target):
        Path(file).chmod(mode)


def expect_in_place(image: Path, output: Path) -> None:
    """The label map has shape, affine and codes of the image, and an integer type."""
    source, labels = nib.load(image), nib.load(output)
    assert labels.shape == source.shape[:3]
    np.testing.assert_allclose(labels.affine, source.affine, atol=1e-5)
    assert labels.get_data_dtype().kind in "iu"
    if isinstance(source.header, nib.Nifti1Header):
        for code in ("qform_code", "sform_code"):
            assert labels.header[code] == source.header[code]
    assert not labels.header.extensions


@contextmanager
def everything_allowed() -> Iterator[Callable[[Callable[[], None]], None]]:
    yield lambda work: work()


@contextmanager
def permissions_matter() -> Iterator[Callable[[Callable[[], None]], None]]:
    """Run in a thread that, even as root, may only do what the mode of a file allows."""

    def started(work: Callable[[], None]) -> None:
        errors: list[BaseException] = []

        def body() -> None:
            try:
                give_up_privileges()
                work()
            except BaseException as error:
                errors.append(error)

        thread = threading.Thread(target=body)
        thread.start()
        thread.join()
        if errors:
            raise errors[0]

    yield started


def give_up_privileges() -> None:
    """Drop root's right to pass over file modes, for the rest of this thread."""
    if os.geteuid() != 0:
        return
    overrides = 1 << 1 | 1 << 2  # CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    data = (ctypes.c_uint32 * 6)()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.capget(header, data):
        pytest.skip("root's privileges cannot be read here")
    data[0] &= ~overrides
    data[1] &= ~overrides
    if libc.capset(header, data):
        pytest.skip("root's privileges cannot be given up here")
