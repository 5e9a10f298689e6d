"""Augmentation: known matrices give known patches, and labels stay on their image."""

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from medseg3d.config import AugmentationConfig
from medseg3d.data.augment import CONTROL_POINTS, Augmentation, Changes
from medseg3d.data.warping import rotation_matrix, warp
from medseg3d.errors import ConfigError
from medseg3d.geometry.machine_code import compiled
from medseg3d.types import Size3, Spacing

Array = npt.NDArray[np.float32]
SIZE = (9, 8, 7)
NEVER = Augmentation(
    mirror_axes=(), affine_probability=0, elastic_probability=0, intensity_probability=0
)


def blobs(size: tuple[int, int, int] = SIZE, *, num_labels: int = 3) -> npt.NDArray[np.uint8]:
    field = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=size), 1.2)
    edges = np.quantile(field, np.linspace(0, 1, num_labels + 1)[1:-1])
    return np.digitize(field, edges).astype(np.uint8)


def noise(size: tuple[int, int, int] = SIZE, channels: int = 2) -> Array:
    return np.random.default_rng(1).normal(size=(channels, *size)).astype(np.float32)


def scipy_oracle(image: Array, matrix: npt.NDArray[np.float64]) -> Array:
    """The same sampling by an implementation that is not ours."""
    center = (np.array(image.shape) - 1) / 2
    return ndimage.affine_transform(
        image, matrix, center - matrix @ center, order=1, mode="grid-constant"
    )


def test_nothing_drawn_changes_nothing() -> None:
    changes = NEVER.draw(np.random.default_rng(0), SIZE)
    image, labels = NEVER.apply(noise(), blobs(), changes)
    assert not changes.moves
    np.testing.assert_array_equal(image, noise())
    np.testing.assert_array_equal(labels, blobs())


def test_the_identity_changes_nothing() -> None:
    flat = np.zeros((3, 4, 4, 4), dtype=np.float32)
    image, labels = warp(noise(), blobs(), np.eye(3), flat, size=SIZE)
    np.testing.assert_allclose(image, noise(), atol=1e-6)
    np.testing.assert_array_equal(labels, blobs())


@pytest.mark.parametrize(("axis", "plane"), [(0, (1, 2)), (1, (2, 0)), (2, (0, 1))])
def test_a_quarter_turn_equals_rot90(axis: int, plane: tuple[int, int]) -> None:
    size = (6, 6, 6)
    angles = [0.0, 0.0, 0.0]
    angles[axis] = np.pi / 2
    image, labels = warp(noise(size), blobs(size), rotation_matrix(angles), None, size=size)
    turned = np.rot90(noise(size)[0], axes=plane[::-1])
    np.testing.assert_allclose(image[0], turned, atol=1e-5)
    np.testing.assert_array_equal(labels, np.rot90(blobs(size), axes=plane[::-1]))


def test_doubling_keeps_the_center_and_halves_the_slope() -> None:
    ramp = np.arange(9, dtype=np.float32)[:, None, None].repeat(3, 1).repeat(3, 2)
    image, _ = warp(ramp[None], ramp.astype(np.uint8), np.diag([0.5, 1, 1]), None, size=(9, 3, 3))
    np.testing.assert_allclose(image[0, :, 1, 1], 4 + 0.5 * (np.arange(9) - 4))


def test_shrinking_shows_emptiness_around_the_volume() -> None:
    size = (8, 8, 8)
    ones = np.ones(size, dtype=np.uint8)
    image, labels = warp(ones[None].astype(np.float32), ones, np.eye(3) * 2, None, size=size)
    assert labels.sum() == 4**3
    assert labels[2:6, 2:6, 2:6].all()
    assert image[0, 0, 0, 0] == 0
    np.testing.assert_allclose(image[0, 2:6, 2:6, 2:6], 1)


@given(angles=st.tuples(*[st.floats(-3, 3)] * 3), scale=st.floats(0.5, 2))
def test_agrees_with_scipy(angles: tuple[float, float, float], scale: float) -> None:
    matrix = rotation_matrix(angles) * scale
    image, labels = warp(noise(), blobs(), matrix, None, size=SIZE)
    for found, channel in zip(image, noise(), strict=True):
        np.testing.assert_allclose(found, scipy_oracle(channel, matrix), atol=1e-5)
    weights = np.stack(
        [scipy_oracle((blobs() == label).astype(np.float32), matrix) for label in range(3)]
    )
    weights[0] += 1 - weights.sum(axis=0)
    chosen = np.take_along_axis(weights, labels[None].astype(int), axis=0)[0]
    np.testing.assert_allclose(chosen, weights.max(axis=0), atol=1e-5)


def test_a_constant_displacement_is_a_shift() -> None:
    bend = np.zeros((3, 5, 5, 5), dtype=np.float32)
    bend[0], bend[2] = 2, -1
    image, labels = warp(noise(), blobs(), None, bend, size=SIZE)
    np.testing.assert_allclose(image[:, :7, :, 1:], noise()[:, 2:, :, :6], atol=1e-6)
    np.testing.assert_array_equal(labels[:7, :, 1:], blobs()[2:, :, :6])
    assert not labels[7:].any()
    assert not image[..., 0].any()


def test_displacement_is_linear_between_control_points() -> None:
    bend = np.zeros((3, 3, 3, 3), dtype=np.float32)
    bend[0, 1] = 1.0
    ramp = np.arange(9, dtype=np.float32)[:, None, None].repeat(5, 1).repeat(5, 2)
    image, _ = warp(ramp[None], ramp.astype(np.uint8), None, bend, size=(9, 5, 5))
    pulled = np.array([0, 0.25, 0.5, 0.75, 1, 0.75, 0.5, 0.25, 0])
    np.testing.assert_allclose(image[0, :, 2, 2], np.arange(9) + pulled, atol=1e-6)


def test_a_region_gives_the_patch_that_the_whole_volume_gives() -> None:
    shape, size, start = (30, 28, 26), (9, 8, 7), (12, 10, 9)
    image, labels = noise(shape), blobs(shape)
    augmentation = Augmentation(affine_probability=1, elastic_probability=1)
    changes = augmentation.draw(np.random.default_rng(3), size, 2)
    first, extent = changes.source_box(start, size, shape)
    box = tuple(slice(i, i + n) for i, n in zip(first, extent, strict=True))
    assert np.prod(extent) < np.prod(shape)
    offset = np.subtract(start, first)
    whole = augmentation.apply(image, labels, changes, size=size, offset=start)
    part = augmentation.apply(image[:, *box], labels[box], changes, size=size, offset=offset)
    np.testing.assert_allclose(part[0], whole[0], atol=1e-5)
    np.testing.assert_array_equal(part[1], whole[1])


@given(number=st.integers(0, 10_000), shape=st.tuples(*[st.integers(1, 20)] * 3))
def test_the_source_box_lies_in_the_volume(number: int, shape: tuple[int, int, int]) -> None:
    generator = np.random.default_rng(number)
    augmentation = Augmentation(affine_probability=1, elastic_probability=1)
    start = np.subtract(shape, SIZE) // 2
    first, extent = augmentation.draw(generator, SIZE).source_box(start, SIZE, shape)
    assert min(first) >= 0
    assert min(extent) >= 1
    assert (np.add(first, extent) <= shape).all()


@pytest.mark.parametrize("number", range(8))
def test_labels_stay_on_their_image(number: int) -> None:
    size = (24, 22, 20)
    ball = np.linalg.norm(np.indices(size) - np.reshape((11, 9, 12), (3, 1, 1, 1)), axis=0) < 6
    image = ball[None].astype(np.float32)
    augmentation = Augmentation(
        affine_probability=1, elastic_probability=1, intensity_probability=0
    )
    changes = augmentation.draw(np.random.default_rng(number), size)
    moved, labels = augmentation.apply(image, ball.astype(np.uint8), changes)
    assert labels.any()
    sure = np.abs(moved[0] - 0.5) > 1e-4
    np.testing.assert_array_equal(labels[sure], moved[0][sure] > 0.5)


def test_flips_reverse_image_and_labels() -> None:
    image, labels = NEVER.apply(noise(), blobs(), Changes(flips=(0, 2)))
    np.testing.assert_array_equal(image, noise()[:, ::-1, :, ::-1])
    np.testing.assert_array_equal(labels, blobs()[::-1, :, ::-1])


SWAPPING = replace(NEVER, mirror_axes=(0, 1, 2), mirrored_labels=(0, 2, 1, 3))


@given(flips=st.sets(st.integers(0, 2)), number=st.integers(0, 100))
def test_a_sagittal_flip_swaps_the_pairs_and_no_other_does(flips: set[int], number: int) -> None:
    labels = np.random.default_rng(number).integers(0, 4, SIZE).astype(np.uint8)
    _, found = SWAPPING.apply(noise(), labels, Changes(flips=tuple(flips)))
    expected = labels.copy()
    if 0 in flips:
        expected[labels == 1], expected[labels == 2] = 2, 1
    np.testing.assert_array_equal(found, np.flip(expected, tuple(flips)))
    assert found.dtype == np.uint8


@given(flips=st.sets(st.integers(0, 2)), number=st.integers(0, 100))
def test_flipping_twice_gives_the_patch_back(flips: set[int], number: int) -> None:
    labels = np.random.default_rng(number).integers(0, 4, SIZE).astype(np.uint8)
    changes = Changes(flips=tuple(flips))
    once = SWAPPING.apply(noise(), labels, changes)
    counts = np.bincount(labels.ravel(), minlength=4)
    if 0 in flips:
        counts = counts[[0, 2, 1, 3]]
    np.testing.assert_array_equal(np.bincount(once[1].ravel(), minlength=4), counts)
    image, back = SWAPPING.apply(*once, changes)
    np.testing.assert_array_equal(image, noise())
    np.testing.assert_array_equal(back, labels)


def test_a_single_sagittal_slice_changes_sides_too() -> None:
    labels = np.ones((1, 4, 4), dtype=np.uint8)
    _, found = SWAPPING.apply(noise((1, 4, 4)), labels, Changes(flips=(0,)))
    assert (found == 2).all()


def test_pairs_beyond_eight_bits_are_swapped() -> None:
    table = [*range(301)]
    table[299], table[300] = 300, 299
    augmentation = replace(NEVER, mirror_axes=(0,), mirrored_labels=tuple(table))
    labels = np.array([0, 299, 300, 5] * 4, dtype=np.uint16).reshape(4, 2, 2)
    _, found = augmentation.apply(noise((4, 2, 2)), labels, Changes(flips=(0,)))
    assert found.dtype == np.uint16
    assert np.bincount(found.ravel())[[0, 5, 299, 300]].tolist() == [4, 4, 4, 4]
    empty = np.zeros((4, 2, 2), dtype=np.uint8)  # a patch beside the volume
    assert not augmentation.apply(noise((4, 2, 2)), empty, Changes(flips=(0,)))[1].any()


def test_a_warped_and_flipped_patch_is_the_swapped_flip_of_the_warped() -> None:
    labels = blobs(num_labels=4)
    changes = Changes(matrix=rotation_matrix((0.2, 0.1, -0.3)) * 0.9)
    warped = SWAPPING.apply(noise(), labels, changes)
    flipped = SWAPPING.apply(noise(), labels, replace(changes, flips=(0,)))
    again = SWAPPING.apply(*warped, Changes(flips=(0,)))
    np.testing.assert_array_equal(flipped[1], again[1])
    np.testing.assert_array_equal(flipped[0], again[0])


def test_what_is_usual_is_said_once() -> None:
    usual = AugmentationConfig().model_dump()
    assert usual == {name: getattr(Augmentation(), name) for name in usual}


def test_changes_grow_with_the_times_that_all_voxels_were_seen() -> None:
    begun = Augmentation(
        rotation_degrees=20.0,
        scale=(0.5, 4.0),
        affine_probability=0.6,
        elastic_probability=0.2,
        intensity_probability=0.1,
        stronger_after=30.0,
        mirror_axes=(1,),
    )
    many = 1_000_000
    assert begun.after(0, times=0) == begun.after(many, times=30) == begun
    half = begun.after(many, times=45)
    assert (half.rotation_degrees, half.scale) == (30.0, (0.5**1.5, 8.0))
    assert half.affine_probability == pytest.approx(0.9)
    assert half.elastic_probability == pytest.approx(0.3)
    assert half.intensity_probability == pytest.approx(0.15)
    most = begun.after(many, times=60)
    assert (most.rotation_degrees, most.scale, most.affine_probability) == (40.0, (0.25, 16.0), 1.0)
    assert most == begun.after(many, times=10_000) == begun.after(10_000, times=60)
    assert begun.after(5_000, times=60) == begun, "few patches, of fewer cases"
    assert begun.after(7_500, times=60) == half
    assert (most.elastic_fraction, most.mirror_axes) == (begun.elastic_fraction, (1,))


def test_growing_changes_stay_within_what_they_may_be() -> None:
    widest = Augmentation(rotation_degrees=180, intensity_probability=1, elastic_probability=0)
    grown = widest.after(10_000, times=10_000)
    assert (grown.rotation_degrees, grown.intensity_probability) == (180, 1)
    assert grown.elastic_probability == 0
    never = Augmentation(stronger_after=0)
    assert never.after(10_000, times=10_000) == never


@pytest.mark.parametrize(
    "changes",
    [
        Changes(noise=(0.1, 5)),
        Changes(blur=(0.6, 0.8, 1.0)),
        Changes(brightness=(0.8, 1.2)),
        Changes(contrast=(0.8, 1.2)),
        Changes(coarseness=(1.5, 2.0, 1.0)),
        Changes(gamma=(0.8, 1.4)),
        Changes(gamma=(0.8, 1.4), inverted=True),
    ],
    ids=lambda changes: next(k for k, v in vars(changes).items() if v),
)
@pytest.mark.parametrize("size", [SIZE, (5, 1, 3)])
def test_intensities_change_and_labels_do_not(changes: Changes, size: tuple[int, int, int]) -> None:
    image, labels = NEVER.apply(noise(size), blobs(size), changes)
    assert image.shape == (2, *size)
    assert image.dtype == np.float32
    assert np.isfinite(image).all()
    assert not np.allclose(image[1], noise(size)[1])
    np.testing.assert_array_equal(labels, blobs(size))


def test_gamma_keeps_mean_and_deviation_and_order() -> None:
    for inverted in (False, True):
        changes = Changes(gamma=(0.7, 1.5), inverted=inverted)
        image, _ = NEVER.apply(noise(), blobs(), changes)
        np.testing.assert_allclose(image.mean((1, 2, 3)), noise().mean((1, 2, 3)), atol=1e-5)
        np.testing.assert_allclose(image.std((1, 2, 3)), noise().std((1, 2, 3)), rtol=1e-4)
        for changed, channel in zip(image, noise(), strict=True):
            np.testing.assert_array_equal(changed.ravel().argsort(), channel.ravel().argsort())


def test_a_gamma_above_one_darkens_the_middle() -> None:
    ramp = np.linspace(0, 1, 11, dtype=np.float32).reshape(1, 11, 1, 1)
    ramp = ramp.repeat(3, axis=2)
    image, _ = NEVER.apply(ramp, blobs((11, 3, 1)), Changes(gamma=(2.0,)))
    straight = np.linspace(image.min(), image.max(), 11)
    assert (image[0, 1:-1, 0, 0] < straight[1:-1]).all()


def test_contrast_stays_within_the_range() -> None:
    image, _ = NEVER.apply(noise(), blobs(), Changes(contrast=(1.25, 1.25)))
    assert image.max() == noise().max()
    assert image.std() > noise().std()


def test_constant_patches_stay_finite() -> None:
    augmentation = Augmentation(intensity_probability=1)
    air = np.zeros((1, *SIZE), dtype=np.float32)
    for number in range(5):
        changes = augmentation.draw(np.random.default_rng(number), SIZE)
        assert np.isfinite(augmentation.apply(air, blobs(), changes)[0]).all()


def test_the_same_generator_gives_the_same_patch_and_leaves_torch_alone() -> None:
    augmentation = Augmentation(intensity_probability=1)

    def patch(number: int) -> Array:
        changes = augmentation.draw(np.random.default_rng(number), SIZE, 2)
        return augmentation.apply(noise(), blobs(), changes)[0]

    before = torch.get_rng_state()
    first = patch(7)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(5)
    np.testing.assert_array_equal(first, patch(7))
    assert not np.array_equal(first, patch(8))


def test_sixteen_bit_labels_survive() -> None:
    labels = blobs().astype(np.uint16) * 300
    augmentation = Augmentation(affine_probability=1)
    changes = augmentation.draw(np.random.default_rng(0), SIZE)
    _, moved = augmentation.apply(noise(channels=1), labels, changes)
    assert moved.dtype == np.uint16
    assert set(np.unique(moved)) <= {0, 300, 600}


@given(number=st.integers(0, 1000))
def test_a_coarse_axis_is_left_alone(number: int) -> None:
    augmentation = Augmentation(
        spacing=(5.0, 1.0, 1.2), affine_probability=1, elastic_probability=1
    )
    changes = augmentation.draw(np.random.default_rng(number), SIZE)
    assert changes.matrix is not None
    assert changes.displacement is not None
    np.testing.assert_allclose(changes.matrix[0], [1, 0, 0], atol=1e-12)
    np.testing.assert_allclose(changes.matrix[:, 0], [1, 0, 0], atol=1e-12)
    assert not changes.displacement[0].any()


@pytest.mark.parametrize(
    ("size", "spacing", "axis"),
    [
        ((24, 24, 1), (1.0, 1.0, 1.0), 2),
        ((3, 24, 24), (2.0, 1.0, 1.0), 0),
        ((32, 2, 32), (1.0, 3.0, 1.0), 1),
    ],
)
def test_a_flat_patch_stays_in_its_plane(size: Size3, spacing: Spacing, axis: int) -> None:
    augmentation = Augmentation(
        spacing=spacing,
        mirror_axes=(),
        affine_probability=1,
        elastic_probability=1,
        intensity_probability=0,
    )
    unit = np.eye(3)[axis]
    for number in range(20):
        changes = augmentation.draw(np.random.default_rng(number), size)
        assert changes.matrix is not None
        assert changes.displacement is not None
        np.testing.assert_allclose(changes.matrix[axis], unit, atol=1e-12)
        np.testing.assert_allclose(changes.matrix[:, axis], unit, atol=1e-12)
        assert not np.allclose(changes.matrix, np.eye(3)), "turned and scaled in the plane"
        assert not changes.displacement[axis].any()
        assert changes.displacement.any()


@pytest.mark.parametrize(
    ("size", "spacing", "axis"),
    [
        ((40, 56, 40), (1.0, 1.0, 1.0), None),
        ((128, 128, 128), (1.0, 1.0, 1.0), None),
        ((160, 160, 80), (1.0, 1.0, 1.0), None),
        ((80, 64, 32), (5.1, 5.1, 7.75), None),
        ((96, 96, 32), (1.0, 1.0, 1.0), None),  # a third
        ((96, 96, 31), (1.0, 1.0, 1.0), 2),
        ((31, 96, 96), (4.0, 1.0, 1.0), 0),
        ((400, 16, 16), (1.0, 1.0, 5.0), 2),  # the spacing says more than the extent
    ],
)
def test_only_coarse_or_flat_patches_are_kept_in_a_plane(
    size: Size3, spacing: Spacing, axis: int | None
) -> None:
    assert Augmentation(spacing=spacing).still_axis(size) == axis
    changes = Augmentation(spacing=spacing, affine_probability=1).draw(
        np.random.default_rng(0), size
    )
    assert changes.matrix is not None
    assert np.count_nonzero(changes.matrix) == (9 if axis is None else 5)


@given(number=st.integers(0, 1000))
def test_a_rotation_is_one_in_millimetres(number: int) -> None:
    spacing = np.array((2.0, 1.0, 0.8))
    augmentation = Augmentation(spacing=(2.0, 1.0, 0.8), affine_probability=1)
    changes = augmentation.draw(np.random.default_rng(number), (5, 8, 7))
    assert changes.matrix is not None
    in_mm = spacing[:, None] * changes.matrix / spacing
    scale = 1 / np.linalg.det(in_mm) ** (1 / 3)
    assert 0.8 <= scale <= 1.25
    np.testing.assert_allclose(in_mm @ in_mm.T, np.eye(3) / scale**2, atol=1e-9)


def test_probabilities_are_kept() -> None:
    augmentation, generator = Augmentation(mirror_axes=(0, 1, 2)), np.random.default_rng(0)
    drawn = [augmentation.draw(generator, SIZE) for _ in range(3000)]
    assert np.mean([c.matrix is not None for c in drawn]) == pytest.approx(0.6, abs=0.03)
    assert np.mean([c.displacement is not None for c in drawn]) == pytest.approx(0.3, abs=0.03)
    assert np.mean([c.blur is not None for c in drawn]) == pytest.approx(0.15, abs=0.03)
    assert np.mean([1 in c.flips for c in drawn]) == pytest.approx(0.5, abs=0.03)
    largest = max(np.abs(c.displacement).max() for c in drawn if c.displacement is not None)
    assert largest <= 0.06 * max(SIZE)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"affine_probability": 1.5}, "affine_probability is 1.5"),
        ({"scale": (1.2, 0.8)}, "scale is"),
        ({"scale": (0.0, 0.8)}, "scale is"),
        ({"mirror_axes": (3,)}, "mirror_axes"),
        ({"mirror_axes": (0, 0)}, "each once"),
        ({"mirrored_labels": (0, 1, 3)}, "change places in pairs"),
        ({"mirrored_labels": (0, 2, 3, 1)}, "change places in pairs"),
        ({"mirrored_labels": (1, 0)}, "change places in pairs"),
        ({"mirrored_labels": (0, 1, 1)}, "change places in pairs"),
        ({"elastic_fraction": 0.5 / (CONTROL_POINTS - 1)}, "fold"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Augmentation(**options)  # type: ignore[arg-type]


def test_code_without_a_place_for_machine_code_still_runs() -> None:
    # Compiled from text there is no file beside which to keep it, as in a read-only installation.
    scope: dict[str, object] = {}
    exec(compile("def double(x):\n    return 2 * x\n", "<nowhere>", "exec"), scope)
    assert compiled(scope["double"])(4) == 8  # type: ignore[arg-type]
