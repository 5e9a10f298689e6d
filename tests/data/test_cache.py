"""The cache gives back what was stored, whole or not at all."""

import errno
import json
import pickle
from contextlib import suppress
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medseg3d.data import cache
from medseg3d.data.cache import (
    CachedCase,
    case_key,
    content_digest,
    foreground_coordinates,
    is_complete,
)
from medseg3d.errors import DataError, RunError

SHAPE = (70, 9, 33)
OPEN_FILES = Path("/proc/self/fd")


def random_image(channels: int = 2) -> npt.NDArray[np.float32]:
    return np.random.default_rng(0).normal(size=(channels, *SHAPE)).astype(np.float32)


def three_labels() -> npt.NDArray[np.int64]:
    labels = np.zeros(SHAPE, dtype=np.int64)
    labels[60:, 2:5, 30:] = 1
    labels[0, 0, 0] = 3
    return labels


def stored(folder: Path) -> CachedCase:
    return CachedCase.write(
        folder, case_id="a", image=random_image(), labels=three_labels(), num_labels=4
    )


def test_whole_arrays_come_back(tmp_path: Path) -> None:
    case = stored(tmp_path / "key")
    np.testing.assert_allclose(case.image(), random_image(), rtol=1e-3, atol=1e-6)
    np.testing.assert_array_equal(case.labels(), three_labels())
    assert (case.image().dtype, case.labels().dtype) == (np.float32, np.uint8)
    assert (case.shape, case.num_channels, case.case_id) == (SHAPE, 2, "a")


@given(data=st.data())
def test_a_box_equals_the_slice_of_the_whole(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.getbasetemp() / "shared_case"
    case = stored(folder)
    first = [data.draw(st.integers(0, n - 1)) for n in SHAPE]
    size = [data.draw(st.integers(1, n - i)) for n, i in zip(SHAPE, first, strict=True)]
    box = tuple(slice(i, i + n) for i, n in zip(first, size, strict=True))
    half = random_image().astype(np.float16).astype(np.float32)
    np.testing.assert_array_equal(case.read_image(first, size), half[:, *box])
    np.testing.assert_array_equal(case.read_labels(first, size), three_labels()[box])


def test_coordinates_are_the_voxels_of_their_label(tmp_path: Path) -> None:
    case = stored(tmp_path / "key")
    np.testing.assert_array_equal(case.coordinates(1), np.argwhere(three_labels() == 1))
    np.testing.assert_array_equal(case.coordinates(3), [[0, 0, 0]])
    assert case.labels_present == (1, 3)
    assert case.label_counts == (three_labels().size - 91, 90, 0, 1)
    assert [len(case.coordinates(label)) for label in (0, 2, 7)] == [0, 0, 0]


def test_very_many_coordinates_are_thinned_the_same_way_each_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cache, "COORDINATES_PER_LABEL", 40)
    labels = three_labels()
    coordinates, offsets = foreground_coordinates(labels, 4)
    assert offsets == [0, 40, 40, 41]
    assert len(np.unique(coordinates[:40], axis=0)) == 40
    assert (labels[tuple(coordinates[:40].T)] == 1).all()
    np.testing.assert_array_equal(coordinates, foreground_coordinates(labels, 4)[0])


def test_intensities_beyond_half_precision_are_clipped(tmp_path: Path) -> None:
    image = np.array([1e6, -1e6, 1.0], dtype=np.float32).reshape(1, 3, 1, 1)
    case = CachedCase.write(tmp_path / "k", case_id="a", image=image, labels=None, num_labels=2)
    np.testing.assert_array_equal(case.image().ravel(), [65504, -65504, 1])


def test_many_labels_need_sixteen_bits(tmp_path: Path) -> None:
    labels = np.array([0, 255, 256, 299]).reshape(2, 2, 1)
    image = np.zeros((1, 2, 2, 1), dtype=np.float32)
    case = CachedCase.write(tmp_path / "k", case_id="a", image=image, labels=labels, num_labels=300)
    assert case.labels().dtype == np.uint16
    np.testing.assert_array_equal(case.labels(), labels)
    np.testing.assert_array_equal(case.coordinates(299), [[1, 1, 0]])


def test_a_case_may_have_no_labels(tmp_path: Path) -> None:
    case = CachedCase.write(
        tmp_path / "k", case_id="a", image=random_image(), labels=None, num_labels=2
    )
    assert not case.has_labels
    assert case.labels_present == ()
    with pytest.raises(DataError, match="case a: no labels were stored"):
        case.labels()


def test_a_complete_folder_is_kept_and_an_incomplete_one_replaced(tmp_path: Path) -> None:
    folder = tmp_path / "key"
    stored(folder)
    other = CachedCase.write(folder, case_id="b", image=random_image(1), labels=None, num_labels=2)
    assert other.has_labels
    (folder / "image.b2nd").write_bytes(b"cut short")
    assert not is_complete(folder)
    np.testing.assert_array_equal(stored(folder).labels(), three_labels())
    assert [path.name for path in tmp_path.iterdir()] == ["key"]


@pytest.mark.parametrize("name", ["image.b2nd", "labels.b2nd", "coordinates.npy", "facts.json"])
def test_a_missing_file_is_noticed(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "key"
    stored(folder)
    (folder / name).unlink()
    assert not is_complete(folder)
    with pytest.raises(DataError, match=r"key is missing or incomplete; delete that folder"):
        CachedCase.open(folder)


@pytest.mark.parametrize("name", ["image.b2nd", "labels.b2nd", "coordinates.npy"])
def test_damage_names_the_folder_to_delete(tmp_path: Path, name: str) -> None:
    path = tmp_path / "key" / name
    case = stored(path.parent)
    path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(DataError, match=r"case a: cached case .*key is damaged .*delete"):
        _ = case.image(), case.labels(), case.coordinates(1)


def test_another_layout_counts_as_incomplete(tmp_path: Path) -> None:
    facts = stored(tmp_path / "key").folder / "facts.json"
    facts.write_text(json.dumps(json.loads(facts.read_text()) | {"layout": 0}))
    assert not is_complete(facts.parent)


def test_nothing_stays_behind_when_writing_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(cache.np, "save", lambda *_, **__: full())
    with pytest.raises(RunError, match=r"the disk is full; free some space .* are free"):
        stored(tmp_path / "key")
    assert not list(tmp_path.iterdir())


def test_a_case_is_called_what_it_is_opened_as(tmp_path: Path) -> None:
    folder = stored(tmp_path / "key").folder
    assert CachedCase.open(folder).case_id == "a"
    renamed = CachedCase.write(
        folder, case_id="b", image=random_image(), labels=three_labels(), num_labels=4
    )
    for case in (renamed, CachedCase.open(folder, "b")):
        assert pickle.loads(pickle.dumps(case)).case_id == case.case_id == "b"


def test_a_copy_for_another_process_opens_its_own_arrays(tmp_path: Path) -> None:
    case = stored(tmp_path / "key")
    case.image()
    copy = pickle.loads(pickle.dumps(case))
    np.testing.assert_array_equal(copy.labels(), case.labels())


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.full(SHAPE, 4), "labels run from 4 to 4, expected 0 to 3"),
        (np.full(SHAPE, -1), "labels run from -1 to -1"),
        (np.zeros((3, 3, 3), dtype=int), r"\(3, 3, 3\) do not fit .*\(70, 9, 33\)"),
    ],
)
def test_labels_that_do_not_fit_are_refused(
    tmp_path: Path, labels: npt.NDArray[np.int64], message: str
) -> None:
    with pytest.raises(DataError, match=f"case a: .*{message}"):
        CachedCase.write(
            tmp_path / "k", case_id="a", image=random_image(), labels=labels, num_labels=4
        )


def test_an_image_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    image = random_image()
    image[0, 1, 2, 3] = np.nan
    with pytest.raises(DataError, match=r"case a: .*NaN"):
        CachedCase.write(tmp_path / "k", case_id="a", image=image, labels=None, num_labels=2)


def test_the_key_follows_content_and_plan_and_not_names(tmp_path: Path) -> None:
    for name, content in {"a": b"1", "b": b"2", "copy": b"1", "ab": b"12"}.items():
        (tmp_path / name).write_bytes(content)

    def key(plan: str, *names: str) -> str:
        return case_key(plan, content_digest([tmp_path / name for name in names]))

    assert key("p", "a", "b") == key("p", "copy", "b")
    others = [key("p", "b", "a"), key("q", "a", "b"), key("p", "a"), key("p", "ab")]
    assert len({key("p", "a", "b"), *others}) == 5
    with pytest.raises(DataError, match="missing cannot be read"):
        key("p", "missing")


def open_below(folder: Path) -> list[Path]:
    """The files below `folder` this process keeps open: others come and go with the collector."""
    targets = []
    for descriptor in OPEN_FILES.iterdir():
        with suppress(FileNotFoundError):  # the listing's own is closed by now
            targets.append(descriptor.readlink())
    return sorted(target for target in targets if target.is_relative_to(folder))


def test_an_open_case_keeps_no_file_open_for_its_coordinates(tmp_path: Path) -> None:
    stored(tmp_path / "key")
    cases = [CachedCase.open(tmp_path / "key") for _ in range(20)]
    before = open_below(tmp_path)
    found = [case.coordinates(1) for case in cases]
    assert open_below(tmp_path) == before
    assert all(len(voxels) == 10 * 3 * 3 for voxels in found)


def test_too_many_open_files_are_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    case = stored(tmp_path / "key")
    monkeypatch.setattr(cache.np, "load", refused)
    with pytest.raises(DataError, match="too many files are open; allow more") as error:
        case.coordinates(1)
    assert "damaged" not in str(error.value)
