"""NIfTI: what comes in, and that outputs carry the geometry of their source and no more."""

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
import pytest

from medseg3d.errors import DataError
from medseg3d.geometry.grid import Grid
from medseg3d.io import Volume, read_grid, read_image, read_labels, write_image, write_labels
from medseg3d.types import Affine

SHAPE = (5, 6, 7)
LPS = np.array([[-1.0, 0, 0, 11], [0, -1.0, 0, 13], [0, 0, 2.0, -7], [0, 0, 0, 1]])


def oblique() -> Affine:
    """20 degrees about the first axis, 33 about the third, unequal spacing, float32 values."""
    a, b = np.radians([20, 33])
    first = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    third = np.array([[np.cos(b), -np.sin(b), 0], [np.sin(b), np.cos(b), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = third @ first * [0.7, 0.7, 3.3]
    affine[:3, 3] = -101.7, 33.3, 512.9
    return affine.astype(np.float32).astype(np.float64)


def voxels(shape: tuple[int, ...] = SHAPE, dtype: npt.DTypeLike = np.int16) -> npt.NDArray[Any]:
    return np.random.default_rng(0).integers(0, 100, shape).astype(dtype)


def sform_only(image: Any) -> None:
    image.set_qform(None, 0)
    image.set_sform(oblique(), 4)


def qform_only(image: Any) -> None:
    image.set_qform(oblique(), 1)
    image.set_sform(None, 0)


def both(image: Any) -> None:
    image.set_qform(oblique(), 1)
    image.set_sform(oblique(), 2)


def lps(image: Any) -> None:
    image.set_qform(LPS, 1)
    image.set_sform(LPS, 1)


def mirrored(image: Any) -> None:
    image.set_qform(LPS * [-1, 1, 1, 1], 3)
    image.set_sform(LPS * [-1, 1, 1, 1], 3)


def no_codes(image: Any) -> None:
    image.set_qform(None, 0)
    image.set_sform(None, 0)


def in_microns(image: Any) -> None:
    image.set_qform(np.diag([500, 500, 2000, 1.0]), 1)
    image.set_sform(np.diag([500, 500, 2000, 1.0]), 1)
    image.header.set_xyzt_units("micron", "sec")


GEOMETRIES = (sform_only, qform_only, both, lps, mirrored, no_codes, in_microns)
each_geometry = pytest.mark.parametrize("geometry", GEOMETRIES, ids=lambda f: f.__name__)
each_kind = pytest.mark.parametrize(
    ("kind", "suffix"),
    [
        (nib.Nifti1Image, ".nii.gz"),
        (nib.Nifti1Image, ".nii"),
        (nib.Nifti2Image, ".nii.gz"),
        (nib.Nifti1Pair, ".img"),
        (nib.Nifti2Pair, ".img"),
    ],
)


def saved(
    path: Path,
    array: npt.NDArray[Any],
    edit: Callable[[Any], None] = both,
    kind: Any = nib.Nifti1Image,
) -> Path:
    image = kind(array, None, dtype=array.dtype)
    edit(image)
    nib.save(image, path)
    return path


def raw(path: Path) -> bytes:
    return gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()


def patched(path: Path, offset: int, value: npt.NDArray[Any]) -> Path:
    """Overwrite header bytes of a plain file."""
    content = bytearray(path.read_bytes())
    content[offset : offset + value.nbytes] = value.tobytes()
    path.write_bytes(content)
    return path


@each_kind
@each_geometry
def test_voxels_and_affine_agree_with_nibabel(
    tmp_path: Path, geometry: Callable[[Any], None], kind: Any, suffix: str
) -> None:
    path = saved(tmp_path / f"a{suffix}", voxels(), geometry, kind)
    volume = read_image(path)
    assert volume.array.dtype == np.int16
    np.testing.assert_array_equal(volume.array, voxels()[None])
    scale = [0.001, 0.001, 0.001, 1.0] if geometry is in_microns else [1.0, 1.0, 1.0, 1.0]
    np.testing.assert_array_equal(volume.grid.affine, np.diag(scale) @ nib.load(path).affine)
    assert read_grid(path) == (volume.grid, 1)


@each_kind
@each_geometry
def test_labels_carry_the_geometry_of_their_source_bit_for_bit(
    tmp_path: Path, geometry: Callable[[Any], None], kind: Any, suffix: str
) -> None:
    source = saved(tmp_path / f"a{suffix}", voxels(), geometry, kind)
    labels = voxels() % 3
    target = tmp_path / f"out{suffix}"
    write_labels(target, labels, like=read_image(source))
    old, new = nib.load(source).header, nib.load(target).header
    for name in ("qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d", "xyzt_units"):
        assert new[name] == old[name], name
    for name in ("qoffset_x", "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z"):
        np.testing.assert_array_equal(new[name], old[name], err_msg=name)
    np.testing.assert_array_equal(new["pixdim"][:4], old["pixdim"][:4])
    assert type(nib.load(target)) is kind
    assert new["intent_code"] == 1002
    assert new.get_data_dtype() == np.uint8
    back = read_labels(target)
    np.testing.assert_array_equal(back.labels, labels)
    assert back.grid == read_image(source).grid


def test_free_text_and_extensions_of_the_source_are_left_behind(tmp_path: Path) -> None:
    def talkative(image: Any) -> None:
        both(image)
        image.header["descrip"] = b"Jane Doe 1970"
        image.header["aux_file"] = b"jane_doe.txt"
        image.header["db_name"] = b"Jane"
        image.header["intent_name"] = b"Jane"
        image.header["cal_max"] = 99
        image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"Jane Doe"))

    source = saved(tmp_path / "a.nii", voxels(), talkative)
    assert b"Jane" in raw(source)
    volume = read_image(source)
    assert b"Jane" not in volume.header.nifti
    write_labels(tmp_path / "out.nii.gz", voxels() % 2, like=volume)
    write_image(tmp_path / "image.nii.gz", volume.array, like=volume)
    for name in ("out.nii.gz", "image.nii.gz"):
        assert b"Jane" not in raw(tmp_path / name)
        assert nib.load(tmp_path / name).header["cal_max"] == 0


@pytest.mark.parametrize(
    ("highest", "dtype"), [(1, np.uint8), (255, np.uint8), (256, np.uint16), (65536, np.int32)]
)
def test_stored_type_is_the_smallest_that_holds_the_labels(
    tmp_path: Path, highest: int, dtype: npt.DTypeLike
) -> None:
    source = read_image(saved(tmp_path / "a.nii.gz", voxels()))
    labels = np.zeros(SHAPE, np.int64)
    labels[1, 2, 3] = highest
    write_labels(tmp_path / "out.nii.gz", labels, like=source)
    image = nib.load(tmp_path / "out.nii.gz")
    assert image.get_data_dtype() == dtype
    np.testing.assert_array_equal(np.asarray(image.dataobj), labels)


def test_equal_labels_make_equal_files(tmp_path: Path) -> None:
    source = read_image(saved(tmp_path / "a.nii.gz", voxels()))
    labels = (voxels() % 3).astype(np.uint8)
    write_labels(tmp_path / "first.nii.gz", labels, like=source)
    write_labels(tmp_path / "second.nii.gz", np.asfortranarray(labels), like=source)
    first = (tmp_path / "first.nii.gz").read_bytes()
    assert first == (tmp_path / "second.nii.gz").read_bytes()
    assert first[4:8] == bytes(4)  # no time of writing
    assert gzip.decompress(first)[352:] == labels.tobytes(order="F")


@pytest.mark.parametrize("array", [voxels(), voxels((3, *SHAPE), np.float32)])
def test_images_come_back_as_written(tmp_path: Path, array: npt.NDArray[Any]) -> None:
    source = read_image(saved(tmp_path / "a.nii.gz", voxels()))
    write_image(tmp_path / "out.nii.gz", array, like=source)
    back = read_image(tmp_path / "out.nii.gz")
    np.testing.assert_array_equal(back.array, array.reshape(-1, *SHAPE))
    assert back.array.dtype == array.dtype
    assert back.grid == source.grid


def test_a_grid_that_is_no_longer_the_source_s_is_written_as_it_is(tmp_path: Path) -> None:
    source = read_image(saved(tmp_path / "a.nii.gz", voxels()))
    moved = Volume(source.array, Grid(SHAPE, LPS), source.path, source.header)
    write_image(tmp_path / "out.nii.gz", moved.array, like=moved)
    np.testing.assert_allclose(nib.load(tmp_path / "out.nii.gz").affine, LPS)


def test_a_volume_from_memory_gets_both_forms(tmp_path: Path) -> None:
    volume = Volume.from_array(voxels()[None], Grid(SHAPE, oblique()))
    write_image(tmp_path / "out.nii.gz", volume.array, like=volume)
    header = nib.load(tmp_path / "out.nii.gz").header
    np.testing.assert_allclose(header.get_sform(), oblique(), atol=1e-5)
    np.testing.assert_allclose(header.get_qform(), oblique(), atol=1e-4)
    assert header.get_xyzt_units()[0] == "mm"


def test_big_endian_becomes_native(tmp_path: Path) -> None:
    header = nib.Nifti1Header(endianness=">")
    image = nib.Nifti1Image(voxels(), oblique(), header=header)
    image.header.set_data_dtype(">i2")
    nib.save(image, tmp_path / "a.nii.gz")
    assert raw(tmp_path / "a.nii.gz")[:4] == (348).to_bytes(4, "big")
    volume = read_image(tmp_path / "a.nii.gz")
    assert volume.array.dtype == np.int16
    assert volume.array.dtype.isnative
    np.testing.assert_array_equal(volume.array[0], voxels())
    write_labels(tmp_path / "out.nii.gz", voxels() % 3, like=volume)
    np.testing.assert_array_equal(nib.load(tmp_path / "out.nii.gz").affine, image.affine)


def test_slope_and_intercept_are_applied(tmp_path: Path) -> None:
    image = nib.Nifti1Image(voxels(), LPS)
    image.header.set_slope_inter(0.5, -1000)
    nib.save(image, tmp_path / "a.nii")
    content = raw(tmp_path / "a.nii")
    stored = np.frombuffer(content[352:], np.int16).reshape(SHAPE, order="F")
    np.testing.assert_allclose(read_image(tmp_path / "a.nii").array[0], stored * 0.5 - 1000)
    assert read_image(tmp_path / "a.nii").array.dtype == np.float32


def test_slope_zero_means_none_and_keeps_the_type(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.nii", voxels())
    patched(path, 112, np.array([0, 7], np.float32))
    np.testing.assert_array_equal(read_image(path).array[0], voxels())
    assert read_image(path).array.dtype == np.int16


@pytest.mark.parametrize("slope", [np.inf, np.nan])
def test_a_slope_that_is_no_number_is_refused(tmp_path: Path, slope: float) -> None:
    path = patched(saved(tmp_path / "a.nii", voxels()), 112, np.array([slope], np.float32))
    with pytest.raises(DataError, match=r"a\.nii scales its voxels by (inf|nan)"):
        read_image(path)


@pytest.mark.parametrize(
    ("stored", "read"),
    [
        ((5, 6, 7, 1), (1, 5, 6, 7)),
        ((5, 6, 7, 1, 1), (1, 5, 6, 7)),
        ((5, 6, 7, 1, 1, 1), (1, 5, 6, 7)),
        ((5, 6, 1), (1, 5, 6, 1)),
        ((5, 6, 7, 3), (3, 5, 6, 7)),
        ((5, 6, 7, 1, 3), (3, 5, 6, 7)),
    ],
)
def test_axes_beyond_space_are_channels_or_dropped(
    tmp_path: Path, stored: tuple[int, ...], read: tuple[int, ...]
) -> None:
    path = saved(tmp_path / "a.nii.gz", voxels(stored))
    volume = read_image(path)
    assert volume.array.shape == read
    expected = voxels(stored).reshape(*stored[:3], -1)
    np.testing.assert_array_equal(np.moveaxis(volume.array, 0, -1), expected)
    assert read_grid(path)[1] == read[0]


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (voxels((5, 6)), "2D image of shape"),
        (voxels((1, 1, 1)), "one voxel only"),
        (voxels((5, 6, 7, 2, 3)), "5 axes"),
        (voxels(dtype=np.complex64), "complex"),
        (np.zeros(SHAPE, [("R", "u1"), ("G", "u1"), ("B", "u1")]), "colors"),
    ],
)
def test_what_is_no_volume_of_numbers_is_refused(
    tmp_path: Path, array: npt.NDArray[Any], message: str
) -> None:
    nib.save(nib.Nifti1Image(array, LPS), tmp_path / "a.nii.gz")
    for read in (read_image, read_grid, read_labels):
        with pytest.raises(DataError, match=rf"a\.nii\.gz .*{message}"):
            read(tmp_path / "a.nii.gz")


@pytest.mark.parametrize("spacing", [0.0, -1.0, np.nan])
@pytest.mark.parametrize("code", [0, 1])
def test_spacing_must_be_positive_where_no_sform_overrules_it(
    tmp_path: Path, spacing: float, code: int
) -> None:
    path = saved(tmp_path / "a.nii", voxels(), qform_only)
    patched(path, 252, np.array([code, 0], np.int16))
    patched(path, 80, np.array([spacing], np.float32))
    with pytest.raises(DataError, match=r"has the spacing \[.*\] and no sform"):
        read_image(path)


def test_a_bad_spacing_beside_a_sform_is_noted_and_repaired_in_outputs(tmp_path: Path) -> None:
    path = patched(saved(tmp_path / "a.nii", voxels()), 80, np.array([-1], np.float32))
    volume = read_image(path)
    np.testing.assert_allclose(volume.grid.affine, oblique())
    assert "valid sform" in volume.notes[0]
    write_labels(tmp_path / "out.nii", voxels() % 2, like=volume)
    zooms = nib.load(tmp_path / "out.nii").header["pixdim"][1:4]
    np.testing.assert_allclose(zooms, volume.grid.spacing, rtol=1e-6)


@pytest.mark.parametrize(
    ("offset", "values", "message"),
    [
        (280, [np.nan] * 4, "not finite"),
        (312, [0, 0, 0, 5], "singular"),
        (284, [1.0], "right angles"),
    ],
)
def test_impossible_sforms_are_refused(
    tmp_path: Path, offset: int, values: list[float], message: str
) -> None:
    path = saved(tmp_path / "a.nii", voxels(), lps)
    patched(path, offset, np.array(values, np.float32))
    with pytest.raises(DataError, match=rf"a\.nii: .*{message}"):
        read_image(path)


def test_conflicting_forms_are_noted_and_the_sform_wins(tmp_path: Path) -> None:
    def conflict(image: Any) -> None:
        image.set_qform(oblique(), 1)
        image.set_sform(LPS, 1)

    volume = read_image(saved(tmp_path / "a.nii", voxels(), conflict))
    np.testing.assert_array_equal(volume.grid.affine, LPS)
    assert "sform and qform differ" in volume.notes[0]
    assert read_image(saved(tmp_path / "b.nii", voxels(), both)).notes == ()


def test_absent_orientation_is_noted(tmp_path: Path) -> None:
    assert (
        "neither sform nor qform"
        in read_image(saved(tmp_path / "a.nii", voxels(), no_codes)).notes[0]
    )


def test_analyze_is_read_and_noted(tmp_path: Path) -> None:
    nib.save(nib.AnalyzeImage(voxels(), np.diag([-1.0, 1, 2, 1])), tmp_path / "a.img")
    volume = read_image(tmp_path / "a.img")
    np.testing.assert_array_equal(volume.array[0], voxels())
    assert volume.grid.spacing == (1.0, 1.0, 2.0)
    assert "ANALYZE" in volume.notes[0]
    write_labels(tmp_path / "out.nii.gz", voxels() % 2, like=volume)
    assert read_labels(tmp_path / "out.nii.gz").grid == volume.grid


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(
    ("factor", "told"), [(0.25, "0.25"), (-2.0, "-2"), (0, None), (1, None), (np.nan, None)]
)
def test_a_scale_factor_as_of_spm_is_noted_and_ignored(
    tmp_path: Path, order: str, factor: float, told: str | None
) -> None:
    header = nib.AnalyzeHeader(endianness=order)
    header.set_data_dtype(f"{order}i2")
    nib.save(nib.AnalyzeImage(voxels(), None, header), tmp_path / "a.img")
    patched(tmp_path / "a.hdr", 112, np.array([factor], f"{order}f4"))
    volume = read_image(tmp_path / "a.img")
    np.testing.assert_array_equal(volume.array[0], voxels())
    notes = [note for note in volume.notes if "scale factor" in note]
    expected = f"has the scale factor {told} in the header, as SPM writes it; it is ignored"
    assert len(notes) == (told is not None)
    assert all(note.endswith(f"a.img {expected}") for note in notes)


@pytest.mark.parametrize(
    ("code", "name"),
    [(0, " 0 "), (1, " 1 "), (255, " 255 "), (1536, " 1536 "), (9999, " 9999")],
)
def test_types_that_are_not_read_are_named_with_a_remedy(
    tmp_path: Path, code: int, name: str
) -> None:
    path = patched(saved(tmp_path / "a.nii", voxels()), 70, np.array([code], np.int16))
    for read in (read_image, read_labels):
        with pytest.raises(DataError, match=rf"type code{name}.*save it as uint8, int16 or floa"):
            read(path)


def test_colored_labels_come_with_a_remedy(tmp_path: Path) -> None:
    colors = np.zeros(SHAPE, [("R", "u1"), ("G", "u1"), ("B", "u1")])
    nib.save(nib.Nifti1Image(colors, LPS), tmp_path / "a.nii.gz")
    with pytest.raises(DataError, match=r"save it with one gray value or label per voxel"):
        read_labels(tmp_path / "a.nii.gz")


def test_a_quaternion_that_turns_nothing_is_told_in_plain_words(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.nii", voxels(), qform_only)
    patched(path, 256, np.array([1, 1, 1], np.float32))
    with pytest.raises(DataError) as raised:
        read_image(path)
    message = f"{path} has an impossible qform: its quaternion is longer than 1; repair the header"
    assert str(raised.value) == message


@pytest.mark.parametrize(("edit", "rest"), [(both, "the qform"), (sform_only, "the spacing alone")])
def test_an_empty_sform_is_told_with_what_to_do(
    tmp_path: Path, edit: Callable[[Any], None], rest: str
) -> None:
    path = patched(saved(tmp_path / "a.nii", voxels(), edit), 280, np.zeros(12, np.float32))
    message = rf"sform of zeros .*set its sform_code to 0, so that {rest} counts"
    with pytest.raises(DataError, match=message):
        read_image(path)


def test_a_spacing_refused_for_its_unit_names_the_unit(tmp_path: Path) -> None:
    def tiny(image: Any) -> None:
        image.set_sform(np.diag([0.05, 0.05, 0.05, 1.0]), 1)
        image.header.set_xyzt_units("micron")

    def small(image: Any) -> None:
        image.set_sform(np.diag([0.7, 0.7, 3.0, 1.0]), 1)
        image.header.set_xyzt_units("micron")

    with pytest.raises(DataError, match=r"a\.nii has voxels of .* mm, given in microns; expected"):
        read_image(saved(tmp_path / "a.nii", voxels(), tiny))
    note = read_image(saved(tmp_path / "b.nii", voxels(), small)).notes[-1]
    assert "b.nii gives its lengths in microns, which makes voxels of 0.0007 x 0.0007 x" in note
    assert not any(
        "microns" in n for n in read_image(saved(tmp_path / "c.nii", voxels(), in_microns)).notes
    )


@pytest.mark.parametrize(("given", "missing"), [("a.hdr", "a.img"), ("a.img", "a.hdr")])
def test_half_a_pair_names_the_other_half(tmp_path: Path, given: str, missing: str) -> None:
    saved(tmp_path / "a.img", voxels(), kind=nib.Nifti1Pair)
    np.testing.assert_array_equal(read_image(tmp_path / given).array[0], voxels())
    (tmp_path / missing).unlink()
    with pytest.raises(DataError, match=rf"{given} needs its other half {missing}"):
        read_image(tmp_path / given)


@pytest.mark.parametrize(
    ("offset", "value", "message"),
    [
        (40, np.array([3, 32767, 32767, 32767], np.int16), "declares 70362301923678 bytes"),
        (40, np.array([3, -5, 6, 7], np.int16), r"dimensions \(-5, 6, 7\)"),
        (40, np.array([3, 0, 6, 7], np.int16), r"dimensions \(0, 6, 7\)"),
        (40, np.array([9], np.int16), "declares 9 dimensions"),
        (70, np.array([9999], np.int16), "unknown data type code 9999"),
        (108, np.array([1e7], np.float32), "cut short"),
        (108, np.array([np.nan], np.float32), "at byte nan"),
        (108, np.array([351], np.float32), "at byte 351; expected 352 or later"),
        (344, np.array([b"xx"]), "no NIfTI signature"),
    ],
)
def test_broken_headers_are_refused(
    tmp_path: Path, offset: int, value: npt.NDArray[Any], message: str
) -> None:
    path = patched(saved(tmp_path / "a.nii", voxels()), offset, value)
    packed = tmp_path / "a.nii.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    for file in (path, packed):
        with pytest.raises(DataError, match=message):
            read_image(file)


@pytest.mark.parametrize("offset", [540, 543])
def test_voxels_within_the_header_of_a_second_version_are_refused(
    tmp_path: Path, offset: int
) -> None:
    path = saved(tmp_path / "a.nii", voxels(), kind=nib.Nifti2Image)
    patched(path, 168, np.array([offset], np.int64))
    with pytest.raises(DataError, match=rf"at byte {offset}; expected 544 or later"):
        read_image(path)


@pytest.mark.parametrize(
    ("offset", "value"), [(72, np.array([64], np.int16)), (0, np.array([12345], np.int32))]
)
def test_harmless_header_faults_are_noted(
    tmp_path: Path, offset: int, value: npt.NDArray[Any]
) -> None:
    path = patched(saved(tmp_path / "a.nii", voxels()), offset, value)
    volume = read_image(path)
    np.testing.assert_array_equal(volume.array[0], voxels())
    assert len(volume.notes) == 1


@pytest.mark.parametrize(
    "name",
    [
        *("odd_nifti/nibabel_anatomical.nii", "odd_nifti/nibabel_functional.nii"),
        *("odd_nifti/nibabel_example_nifti2.nii.gz", "odd_nifti/niftijs_5D_small.nii"),
        *("odd_nifti/nibabel_reoriented_anat_moved.nii", "odd_nifti/nibabel_standard.nii.gz"),
        *("odd_nifti/niftijs_little.nii.gz", "odd_nifti/niftijs_with_extension.nii.gz"),
        *("odd_nifti/sct_dmri.nii.gz", "spine/sct_t2.nii.gz", "abdomen_ct/spleen2_ct.nii.gz"),
    ],
)
def test_real_files_read_as_nibabel_does(shared_data: Path, name: str) -> None:
    image = nib.load(shared_data / name)
    volume = read_image(shared_data / name)
    expected = np.asarray(image.dataobj, dtype=np.float32)
    expected = expected.reshape(*volume.grid.shape, -1)
    np.testing.assert_allclose(np.moveaxis(volume.image, 0, -1), expected, rtol=1e-6)
    np.testing.assert_allclose(volume.grid.affine, image.affine, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nibabel_nifti1.hdr", "other half nibabel_nifti1.img"),
        ("nibabel_analyze.hdr", "other half nibabel_analyze.img"),
        ("niftijs_not-nifti.nii", "not a NIfTI image"),
        ("ivadomed_rgb_test_file.nii.gz", "colors"),
    ],
)
def test_real_files_that_are_no_volumes_are_refused(
    shared_data: Path, name: str, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        read_image(shared_data / "odd_nifti" / name)
