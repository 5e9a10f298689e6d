"""Left and right: which names are pairs, and which data sets tell the sides apart."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medseg3d.data.canonical import canonical
from medseg3d.data.fingerprint import measure_sides
from medseg3d.data.sides import doubts, left_and_right, paired_labels, without_partner
from medseg3d.io import read_image, read_labels

PAIRS = [
    ("left_kidney", "right_kidney"),
    ("kidney_left", "kidney_right"),
    ("Left-Hippocampus", "Right-Hippocampus"),
    ("lung left", "lung right"),
    ("LUNG LEFT", "Lung Right"),
    ("femur.left", "femur.right"),
    ("kidney (left)", "kidney (right)"),
    ("Lung_L", "Lung_R"),
    ("l_lung", "r_lung"),
    ("L-lung", "R-lung"),
    ("Parotid L", "Parotid R"),
    ("optic.nerve.l", "optic.nerve.r"),
    ("lh-cortex", "rh-cortex"),
    ("ctx-lh-bankssts", "ctx-rh-bankssts"),
    ("lt ureter", "RT ureter"),
    ("ureter_lt", "ureter_rt"),
    ("rib_left_1", "rib_right_1"),
    ("leftKidney", "rightKidney"),
    ("KidneyLeft", "KidneyRight"),
    ("kidneyL", "kidneyR"),
    ("left", "right"),
    ("L", "R"),
    ("lung upper left lobe", "lung upper right lobe"),
    ("left_ventricle_l3", "right_ventricle_l3"),
    ("right part of left lung", "left part of right lung"),
    ("left_kidney", "kidney_right"),
]

NO_SIDES = [
    "cleft",
    "bright spot",
    "upright",
    "rightmost",
    "leftover",
    "ventricle_l3",
    "vertebrae_L1",
    "vertebra_L_3",
    "liver",
    "lateral ventricle",
    "rlobe",
    "lhx",
    "arteria",
    "3",
    "",
    "_",
]

words = st.sampled_from(["left", "Right", "l", "R", "lh", "rh", "kidney", "lung", "3", "cleft"])
label_names = st.lists(
    st.lists(words, max_size=4).flatmap(
        lambda parts: st.sampled_from(" _-.").map(lambda mark: mark.join(parts))
    ),
    max_size=8,
).map(lambda names: dict(enumerate(["background", *names])))


@pytest.mark.parametrize("pair", PAIRS, ids="/".join)
def test_a_name_and_its_opposite_are_a_pair(pair: tuple[str, str]) -> None:
    names = {0: "background", 4: pair[1], 7: "spine", 9: pair[0]}
    assert paired_labels(names) == {0: 0, 4: 9, 9: 4, 7: 7}
    assert without_partner(names) == []


@pytest.mark.parametrize("pair", PAIRS, ids="/".join)
def test_half_a_pair_is_noticed(pair: tuple[str, str]) -> None:
    for name in pair:
        names = {0: "background", 4: name, 5: "spine"}
        assert paired_labels(names) == {0: 0, 4: 4, 5: 5}
        assert without_partner(names) == [4]
        assert doubts(names, []) == [f"{name!r} has no partner on the other side"]


@pytest.mark.parametrize("name", NO_SIDES)
def test_words_that_only_contain_a_side_have_none(name: str) -> None:
    assert without_partner({1: name}) == []


def test_look_alikes_do_not_make_a_pair() -> None:
    names = {1: "cleft", 2: "cright", 3: "vertebrae_L1", 4: "vertebrae_R1", 5: "bleft", 6: "bright"}
    assert paired_labels(names) == {value: value for value in names}


def test_the_rest_of_the_name_must_agree() -> None:
    names = {1: "left_upper_lobe", 2: "right_lower_lobe", 3: "rib_left_1", 4: "rib_right_2"}
    assert without_partner(names) == [1, 2, 3, 4]


@pytest.mark.parametrize(
    "names",
    [
        {1: "lung_left", 2: "lung_right", 3: "right lung"},
        {1: "lung_left", 2: "Left Lung", 3: "right lung"},
        {1: "lung_l", 2: "lung_r", 3: "lung left"},
    ],
)
def test_two_candidates_make_no_pair(names: dict[int, str]) -> None:
    assert paired_labels(names) == {1: 1, 2: 2, 3: 3}
    assert without_partner(names) == [1, 2, 3]


def test_pairs_are_written_left_to_right() -> None:
    names = {0: "background", 2: "right kidney", 3: "L-lung", 5: "left kidney", 9: "R-lung"}
    assert left_and_right(names) == {5: 2, 3: 9}


@given(names=label_names)
def test_partners_are_an_involution_of_the_labels(names: dict[int, str]) -> None:
    partners = paired_labels(names)
    assert sorted(partners) == sorted(partners.values()) == sorted(names)
    assert all(partners[partners[value]] == value for value in names)
    paired = {value for value in names if partners[value] != value}
    assert not paired & set(without_partner(names))
    assert {*left_and_right(names), *left_and_right(names).values()} == paired


@given(names=label_names, seed=st.integers(0, 10))
def test_the_order_of_the_labels_does_not_matter(names: dict[int, str], seed: int) -> None:
    order = np.random.default_rng(seed).permutation(sorted(names)).tolist()
    assert paired_labels({value: names[value] for value in order}) == paired_labels(names)


def around(middle: float, spread: float, count: int = 20, seed: int = 0) -> list[float]:
    return (middle + spread * np.random.default_rng(seed).standard_normal(count)).tolist()


def table(**columns: list[float]) -> list[dict[int, float]]:
    """Cases from the places of labels ``l1``, ``l2`` ..."""
    rows = zip(*columns.values(), strict=True)
    return [
        {int(name[1:]): place for name, place in zip(columns, row, strict=True)} for row in rows
    ]


def test_an_organ_on_one_side_forbids_mirroring() -> None:
    found = doubts({0: "background", 1: "label 1"}, table(l1=around(0.4, 0.1)))
    assert found == ["'label 1' lies on the right in 20 of 20 cases"]
    assert doubts({1: "spleen"}, table(l1=around(-0.5, 0.1)))[0].startswith(
        "'spleen' lies on the left"
    )


def test_structures_in_the_middle_and_on_either_side_allow_it() -> None:
    names = {0: "background", 1: "spine", 2: "tumor"}
    assert doubts(names, table(l1=around(0.01, 0.02), l2=around(0, 0.4, seed=1))) == []


def test_one_case_in_ten_may_lie_on_the_other_side() -> None:
    assert doubts({1: "a"}, table(l1=[0.4] * 9 + [-0.4]))
    assert not doubts({1: "a"}, table(l1=[0.4] * 8 + [-0.4] * 2))


def test_unnamed_pairs_forbid_it_and_named_pairs_do_not() -> None:
    cases = table(l1=around(-0.4, 0.1), l2=around(0.4, 0.1, seed=1))
    assert len(doubts({1: "label 1", 2: "label 2"}, cases)) == 2
    assert doubts({1: "kidney_left", 2: "kidney_right"}, cases) == []


def test_a_liver_beside_named_kidneys_forbids_it() -> None:
    cases = table(l1=around(-0.4, 0.1), l2=around(0.4, 0.1, seed=1), l3=around(0.4, 0.1, seed=2))
    found = doubts({1: "kidney_left", 2: "kidney_right", 3: "liver"}, cases)
    assert found == ["'liver' lies on the right in 20 of 20 cases"]


def test_a_named_pair_that_lies_on_one_side_is_no_mirror_image() -> None:
    # The ventricles of the heart: both left of the middle, the left one farther.
    cases = table(l1=around(-0.3, 0.05), l2=around(-0.1, 0.05, seed=1))
    assert doubts({1: "left_ventricle", 2: "right_ventricle"}, cases) == [
        "'left_ventricle' and 'right_ventricle' together lie on the left in 20 of 20 cases"
    ]


def test_sides_show_between_labels_where_the_crop_hides_them() -> None:
    drift = np.random.default_rng(3).uniform(-0.6, 0.6, 20)
    cases = table(l1=(drift - 0.2).tolist(), l2=(drift + 0.2).tolist())
    found = doubts({1: "label 1", 2: "label 2"}, cases)
    assert found == [
        "'label 1' lies on the left in 20 of 20 cases, seen from the other labels",
        "'label 2' lies on the right in 20 of 20 cases, seen from the other labels",
    ]


def test_a_few_cases_cannot_tell() -> None:
    assert doubts({1: "tumor"}, table(l1=[0.3, -0.3, 0.2, -0.1])) == [
        "'tumor' is in 4 cases, too few to tell its side"
    ]
    assert doubts({1: "kidney_l", 2: "kidney_r"}, table(l1=[-0.3], l2=[0.3])) == []
    assert doubts({1: "absent"}, [{}] * 8) == []


@given(seed=st.integers(0, 1000), sign=st.sampled_from([-1, 1]))
def test_mirroring_the_data_set_changes_the_side_and_nothing_else(seed: int, sign: int) -> None:
    generator = np.random.default_rng(seed)
    shift, noise = generator.uniform(-0.5, 0.5, 3), generator.uniform(0.01, 0.5, 3)
    cases = [dict(enumerate(shift + noise * generator.standard_normal(3), 1)) for _ in range(9)]
    names = {1: "a", 2: "b", 3: "c"}
    mirrored = [{value: -place for value, place in case.items()} for case in cases]
    swapped = [
        text.replace("left", "?").replace("right", "left").replace("?", "right")
        for text in doubts(names, cases)
    ]
    assert doubts(names, mirrored) == swapped


def sliver(width: int, *bright: int) -> np.ndarray:
    image = np.zeros((width, 2, 2), dtype=np.float32)
    image[list(bright)] = 100
    return image


def test_sides_are_measured_from_the_body_not_the_image() -> None:
    labels = np.zeros((10, 2, 2), dtype=np.uint8)
    labels[6] = 3
    labels[2, 0, 0] = 200
    # tissue at 2..6, its middle at 4, half the width is 5
    found = measure_sides(sliver(10, 2, 3, 4, 5, 6), labels)
    assert found == {3: pytest.approx(0.4), 200: pytest.approx(-0.4)}


@pytest.mark.parametrize("value", [0.0, 7.0, 1e30])
def test_a_constant_image_has_its_own_middle(value: float) -> None:
    labels = np.zeros((5, 1, 1), dtype=np.int16)
    labels[4] = 1
    image = np.full((5, 1, 1), value, dtype=np.float32)
    assert measure_sides(image, labels) == {1: pytest.approx(0.8)}


@given(seed=st.integers(0, 100))
def test_measured_sides_change_sign_in_the_mirror(seed: int) -> None:
    generator = np.random.default_rng(seed)
    image = generator.normal(size=(7, 4, 3)).astype(np.float32)
    labels = generator.choice([0, 2, 300], size=(7, 4, 3)).astype(np.uint16)
    there, back = measure_sides(image, labels), measure_sides(image[::-1], labels[::-1])
    assert there.keys() == back.keys()
    for value, place in there.items():
        assert back[value] == pytest.approx(-place, abs=1e-12)


@pytest.mark.parametrize(
    ("image", "labels", "liver"),
    [
        ("abdomen_ct/ts_ct_sm", "abdomen_ct/ts_ct_sm_seg", 5),
        ("abdomen_ct/ts_mr_sm", "abdomen_ct/ts_mr_sm_seg", 5),
    ],
)
def test_real_livers_lie_on_the_right_and_spleens_on_the_left(
    shared_data: Path, image: str, labels: str, liver: int
) -> None:
    volume = read_image((shared_data / f"{image}.nii.gz",))
    case = canonical(volume, read_labels(shared_data / f"{labels}.nii.gz").labels)
    assert case.labels is not None
    found = measure_sides(case.image[0], case.labels)
    assert found[liver] > 0.3
    assert found[1] < -0.3  # the spleen, in both lists of labels
    names = {0: "background", 1: "spleen", 2: "kidney_right", 3: "kidney_left", 5: "liver"}
    seen = {value: found[value] for value in names if value}
    # Five copies of one patient stand in for five patients.
    assert doubts(names, [seen] * 5) == [
        "'spleen' lies on the left in 5 of 5 cases",
        "'liver' lies on the right in 5 of 5 cases",
    ]
    assert doubts({2: "kidney_right", 3: "kidney_left"}, [seen] * 5) == []


def test_real_hippocampi_of_one_side_are_seen_to_be(shared_data: Path) -> None:
    # Each crop holds one hippocampus, and nearly always the head lies to the right of the tail.
    folder = shared_data / "hippocampus"
    cases = []
    for path in sorted((folder / "labelsTr").glob("hippocampus_*.nii.gz"))[::10]:
        case = canonical(read_image((folder / "imagesTr" / path.name,)), read_labels(path).labels)
        assert case.labels is not None
        cases.append(measure_sides(case.image[0], case.labels))
    assert np.median([case[1] - case[2] for case in cases]) == pytest.approx(0.10, abs=0.03)
    assert doubts({0: "background", 1: "Anterior", 2: "Posterior"}, cases)
