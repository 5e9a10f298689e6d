"""Label one image with nnU-Net v2's predictor and our weights, as a whole command.

::

    python with_nnunet.py BUNDLE IMAGE.nii.gz OUT.nii.gz [DEVICE]

Its own reading, preprocessing, windows, export and plans of today's default planner; in one
process, which takes the least memory. The image must be stored as RAS+, for its reader does not
turn it.
"""

import sys
from pathlib import Path
from typing import Any

import carried
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

CONFIGURATION = "3d_fullres"


def plans(description: dict[str, Any]) -> dict[str, Any]:
    """What nnU-Net's planner writes, with the numbers of our plan."""
    plan = description["plan"]
    rule = plan["channels"][0]
    resampling = "resample_data_or_seg_to_shape"
    return {
        "dataset_name": "Dataset001_Generated",
        "plans_name": "nnUNetPlans",
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "label_manager": "LabelManager",
        "experiment_planner_used": "ExperimentPlanner",
        "foreground_intensity_properties_per_channel": {
            "0": {
                "mean": rule["mean"],
                "std": rule["sd"],
                "percentile_00_5": rule["lower"],
                "percentile_99_5": rule["upper"],
            }
        },
        "configurations": {
            CONFIGURATION: {
                "data_identifier": "nnUNetPlans_3d_fullres",
                "preprocessor_name": "DefaultPreprocessor",
                "batch_size": 2,
                "patch_size": plan["patch_size"][::-1],
                "spacing": plan["spacing"][::-1],
                "normalization_schemes": ["CTNormalization"],
                "use_mask_for_norm": [False],
                "resampling_fn_data": resampling,
                "resampling_fn_data_kwargs": _resampling(order=3),
                "resampling_fn_seg": resampling,
                "resampling_fn_seg_kwargs": _resampling(order=1) | {"is_seg": True},
                "resampling_fn_probabilities": resampling,
                "resampling_fn_probabilities_kwargs": _resampling(order=1),
                "architecture": {
                    "network_class_name": "PlainConvUNet",
                    "arch_kwargs": carried.architecture(description, reverse=True),
                },
            }
        },
    }


def _resampling(*, order: int) -> dict[str, Any]:
    return {"is_seg": False, "order": order, "order_z": 0, "force_separate_z": None}


def main() -> None:
    """Predict one case."""
    bundle, image, out = map(Path, sys.argv[1:4])
    device = torch.device(sys.argv[4] if len(sys.argv) > 4 else "cpu")
    description, _ = carried.read(bundle)
    names = description["plan"]["labels"]
    dataset = {
        "channel_names": {"0": "CT"},
        "labels": {name: int(value) for value, name in names.items()},
        "file_ending": ".nii.gz",
    }
    network = carried.network(bundle, reverse=True)
    manager = PlansManager(plans(description))
    predictor = nnUNetPredictor(
        tile_step_size=0.5,
        use_gaussian=True,
        use_mirroring=False,
        perform_everything_on_device=device.type != "cpu",
        device=device,
        allow_tqdm=False,
    )
    predictor.manual_initialization(
        network,
        manager,
        manager.get_configuration(CONFIGURATION),
        [network.state_dict()],
        dataset,
        "nnUNetTrainer",
        None,
    )
    stem = str(out.resolve()).removesuffix(".nii.gz")
    predictor.predict_from_files_sequential([[str(image)]], [stem])


if __name__ == "__main__":
    main()
