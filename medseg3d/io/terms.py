"""SNOMED CT terms for the structures that are commonly segmented.

References:
    .. [1] DICOM PS3.16, CID 7150 and 7151:
       https://dicom.nema.org/medical/dicom/current/output/chtml/part16/sect_CID_7151.html
"""

import re
from dataclasses import dataclass

Code = tuple[str, str]
"""Value in SNOMED CT and its meaning."""

ANATOMY: Code = ("91723000", "Anatomical Structure")
ABNORMAL: Code = ("49755003", "Morphologically Abnormal Structure")
TISSUE: Code = ("85756007", "Tissue")
SIDES: dict[str, Code] = {"left": ("7771000", "Left"), "right": ("24028007", "Right")}
SIDE_WORDS = {"lt": "left", "rt": "right"}
SIDE_LETTERS = {"l": "left", "r": "right"}
"""Taken for a side only as the first or last word: the L in ``vertebra_L_3`` is none."""

STRUCTURES: dict[str, Code] = {
    "liver": ("10200004", "Liver"),
    "spleen": ("78961009", "Spleen"),
    "pancreas": ("15776009", "Pancreas"),
    "gallbladder": ("28231008", "Gallbladder"),
    "stomach": ("69695003", "Stomach"),
    "duodenum": ("38848004", "Duodenum"),
    "colon": ("71854001", "Colon"),
    "small bowel": ("30315005", "Small intestine"),
    "small intestine": ("30315005", "Small intestine"),
    "esophagus": ("32849002", "Esophagus"),
    "kidney": ("64033007", "Kidney"),
    "adrenal gland": ("23451007", "Adrenal gland"),
    "bladder": ("89837001", "Bladder"),
    "urinary bladder": ("89837001", "Bladder"),
    "prostate": ("41216001", "Prostate"),
    "uterus": ("35039007", "Uterus"),
    "rectum": ("34402009", "Rectum"),
    "heart": ("80891009", "Heart"),
    "left ventricle": ("87878005", "Left ventricle"),
    "right ventricle": ("53085002", "Right ventricle"),
    "left atrium": ("82471001", "Left atrium"),
    "right atrium": ("73829009", "Right atrium"),
    "aorta": ("15825003", "Aorta"),
    "pulmonary artery": ("81040000", "Pulmonary artery"),
    "inferior vena cava": ("64131007", "Inferior vena cava"),
    "postcava": ("64131007", "Inferior vena cava"),
    "portal vein": ("32764006", "Portal vein"),
    "hepatic vein": ("8993003", "Hepatic vein"),
    "lung": ("39607008", "Lung"),
    "trachea": ("44567001", "Trachea"),
    "brain": ("12738006", "Brain"),
    "brain stem": ("119238007", "Brain Stem"),
    "brainstem": ("119238007", "Brain Stem"),
    "cerebellum": ("113305005", "Cerebellum"),
    "hippocampus": ("5366008", "Hippocampus"),
    "amygdala": ("4958002", "Amygdala"),
    "thalamus": ("42695009", "Thalamus"),
    "putamen": ("89278009", "Putamen"),
    "caudate": ("11000004", "Caudate Nucleus"),
    "gray matter": ("389081007", "Gray Matter"),
    "white matter": ("389080008", "White Matter"),
    "spinal cord": ("2748008", "Spinal cord"),
    "eye": ("81745001", "Eye"),
    "optic nerve": ("18234004", "optic nerve"),
    "parotid gland": ("45289007", "Parotid gland"),
    "submandibular gland": ("54019009", "Submandibular gland"),
    "thyroid": ("69748006", "Thyroid"),
    "mandible": ("91609006", "Mandible"),
    "skull": ("89546000", "Skull"),
    "spine": ("421060004", "Spine"),
    "vertebra": ("51282000", "Vertebra"),
    "sacrum": ("54735007", "Sacrum"),
    "rib": ("113197003", "Rib"),
    "sternum": ("56873002", "Sternum"),
    "clavicle": ("51299004", "Clavicle"),
    "scapula": ("79601000", "Scapula"),
    "humerus": ("85050009", "Humerus"),
    "femur": ("71341001", "Femur"),
    "hip": ("29836001", "Hip"),
}

FINDINGS: dict[str, Code] = {
    "tumor": ("108369006", "Neoplasm"),
    "tumour": ("108369006", "Neoplasm"),
    "cancer": ("108369006", "Neoplasm"),
    "neoplasm": ("108369006", "Neoplasm"),
    "metastasis": ("14799000", "Neoplasm, Secondary"),
    "lesion": ("52988006", "Lesion"),
    "mass": ("4147007", "Mass"),
    "cyst": ("367643001", "Cyst"),
    "edema": ("79654002", "Edema"),
    "necrosis": ("6574001", "Necrosis"),
    "nodule": ("27925004", "Nodule"),
    "hemorrhage": ("50960005", "Hemorrhage"),
}


@dataclass(frozen=True)
class Term:
    """What a label means.

    Args:
        category: Anatomy, abnormality or tissue.
        kind: The structure.
        side: Left or right, where the name says so.
    """

    category: Code
    kind: Code
    side: Code | None = None


def term_for(name: str) -> Term:
    """The term that fits the name of a label; "tissue" where none does.

    Examples:
        >>> term_for("kidney_left").kind, term_for("kidney_left").side
        (('64033007', 'Kidney'), ('7771000', 'Left'))
        >>> term_for("liver tumors").kind
        ('108369006', 'Neoplasm')
        >>> term_for("label 3").category
        ('85756007', 'Tissue')
        >>> term_for("vertebra_L3").kind, term_for("vertebra_L3").side
        (('51282000', 'Vertebra'), None)
    """
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower()
    found = re.findall(r"[a-z0-9]+", spaced)
    words: list[str] = []
    for place, word in enumerate(found):
        known = SIDE_WORDS | SIDE_LETTERS if place in (0, len(found) - 1) else SIDE_WORDS
        words += [known[word]] if word in known else _without_number(word)
    for word in words:
        if finding := FINDINGS.get(_singular(word)):
            return Term(ABNORMAL, finding)
    whole = STRUCTURES.get(" ".join(words))  # left belongs to the name of a heart chamber
    if whole:
        return Term(ANATOMY, whole)
    sides = [SIDES[word] for word in words if word in SIDES]
    structure = STRUCTURES.get(" ".join(_singular(word) for word in words if word not in SIDES))
    if structure is None or len(sides) > 1:
        return Term(TISSUE, TISSUE)
    return Term(ANATOMY, structure, sides[0] if sides else None)


def _without_number(word: str) -> list[str]:
    """A word without the digits at its ends; none of a number or of a level such as ``l3``."""
    bare = word.strip("0123456789")
    return [bare] if bare == word or len(bare) > 1 else []


def _singular(word: str) -> str:
    return word if word in STRUCTURES or word in FINDINGS else word.removesuffix("s")
