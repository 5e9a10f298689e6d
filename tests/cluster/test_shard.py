"""The division of cases: each in one part, whatever their order, and where it is read from."""

import os
import re
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medseg3d.cluster.place import Elsewhere, Here, parse_address
from medseg3d.cluster.shard import Shard, parse_shard
from medseg3d.errors import ConfigError

ids = st.sets(st.text(min_size=1), max_size=40)


@given(ids, st.integers(1, 12), st.randoms())
def test_each_case_is_in_one_part_whatever_the_order(
    cases: set[str], count: int, random: Random
) -> None:
    parts = []
    for index in range(1, count + 1):
        order = list(cases)
        random.shuffle(order)
        parts.append(Shard(index, count).of(order, key=str))
    assert sorted(case for part in parts for case in part) == sorted(cases)


@given(ids, st.text(min_size=1), st.integers(1, 12))
def test_a_case_that_arrives_moves_no_other(cases: set[str], new: str, count: int) -> None:
    for index in range(1, count + 1):
        shard = Shard(index, count)
        before, after = shard.of(cases, key=str), shard.of({*cases, new}, key=str)
        assert [case for case in after if case != new] == [case for case in before if case != new]


def test_parts_are_the_same_on_every_machine() -> None:
    assert Shard(2, 3).of(["b", "a", "d", "Z", "c"], key=str) == ["a", "c", "d"]
    strange = os.fsdecode(b"caf\xe9")
    assert [Shard(index, 2).of([strange], key=str) for index in (1, 2)] == [[strange], []]


def test_parts_of_many_cases_are_about_equal() -> None:
    cases = [f"case{number:04d}" for number in range(1000)]
    sizes = [len(Shard(index, 4).of(cases, key=str)) for index in range(1, 5)]
    assert sum(sizes) == 1000
    assert max(sizes) - min(sizes) < 100


def test_files_of_parts_have_their_own_names() -> None:
    assert Shard(2, 4).name("scores.csv") == "scores-2of4.csv"
    assert Shard(10, 12).name("failed.csv") == "failed-10of12.csv"
    assert Shard(1, 1).name("failed.csv") == "failed.csv"


def array(task: object, first: object, last: object, count: object) -> dict[str, str]:
    names = ("ID", "MIN", "MAX", "COUNT")
    values = (task, first, last, count)
    return {f"SLURM_ARRAY_TASK_{n}": str(v) for n, v in zip(names, values, strict=True)}


@pytest.mark.parametrize(
    ("text", "environment", "expected"),
    [
        ("1/1", {}, Shard(1, 1)),
        (" 3 / 8 ", {}, Shard(3, 8)),
        ("slurm", array(0, 0, 7, 8), Shard(1, 8)),  # --array=0-7
        ("slurm", array(8, 1, 8, 8), Shard(8, 8)),  # --array=1-8%2
        ("SLURM", array(9, 1, 9, 3), Shard(3, 3)),  # --array=1-9:4
        ("slurm", array(5, 5, 5, 1), Shard(1, 1)),  # --array=5
    ],
)
def test_parts_are_read(text: str, environment: dict[str, str], expected: Shard) -> None:
    assert parse_shard(text, environment) == expected


@pytest.mark.parametrize(
    ("text", "environment", "told"),
    [
        ("", {}, "expected i/n, such as 2/4, or slurm, got ''"),
        ("2", {}, "expected i/n"),
        ("-1/4", {}, "expected i/n"),
        ("\u0661/4", {}, "expected i/n"),
        ("0/4", {}, "the parts of i/n count from 1 to n, got '0/4'"),
        ("5/4", {}, "count from 1 to n"),
        ("1/0", {}, "count from 1 to n"),
        ("slurm", {}, "SLURM_ARRAY_TASK_ID holds no number, so this is no task of a Slurm array"),
        ("slurm", array(1, 1, 4, "x"), "SLURM_ARRAY_TASK_COUNT holds no number"),
        ("slurm", array(3, 0, 7, 3), "do not follow each other at one distance"),  # 0,3,7
        ("slurm", array(4294967294, 1, 4, 4), "do not follow each other"),
    ],
)
def test_what_is_no_part_is_refused(text: str, environment: dict[str, str], told: str) -> None:
    with pytest.raises(ConfigError, match=rf"^shard: .*{re.escape(told)}"):
        parse_shard(text, environment)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("local:1", Here(1)),
        (" local:16 ", Here(16)),
        ("node7:8786", Elsewhere("tcp://node7:8786")),
        ("tls://10.0.0.1:1", Elsewhere("tls://10.0.0.1:1")),
        ("tcp://[fe80::1]:8786", Elsewhere("tcp://[fe80::1]:8786")),
    ],
)
def test_addresses_are_read(text: str, expected: Here | Elsewhere) -> None:
    assert parse_address(text) == expected


@pytest.mark.parametrize(
    "text", ["", "local", "local:0", "local:-2", "local:two", "node7", "ftp://a:1", "tcp://:1"]
)
def test_what_is_no_address_is_refused(text: str) -> None:
    told = "cluster: expected local:N for N processes of this machine, or the address of a Dask"
    with pytest.raises(ConfigError, match=f"^{told}.*got {re.escape(repr(text))}$"):
        parse_address(text)
