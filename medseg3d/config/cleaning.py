"""What may be done to a label after the network."""

from __future__ import annotations

from pydantic import Field

from medseg3d.config.options import Options


class Cleaning(Options):
    """What is done to one label after the network, on the voxels of the image.

    First parts are removed, then holes are filled (:mod:`medseg3d.inference.cleaning`).

    Examples:
        >>> Cleaning(min_volume_mm3=30, fill_holes=True).in_words
        'parts under 30 mm3 removed, holes filled'
    """

    keep_largest: bool = Field(False, description="Keep only the largest connected part.")
    min_volume_mm3: float = Field(
        0.0,
        ge=0,
        description="Remove connected parts under this volume in mm3.",
    )
    fill_holes: bool = Field(
        False, description="Give background that the label encloses to the label."
    )

    @property
    def removes(self) -> bool:
        """Whether it may take voxels away."""
        return self.keep_largest or self.min_volume_mm3 > 0

    @property
    def in_words(self) -> str:
        """What it does, for tables and the log."""
        steps = {
            "only the largest part kept": self.keep_largest,
            f"parts under {self.min_volume_mm3:g} mm3 removed": self.min_volume_mm3 > 0,
            "holes filled": self.fill_holes,
        }
        return ", ".join(step for step, is_done in steps.items() if is_done) or "as it is"
