"""Plans: spacing, patch and topology from hand-made fingerprints."""

import logging
from math import prod
from pathlib import Path

import numpy as np
import pytest

from medseg3d.config import validated
from medseg3d.data.fingerprint import CaseFingerprint
from medseg3d.data.plan import Plan, make_plan
from medseg3d.data.sizes import BYTES_PER_VOXEL, Resources, target_spacing
from medseg3d.errors import ConfigError, DataError
from medseg3d.types import Size3, Spacing

CPU = Resources(on_gpu=False, memory_gb=8.0)


def fingerprint(
    shape: Size3 = (36, 50, 35),
    spacing: Spacing = (1.0, 1.0, 1.0),
    intensities: tuple[float, ...] = (10.0, 20.0, 30.0),
    is_ct: bool = False,
    extents: tuple[tuple[float, float], ...] = (),
    sides: dict[int, float] | None = None,
) -> CaseFingerprint:
    return CaseFingerprint(
        shape=shape,
        spacing=spacing,
        foreground=(np.asarray(intensities, dtype=np.float32),),
        looks_like_ct=(is_ct,),
        extents=extents,
        sides=sides or {},
    )


def plan_of(
    cases: list[CaseFingerprint],
    channel: str = "MRI",
    names: dict[int, str] | None = None,
    resources: Resources = CPU,
    **fixed: object,
) -> Plan:
    return make_plan(
        cases,
        label_names=names or {0: "background", 1: "organ"},
        channel_names=[channel],
        resources=resources,
        **fixed,  # type: ignore[arg-type]
    )


def test_a_small_organ_is_seen_whole_in_one_patch() -> None:
    plan = plan_of([fingerprint()] * 5)
    assert plan.patch_size == (40, 56, 40)
    assert plan.strides == ((2, 2, 2),) * 3
    assert plan.batch_size == 2
    assert plan.spacing == (1.0, 1.0, 1.0)


def test_a_thick_slice_axis_is_resampled_apart_and_pooled_last() -> None:
    plan = plan_of([fingerprint((256, 256, 20), (0.7, 0.7, 5.0))] * 3)
    assert plan.coarse_axis == 2
    assert plan.strides[0] == (2, 2, 1)
    assert plan.kernels[0] == (3, 3, 1)
    assert plan.kernels[-1] == (3, 3, 3)


def test_thick_axis_takes_its_tenth_percentile() -> None:
    spacings = [(1.0, 1.0, float(z)) for z in range(5, 16)]
    assert target_spacing(spacings) == ((1.0, 1.0, 6.0), 2)


def test_declared_or_hounsfield_channels_are_ct() -> None:
    assert plan_of([fingerprint()], "CT").channels[0].scheme == "ct"
    assert plan_of([fingerprint(is_ct=True)], "channel 0").channels[0].scheme == "ct"
    assert plan_of([fingerprint(is_ct=True)], "MR T2").channels[0].scheme == "zscore"
    assert plan_of([fingerprint()], "channel 0").channels[0].scheme == "zscore"


def test_what_begins_at_air_without_being_taken_for_ct_is_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    air, none = ((-1000.0, 900.0),), ((0.0, 900.0),)
    cases = [fingerprint(extents=air), fingerprint(extents=air), fingerprint(extents=none)]
    for name in ("CT", "MR phase"):
        plan_of(cases, name)
    plan_of([fingerprint(is_ct=True, extents=air)], "channel 0")
    plan_of([fingerprint(extents=none)], "channel 0")
    assert caplog.messages == []
    assert plan_of(cases, "channel 0").channels[0].scheme == "zscore"
    assert "intensities of channel 0 begin at -900 or less, as those of CT" in caplog.text


def test_ct_statistics_are_those_of_the_clipped_foreground() -> None:
    values = tuple(float(value) for value in range(1001))
    rule = plan_of([fingerprint(intensities=values)], "CT").channels[0]
    assert (rule.lower, rule.upper) == (5.0, 995.0)
    clipped = np.clip(values, 5, 995)
    assert rule.mean == pytest.approx(clipped.mean(), abs=1e-3)
    assert rule.sd == pytest.approx(clipped.std(), abs=1e-3)


def test_without_any_foreground_there_is_nothing_to_learn() -> None:
    with pytest.raises(DataError, match="labelled voxel"):
        plan_of([fingerprint(intensities=())])


def test_fixed_choices_win_and_the_patch_fits_the_strides() -> None:
    plan = plan_of([fingerprint()], patch_size=(30, 30, 30), batch_size=3, width=8)
    assert (plan.batch_size, plan.width) == (3, 8)
    for edge, *axis in zip(plan.patch_size, *plan.strides, strict=True):
        assert edge % prod(axis) == 0


@pytest.mark.parametrize(
    ("on_gpu", "minutes", "width"),
    [
        (False, 10.0, 16),
        (False, 223.0, 16),  # 40 x 56 x 40 voxels 20,000 times at 8 million a minute: 224
        (False, 225.0, 32),
        (False, None, 32),
        (True, 10.0, 32),
    ],
)
def test_little_time_on_a_cpu_makes_the_network_narrow(
    on_gpu: bool, minutes: float | None, width: int
) -> None:
    resources = Resources(on_gpu=on_gpu, memory_gb=8.0, processor_minutes=minutes)
    plan = plan_of([fingerprint()] * 200, resources=resources)
    assert plan.width == width
    assert plan.patch_size == (40, 56, 40)
    if not on_gpu:
        assert plan.batch_size == 2  # what is gained goes into steps, not into larger ones


@pytest.mark.parametrize(
    ("memory_gb", "batch", "patch"),
    [
        (10.0, None, (128, 128, 128)),  # 135 a side fit, the strides would make that 160
        (6.4, None, (96, 128, 128)),
        (10.0, 1, (128, 128, 128)),  # half of the memory, not a larger patch
        (10.0, 3, (96, 128, 128)),
    ],
)
def test_what_the_strides_add_to_a_patch_has_room_too(
    memory_gb: float, batch: int | None, patch: Size3
) -> None:
    resources = Resources(on_gpu=True, memory_gb=memory_gb)
    plan = plan_of([fingerprint((300, 300, 300))] * 20, resources=resources, batch_size=batch)
    assert plan.patch_size == patch
    assert plan.batch_size == (batch or 2)
    assert prod(patch) * plan.batch_size * BYTES_PER_VOXEL <= memory_gb * 1e9


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.8, 0.8, 5.0), (1.2, 1.0, 3.0)])
@pytest.mark.parametrize("slab", [None, 1, 3])
@pytest.mark.parametrize("memory_gb", [0.1, 0.7, 3.0, 8.65, 23.0])
def test_every_chosen_step_fits_in_memory(
    spacing: Spacing, slab: int | None, memory_gb: float
) -> None:
    resources = Resources(on_gpu=True, memory_gb=memory_gb)
    cases = [fingerprint((400, 380, 90), spacing)] * 20
    plan = plan_of(cases, resources=resources, slab=slab)
    assert prod(plan.patch_size) * plan.batch_size * BYTES_PER_VOXEL <= memory_gb * 1e9
    for edge, *axis in zip(plan.patch_size, *plan.strides, strict=True):
        assert edge % prod(axis) == 0


def test_time_on_a_cpu_is_no_wall_as_memory_is() -> None:
    cases = [fingerprint((300, 300, 300))] * 20
    assert plan_of(cases).patch_size == (56, 56, 56), "50 a side, rounded up"
    scarce = Resources(on_gpu=False, memory_gb=0.5)
    assert plan_of(cases, resources=scarce).patch_size == (48, 48, 48)


def test_a_width_that_is_given_stays_and_large_volumes_get_larger_patches() -> None:
    cases = [fingerprint((300, 300, 300))] * 20
    hour = Resources(on_gpu=False, memory_gb=8.0, processor_minutes=60.0)
    wide = plan_of(cases, resources=hour, width=32)
    narrow = plan_of(cases, resources=hour)
    assert (wide.width, narrow.width) == (32, 16)
    assert prod(narrow.patch_size) > 1.4 * prod(wide.patch_size)
    assert narrow.batch_size == wide.batch_size == 2


def test_a_saved_plan_is_read_back_equal_and_explains_itself(tmp_path: Path) -> None:
    plan = plan_of([fingerprint()])
    plan.save(tmp_path / "plan.yaml")
    assert Plan.load(tmp_path / "plan.yaml") == plan
    assert "# Patches per training step." in (tmp_path / "plan.yaml").read_text()


def test_a_typing_mistake_in_an_edited_plan_is_named(tmp_path: Path) -> None:
    path = tmp_path / "plan.yaml"
    plan_of([fingerprint()]).save(path)
    path.write_text(path.read_text().replace("batch_size:", "batchsize:"))
    with pytest.raises(ConfigError, match="unknown key 'batchsize'; did you mean batch_size"):
        Plan.load(path)


def test_a_plan_of_an_earlier_version_is_still_read(tmp_path: Path) -> None:
    new = ("mirror_axes", "swapped_labels", "trained_")
    plan = plan_of([fingerprint()])
    plan.save(tmp_path / "plan.yaml")
    lines = (tmp_path / "plan.yaml").read_text().splitlines()
    kept = [line for line in lines if not line.startswith(new)]
    assert len(lines) - len(kept) == 6
    (tmp_path / "old.yaml").write_text("\n".join(kept))
    old = Plan.load(tmp_path / "old.yaml")
    assert (old.mirror_axes, old.swapped_labels, old.trained_spacing) == ((), {}, None)
    assert old.mirrored_labels == (0, 1)
    assert old.spacing == plan.spacing


KIDNEYS = {0: "background", 3: "kidney_right", 7: "spine", 20: "kidney_left"}
BALANCED = {3: 0.4, 7: 0.0, 20: -0.4}


def test_mirroring_is_off_unless_asked_for() -> None:
    plan = plan_of([fingerprint(sides=BALANCED)] * 6, names=KIDNEYS)
    assert plan.mirror_axes == ()
    assert plan.swapped_labels == {20: 3}


def test_named_pairs_change_places_in_the_order_of_the_logits(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.INFO, "medseg3d"):
        plan = plan_of([fingerprint(sides=BALANCED)] * 6, names=KIDNEYS, mirror=True)
    assert plan.mirror_axes == (0, 1, 2)
    assert plan.mirrored_labels == (0, 3, 2, 1)
    assert "kidney_left and kidney_right change places" in caplog.text


def test_sides_that_show_are_not_mirrored_and_it_is_said(
    caplog: pytest.LogCaptureFixture,
) -> None:
    names = {0: "background", 1: "liver"}
    cases = [fingerprint(sides={1: 0.4})] * 6
    with caplog.at_level(logging.INFO, "medseg3d"):
        plan = plan_of(cases, names=names, mirror=True)
    assert plan.mirror_axes == (1, 2)
    assert "not mirrored left to right" in caplog.text
    assert "'liver' lies on the right in 6 of 6 cases" in caplog.text


def test_half_a_pair_is_not_mirrored(caplog: pytest.LogCaptureFixture) -> None:
    names = {0: "background", 1: "kidney_left"}
    with caplog.at_level(logging.INFO, "medseg3d"):
        plan = plan_of([fingerprint(sides={1: 0.0})] * 6, names=names, mirror=True)
    assert plan.mirror_axes == (1, 2)
    assert "'kidney_left' has no partner" in caplog.text


def test_axes_chosen_by_hand_are_kept_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    cases = [fingerprint(sides=BALANCED | {7: 0.3})] * 6
    plan = plan_of(cases, names=KIDNEYS, mirror_axes=(0, 2))
    assert plan.mirror_axes == (0, 2)
    assert plan.mirrored_labels == (0, 3, 2, 1)
    (record,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert "'spine' lies on the right in 6 of 6 cases" in record.getMessage()


def test_axes_given_beside_a_plan_replace_those_it_holds() -> None:
    plan = plan_of([fingerprint()], names=KIDNEYS)
    old = plan.model_copy(update={"swapped_labels": {}})
    assert plan.mirrored_along(()) is plan
    for found in (plan.mirrored_along((0,)), old.mirrored_along((0,))):
        assert (found.mirror_axes, found.mirrored_labels) == ((0,), (0, 3, 2, 1))


def test_swapped_labels_survive_the_file_and_may_be_written_both_ways(tmp_path: Path) -> None:
    cases = [fingerprint(sides=BALANCED, extents=((0.0, 5.5),))] * 6
    plan = plan_of(cases, names=KIDNEYS, mirror=True)
    plan.save(tmp_path / "plan.yaml")
    assert Plan.load(tmp_path / "plan.yaml") == plan
    both = plan.model_dump() | {"swapped_labels": {20: 3, 3: 20}}
    assert Plan(**both).mirrored_labels == plan.mirrored_labels


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        ({"swapped_labels": {3: 9}}, "swapped_labels has 9, which is no label of this plan"),
        ({"swapped_labels": {0: 3}}, "swapped_labels has 0"),
        ({"swapped_labels": {3: 7, 7: 20}}, "in more than one pair"),
        ({"swapped_labels": {3: 7, 20: 7}}, "in more than one pair"),
        ({"mirror_axes": (0, 0)}, "an axis twice"),
        ({"mirror_axes": (3,)}, "mirror_axes"),
        ({"spacing": (-1.0, 1.0, 4.0)}, r"spacing.* greater than 0"),
        ({"spacing": (0.0, 1.0, 4.0)}, r"spacing.* greater than 0"),
        ({"spacing": (float("nan"), 1.0, 4.0)}, r"spacing.* finite"),
        ({"spacing": (float("inf"), 1.0, 4.0)}, r"spacing.* finite"),
        ({"patch_size": (0, 8, 8)}, r"patch_size.* greater than 0"),
        ({"patch_size": (8, -8, 8)}, r"patch_size.* greater than 0"),
        ({"strides": ((2, 2, 0),)}, r"strides.* greater than 0"),
        ({"labels": {0: "background", 3: "a", 7: "a"}}, "gives the name 'a' to two values"),
    ],
)
def test_what_is_wrong_in_an_edited_plan_is_named(edit: dict[str, object], message: str) -> None:
    facts = plan_of([fingerprint()], names=KIDNEYS).model_dump() | edit
    with pytest.raises(ConfigError, match=message):
        validated(Plan, facts, source="plan.yaml")


def test_what_the_training_cases_were_like_is_kept() -> None:
    cases = [
        fingerprint((10, 20, 30), (1.0, 1.0, 2.0), extents=((-1024.0, 300.0),)),
        fingerprint((20, 10, 30), (0.5, 2.0, 3.0), extents=((-3024.0, 1500.0),)),
    ]
    plan = plan_of(cases, "CT")
    assert plan.trained_spacing == ((0.5, 1.0, 2.0), (1.0, 2.0, 3.0))
    assert plan.trained_extent == (10.0, 20.0, 60.0)
    assert plan.trained_lows == ((-1024.0, -1024.0),), "padding is no intensity"
    assert plan.trained_highs == ((300.0, 1500.0),)
    assert plan_of(cases, "MR").trained_lows == ((-3024.0, -1024.0),)


def test_labels_stand_in_the_order_of_their_channels() -> None:
    plan = plan_of([fingerprint((40, 56, 40))] * 3)
    labels = {0: "background", 2: "tumor", 1: "liver"}
    found = Plan(**plan.model_dump() | {"labels": labels, "swapped_labels": {}})
    assert list(found.labels.values()) == ["background", "liver", "tumor"]
