"""The page of a review in a real browser, opened from a file as a double click does."""

import csv
import io
import re
import shutil
import time
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
import pytest

from medseg3d.review.folder import write_case
from medseg3d.review.slices import ANY_LABEL, Slice
from medseg3d.review.volumes import CaseFiles, for_page, load, script_of
from tests.review.small_review import (
    BRIGHT,
    COLORS,
    FALSE_NEGATIVE,
    FALSE_POSITIVE,
    NAMES,
    RIGHT,
    SHAPE,
    WORST,
    entry,
    errors_of,
    labels_of,
    write_list,
    write_review,
)

ASSETS = resources.files("medseg3d.review") / "assets"
FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1200,700"),
    *("--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"),
    *("--disable-background-networking", "--disable-component-update", "--no-first-run"),
)
PATIENCE = 60
MOST_MS = 3000
LARGEST_ASSET = 2_500_000
SETTLED = "return new Promise(done => requestAnimationFrame(() => setTimeout(done, 0)))"
AS_AT_FIRST = """
localStorage.clear();
document.activeElement?.blur();
for (const dialog of document.querySelectorAll("dialog")) dialog.close();
Viewer.set({view: "planes", fill: "prediction", opacity: {prediction: 0.35, errors: 0.6},
  outlines: {prediction: true, reference: true}, only: false, hidden: false, crosshair: true});
"""
OPAQUE = "{prediction: 1, reference: 1, errors: 1}"
ORANGE, BLUE, GREEN = (230, 97, 0), (60, 140, 255), (0, 158, 115)

Picture = npt.NDArray[np.int64]


def asset(name: str) -> str:
    return ASSETS.joinpath(name).read_text(encoding="utf-8")


def test_everything_the_page_loads_comes_with_it() -> None:
    html = asset("index.html")
    linked = re.findall(r'(?:src|href)="(assets/[^"]+)"', html)
    assert {name.removeprefix("assets/") for name in linked} == {
        path.name for path in ASSETS.iterdir() if path.name != "index.html"
    }
    own = [path for path in ASSETS.iterdir() if not path.name.startswith(("niivue", "LICENSE"))]
    for path in own:
        assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", path.read_text("utf-8"))


def test_the_viewer_is_one_file_with_its_license() -> None:
    assert len(ASSETS.joinpath("niivue.umd.js").read_bytes()) < LARGEST_ASSET
    text = asset("LICENSE-niivue.txt")
    assert "Copyright (c) 2021, Niivue" in text
    assert "Redistributions in binary form must reproduce" in text
    [version] = re.findall(r"NiiVue (\d+\.\d+\.\d+)", text)
    assert f'"{version}"' in asset("niivue.umd.js")


class Page:
    """The browser with a review folder, and what a reviewer does with it."""

    def __init__(self, driver: Any, folder: Path) -> None:
        self.driver, self.folder = driver, folder

    def load(self, case: str = "") -> None:
        """Open the page anew, at a case."""
        self.driver.get("about:blank")
        self.driver.get(f"{(self.folder / 'index.html').as_uri()}#{case}")
        self.until("return document.body.dataset.list !== undefined")

    def open(self, case: str) -> None:
        """Show a case on the page that is open, everything else as at first."""
        self.choose("filter", "all")
        self.choose("list-label", "0")
        self.choose("order", "dice")
        self.run(AS_AT_FIRST)
        self.show(case)

    def run(self, script: str, *values: Any) -> Any:
        return self.driver.execute_script(script.replace("OPAQUE", OPAQUE), *values)

    def until(self, script: str, *values: Any) -> Any:
        end = time.monotonic() + PATIENCE
        while not (found := self.run(script, *values)):
            assert time.monotonic() < end, f"never true: {script}; {self.text('message')}"
            time.sleep(0.02)
        return found

    def until_shown(self, case: str) -> None:
        self.until("return document.body.dataset.case === arguments[0]", case)

    def show(self, case: str) -> None:
        self.run("document.querySelector(`.case[data-id='${arguments[0]}']`).click()", case)
        self.until_shown(case)
        self.run(SETTLED)

    def press(self, *keys: str) -> None:
        from selenium.webdriver.common.action_chains import ActionChains

        ActionChains(self.driver).send_keys(*keys).perform()

    def text(self, id_: str) -> str:
        return str(self.run("return document.getElementById(arguments[0]).textContent", id_))

    def choose(self, id_: str, value: str) -> None:
        script = "const e = document.getElementById(arguments[0]); e.value = arguments[1];"
        self.run(script + "e.dispatchEvent(new Event('change', {bubbles: true}))", id_, value)

    def listed(self) -> list[str]:
        return list(self.run("return [...document.querySelectorAll('.case')].map(e=>e.dataset.id)"))

    def picture(self) -> Picture:
        """Pixels of the images, ``(rows, columns, 3)`` in 0..255."""
        from matplotlib.image import imread

        self.run(SETTLED)
        png = self.driver.find_element("id", "stage").screenshot_as_png
        return np.rint(imread(io.BytesIO(png))[..., :3] * 255).astype(np.int64)

    def axial(self) -> Picture:
        self.choose("view", "axial")
        return self.picture()


def near(picture: Picture, color: tuple[int, int, int] | list[int], within: int = 12) -> Any:
    return (np.abs(picture - color) <= within).all(axis=-1)


def mostly(picture: Picture, color: tuple[int, int, int] | list[int]) -> Any:
    """Where a color is, though faded towards gray at the edges of a fill."""
    hue = picture - picture.mean(axis=-1, keepdims=True)
    wanted = np.subtract(color, np.mean(color))
    strength = np.linalg.norm(hue, axis=-1)
    along = hue @ wanted / np.linalg.norm(wanted)
    return (strength > 0.3 * np.linalg.norm(wanted)) & (along > 0.96 * strength)


def start_browser(downloads: Path) -> Any:
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    driver = shutil.which("chromedriver")
    if browser is None or driver is None:
        pytest.skip("no chromium and chromedriver; apt-get install chromium chromium-driver")
    from selenium.webdriver import Chrome, ChromeOptions
    from selenium.webdriver.chrome.service import Service

    options = ChromeOptions()
    options.binary_location = browser
    for flag in (*FLAGS, f"--user-data-dir={downloads / 'profile'}"):
        options.add_argument(flag)
    options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    return Chrome(options=options, service=Service(driver))


@pytest.fixture(scope="module")
def downloads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("downloads")


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory, downloads: Path) -> Iterator[Page]:
    driver = start_browser(downloads)
    folder = tmp_path_factory.mktemp("review")
    write_review(folder)
    page = Page(driver, folder)
    page.load("good")
    yield page
    driver.quit()


@pytest.fixture
def page(opened: Page) -> Iterator[Page]:
    opened.driver.get_log("browser")
    yield opened
    complaints = [line["message"] for line in opened.driver.get_log("browser")]
    assert [line for line in complaints if "0005.js" not in line] == []


@pytest.fixture
def other(page: Page, tmp_path: Path) -> Iterator[Page]:
    """The same folder once more, to be changed before it is opened."""
    folder = Path(shutil.copytree(page.folder, tmp_path / "other"))
    yield Page(page.driver, folder)
    page.driver.get_log("browser")
    page.load("good")
    page.until_shown("good")


def test_the_list_is_sorted_worst_first(page: Page) -> None:
    page.open("good")
    by_dice = ["broken", "missed", "poor", "gone", "good", "blind"]
    assert page.listed() == by_dice
    page.choose("order", "far_mm")  # lower is better
    assert page.listed() == by_dice
    page.choose("list-label", "3")
    assert page.listed() == ["broken", "poor", "missed", "gone", "good", "blind"]
    page.choose("order", "outlier")
    assert page.listed()[:2] == ["broken", "blind"]
    page.choose("filter", "problem")
    assert page.listed() == ["broken", "missed"]
    assert page.text("count") == "2 of 6 cases"


def test_the_worst_case_is_opened_with_its_scores(page: Page) -> None:
    page.open("missed")
    assert "missed" in page.text("case-id")
    panel = page.text("panel")
    assert "core" in panel
    assert "0.450" in panel  # mean Dice
    assert "missed" in panel
    assert page.run("return document.querySelectorAll('.strip').length") == 2
    assert page.run("return document.querySelectorAll('circle.mine').length") == 2


def test_patients_right_is_on_the_left(page: Page) -> None:
    page.open("good")
    page.run(
        "window.letters = []; const write = CanvasRenderingContext2D.prototype.fillText;"
        "CanvasRenderingContext2D.prototype.fillText = function (text, x, y) {"
        "  window.letters.push([text, x, y]); write.call(this, text, x, y); }"
    )
    page.press("f", "o", "x")  # no fill, no outlines, no crosshair
    picture = page.axial()
    rows, columns = np.nonzero((picture.min(axis=-1) > 235) & (np.ptp(picture, axis=-1) < 8))
    height, width = picture.shape[:2]
    inside = (np.abs(columns - width / 2) < 0.4 * width) & (
        np.abs(rows - height / 2) < 0.4 * height
    )
    assert BRIGHT[0].start > SHAPE[0] / 2 + 3  # towards the right of the patient
    assert inside.sum() > 500
    assert columns[inside].mean() < width / 2 - 20
    assert rows[inside].mean() < height / 2 - 20  # in front, so on top
    places = {text: (x, y) for text, x, y in page.run("return window.letters") if len(text) == 1}
    assert places["R"][0] < places["L"][0]
    assert places["A"][1] < places["P"][1]


def test_overlays_are_drawn_where_the_labels_are(page: Page) -> None:
    page.open("poor")
    page.run("Viewer.set({opacity: OPAQUE, outlines: {prediction: false, reference: false}})")
    page.press("x", "w")
    core, shell = (mostly(page.axial(), COLORS[label]) for label in (3, 70))
    assert core.sum() > 1000
    assert core.sum() / shell.sum() == pytest.approx(8 / 6, rel=0.1)
    assert np.nonzero(shell)[1].mean() < np.nonzero(core)[1].mean()  # the shell lies to the right
    page.press("e")
    errors = page.picture()
    areas = [mostly(errors, color).sum() for color in (GREEN, ORANGE, BLUE)]
    counts = np.bincount(errors_of(labels_of(shift=3), labels_of())[:, :, WORST[2]].ravel())
    expected = [counts[RIGHT], counts[FALSE_POSITIVE], counts[FALSE_NEGATIVE]]
    assert areas / areas[0] == pytest.approx(np.array(expected) / expected[0], rel=0.1)
    page.press("f")
    assert not mostly(page.picture(), GREEN).any()


def test_outlines_follow_the_edges_of_voxels(page: Page) -> None:
    page.open("poor")
    page.press("f", "x", "w")
    with_both = page.axial()
    assert mostly(with_both, COLORS[3]).sum() > 300
    page.run("Viewer.set({outlines: {prediction: true, reference: false}})")
    without = page.picture()
    assert (np.abs(with_both - without).max(axis=-1) > 60).sum() > 300
    rows, columns = np.nonzero(mostly(without, COLORS[3]))
    page.run("Viewer.set({fill: 'prediction', opacity: OPAQUE, outlines: {}})")
    filled = np.nonzero(mostly(page.picture(), COLORS[3]))
    for outline, area in ((rows, filled[0]), (columns, filled[1])):
        assert abs(outline.min() - area.min()) <= 3
        assert abs(outline.max() - area.max()) <= 3


def test_keys_go_through_cases_and_to_the_worst_slice(page: Page) -> None:
    page.open("missed")
    page.press("n")
    page.until_shown("poor")
    page.press("b")
    page.until_shown("missed")
    told = "voxel " + ", ".join(map(str, WORST))
    assert told in page.text("place")
    page.press("\ue013")  # arrow up
    assert told not in page.text("place")
    page.press("w")
    assert told in page.text("place")
    assert "prediction: core" in page.text("place")
    page.press("l", "l", "w")  # the second label has a worst slice of its own
    assert "voxel 16, " in page.text("place")
    page.press("\ue012", "?")  # a left arrow means nothing, ? helps
    assert page.run("return document.getElementById('help').open")
    page.press("\ue00c")
    assert not page.run("return document.getElementById('help').open")


def test_a_window_is_chosen(page: Page) -> None:
    page.open("good")
    page.press("d")
    page.picture()
    assert page.run("return [Viewer.state.view, document.getElementById('width').value]") == [
        "planes",
        "400",
    ]
    page.run("document.getElementById('fills').querySelector('[data-fill=none]').click()")
    soft = page.axial()  # 40 HU is the middle of the window
    gray = near(soft, (127, 127, 127), 6).mean()
    page.choose("window", "[-450,1050]")
    page.picture()
    assert gray > 0.2
    assert near(page.picture(), (127, 127, 127), 6).mean() < gray / 4


def test_a_verdict_is_kept_and_exported(page: Page, downloads: Path) -> None:
    page.open("poor")
    page.run("document.getElementById('reviewer').focus()")
    page.press("Dr. Müller")
    page.press("\ue00c", "2", "c")
    page.press('=edge, "apex"\nn')
    page.press("\ue00c")
    assert page.text("case-id") == "poor"  # n was typed, not meant as a key
    page.load("good")
    page.until_shown("good")
    page.press("1")
    assert "2 of 6 reviewed: 1 accepted, 1 to edit, 0 rejected" in page.text("progress")
    assert page.run("return document.getElementById('reviewer').value") == "Dr. Müller"
    page.run("document.getElementById('export').click()")
    table = downloads / "review.csv"
    end = time.monotonic() + PATIENCE
    while not table.is_file():
        assert time.monotonic() < end
        time.sleep(0.02)
    text = table.read_text(encoding="utf-8-sig")
    table.unlink()
    rows = {row["case"]: row for row in csv.DictReader(io.StringIO(text, newline=""))}
    assert list(rows) == ["good", "poor", "missed", "blind", "gone", "broken"]
    assert rows["poor"]["verdict"] == "edit"
    assert rows["poor"]["comment"] == '\'=edge, "apex"\nn'  # no formula for a spreadsheet
    assert rows["poor"]["reviewer"] == "Dr. Müller"
    assert rows["good"]["verdict"] == "accept"
    assert rows["missed"]["verdict"] == rows["missed"]["time"] == ""
    page.press("0")
    assert "1 of 6 reviewed" in page.text("progress")
    page.run("localStorage.clear()")
    assert page.run("return Verdicts.load(arguments[0], window.REVIEW.cases)", text) == 2
    assert page.run("return Verdicts.get('poor').comment") == '=edge, "apex"\nn'
    assert page.run("return Verdicts.csv(window.REVIEW.cases)").split() == text.split()


def test_nothing_is_decided_before_the_images_are_there(page: Page) -> None:
    page.open("good")
    verdict = page.run(
        "Review.open('poor'); window.dispatchEvent(new KeyboardEvent('keydown', {key: '1'}));"
        "return Verdicts.get('poor').verdict"
    )
    assert verdict == ""
    page.until_shown("poor")
    page.press("1")
    assert page.run("return Verdicts.get('poor').verdict") == "accept"


def test_a_case_without_reference(page: Page) -> None:
    page.open("blind")
    assert page.text("worst") == "Largest slice"
    assert page.run(
        "return [...document.querySelectorAll('#fills button')].map(e => e.disabled)"
    ) == [False, True, True, False]
    assert "volume of core far from that of the others" in page.text("panel")
    page.run("Viewer.set({opacity: OPAQUE})")
    page.press("e")  # means nothing here
    assert near(page.axial(), COLORS[3]).sum() > 1000
    assert "reference" not in page.text("place")


def test_scores_are_shown_without_a_reference_too(other: Page) -> None:
    blind = entry("blind", (0.9, 0.0), status="missed", number=4) | {"has_reference": False}
    write_list(other.folder, [blind, entry("good", (1.0, 1.0), number=1)])
    other.load("blind")
    other.until_shown("blind")
    panel = other.text("panel")
    for text in ("0.450", "missed", "Ref. mL", "Metrics, mean"):
        assert text in panel
    assert other.text("worst") == "Largest slice"


@pytest.mark.parametrize(
    ("case", "told"), [("gone", "cases/0005.js cannot be read"), ("broken", "has no images")]
)
def test_a_case_that_cannot_be_shown_says_so(page: Page, case: str, told: str) -> None:
    page.open("good")
    page.run("Review.open(arguments[0])", case)
    page.until("return document.getElementById('message').textContent.includes(arguments[0])", told)
    assert not near(page.picture(), COLORS[3], 30).any()  # nothing of the case before
    page.show("poor")


def test_names_of_cases_are_no_formulas_in_the_table(other: Page) -> None:
    strange = entry("=1+1", (0.5, 0.5), number=6) | {"patient": "-2"}
    write_list(other.folder, [entry("good", (1.0, 1.0), number=1), strange])
    other.load("good")
    other.run("localStorage.clear(); Verdicts.set('=1+1', {verdict: 'edit'})")
    text = other.run("return Verdicts.csv(window.REVIEW.cases)")
    [_, row] = csv.DictReader(io.StringIO(text, newline=""))
    assert (row["case"], row["patient"], row["verdict"]) == ("'=1+1", "'-2", "edit")
    for table in (text, text.replace("'", "")):  # as earlier versions wrote it
        other.run("localStorage.clear()")
        assert other.run("return Verdicts.load(arguments[0], window.REVIEW.cases)", table) == 1
        assert other.run("return Verdicts.get('=1+1').verdict") == "edit"


def test_a_mean_of_differences_says_that_it_has_no_sign(other: Page) -> None:
    case = entry("good", (1.0, 1.0), number=1)
    case["mean"] = {"difference_ml": 35.0}
    for label, value in (("3", 40.0), ("70", -30.0)):
        case["labels"][label]["scores"] = {"difference_ml": value}
    column = {"name": "difference_ml", "title": "Difference", "unit": "mL"}
    columns = [column | {"better": "zero", "decimals": 1}]
    write_list(other.folder, [case], columns=columns, sort="difference_ml")
    other.load("good")
    other.until_shown("good")
    value = "return document.querySelector('.case .value').textContent"
    assert other.run(value) == "Difference without sign 35.0 mL"
    panel = other.text("panel")
    assert "All, mean without sign" in panel
    assert "Difference without sign35.0 mL" in panel
    other.choose("list-label", "70")
    assert other.run(value) == "Difference \u221230.0 mL"


def test_of_hundreds_of_labels_each_has_its_color(other: Page) -> None:
    others = [{"value": 100 + n, "name": f"n{n}", "color": [255, 0, 0]} for n in range(255)]
    named = [{"value": label, "name": NAMES[label], "color": COLORS[label]} for label in NAMES]
    write_list(other.folder, [entry("poor", (0.6, 0.7), number=2)], labels=others + named)
    other.load("poor")
    other.until_shown("poor")
    other.run("Viewer.set({fill: 'prediction', opacity: OPAQUE, outlines: {}, only: false})")
    other.press("x", "w")
    assert "prediction: core" in other.text("place")
    picture = other.axial()
    core, shell = (mostly(picture, COLORS[label]) for label in (3, 70))
    assert core.sum() > 1000
    assert core.sum() / shell.sum() == pytest.approx(8 / 6, rel=0.1)
    other.press("e")
    assert mostly(other.picture(), GREEN).sum() > 1000
    other.press("p")
    other.choose("list-label", "70")
    other.press("s")
    picture = other.picture()
    assert not mostly(picture, COLORS[3]).any()
    assert mostly(picture, COLORS[70]).sum() == pytest.approx(shell.sum(), rel=0.01)


def test_two_hundred_cases_open_quickly(other: Page) -> None:
    cases = [entry(f"case {n}", (n / 200, 0.5), number=n) for n in range(6, 206)]
    write_list(other.folder, [entry("good", (0.0, 0.0), number=1), *cases])
    other.load()
    other.until_shown("good")
    assert len(other.listed()) == 201
    assert other.run("return performance.getEntriesByName('list')[0].startTime") < MOST_MS
    missing = [line["message"] for line in other.driver.get_log("browser")]
    assert len([line for line in missing if "/cases/" in line]) <= 1  # only the next is fetched


def test_a_strongly_oblique_image_is_shown_with_the_voxels_of_its_file(other: Page) -> None:
    axes = np.array([[0.55, -0.65, 0.524], [0.615, 0.74, 0.271], [-0.564, 0.173, 0.807]]).T
    affine = np.eye(4)
    affine[:3, :3] = axes * (2.0, 2.0, 4.0)
    affine[:3, 3] = (10.0, -20.0, 30.0)
    # the file holds what is shown as (i, j, k) at (11 - k, 23 - i, j)
    stored = affine @ [[0, -1, 0, 23], [0, 0, 1, 0], [-1, 0, 0, 11], [0, 0, 0, 1]]
    labels = labels_of()
    for name, array in (("image", labels.astype(np.int16)), ("prediction", labels)):
        turned = array[::-1, :, ::-1].transpose(2, 0, 1)
        nib.Nifti1Image(turned, stored).to_filename(other.folder / f"{name}.nii")
    files = CaseFiles("good", (other.folder / "image.nii",), other.folder / "prediction.nii")
    told = script_of("good", for_page(load(files)), {ANY_LABEL: Slice(2, WORST, 0)})
    write_case(other.folder, "cases/0001.js", told)
    other.load("good")
    other.until_shown("good")
    x, y, z = (affine @ [*WORST, 1.0])[:3]
    i, j, k = WORST
    place = other.text("place")
    assert f"voxel {11 - k}, {23 - i}, {j} \u00b7 RAS {x:.1f}, {y:.1f}, {z:.1f} mm" in place
    assert "prediction: core" in place
    other.run("Viewer.set({opacity: OPAQUE, outlines: {}})")
    core, shell = (mostly(other.axial(), COLORS[label]).sum() for label in (3, 70))
    assert core / shell == pytest.approx(8 / 6, rel=0.1)


def test_without_its_list_the_page_says_what_to_do(other: Page) -> None:
    (other.folder / "cases.js").unlink()
    other.driver.get((other.folder / "index.html").as_uri())
    told = "return document.getElementById('notice').textContent.includes(arguments[0])"
    other.until(told, "open index.html in the folder")
