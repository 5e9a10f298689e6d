"""The page stands alone, shows what was found, and no text of the data becomes markup."""

import base64
import io
import os
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
from matplotlib.image import imread

from medseg3d.data.cases import Case, Dataset
from medseg3d.data.checks import Examination
from medseg3d.data.doctor.facts import CaseFacts, ChannelFacts, Survey
from medseg3d.data.doctor.findings import Finding, Severity, ranked
from medseg3d.data.remedies import Change
from medseg3d.drawing import COLORS
from medseg3d.geometry.grid import Grid
from medseg3d.io import LabelVolume, Volume
from medseg3d.report.page import page, write_page
from medseg3d.report.pictures import FILL, draw
from medseg3d.report.tables import label_table, measures

VOID = {"meta", "img", "circle"}
NASTY = "<script>alert(\"1\")</script> & 'x'"


class Balanced(HTMLParser):
    """Fails on tags that do not pair."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: object) -> None:  # noqa: ARG002
        self.seen.append(tag)
        if tag not in VOID or tag == "circle":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def examination() -> Examination:
    facts = [
        CaseFacts(
            case=Case(name, (Path("i.nii"),), Path("l.nii"), name),
            grid=Grid((4, 5, 6), np.diag([1.0 + place, 1, 2, 1])),
            num_channels=1,
            label_counts={0: 90, 1: 30},
            digest=name,
            channels=(ChannelFacts(0, 9e38, (0.0, 1.0, 2.0, 3.0, 1.7e308 * (place - 1))),),
        )
        for place, name in enumerate(("plain", NASTY, "third"))
    ]
    findings = [
        Finding(severity=Severity.WARNING, code="odd-thing", case=NASTY, message=NASTY, fix=NASTY),
        Finding(severity=Severity.ERROR, code="structure", message="first of all"),
    ]
    dataset = Dataset(
        Path(NASTY), NASTY, tuple(one.case for one in facts), {0: "b", 1: NASTY}, (NASTY,)
    )
    survey = Survey(dataset, tuple(facts), (), {NASTY: b"png"})
    return Examination(survey, ranked(findings))


def test_the_page_is_whole_escaped_and_alone() -> None:
    text = page(examination(), [Change(NASTY, NASTY, NASTY, NASTY, NASTY)])
    parser = Balanced()
    parser.feed(text)
    parser.close()
    assert parser.open == []
    assert "script" not in parser.seen
    assert NASTY in parser.text
    assert re.findall(r'(?:src|href)="(?!data:)|url\(|@import|https?:', text) == []
    assert base64.b64encode(b"png").decode() in text
    assert text.index("first of all") < text.index("odd thing")
    assert "1 error, 1 warning, 0 notes" in text


def test_the_tables_count_by_hand() -> None:
    (background, organ) = label_table(examination()).rows
    assert organ[:5] == ("1", NASTY, "3 of 3", "90", "25 %")
    assert background[0] == "0"
    assert organ[5:] == ("0.12", "0.06", "0.18")  # 30 voxels of 2, 4 and 6 mm^3
    spacing = measures(examination())[0]
    assert spacing.values == {"plain": 1.0, NASTY: 2.0, "third": 3.0}


def test_a_picture_shows_the_label_where_its_affine_says() -> None:
    """A label in the patient's right half is drawn on the left, in whatever order it is stored."""
    shape = (40, 30, 20)
    gray = Volume(
        np.random.default_rng(0).random((1, *shape), dtype=np.float32),
        Grid(shape, np.eye(4)),
        Path(),
    )
    labels = np.zeros(shape, np.uint8)
    labels[30:36, 10:20, 5:15] = 1
    mirrored = np.diag([-1.0, 1, 1, 1])
    mirrored[0, 3] = shape[0] - 1
    stored = LabelVolume(labels[::-1], Grid(shape, mirrored), Path())
    plain = LabelVolume(labels, Grid(shape, np.eye(4)), Path())
    assert draw(gray, stored) == draw(gray, plain)
    picture = np.asarray(imread(io.BytesIO(draw(gray, plain))))[..., :3] * 255
    axial = picture[:, : round(180 / 30 * 40)]
    red, _, blue = COLORS[0]
    tinted = np.abs(axial[..., 0] - axial[..., 2]) > FILL * abs(red - blue) / 2
    rows, columns = np.nonzero(tinted)
    scale = axial.shape[1] / 40
    assert columns.min() == round((40 - 36) * scale)
    assert columns.max() == round((40 - 30) * scale) - 1
    assert rows.min() == round((30 - 20) * scale)
    assert draw(gray, None) != draw(gray, plain)
    flat = Volume(np.zeros((1, 9, 9, 1), np.int16), Grid((9, 9, 1), np.eye(4)), Path())
    assert draw(flat, None).startswith(b"\x89PNG")


def test_a_case_whose_name_is_no_utf8_is_on_the_page(tmp_path: Path) -> None:
    name = os.fsdecode(b"p\xe9")
    found = examination()
    finding = replace(found.findings[0], case=name, file=Path(name))
    write_page(tmp_path / "check.html", replace(found, findings=(finding,)))
    assert "p\\udce9" in (tmp_path / "check.html").read_text(encoding="utf-8")
