"""Training patches of two domains: labeled ones of the source, others of the target beside them."""

from typing import Any

from torch.utils.data import Dataset

from medseg3d.data.patches import PatchDataset


class TwoDomains(Dataset[dict[str, Any]]):
    """Samples of the source, each with the image of a sample of the target.

    Args:
        source: Labeled patches.
        target: Patches whose labels are not looked at.
    """

    def __init__(self, source: PatchDataset, target: PatchDataset) -> None:
        self.source = source
        self.target = target

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, number: int) -> dict[str, Any]:
        """Sample of that number, as of the source, and ``target`` ``(C, *patch_size)``."""
        return self.source[number] | {"target": self.target[number]["image"]}

    def case_id(self, number: int) -> str:
        """Id of the case of the source that a sample is from."""
        return self.source.case_id(number)
