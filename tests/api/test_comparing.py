"""``compare`` from files to files, in Python and on the command line."""

import csv
import hashlib
import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage, stats
from typer.testing import CliRunner, Result

from medseg3d import cli
from medseg3d.api.scoring.comparing import compare, model_names
from medseg3d.api.scoring.comparison_panels import draw, worth_a_panel
from medseg3d.errors import ConfigError, DataError, RunError
from medseg3d.geometry.grid import Grid
from medseg3d.scoring import Row, score_case, write_table
from medseg3d.scoring.columns import columns
from medseg3d.scoring.comparison import compare_models
from medseg3d.scoring.measures import measure_of
from medseg3d.scoring.paired import pair_models
from medseg3d.scoring.subgroups import Subgroup
from tests.scoring.test_comparison import two_labels

CASES = [f"case {number}" for number in range(8)]


def table(path: Path, better: float = 0.0, *, cases: Sequence[str] = CASES, models=("",)) -> Path:
    """Scores of cases that get better from one to the next, and by ``better``."""
    rows = [
        Row(
            case=case,
            label=label,
            name=name,
            scores={
                "dice": 0.5 + place / 40 + (better + 0.1 * number) * (1 + place / 10),
                "hausdorff_95_mm": 20.0 - place - 50 * (better + 0.1 * number) * (1 + place / 10),
            },
            prediction_ml=1.0,
            reference_ml=1.0,
            status="ok",
            patient=case,
            model=model,
        )
        for number, model in enumerate(models)
        for place, case in enumerate(cases)
        for label, name in ((1, "liver"), (2, "tumor"))
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_table(rows, path)
    return path


@pytest.fixture(autouse=True)
def fresh_logger() -> Iterator[None]:
    yield
    for handler in list(cli.LOGGER.handlers):
        if isinstance(handler, cli.StderrHandler):
            cli.LOGGER.removeHandler(handler)
    cli.LOGGER.setLevel(logging.NOTSET)


@pytest.fixture
def two(tmp_path: Path) -> list[Path]:
    return [table(tmp_path / "unet.csv"), table(tmp_path / "vnet.csv", 0.05)]


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli.app, ["compare", *map(str, arguments)])


def lines(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_two_tables_make_a_table_a_json_and_a_figure(two: list[Path], tmp_path: Path) -> None:
    result = compare(two, out=tmp_path / "out" / "c.csv")
    written = lines(result.csv)
    assert len(written) == 2 * 3
    assert {(line["first"], line["second"]) for line in written} == {("unet", "vnet")}
    assert {line["favors"] for line in written} == {"vnet"}
    assert float(written[0]["difference"]) == pytest.approx(0.05 * 1.35)
    facts = json.loads(result.json.read_text(encoding="utf-8"))
    assert [one["models"] for one in facts["tables"]] == [["unet"], ["vnet"]]
    for one, path in zip(facts["tables"], two, strict=True):
        assert one["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert facts["versions"].keys() == {"medseg3d", "python", "numpy", "scipy", "matplotlib"}
    assert facts["options"]["resamples"] == facts["resamples"] == 2000
    assert result.figure is not None
    assert result.figure.read_bytes().startswith(b"\x89PNG")
    assert {path.name for path in result.csv.parent.iterdir()} == {"c.csv", "c.json", "c.png"}


def test_one_table_may_hold_several_models(tmp_path: Path) -> None:
    scores = table(tmp_path / "scores.csv", models=("unet", "vnet", "swin"))
    result = compare(scores, out=tmp_path / "c.csv", figure="svg", baseline="vnet")
    assert {(each.first, each.second) for each in result.comparison.differences} == {
        ("vnet", "unet"),
        ("vnet", "swin"),
    }
    assert result.figure == tmp_path / "c.svg"
    assert result.figure.read_bytes().startswith(b"<?xml")


def test_it_repeats_itself_to_the_byte(two: list[Path], tmp_path: Path) -> None:
    first, second = (
        compare(two, out=tmp_path / name / "c.csv", figure="svg") for name in ("1", "2")
    )
    assert first.csv.read_bytes() == second.csv.read_bytes()
    assert first.figure is not None
    assert second.figure is not None
    assert first.figure.read_bytes() == second.figure.read_bytes()


def test_unpaired_cases_are_said(
    two: list[Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    table(two[1], 0.05, cases=[*CASES[:6], "other"])
    with caplog.at_level(logging.WARNING, logger="medseg3d"):
        result = compare(two, out=tmp_path / "c.csv", figure="none")
    assert (
        "3 cases are not in every table and are left out, case 6 (not in vnet), "
        "case 7 (not in vnet), other (not in unet); 6 are compared"
    ) in caplog.messages
    facts = json.loads(result.json.read_text(encoding="utf-8"))
    assert facts["unpaired"] == {"case 6": ["vnet"], "case 7": ["vnet"], "other": ["unet"]}
    assert caplog.messages[-1] in facts["notes"]
    assert {line["cases"] for line in lines(result.csv)} == {"6"}
    assert result.figure is None


def test_too_few_patients_for_any_test_are_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tables = [table(tmp_path / f"{name}.csv", cases=CASES[:5]) for name in "ab"]
    compare(tables, out=tmp_path / "c.csv", figure="none")
    assert "5 patients are too few to show a difference by a test at p < 0.05" in caplog.text


def test_attributes_make_subgroups(two: list[Path], tmp_path: Path) -> None:
    attributes = tmp_path / "sites.csv"
    sites = ["Ulm", "Bonn"] * 4
    attributes.write_text(
        "case,site\n" + "".join(f"{case},{site}\n" for case, site in zip(CASES, sites, strict=True))
    )
    result = compare(two, out=tmp_path / "c.csv", attributes=attributes)
    found = {(line["attribute"], line["group"]) for line in lines(result.csv)}
    assert found == {("", ""), ("site", "Ulm"), ("site", "Bonn")}
    facts = json.loads(result.json.read_text(encoding="utf-8"))
    assert facts["attributes"]["sha256"] == hashlib.sha256(attributes.read_bytes()).hexdigest()


def test_real_label_maps_made_worse_rank_below(shared_data: Path, tmp_path: Path) -> None:
    """Scores of real hippocampi, eroded by one model and shifted by a voxel by the other."""
    scored: dict[str, list[Row]] = {"eroded": [], "shifted": []}
    dice: dict[str, list[float]] = {"eroded": [], "shifted": []}
    for path in sorted((shared_data / "hippocampus" / "labelsTr").glob("*.nii.gz"))[:7]:
        image = nib.load(path)
        labels = np.asarray(image.dataobj).astype(np.uint8)
        grid = Grid(labels.shape, image.affine)
        made = {
            "eroded": np.where(ndimage.binary_erosion(labels > 0), labels, 0).astype(np.uint8),
            "shifted": np.roll(labels, 1, axis=0),
        }
        for model, prediction in made.items():
            rows = score_case(
                path.name.removesuffix(".nii.gz"),
                *(prediction, labels, grid),
                labels={1: "anterior", 2: "posterior"},
                columns=columns()[:1],
            )
            scored[model] += rows
            dice[model].append(float(np.mean([row.scores["dice"] for row in rows])))
    for model, rows in scored.items():
        write_table(rows, tmp_path / f"{model}.csv")
    result = compare(
        [tmp_path / "eroded.csv", tmp_path / "shifted.csv"], out=tmp_path / "c.csv", figure="none"
    )
    overall = result.comparison.differences[0]
    gains = np.subtract(dice["shifted"], dice["eroded"])
    assert overall.difference == pytest.approx(gains.mean(), abs=2e-6)
    assert overall.p == pytest.approx(stats.wilcoxon(gains, method="exact").pvalue)
    assert overall.low <= overall.difference <= overall.high
    shares = result.comparison.rankings[0].shares
    better = "shifted" if gains.mean() > 0 else "eroded"
    assert shares[better][0] > 0.5


def test_the_command_prints_the_comparison_and_where_it_is(two: list[Path], tmp_path: Path) -> None:
    result = run(*two, "-o", tmp_path / "c.csv", "--columns", "dice", "--figure", "none")
    assert result.exit_code == 0, result.output
    assert "vnet minus unet" in result.stdout
    assert "hausdorff" not in result.stdout
    assert result.stdout.splitlines()[-1] == str(tmp_path / "c.csv")


def test_columns_may_be_given_with_commas(two: list[Path], tmp_path: Path) -> None:
    columns = "dice, hausdorff_95_mm"
    result = run(*two, "-o", tmp_path / "c.csv", "--columns", columns, "--figure", "none")
    assert result.exit_code == 0, result.output
    assert "hausdorff" in result.stdout
    assert "surface" not in result.stdout


def test_existing_files_are_refused_and_replaced_on_demand(two: list[Path], tmp_path: Path) -> None:
    (tmp_path / "c.png").write_bytes(b"mine")
    refused = run(*two, "-o", tmp_path / "c.csv")
    assert refused.exit_code == 1
    assert refused.stderr == (
        f"medseg3d compare: {tmp_path / 'c.png'} exist already; give --overwrite to replace them, "
        "or choose another -o\n"
    )
    assert (tmp_path / "c.png").read_bytes() == b"mine"
    assert not (tmp_path / "c.csv").exists()
    assert run(*two, "-o", tmp_path / "c.csv", "--overwrite").exit_code == 0
    assert (tmp_path / "c.png").read_bytes() != b"mine"


def test_the_figure_of_an_earlier_comparison_goes(two: list[Path], tmp_path: Path) -> None:
    options = {"out": tmp_path / "c.csv", "overwrite": True, "resamples": 100}
    png, svg = tmp_path / "c.png", tmp_path / "c.svg"
    svg.write_text("of no comparison")
    compare(two, **options)
    assert (png.is_file(), svg.is_file()) == (True, True)
    compare(two, figure="svg", **options)
    assert (png.is_file(), svg.is_file()) == (False, True)
    compare(two, figure="none", **options)
    assert (png.is_file(), svg.is_file()) == (False, False)


def test_the_file_beside_an_input_is_never_replaced(two: list[Path], tmp_path: Path) -> None:
    sheet = table(tmp_path / "swin.xlsx")
    beside = sheet.with_suffix(".json")
    beside.write_text("of swin")
    with pytest.raises(RunError, match=r"swin\.json is an input; choose another -o"):
        compare([two[0], sheet], out=tmp_path / "swin.csv", overwrite=True)
    assert beside.read_text() == "of swin"
    assert not (tmp_path / "swin.csv").exists()


def test_an_input_is_never_replaced(two: list[Path]) -> None:
    before = two[0].read_bytes()
    with pytest.raises(RunError, match=r"unet\.csv is an input"):
        compare(two, out=two[0], overwrite=True)
    assert two[0].read_bytes() == before


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"tables": ["unet.csv"]}, ConfigError, "only one model is there .unet."),
        ({"tables": ["unet.csv", "./unet.csv"]}, ConfigError, "a table is named twice"),
        ({"tables": ["unet.csv", "nowhere.csv"]}, DataError, "nowhere"),
        ({"tables": []}, ConfigError, "tables"),
        ({"columns": ["nsd"]}, ConfigError, "column 'nsd' is not in every table"),
        ({"baseline": "swin"}, ConfigError, "'swin' is no model"),
        ({"out": "c.txt"}, ConfigError, r"must end in \.csv"),
        ({"attributes": "nowhere.csv"}, DataError, "cannot be read"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_is_written(
    two: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: dict[str, Any],
    error: type[Exception],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    before = {path.name for path in tmp_path.iterdir()}
    with pytest.raises(error, match=message):
        compare(**({"tables": two, "out": "c.csv"} | change))
    assert {path.name for path in tmp_path.iterdir()} == before


def test_a_failure_in_the_figure_leaves_no_files(
    two: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: object, **options: object) -> bytes:
        raise KeyboardInterrupt

    monkeypatch.setattr("medseg3d.api.scoring.comparing.draw", broken)
    with pytest.raises(KeyboardInterrupt):
        compare(two, out=tmp_path / "c.csv")
    assert {path.name for path in tmp_path.iterdir() if path.suffix != ".json"} == {
        "unet.csv",
        "vnet.csv",
    }


def test_models_are_told_apart_by_what_tells_them_apart() -> None:
    a, b = Path("a/scores.csv"), Path("b/scores.csv")
    assert model_names([(a, "unet"), (b, "vnet")]) == ["unet", "vnet"]
    assert model_names([(a, "x"), (a, "y"), (b.with_name("more.csv"), "x")]) == [
        *("scores x", "scores y", "more"),
    ]
    assert model_names([(a, "x"), (b, "x")]) == ["a/scores", "b/scores"]
    runs = [Path(f"runs/{run}/validation/scores.csv") for run in "ab"]
    names = ["a/validation/scores", "b/validation/scores"]
    assert model_names([(run, "") for run in runs]) == names
    assert model_names([(a, "x"), (a.with_suffix(".xlsx"), "x")]) == ["x (1)", "x (2)"]


def test_the_figure_shows_the_metrics_that_say_most() -> None:
    measures = [measure_of(column.name) for column in columns()]
    names = [measure.name for measure in worth_a_panel([each for each in measures if each])]
    assert names == ["dice", "hausdorff_95_mm", "surface_dice_1mm", "|volume_difference_ml|"]
    few = [measure_of(name) for name in ("iou", "recall")]
    assert worth_a_panel([each for each in few if each]) == few


def test_the_figure_of_one_label_beside_a_region_has_its_subgroups_and_ranks() -> None:
    subgroups = [Subgroup("site", "Ulm", np.array([True] * 4 + [False] * 6))]
    for regions in ((), (2,)):
        paired = pair_models(two_labels(), regions=regions)
        drawn = draw(compare_models(paired, subgroups=subgroups), form="svg").decode()
        assert "<!-- site: Ulm -->" in drawn
        assert drawn.count("<!-- share of resamples at rank 1, 2, ... -->") == 2
