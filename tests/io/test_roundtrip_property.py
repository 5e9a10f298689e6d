"""Whatever shape, affine, type, scaling and format: every voxel comes back where it was."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
import numpy.typing as npt
import pytest
import SimpleITK as sitk  # noqa: N813
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

import medseg3d
from medseg3d.bundle import Bundle, save_bundle
from medseg3d.data.canonical import canonical
from medseg3d.data.plan import Normalization, Plan
from medseg3d.geometry.grid import Grid
from medseg3d.inference.backends.eager import Eager
from medseg3d.inference.predictor import Predictor
from medseg3d.io import Volume, read_image, read_labels, write_image, write_labels
from medseg3d.networks import NETWORKS

TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
THRESHOLD = 10.25
FAST = settings(max_examples=60)
SLOW = settings(max_examples=25)


class Made(NamedTuple):
    """Voxels to store and where they lie."""

    array: npt.NDArray[Any]
    affine: npt.NDArray[np.float64]


shapes = st.tuples(*[st.integers(1, 7)] * 3).filter(lambda shape: shape != (1, 1, 1))


@st.composite
def affines(draw: st.DrawFn) -> npt.NDArray[np.float64]:
    """Axes in any order and sense, oblique or not, of unequal spacing, anywhere."""
    order = draw(st.permutations(range(3)))
    senses = draw(st.tuples(*[st.sampled_from((-1.0, 1.0))] * 3))
    spacing = draw(st.tuples(*[st.sampled_from((0.4, 0.9, 1.0, 1.37, 5.0))] * 3))
    angles = draw(st.one_of(st.just((0.0,) * 3), st.tuples(*[st.floats(-40, 40)] * 3)))
    affine = np.eye(4)
    turn = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
    affine[:3, :3] = turn @ (np.eye(3)[:, order] * senses) * spacing
    affine[:3, 3] = draw(st.tuples(*[st.floats(-300, 300)] * 3))
    return affine


@st.composite
def volumes(draw: st.DrawFn, types: str, channels: int = 1) -> Made:
    dtype = np.dtype(draw(st.sampled_from(types.split())))
    seed = draw(st.integers(0, 99))
    rng = np.random.default_rng(seed)
    shape = draw(shapes)
    values = rng.normal(0, 500, (draw(st.integers(1, channels)), *shape))
    if dtype.kind in "iu":
        ends = np.iinfo(dtype)
        values = values.clip(max(ends.min, -(2**62)), min(ends.max, 2**62))
        extremes = rng.choice(np.array([ends.min, ends.max], dtype), values.shape)
        array = np.where(rng.random(values.shape) < 0.2, extremes, values.astype(dtype))
        return Made(array.astype(dtype), draw(affines()))
    return Made(values.astype(dtype), draw(affines()))


@contextmanager
def folder() -> Iterator[Path]:
    with TemporaryDirectory() as name:
        yield Path(name)


def expect_there(volume: Volume, array: npt.NDArray[Any], affine: npt.NDArray[np.float64]) -> None:
    """Voxels exactly (as float32 where they are no integers), corners to 0.0001 voxel."""
    wanted = array if volume.array.dtype.kind in "iu" else array.astype(np.float32)
    np.testing.assert_array_equal(volume.array, wanted)
    assert volume.array.dtype.isnative
    grid = Grid(array.shape[1:], affine)
    assert grid.same_as(volume.grid, tolerance=1e-4), (grid, volume.grid)


@FAST
@given(
    made=volumes("i1 u1 i2 u2 i4 u4 i8 u8 f4 f8", channels=3),
    suffix=st.sampled_from((".nii.gz", ".nii", ".hdr")),
    is_second=st.booleans(),
    order=st.sampled_from("<>"),
    codes=st.sampled_from(((1, 1), (1, 0), (0, 2), (4, 3))),
    unit=st.sampled_from(("mm", "meter", "micron")),
)
def test_nifti_lies_where_nibabel_puts_it(
    made: Made, suffix: str, is_second: bool, order: str, codes: tuple[int, int], unit: str
) -> None:
    kinds = (nib.Nifti2Image, nib.Nifti2Pair) if is_second else (nib.Nifti1Image, nib.Nifti1Pair)
    kind = kinds[suffix == ".hdr"]
    stored = np.moveaxis(made.array, 0, -1)
    stored = stored[..., 0] if stored.shape[-1] == 1 else stored
    header = kind.header_class(endianness=order)
    image = kind(stored, made.affine, header=header, dtype=made.array.dtype)
    image.header.set_slope_inter(1, 0)
    image.set_qform(made.affine, codes[0])
    image.set_sform(made.affine, codes[1])
    image.header.set_xyzt_units(unit)
    to_mm = np.diag([{"mm": 1.0, "meter": 1000.0, "micron": 0.001}[unit]] * 3 + [1.0])
    scaled = np.linalg.inv(to_mm) @ made.affine
    image.set_qform(scaled, codes[0])
    image.set_sform(scaled, codes[1])
    with folder() as place:
        nib.save(image, place / f"a{'.img' if suffix == '.hdr' else suffix}")
        expect_there(read_image(place / f"a{suffix}"), made.array, made.affine)


@FAST
@given(
    made=volumes("i2 u1 i4"),
    slope=st.sampled_from((0.5, -2.0, 1e-3, 3.0, 1.0)),
    inter=st.sampled_from((0.0, -1024.0, 0.25)),
)
def test_slope_and_intercept_are_those_of_nibabel(made: Made, slope: float, inter: float) -> None:
    image = nib.Nifti1Image(made.array[0], made.affine)
    with folder() as place:
        image.header.set_slope_inter(slope, inter)
        nib.save(image, place / "a.nii")
        # nibabel scales back when it saves, so the stored integers are put there by hand
        content = bytearray((place / "a.nii").read_bytes())
        little = made.array.dtype.newbyteorder("<")
        content[352:] = made.array[0].astype(little).tobytes(order="F")
        (place / "a.nii").write_bytes(bytes(content))
        wanted = np.asarray(nib.load(place / "a.nii").dataobj, dtype=np.float64)
        np.testing.assert_allclose(
            read_image(place / "a.nii").image[0], wanted, rtol=2e-7, atol=1e-30
        )


@FAST
@given(
    made=volumes("i1 u1 i2 u2 i4 u4 i8 u8 f4 f8", channels=3),
    suffix=st.sampled_from((".nrrd", ".nhdr", ".mha", ".mhd", ".gipl", ".gipl.gz")),
    compress=st.booleans(),
)
def test_itk_formats_lie_where_simpleitk_puts_them(made: Made, suffix: str, compress: bool) -> None:
    if "gipl" in suffix:  # one channel, few types, no direction
        spacing = np.diag([*np.linalg.norm(made.affine[:3, :3], axis=0), 1.0])
        spacing[:3, 3] = made.affine[:3, 3]
        kind = made.array.dtype if made.array.dtype.str[1:] in ("u1", "i2", "f4") else np.float32
        made = Made(made.array[:1].astype(kind), TO_RAS @ spacing)
    voxels = np.moveaxis(made.array, 0, -1).transpose(2, 1, 0, 3)
    is_vector = made.array.shape[0] > 1
    image = sitk.GetImageFromArray(
        np.ascontiguousarray(voxels if is_vector else voxels[..., 0]), isVector=is_vector
    )
    world = TO_RAS @ made.affine
    spacing = np.linalg.norm(world[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((world[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(world[:3, 3].tolist())
    with folder() as place:
        sitk.WriteImage(image, str(place / f"a{suffix}"), useCompression=compress)
        expect_there(read_image(place / f"a{suffix}"), made.array, made.affine)


@FAST
@given(
    made=volumes("u1 i2 u2 i4 f4", channels=3),
    suffix=st.sampled_from((".nii.gz", ".nii", ".nrrd", ".mha", ".mgz", ".mgh", ".hdr")),
)
def test_what_is_written_is_read_by_us_and_by_others(made: Made, suffix: str) -> None:
    like = Volume.from_array(made.array, Grid(made.array.shape[1:], made.affine))
    with folder() as place:
        path = place / f"a{suffix}"
        write_image(path, made.array, like=like)
        expect_there(read_image(path), made.array, made.affine)
        array, affine = by_others(path)
        np.testing.assert_array_equal(array, made.array)
        np.testing.assert_allclose(affine, made.affine, atol=2e-4)


@FAST
@given(
    made=volumes("u1 u2"),
    suffix=st.sampled_from((".nii.gz", ".nii", ".nrrd", ".mha", ".mgz")),
    source=st.sampled_from((".nii.gz", ".nrrd", ".mgh")),
)
def test_labels_lie_on_their_source_whatever_the_formats(
    made: Made, suffix: str, source: str
) -> None:
    grid = Grid(made.array.shape[1:], made.affine)
    image = made.array.astype(np.float32)
    with folder() as place:
        write_image(place / f"image{source}", image, like=Volume.from_array(image, grid))
        like = read_image(place / f"image{source}")
        write_labels(place / f"a{suffix}", made.array[0], like=like)
        back = read_labels(place / f"a{suffix}")
        np.testing.assert_array_equal(back.labels, made.array[0])
        assert back.grid.same_as(grid, tolerance=1e-4)
        array, affine = by_others(place / f"a{suffix}")
        np.testing.assert_array_equal(array, made.array)
        np.testing.assert_allclose(affine, made.affine, atol=2e-4)


def by_others(path: Path) -> tuple[npt.NDArray[Any], npt.NDArray[np.float64]]:
    """Array ``(C, I, J, K)`` and affine as nibabel or SimpleITK read them."""
    if path.suffix in (".nrrd", ".mha"):
        image = sitk.ReadImage(str(path))
        array = sitk.GetArrayFromImage(image)
        array = array if image.GetNumberOfComponentsPerPixel() > 1 else array[..., None]
        affine = np.eye(4)
        affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
        affine[:3, 3] = image.GetOrigin()
        return np.moveaxis(array.transpose(2, 1, 0, 3), -1, 0), TO_RAS @ affine
    if path.suffix == ".mgh":
        image = nib.MGHImage.from_bytes(path.read_bytes())
    else:
        image = nib.load(path.with_suffix(".img") if path.suffix == ".hdr" else path)
    array = np.asarray(image.dataobj)
    return np.moveaxis(array if array.ndim == 4 else array[..., None], -1, 0), image.affine


class Threshold(torch.nn.Module):
    """Label 1 where the intensity exceeds the threshold: a function of its input alone."""

    def __init__(self, in_channels: int = 1, out_channels: int = 2) -> None:
        super().__init__()
        self.conv = torch.nn.Conv3d(in_channels, out_channels, 1)
        with torch.no_grad():
            self.conv.weight[:] = torch.tensor([-1.0, 1.0]).reshape(2, 1, 1, 1, 1)
            self.conv.bias[:] = torch.tensor([THRESHOLD, -THRESHOLD])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x)


def bundle_of(spacing: tuple[float, ...]) -> Bundle:
    """A plan that leaves intensities alone."""
    keep = Normalization(name="CT", scheme="ct", lower=-1e6, upper=1e6, mean=0.0, sd=1.0)
    plan = Plan(
        num_cases=1,
        labels={0: "background", 5: "bright"},
        channels=(keep,),
        spacing=spacing,
        coarse_axis=None,
        median_shape=(16, 16, 16),
        patch_size=(16, 16, 16),
        batch_size=1,
        strides=((2, 2, 2),),
        kernels=((3, 3, 3), (3, 3, 3)),
        width=4,
        max_width=8,
    )
    return Bundle(network="threshold", options={}, plan=plan, channels=1)


def predict_file(path: Path, out: Path, spacing: tuple[float, ...]) -> npt.NDArray[Any]:
    """Read, predict with the threshold, write, and read by nibabel what was written."""
    device = torch.device("cpu")
    network = Eager(Threshold(), device=device)
    predictor = Predictor(bundle_of(spacing), network, device=device, overlap=0.5)
    volume = read_image(path)
    write_labels(out, predictor.segment(canonical(volume)), like=volume)
    written = nib.load(out)
    np.testing.assert_allclose(written.affine, volume.grid.affine, atol=2e-4)
    return np.asarray(written.dataobj)


@SLOW
@given(
    affine=affines(),
    shape=st.tuples(*[st.integers(3, 20)] * 3),
    suffix=st.sampled_from((".nii.gz", ".nrrd", ".mha", ".mgz")),
    seed=st.integers(0, 99),
)
def test_predicting_a_function_of_the_image_lands_on_the_voxels_it_came_from(
    affine: npt.NDArray[np.float64], shape: tuple[int, int, int], suffix: str, seed: int
) -> None:
    voxels = np.random.default_rng(seed).integers(-40, 60, shape).astype(np.int16)
    spacing = Grid(shape, affine).canonical().spacing
    with folder() as place:
        like = Volume.from_array(voxels[None], Grid(shape, affine))
        write_image(place / f"a{suffix}", voxels[None], like=like)
        labels = predict_file(place / f"a{suffix}", place / "out.nii.gz", spacing)
    np.testing.assert_array_equal(labels, 5 * (voxels > THRESHOLD))


@SLOW
@given(
    affine=affines(),
    shape=st.tuples(*[st.integers(6, 16)] * 3),
    spacing=st.tuples(*[st.sampled_from((0.8, 1.0, 1.9))] * 3),
    direction=st.tuples(*[st.floats(-1, 1)] * 3).filter(lambda step: np.linalg.norm(step) > 0.3),
)
def test_predicting_across_spacings_misses_by_less_than_a_voxel(
    affine: npt.NDArray[np.float64],
    shape: tuple[int, int, int],
    spacing: tuple[float, float, float],
    direction: tuple[float, float, float],
) -> None:
    grid = Grid(shape, affine)
    step = np.array(direction) / np.linalg.norm(direction)
    indices = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    height = (indices @ affine[:3, :3].T) @ step  # mm along a direction in the world
    voxels = (height - np.median(height) + THRESHOLD).astype(np.float32)
    with folder() as place:
        write_image(place / "a.nii.gz", voxels, like=Volume.from_array(voxels[None], grid))
        labels = predict_file(place / "a.nii.gz", place / "out.nii.gz", spacing)
    # one voxel of either grid, across which the height changes by at most this
    old = np.abs(affine[:3, :3].T @ step).sum()
    axes = grid.canonical().affine[:3, :3] / grid.canonical().spacing
    new = np.abs((axes * spacing).T @ step).sum()
    is_clear = np.abs(voxels - THRESHOLD) > old + new
    np.testing.assert_array_equal(labels[is_clear], 5 * (voxels > THRESHOLD)[is_clear])


def test_the_command_puts_it_there_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    affine = np.array([[0, 0, -1.37, 40], [-0.9, 0, 0, 7.5], [0, 5.0, 0, -90], [0, 0, 0, 1]])
    voxels = np.random.default_rng(0).integers(-40, 60, (9, 8, 7)).astype(np.int16)
    nib.save(nib.Nifti1Image(voxels, affine), tmp_path / "a.nii.gz")
    spacing = Grid((9, 8, 7), affine).canonical().spacing
    assert "unet3d" in NETWORKS  # all are registered by now
    monkeypatch.setitem(NETWORKS._parts, "threshold", Threshold)
    monkeypatch.setitem(NETWORKS._facts, "threshold", {})
    save_bundle(tmp_path / "threshold.medseg3d", bundle_of(spacing), Threshold())
    (found,) = medseg3d.predict(tmp_path / "a.nii.gz", model=tmp_path / "threshold.medseg3d")
    labels = nib.load(found.path)
    np.testing.assert_array_equal(np.asarray(labels.dataobj), 5 * (voxels > THRESHOLD))
    np.testing.assert_array_equal(labels.affine, nib.load(tmp_path / "a.nii.gz").affine)
