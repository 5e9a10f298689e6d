"""Plans: spacing, patch and topology from hand-made fingerprints."""

from math import prod
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medseg3d.data.fingerprint import CaseFingerprint
from medseg3d.data.plan import Plan, fit_patch, make_plan, target_spacing, topology
from medseg3d.errors import ConfigError, DataError
from medseg3d.types import Size3, Spacing


def fingerprint(
    shape: Size3 = (36, 50, 35),
    spacing: Spacing = (1.0, 1.0, 1.0),
    intensities: tuple[float, ...] = (10.0, 20.0, 30.0),
    is_ct: bool = False,
) -> CaseFingerprint:
    return CaseFingerprint(
        shape=shape,
        spacing=spacing,
        foreground=(np.asarray(intensities, dtype=np.float32),),
        looks_like_ct=(is_ct,),
    )


def plan_of(cases: list[CaseFingerprint], channel: str = "MRI", **fixed: object) -> Plan:
    return make_plan(
        cases,
        label_names={0: "background", 1: "organ"},
        channel_names=[channel],
        on_gpu=False,
        memory_gb=8.0,
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


@given(
    shape=st.tuples(*[st.integers(1, 600)] * 3),
    spacing=st.tuples(*[st.floats(0.3, 6.0)] * 3),
    voxels=st.integers(4096, 300_000),
)
def test_patch_keeps_within_its_voxels_and_the_case(
    shape: Size3, spacing: Spacing, voxels: int
) -> None:
    patch = fit_patch(shape, spacing, voxels)
    assert all(1 <= edge <= whole for edge, whole in zip(patch, shape, strict=True))
    assert prod(patch) <= voxels


@given(patch=st.tuples(*[st.integers(1, 256)] * 3), spacing=st.tuples(*[st.floats(0.3, 8.0)] * 3))
def test_no_stage_is_smaller_than_four_voxels_unless_the_patch_is(
    patch: Size3, spacing: Spacing
) -> None:
    strides, kernels = topology(patch, spacing)
    assert len(kernels) == len(strides) + 1 <= 6
    for edge, *axis in zip(patch, *strides, strict=True):
        if prod(axis) > 1:
            assert edge / prod(axis) > 3


def test_declared_or_hounsfield_channels_are_ct() -> None:
    assert plan_of([fingerprint()], "CT").channels[0].scheme == "ct"
    assert plan_of([fingerprint(is_ct=True)], "channel 0").channels[0].scheme == "ct"
    assert plan_of([fingerprint(is_ct=True)], "MR T2").channels[0].scheme == "zscore"
    assert plan_of([fingerprint()], "channel 0").channels[0].scheme == "zscore"


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
