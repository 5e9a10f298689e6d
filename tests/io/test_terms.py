"""Names of labels find the terms that the standard has for them."""

import pytest
from pydicom.sr._concepts_dict import concepts

from medseg3d.io import terms
from medseg3d.io.terms import ABNORMAL, ANATOMY, SIDES, TISSUE, term_for


def test_every_code_is_in_the_standard_with_its_meaning() -> None:
    known: dict[str, set[str]] = {}
    for found in concepts["SCT"].values():
        for code, (meaning, _) in found.items():
            known.setdefault(code, set()).add(meaning)
    codes = [*terms.STRUCTURES.values(), *terms.FINDINGS.values(), *SIDES.values()]
    for code, meaning in [*codes, ANATOMY, ABNORMAL, TISSUE]:
        assert meaning in known[code]


@pytest.mark.parametrize(
    ("name", "category", "meaning", "side"),
    [
        ("liver", ANATOMY, "Liver", None),
        ("Left Kidney", ANATOMY, "Kidney", "Left"),
        ("kidney_r", ANATOMY, "Kidney", "Right"),
        ("lungs", ANATOMY, "Lung", None),
        ("LeftVentricle", ANATOMY, "Left ventricle", None),
        ("esophagus", ANATOMY, "Esophagus", None),
        ("kidney tumor", ABNORMAL, "Neoplasm", None),
        ("lesions", ABNORMAL, "Lesion", None),
        ("vertebra_L3", ANATOMY, "Vertebra", None),
        ("vertebra_L_3", TISSUE, "Tissue", None),
        ("rib_left_5", ANATOMY, "Rib", "Left"),
        ("L kidney", ANATOMY, "Kidney", "Left"),
        ("tumor2", ABNORMAL, "Neoplasm", None),
        ("label 5", TISSUE, "Tissue", None),
        ("left and right kidney", TISSUE, "Tissue", None),
        ("", TISSUE, "Tissue", None),
    ],
)
def test_names_find_terms(name: str, category: terms.Code, meaning: str, side: str | None) -> None:
    term = term_for(name)
    assert (term.category, term.kind[1]) == (category, meaning)
    assert (term.side[1] if term.side else None) == side
