"""Train MONAI's DynUNet for some minutes and label the cases that are held out.

::

    python train_dynunet.py DATA SPLIT.json WORK MINUTES SEED OUT

The loop that MONAI's tutorials show for the tasks of the Medical Segmentation Decathlon
(modules/dynunet_pipeline): patch, batch, kernels, strides, heads of deep supervision, loss,
optimizer, learning rate, augmentation and mirrored averaging as there for the hippocampus. Cases
are cached before the clock begins, nothing is validated on the way, and the learning rate falls
with the time, where the tutorial trains a second time with a hundredth of the rate.
"""

import json
import sys
import time
from itertools import combinations, cycle
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from monai.data import CacheDataset, DataLoader
from monai.inferers import sliding_window_inference
from monai.losses import DiceCELoss
from monai.networks.nets import DynUNet
from monai.transforms import (
    Compose,
    EnsureChannelFirstd,
    LoadImaged,
    NormalizeIntensityd,
    RandCropByPosNegLabeld,
    RandFlipd,
    RandGaussianNoised,
    RandGaussianSmoothd,
    RandScaleIntensityd,
    RandZoomd,
    SpatialPadd,
)
from monai.utils import set_determinism

PATCH, BATCH, LABELS = (40, 56, 40), 9, 3
STRIDES = (1, 2, 2, 2)
RATE, MOMENTUM, DECAY, POWER = 0.1, 0.99, 3e-5, 0.9
FLIPS = [axes for number in range(4) for axes in combinations((2, 3, 4), number)]


def network() -> DynUNet:
    """As nnU-Net's heuristics make it for this patch."""
    return DynUNet(
        3,
        1,
        LABELS,
        kernel_size=[3] * len(STRIDES),
        strides=STRIDES,
        upsample_kernel_size=STRIDES[1:],
        deep_supervision=True,
        deep_supr_num=1,
    )


def steady() -> list[object]:
    """What is done once per case."""
    return [
        LoadImaged(["image", "label"]),
        EnsureChannelFirstd(["image", "label"]),
        NormalizeIntensityd(["image"], nonzero=True, channel_wise=True),
        SpatialPadd(["image", "label"], PATCH),
    ]


def random() -> list[object]:
    """What is done to each patch."""
    return [
        RandCropByPosNegLabeld(
            ["image", "label"],
            "label",
            PATCH,
            pos=2,
            neg=1,
            num_samples=1,
            image_key="image",
            image_threshold=0,
        ),
        RandZoomd(
            ["image", "label"],
            prob=0.15,
            min_zoom=0.9,
            max_zoom=1.2,
            mode=["trilinear", "nearest"],
            align_corners=[True, None],
        ),
        RandGaussianNoised(["image"], prob=0.15, std=0.01),
        RandGaussianSmoothd(["image"], *[(0.5, 1.15)] * 3, prob=0.15),
        RandScaleIntensityd(["image"], prob=0.15, factors=0.3),
        *(RandFlipd(["image", "label"], prob=0.5, spatial_axis=axis) for axis in range(3)),
    ]


def main() -> None:
    """Train, then label."""
    data, split_file = map(Path, sys.argv[1:3])
    minutes, seed, out = float(sys.argv[4]), int(sys.argv[5]), Path(sys.argv[6])
    split = json.loads(split_file.read_text(encoding="utf-8"))
    set_determinism(seed)
    items = [
        {
            "image": data / "imagesTr" / f"{name}.nii.gz",
            "label": data / "labelsTr" / f"{name}.nii.gz",
        }
        for name in split["training"]
    ]
    cached = CacheDataset(items, Compose([*steady(), *random()]), progress=False)
    batches = DataLoader(cached, batch_size=BATCH, shuffle=True, num_workers=1, drop_last=True)
    model, loss = network(), DiceCELoss(to_onehot_y=True, softmax=True)
    optimizer = torch.optim.SGD(
        model.parameters(), RATE, momentum=MOMENTUM, weight_decay=DECAY, nesterov=True
    )
    steps, begun = 0, time.monotonic()
    for batch in (batch for _ in cycle((0,)) for batch in batches):
        share = (time.monotonic() - begun) / (60 * minutes)
        if share >= 1:
            break
        for group in optimizer.param_groups:
            group["lr"] = RATE * (1 - share) ** POWER
        optimizer.zero_grad(set_to_none=True)
        outputs = torch.unbind(model(batch["image"]), dim=1)
        costs = [0.5**depth * loss(output, batch["label"]) for depth, output in enumerate(outputs)]
        torch.stack(costs).sum().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 12)
        optimizer.step()
        steps += 1
    label(model, data, split["validation"], out)
    (out / "facts.json").write_text(json.dumps({"steps": steps}), encoding="utf-8")


def label(model: DynUNet, data: Path, names: list[str], out: Path) -> None:
    """Whole cases on their own grid, which is that of the network."""
    out.mkdir(parents=True, exist_ok=True)
    model.eval()
    prepare = Compose(
        [
            LoadImaged(["image"]),
            EnsureChannelFirstd(["image"]),
            NormalizeIntensityd(["image"], nonzero=True, channel_wise=True),
        ]
    )
    for name in names:
        path = data / "imagesTr" / f"{name}.nii.gz"
        image = prepare({"image": path})["image"].as_tensor()[None]
        with torch.inference_mode():
            shares = [mirrored(model, image, axes) for axes in FLIPS]
        labels = torch.stack(shares).mean(dim=0)[0].argmax(dim=0).numpy().astype(np.uint8)
        nib.save(nib.Nifti1Image(labels, nib.load(path).affine), out / path.name)


def mirrored(model: DynUNet, image: torch.Tensor, axes: tuple[int, ...]) -> torch.Tensor:
    """Probabilities of what is flipped along the axes, flipped back."""
    turned = image.flip(axes)
    logits = sliding_window_inference(turned, PATCH, 4, model, 0.5, mode="gaussian")
    return logits.softmax(dim=1).flip(axes)


if __name__ == "__main__":
    main()
