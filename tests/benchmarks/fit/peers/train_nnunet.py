"""Train nnU-Net v2 for some minutes and label the cases that are held out.

::

    python train_nnunet.py DATA SPLIT.json WORK MINUTES SEED OUT

Its own planning, preprocessing, loading and final validation with mirroring. The clock begins
with the first step: planning and preprocessing are done before, and nothing is validated on the
way, so that all of the time goes into steps. Its learning rate falls with the time as it
otherwise does with the epochs.
"""

import json
import os
import random
import sys
import time
from pathlib import Path

NAME, NUMBER, CONFIGURATION = "Dataset004_Hippocampus", 4, "3d_fullres"
POWER = 0.9


def use(work: Path) -> None:
    """Tell nnU-Net its folders, which it reads when it is imported."""
    for name in ("raw", "preprocessed", "results"):
        folder = work / name
        folder.mkdir(parents=True, exist_ok=True)
        os.environ[f"nnUNet_{name}"] = str(folder)
    os.environ.update(nnUNet_def_n_proc="2")


def offer(data: Path, split: dict[str, list[str]], raw: Path) -> None:
    """Links to the cases under the names it expects."""
    names = [name for part in split.values() for name in part]
    for name in names:
        for kind, suffix in (("imagesTr", "_0000.nii.gz"), ("labelsTr", ".nii.gz")):
            link = raw / NAME / kind / f"{name}{suffix}"
            link.parent.mkdir(parents=True, exist_ok=True)
            if not link.exists():
                link.symlink_to((data / kind / f"{name}.nii.gz").resolve())
    facts = {
        "channel_names": {"0": "MRI"},
        "labels": {"background": 0, "anterior": 1, "posterior": 2},
        "numTraining": len(names),
        "file_ending": ".nii.gz",
    }
    (raw / NAME / "dataset.json").write_text(json.dumps(facts), encoding="utf-8")


def main() -> None:
    """Train, then label."""
    data, split_file, work = map(Path, sys.argv[1:4])
    minutes, seed, out = float(sys.argv[4]), int(sys.argv[5]), Path(sys.argv[6])
    use(work.resolve())
    split = json.loads(split_file.read_text(encoding="utf-8"))
    offer(data, split, work / "raw")

    import numpy as np
    import torch
    from nnunetv2.experiment_planning import plan_and_preprocess_api as planning
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    class WithinMinutes(nnUNetTrainer):  # type: ignore[misc]
        """The trainer, ended by the clock."""

        num_steps = 0

        def run_training(self) -> None:
            self.on_train_start()
            self.network.train()
            begun = time.monotonic()
            while (share := (time.monotonic() - begun) / (60 * minutes)) < 1:
                for group in self.optimizer.param_groups:
                    group["lr"] = self.initial_lr * (1 - share) ** POWER
                self.train_step(next(self.dataloader_train))
                self.num_steps += 1
            self.on_train_end()

    preprocessed = work.resolve() / "preprocessed" / NAME
    if not (preprocessed / "done").is_file():
        planning.extract_fingerprints([NUMBER], num_processes=2)
        planning.plan_experiments([NUMBER])
        planning.preprocess([NUMBER], configurations=[CONFIGURATION], num_processes=[2])
        (preprocessed / "done").touch()
    folds = [{"train": split["training"], "val": split["validation"]}]
    (preprocessed / "splits_final.json").write_text(json.dumps(folds), encoding="utf-8")
    plans = json.loads((preprocessed / "nnUNetPlans.json").read_text(encoding="utf-8"))
    facts = json.loads((preprocessed / "dataset.json").read_text(encoding="utf-8"))
    for given in (random.seed, np.random.seed, torch.manual_seed):
        given(seed)
    trainer = WithinMinutes(
        plans | {"continue_training": False}, CONFIGURATION, 0, facts, torch.device("cpu")
    )
    trainer.run_training()
    trainer.perform_actual_validation()
    out.mkdir(parents=True, exist_ok=True)
    for file in (Path(trainer.output_folder) / "validation").glob("*.nii.gz"):
        file.replace(out / file.name)
    (out / "facts.json").write_text(json.dumps({"steps": trainer.num_steps}), encoding="utf-8")


if __name__ == "__main__":
    main()
