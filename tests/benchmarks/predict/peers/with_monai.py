"""Label one image with MONAI's sliding-window inferer and usual transforms, as a whole command.

::

    python with_monai.py BUNDLE IMAGE.nii.gz OUT.nii.gz [DEVICE]

Logits are brought to the grid of the image by inverting the transforms, then the largest wins,
as in MONAI's tutorials; in float32, as that takes half of the memory of its default.
"""

import sys
from pathlib import Path

import carried
import torch
from monai.inferers import SlidingWindowInferer
from monai.transforms import (
    AsDiscreted,
    Compose,
    EnsureChannelFirstd,
    Invertd,
    LoadImaged,
    Orientationd,
    SaveImage,
    ScaleIntensityRanged,
    Spacingd,
)


def main() -> None:
    """Predict one case."""
    bundle, image, out = map(Path, sys.argv[1:4])
    device = torch.device(sys.argv[4] if len(sys.argv) > 4 else "cpu")
    description, _ = carried.read(bundle)
    plan = description["plan"]
    rule = plan["channels"][0]
    before = Compose(
        [
            LoadImaged("image"),
            EnsureChannelFirstd("image"),
            Orientationd("image", axcodes="RAS", labels=None),
            Spacingd("image", pixdim=plan["spacing"], mode="bilinear", dtype=torch.float32),
            ScaleIntensityRanged(
                "image",
                a_min=rule["lower"],
                a_max=rule["upper"],
                b_min=(rule["lower"] - rule["mean"]) / rule["sd"],
                b_max=(rule["upper"] - rule["mean"]) / rule["sd"],
                clip=True,
            ),
        ]
    )
    after = Compose(
        [
            Invertd("logits", transform=before, orig_keys="image", nearest_interp=False),
            AsDiscreted("logits", argmax=True),
        ]
    )
    inferer = SlidingWindowInferer(plan["patch_size"], overlap=0.5, mode="gaussian")
    network = carried.network(bundle).to(device)
    with torch.inference_mode():
        data = before({"image": str(image)})
        data["logits"] = inferer(data["image"][None].to(device), network)[0].cpu()
        labels = after(data)["logits"]
    save = SaveImage(
        output_dtype=torch.uint8, output_postfix="", separate_folder=False, print_log=False
    )
    save(labels, filename=str(out).removesuffix(".nii.gz"))


if __name__ == "__main__":
    main()
