"""NRRD, MetaImage and GIPL: geometry as SimpleITK sees it, and no silent gaps."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import SimpleITK as sitk  # noqa: N813

from medseg3d.errors import DataError
from medseg3d.geometry.grid import Grid
from medseg3d.io import (
    Volume,
    read_grid,
    read_image,
    read_labels,
    sources,
    write_image,
    write_labels,
)

SHAPE = (4, 5, 6)
DIRECTION = (0.8, -0.6, 0, 0.6, 0.8, 0, 0, 0, -1)
TO_RAS = np.array([-1, -1, 1])
each_suffix = pytest.mark.parametrize("suffix", [".nrrd", ".nhdr", ".mha", ".mhd"])


def voxels() -> npt.NDArray[np.int16]:
    return np.random.default_rng(0).integers(-500, 500, SHAPE).astype(np.int16)


def stored(path: Path, array: npt.NDArray[Any] | None = None, *, compress: bool = False) -> Path:
    image = sitk.GetImageFromArray((voxels() if array is None else array).T)
    image.SetSpacing((0.7, 0.8, 3.0))
    image.SetOrigin((-100.0, 50.0, 7.0))
    image.SetDirection(DIRECTION)
    sitk.WriteImage(image, str(path), useCompression=compress)
    return path


@each_suffix
@pytest.mark.parametrize("compress", [False, True])
def test_every_voxel_lies_where_simpleitk_puts_it(
    tmp_path: Path, suffix: str, compress: bool
) -> None:
    path = stored(tmp_path / f"a{suffix}", compress=compress)
    volume = read_image(path)
    image = sitk.ReadImage(str(path))
    assert volume.array.dtype == np.int16
    assert volume.grid.spacing == pytest.approx((0.7, 0.8, 3.0))
    for index in ((0, 0, 0), (3, 0, 0), (0, 4, 0), (0, 0, 5), (3, 4, 5)):
        assert volume.array[(0, *index)] == image.GetPixel(index)
        expected = TO_RAS * image.TransformIndexToPhysicalPoint(index)
        np.testing.assert_allclose((volume.grid.affine @ (*index, 1))[:3], expected, atol=1e-9)
    assert read_grid(path) == (volume.grid, 1)


def test_gipl_is_read(tmp_path: Path) -> None:
    path = stored(tmp_path / "a.gipl")
    np.testing.assert_array_equal(read_image(path).array[0], voxels())
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(DataError, match="cut short"):
        read_image(path)


@pytest.mark.parametrize("suffix", [".nrrd", ".mha", ".nii.gz"])
def test_components_and_fourth_axes_are_channels(tmp_path: Path, suffix: str) -> None:
    array = np.random.default_rng(0).normal(size=(3, *SHAPE)).astype(np.float32)
    like = Volume.from_array(array, Grid(SHAPE, np.diag([-0.7, -0.8, 3.0, 1.0])))
    write_image(tmp_path / f"a{suffix}", array, like=like)
    back = read_image(tmp_path / f"a{suffix}")
    np.testing.assert_array_equal(back.array, array)
    series = sitk.JoinSeries([sitk.GetImageFromArray(channel.T) for channel in array])
    sitk.WriteImage(series, str(tmp_path / "b.mha"))
    np.testing.assert_array_equal(read_image(tmp_path / "b.mha").array, array)


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("missing", [1, 100])
def test_cut_files_are_refused(tmp_path: Path, suffix: str, compress: bool, missing: int) -> None:
    path = stored(tmp_path / f"a{suffix}", compress=compress)
    path.write_bytes(path.read_bytes()[:-missing])
    with pytest.raises(DataError, match=r"a\.\w+ is (cut short|damaged)"):
        read_image(path)


@pytest.mark.parametrize("suffix", [".nhdr", ".mhd"])
@pytest.mark.parametrize("compress", [False, True])
def test_detached_data_are_checked(tmp_path: Path, suffix: str, compress: bool) -> None:
    path = stored(tmp_path / f"a{suffix}", compress=compress)
    (data,) = (file for file in tmp_path.iterdir() if file != path)
    data.write_bytes(data.read_bytes()[:-20])
    with pytest.raises(DataError, match=rf"{data.name} is (cut short|damaged)"):
        read_image(path)
    data.unlink()
    with pytest.raises(DataError, match=rf"needs its data file {data.name}, which does not exist"):
        read_image(path)


@pytest.mark.parametrize("suffix", [".nhdr", ".mhd"])
def test_data_outside_the_folder_are_refused(tmp_path: Path, suffix: str) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    path = stored(folder / f"a{suffix}")
    (data,) = (file for file in folder.iterdir() if file != path)
    data.rename(tmp_path / data.name)
    path.write_bytes(path.read_bytes().replace(data.name.encode(), b"../" + data.name.encode()))
    with pytest.raises(DataError, match="outside its own folder"):
        read_image(path)


def test_a_header_bomb_is_refused_before_it_is_read(tmp_path: Path) -> None:
    header = (
        "ObjectType = Image\nNDims = 3\nDimSize = 30000 30000 30000\nElementType = MET_SHORT\n"
        "ElementSpacing = 1 1 1\nElementDataFile = LOCAL\n"
    )
    (tmp_path / "a.mha").write_bytes(header.encode() + bytes(100))
    with pytest.raises(DataError, match="declares 54000000000000 bytes"):
        read_image(tmp_path / "a.mha")


def test_flat_and_complex_images_are_refused(tmp_path: Path) -> None:
    sitk.WriteImage(sitk.Image(5, 6, sitk.sitkInt16), str(tmp_path / "a.mha"))
    with pytest.raises(DataError, match="2D image"):
        read_image(tmp_path / "a.mha")


@pytest.mark.parametrize("suffix", [".nrrd", ".mha", ".nii.gz", ".nii"])
def test_labels_keep_their_place_in_other_formats(tmp_path: Path, suffix: str) -> None:
    source = read_image(stored(tmp_path / "a.nrrd"))
    labels = (voxels() > 0).astype(np.uint8)
    write_labels(tmp_path / f"out{suffix}", labels, like=source)
    image = sitk.ReadImage(str(tmp_path / f"out{suffix}"))
    original = sitk.ReadImage(str(tmp_path / "a.nrrd"))
    assert image.GetPixelID() == sitk.sitkUInt8
    np.testing.assert_allclose(image.GetDirection(), original.GetDirection(), atol=1e-6)
    np.testing.assert_allclose(image.GetOrigin(), original.GetOrigin(), atol=1e-4)
    back = read_labels(tmp_path / f"out{suffix}")
    np.testing.assert_array_equal(back.labels, labels)
    assert back.grid.same_as(source.grid)


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
def test_voxels_without_a_number_are_no_fault_of_the_disk(tmp_path: Path, suffix: str) -> None:
    array = voxels().astype(np.float32)
    array[1, 2, 3] = np.nan
    like = Volume.from_array(array[None], Grid(SHAPE, np.eye(4)))
    write_image(tmp_path / f"a{suffix}", array, like=like)
    written = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / f"a{suffix}")))
    np.testing.assert_array_equal(written.T, array)


@pytest.mark.parametrize("suffix", [".nhdr", ".mhd"])
def test_formats_of_two_files_are_not_written(tmp_path: Path, suffix: str) -> None:
    source = read_image(stored(tmp_path / "a.nrrd"))
    with pytest.raises(DataError, match="second file"):
        write_image(tmp_path / f"out{suffix}", source.array, like=source)


@pytest.mark.parametrize(
    "name",
    [
        "brain/brain1_image.nrrd",
        "lung/elastix_lung_small.mha",
        "dicom/dcmqi_heart_seg.nrrd",
        "odd_nifti/pynrrd_BallBinary30x30x30_gz.nrrd",
    ],
)
def test_real_files_read_as_simpleitk_does(shared_data: Path, name: str) -> None:
    image = sitk.ReadImage(str(shared_data / name))
    volume = read_image(shared_data / name)
    np.testing.assert_array_equal(volume.array[0], sitk.GetArrayFromImage(image).T)
    far = tuple(length - 1 for length in volume.grid.shape)
    expected = TO_RAS * image.TransformIndexToPhysicalPoint(far)
    np.testing.assert_allclose((volume.grid.affine @ (*far, 1))[:3], expected, atol=1e-6)


def test_a_real_header_without_its_data_names_them(shared_data: Path) -> None:
    path = shared_data / "odd_nifti" / "pynrrd_BallBinary30x30x30_byteskip_minus_five.nhdr"
    with pytest.raises(DataError, match=r"needs its data file BallBinary30x30x30\.raw"):
        read_image(path)


@pytest.mark.parametrize("suffix", [".nhdr", ".mhd"])
def test_a_list_names_its_files_and_no_others(tmp_path: Path, suffix: str) -> None:
    names = [f"s{k}.raw" for k in range(SHAPE[2])]
    for k, name in enumerate(names):
        (tmp_path / name).write_bytes(voxels()[..., k].tobytes(order="F"))
    (tmp_path / "other.raw").write_bytes(b"")
    listed = "\n".join(names)
    headers = {
        ".nhdr": "NRRD0004\ntype: short\ndimension: 3\nsizes: 4 5 6\nencoding: raw\n"
        f"endian: little\nspacings: 1 2 3\ndata file: LIST\n{listed}\n",
        ".mhd": "NDims = 3\nDimSize = 4 5 6\nElementType = MET_SHORT\nElementSpacing = 1 2 3\n"
        f"ElementDataFile = LIST\n{listed}\n",
    }
    path = tmp_path / f"a{suffix}"
    path.write_text(headers[suffix])
    volume = read_image(path)
    np.testing.assert_array_equal(volume.array[0], voxels())
    assert volume.grid.spacing == (1, 2, 3)
    image = sitk.ReadImage(str(path))
    np.testing.assert_array_equal(volume.array[0], sitk.GetArrayFromImage(image).T)
    assert sources(path) == (path, *(tmp_path / name for name in names))


@pytest.mark.parametrize(
    ("detached", "suffix"), [(".nhdr", ".nrrd"), (".nhdr", ".seg.nrrd"), (".mhd", ".mha")]
)
def test_voxels_beside_any_header_are_among_its_sources(
    tmp_path: Path, detached: str, suffix: str
) -> None:
    header = stored(tmp_path / f"a{detached}")
    (data,) = (file for file in tmp_path.iterdir() if file != header)
    path = header.rename(tmp_path / f"a{suffix}")
    assert sources(path) == (path, data)
    whole = stored(tmp_path / f"b{suffix}")
    assert sources(whole) == (whole,)


@pytest.mark.parametrize(
    ("space", "senses"),
    [
        ("right-anterior-superior", (1, 1, 1)),
        ("left-anterior-superior", (-1, 1, 1)),
        ("left-posterior-superior", (-1, -1, 1)),
    ],
)
def test_the_space_of_an_nrrd_says_which_way_is_right(
    tmp_path: Path, space: str, senses: tuple[int, int, int]
) -> None:
    header = (
        f"NRRD0004\ntype: short\ndimension: 3\nspace: {space}\nsizes: 4 5 6\nencoding: raw\n"
        "endian: little\nspace directions: (0,2,0) (3,0,0) (0,0,-4)\nspace origin: (5,6,7)\n\n"
    )
    (tmp_path / "a.nrrd").write_bytes(header.encode() + voxels().tobytes(order="F"))
    grid = read_image(tmp_path / "a.nrrd").grid
    expected = np.array([[0, 3, 0, 5], [2, 0, 0, 6], [0, 0, -4, 7]]) * np.array(senses)[:, None]
    np.testing.assert_array_equal(grid.affine[:3], expected)
    image = sitk.ReadImage(str(tmp_path / "a.nrrd"))
    far = TO_RAS * image.TransformIndexToPhysicalPoint((3, 4, 5))
    np.testing.assert_allclose((grid.affine @ (3, 4, 5, 1))[:3], far)


def placed(path: Path, *lines: str) -> Path:
    """An NRRD file with these lines in its header."""
    head = ("NRRD0005", "type: short", "dimension: 3", "sizes: 4 5 6", "encoding: raw")
    header = "\n".join((*head, "endian: little", *lines))
    path.write_bytes(f"{header}\n\n".encode() + voxels().tobytes(order="F"))
    return path


@pytest.mark.parametrize("ends", [(), ("axis maxs: 12 23 42",)])
@pytest.mark.parametrize(
    ("centers", "first"),
    [
        ((), (10.25, 20.3, 31)),
        (("centers: cell cell cell",), (10.25, 20.3, 31)),
        (("centers: node node node",), (10, 20, 30)),
        (("centerings: node ??? cell",), (10, 20.3, 31)),
    ],
)
def test_an_nrrd_with_axis_mins_lies_where_itk_puts_it(
    tmp_path: Path, ends: tuple[str, ...], centers: tuple[str, ...], first: tuple[float, ...]
) -> None:
    path = placed(
        tmp_path / "a.nrrd", "spacings: 0.5 0.6 2", "axis mins: 10 20 30", *ends, *centers
    )
    grid = read_grid(path)[0]
    np.testing.assert_allclose(grid.affine[:3, 3], TO_RAS * first)
    np.testing.assert_allclose(grid.affine[:3, 3], TO_RAS * sitk.ReadImage(str(path)).GetOrigin())


def test_axis_mins_that_are_no_numbers_say_nothing(tmp_path: Path) -> None:
    path = placed(tmp_path / "a.nrrd", "spacings: 0.5 0.6 2", "axis mins: nan nan nan")
    assert not read_grid(path)[0].affine[:3, 3].any()
    assert sitk.ReadImage(str(path)).GetOrigin() == (0, 0, 0)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (("axis mins: 1 2 3",), "axis mins without spacings"),
        (("axis mins: 1 2 3", "axis maxs: 5 7 9"), "axis mins without spacings"),
        (("spacings: 1 1 2", "axis mins: 1 nan 3"), r"axis mins \[1\.0, nan, 3\.0\]"),
        (("spacings: 1 1 2", "axis mins: 1 2"), "expected 3 numbers"),
        (("spacings: 1 1 2", "axis mins: 9 9 9", "axis maxs: 5 14 21"), "axis maxs below"),
        (("spacings: 1 1 2", "axis mins: 1 2 3", "centers: node side node"), "centers"),
        (("space: LPS", "spacings: 1 1 2", "axis mins: 1 2 3"), "both axis mins and a space"),
        (
            ("space: LPS", "space directions: (1,0,0) (0,1,0) (0,0,2)", "axis mins: 1 2 3"),
            "both axis mins and a space",
        ),
    ],
)
def test_axis_mins_that_leave_the_place_open_are_refused(
    tmp_path: Path, lines: tuple[str, ...], message: str
) -> None:
    with pytest.raises(DataError, match=rf"a\.nrrd .*{message}"):
        read_grid(placed(tmp_path / "a.nrrd", *lines))


@pytest.mark.parametrize("place", ["first", "last"])
def test_the_axis_that_is_not_in_space_holds_channels(tmp_path: Path, place: str) -> None:
    array = np.random.default_rng(0).integers(0, 99, (2, *SHAPE)).astype(np.uint8)
    stored = array if place == "first" else np.moveaxis(array, 0, -1)
    none = ["none", "(1,0,0)", "(0,1,0)", "(0,0,1)"]
    directions = none if place == "first" else [*none[1:], none[0]]
    header = (
        "NRRD0004\ntype: uchar\ndimension: 4\nspace: LPS\nencoding: raw\n"
        f"sizes: {' '.join(map(str, stored.shape))}\nspace directions: {' '.join(directions)}\n\n"
    )
    (tmp_path / "a.nrrd").write_bytes(header.encode() + stored.tobytes(order="F"))
    np.testing.assert_array_equal(read_image(tmp_path / "a.nrrd").array, array)


def test_gipl_does_not_lose_an_orientation(tmp_path: Path) -> None:
    source = read_image(stored(tmp_path / "a.nrrd"))
    with pytest.raises(DataError, match=r"out\.gipl can store no orientation; write \.nii\.gz"):
        write_image(tmp_path / "out.gipl", source.array, like=source)
    plain = Volume.from_array(source.array, Grid(SHAPE, np.diag([-0.5, -2.0, 3.0, 1.0])))
    write_image(tmp_path / "out.gipl", source.array, like=plain)
    assert read_image(tmp_path / "out.gipl").grid.same_as(plain.grid)
