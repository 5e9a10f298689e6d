"""The table of networks."""

import json

import pytest
from typer.testing import CliRunner

from medseg3d import cli
from medseg3d.api.listing import network_rows

COLUMNS = ["name", "title", "year", "paper", "dimensions", "extra outputs", "parameters"]


def test_every_network_tells_its_paper_and_size() -> None:
    rows = network_rows()
    assert [row["name"] for row in rows] == sorted(row["name"] for row in rows)
    for row in rows:
        assert list(row) == COLUMNS
        assert 2015 <= row["year"] <= 2024
        assert set(row["dimensions"]) <= {2, 3}
        assert row["parameters"] > 100_000
    by_name = {row["name"]: row for row in rows}
    assert by_name["vnet"]["parameters"] == 65_175_314
    assert by_name["saunet"]["extra outputs"] == "edges"
    assert by_name["unet"]["extra outputs"] is None


@pytest.mark.parametrize("as_json", [False, True])
def test_the_command_prints_it(as_json: bool) -> None:
    found = CliRunner().invoke(cli.app, ["list", "networks", *(["--json"] if as_json else [])])
    assert found.exit_code == 0
    if as_json:
        assert json.loads(found.stdout)[0].keys() == set(COLUMNS)
    else:
        header, *lines = found.stdout.splitlines()
        assert header.split("\t") == COLUMNS
        assert len(lines) == len(network_rows())
        assert all(line.count("\t") == len(COLUMNS) - 1 for line in lines)
