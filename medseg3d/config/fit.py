"""Options of ``medseg3d fit``."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, PositiveFloat, PositiveInt, field_validator, model_validator

from medseg3d.config.options import ARGUMENT, FLAG, NetworkPart, Options, Part, flag


class AugmentationConfig(Options):
    """Random changes of training patches; 0 switches one off."""

    rotation_degrees: float = Field(
        20.0, ge=0, le=180, description="Largest rotation about each axis."
    )
    scale: tuple[float, float] = Field((0.8, 1.25), description="Range of the zoom factor.")
    affine_probability: float = Field(0.6, ge=0, le=1, description="Share of rotated patches.")
    elastic_probability: float = Field(
        0.3, ge=0, le=1, description="Share of smoothly displaced patches."
    )
    elastic_fraction: float = Field(
        0.06,
        ge=0,
        lt=0.1,
        description="Largest displacement as a fraction of the patch edge; more would fold it.",
    )
    mirror_axes: tuple[int, ...] = Field(
        (),
        description="Axes (0 left-right, 1 back-front, 2 foot-head) that are flipped, each with "
        "probability 0.5, safe or not; none, because orientation tells structures apart. With "
        "axis 0, labels named as left and right change places.",
    )
    intensity_probability: float = Field(
        0.15,
        ge=0,
        le=1,
        description="Share of patches for each of noise, blur, "
        "brightness, contrast, a coarser grid and gamma.",
    )
    stronger_after: float = Field(
        30.0,
        ge=0,
        description="Number of times that the voxels of the training cases are seen before "
        "rotations, zoom and all shares grow with each further time, to twice as much at most, so "
        "that a long training does not learn few cases by heart; not before 5000 patches. 0: they "
        "stay.",
    )


class StageConfig(Options):
    """One training stage of a network that is trained in parts."""

    name: str = Field(description="Stage as the network calls it, such as 2d, 3d or joint.")
    share: float = Field(gt=0, le=1, description="Share of the budget.")


ALL_FOLDS = "all"


class FitConfig(Options):
    """Options of ``medseg3d fit``."""

    exclusive: ClassVar[tuple[frozenset[str], ...]] = (
        frozenset({"epochs", "max_minutes"}),
        frozenset({"sites", "splits"}),
    )
    """Options that replace each other: one given later puts the others out of force."""

    data: Path = Field(
        description="Folder with the cases to learn from.", json_schema_extra=ARGUMENT
    )
    out: Path | None = Field(
        None,
        description="Run folder; default runs/<data>_<network>_<time>.",
        json_schema_extra=flag("-o"),
    )
    network: NetworkPart = Field(
        NetworkPart(),
        description="Network by name (medseg3d list networks), or monai: and one of MONAI's.",
        json_schema_extra=FLAG,
    )
    dims: int = Field(
        3,
        ge=2,
        le=3,
        description="2: train a network of two dimensions on slices across the largest spacing, "
        "and predict slice by slice.",
        json_schema_extra=FLAG,
    )
    loss: Part = Field(
        Part(name="dice_ce"),
        description="Loss by name (medseg3d list losses), or a sum such as dice+0.5*focal.",
        json_schema_extra=FLAG,
    )
    epochs: int | None = Field(
        None,
        gt=0,
        description="Train this many epochs of steps_per_epoch steps.",
        json_schema_extra=FLAG,
    )
    max_minutes: float | None = Field(
        None,
        gt=0,
        description="Train this long instead of a number of epochs; default 60 if neither is "
        "given. On a CPU a short time makes most networks narrow; see width.",
        json_schema_extra=FLAG,
    )
    fold: int | str = Field(
        0,
        description="Fold that is held out for validation, counted from 0, or the name of a site; "
        "all: each in turn, the budget being that of one fold.",
        json_schema_extra=FLAG,
    )
    folds: int = Field(
        5,
        ge=2,
        description="Number of folds, grouped by patient and with about as many cases of each "
        "label; as a flag without --fold: train all of them.",
        json_schema_extra={"cli": True, "implies": {"fold": ALL_FOLDS}},
    )
    patients: Path | None = Field(
        None,
        description="CSV with the columns case and patient, whose cases stay together; default "
        "from the names of the cases (A12_visit2, patient001_frame01).",
    )
    sites: Path | None = Field(
        None,
        description="CSV with the columns case (or patient) and site: leave one site out, so that "
        "there are as many folds as sites.",
    )
    splits: Path | None = Field(
        None,
        description="File with the cases of each fold, as nnU-Net's splits_final.json.",
    )
    device: str = Field(
        "auto",
        pattern=r"^(auto|cpu|cuda(:\d+)?)$",
        description="auto, cpu, cuda or cuda:N.",
        json_schema_extra=FLAG,
    )
    seed: int = Field(0, ge=0, description="Seed of every random choice.", json_schema_extra=FLAG)
    workers: int = Field(
        0,
        ge=0,
        description="Processes that prepare patches; 0 prepares them in the main process.",
        json_schema_extra=FLAG,
    )
    mirror: bool = Field(
        False,
        description="Flip patches along every axis that is safe. From left to right, pairs such "
        "as kidney_left and kidney_right change places, and nothing is flipped if other labels "
        "lie on one side or names lack a partner.",
        json_schema_extra=FLAG,
    )
    resume: bool = Field(
        False,
        description="Go on with the interrupted run in the run folder.",
        json_schema_extra=FLAG,
    )
    start_from: Path | None = Field(
        None,
        description="Run folder or bundle whose weights to begin with; its labels may lack or "
        "exceed those of the data, and so may its channels. The network is that of the model; "
        "spacing and patch are too, unless they are given.",
        json_schema_extra={"cli": True, "flag": "--from"},  # from is a word of Python's
    )
    dry_run: bool = Field(
        False,
        description="Only tell what the run will take: plans it, trains a few steps and reports "
        "speed, steps of the budget, memory and disk; nothing of it is kept.",
        json_schema_extra=FLAG,
    )
    target_domain: Path | None = Field(
        None,
        description="Folder of unlabeled images of another scanner or vendor, for a network that "
        "adapts to them (unet_gan); predict then labels such images.",
        json_schema_extra=FLAG,
    )
    skip_unpaired: bool = Field(
        False,
        description="Leave out images without a label map and label maps without an image.",
        json_schema_extra=FLAG,
    )
    regions: dict[str, tuple[int, ...]] = Field(
        default_factory=dict,
        description="Unions of label values by name, such as {whole_tumor: [1, 2, 3], "
        "tumor_core: [2, 3], enhancing: [3]}: each is trained and scored as a target of its own, "
        "by the loss of its inside against all else. What is predicted stays one label map. Not "
        "for networks that learn by a loss of their own.",
    )
    ignore_label: int | None = Field(
        None,
        gt=0,
        description="Label value of voxels that nobody annotated, which are neither learned nor "
        "scored; default the label that dataset.json names ignore.",
    )
    classes: Path | None = Field(
        None,
        description="CSV with the columns case (or patient) and class, for networks that learn "
        "the class of an image too (ynet_2d, ynet_3d). Label maps may then be missing, except "
        "for held-out cases.",
    )
    plan: Path | None = Field(
        None, description="A plan.yaml, perhaps edited, to use instead of measuring one."
    )
    cache: Path | None = Field(
        None, description="Folder of preprocessed cases; default runs/.cache."
    )
    slab: int = Field(
        1,
        gt=0,
        description="With dims 2, odd number of slices that the network sees at once, to label "
        "that in the middle.",
    )
    spacing: tuple[PositiveFloat, PositiveFloat, PositiveFloat] | None = Field(
        None, description="Target spacing in mm, instead of the measured choice."
    )
    patch_size: tuple[PositiveInt, PositiveInt, PositiveInt] | None = Field(
        None, description="Patch in voxels, instead of the measured choice."
    )
    batch_size: int | None = Field(
        None, gt=0, description="Patches per step, instead of the measured choice."
    )
    width: int | None = Field(
        None,
        gt=0,
        description="Channels of the finest stage; by default 32, or 16 for volumes on a CPU whose "
        "minutes are too few for 32 (pipelines/recipe.md). A network that takes no width from the "
        "plan has its own in network.options.",
    )
    memory_gb: float | None = Field(
        None,
        gt=0,
        description="Memory that training may take, by which patch and batch are chosen; default "
        "half of the machine's, on a GPU what it has but at most 10. A larger patch needs a larger "
        "machine to predict with, too.",
    )
    accumulate: int = Field(
        1, gt=0, description="Batches whose gradients are added up to one optimizer step."
    )
    deterministic: bool = Field(
        False,
        description="Let the same options and data give the same weights on the same machine; "
        "needs epochs, because no two spans of time hold the same steps.",
    )
    steps_per_epoch: int = Field(100, gt=0, description="Optimizer steps in an epoch.")
    learning_rate: float = Field(2e-3, gt=0, description="Peak learning rate of AdamW.")
    weight_decay: float = Field(0.03, ge=0, description="Decoupled weight decay of AdamW.")
    warmup: float = Field(
        0.03, ge=0, lt=1, description="Share of the budget with a rising learning rate."
    )
    decay_power: float = Field(
        1.5, gt=0, description="Exponent of the polynomial fall to zero at the budget's end."
    )
    level_decay: float | None = Field(
        None,
        gt=0,
        le=1,
        description="Deep supervision: weight of each coarser level of logits over that of the "
        "finer one; default as the network's paper has it, 0.5 or 1. Networks that return one "
        "level, and voxresnet, whose side losses fade, do not listen to it.",
    )
    gradient_clip: float = Field(
        12.0, gt=0, description="Largest norm of the gradient; longer ones are cut."
    )
    ema: float = Field(
        0.999, ge=0, lt=1, description="Decay of the averaged weights that are kept; 0 for none."
    )
    precision: Literal["auto", "bf16", "fp16", "fp32"] = Field(
        "auto", description="Arithmetic of the network; auto takes bf16 where it is fast."
    )
    foreground: float = Field(
        1 / 3, ge=0, le=1, description="Share of patches centered on foreground."
    )
    self_correction: int = Field(
        0,
        ge=0,
        description="For training labels that are partly wrong: so many cycles, 4 for instance, at "
        "least 2; from the second one on, patches are left out of which the network is sure that "
        "much is labeled wrong. 0 for none. corrections.csv tells which cases it doubts.",
    )
    augmentation: AugmentationConfig = Field(
        AugmentationConfig(), description="Random changes of training patches."
    )
    validate_every: int | None = Field(
        None,
        gt=0,
        description="Epochs between validations; default so that they take about 5 % of the time.",
    )
    recompute: bool = Field(
        False,
        description="Compute activations a second time instead of keeping them: less memory for "
        "about 40 % more time, the same weights.",
    )
    early_stop: int | None = Field(
        None,
        gt=0,
        description="Stop after this many validations in a row without a better Dice (mean of "
        "three validations); default trains the whole budget.",
    )
    logger: Literal["tensorboard", "mlflow", "wandb"] | None = Field(
        None,
        description="Where the history also goes; needs the package of that name. TensorBoard's "
        "files lie in the run folder.",
    )
    checkpoint_minutes: float = Field(
        1.0, ge=0, description="Shortest time between two checkpoints."
    )
    overlap: float = Field(
        0.5, ge=0, lt=1, description="Overlap of neighboring windows in validation."
    )
    evidence_cases: int = Field(
        10,
        ge=0,
        description="Held-out cases on which bf16 (or fp16) must reach the Dice of fp32 to be used "
        "by predict; 0 leaves that out, and predict compares on its first windows.",
    )
    postprocess: Literal["auto", "none"] = Field(
        "auto",
        description="auto tries on the held-out cases whether keeping the largest part of a label, "
        "removing small parts or filling holes improves its Dice and harms no region, and predict "
        "does what did; none leaves that out.",
        json_schema_extra=FLAG,
    )
    postprocess_volumes_mm3: tuple[PositiveFloat, ...] = Field(
        (10.0, 30.0, 100.0, 300.0, 1000.0),
        description="Volumes in mm3 under which removing parts is tried.",
    )
    stages: tuple[StageConfig, ...] = Field(
        (), description="Training stages for networks that have them (hdenseunet)."
    )

    @field_validator("fold", mode="before")
    @classmethod
    def _number_or_name(cls, value: Any) -> Any:
        is_number = isinstance(value, str) and value.removeprefix("-").isdecimal()
        return int(value) if is_number and str(int(value)) == value else value  # 01 is a name

    @model_validator(mode="after")
    def _one_budget(self) -> FitConfig:
        if self.epochs is not None and self.max_minutes is not None:
            raise ValueError("epochs and max_minutes exclude each other; give one of them")
        if self.deterministic and self.epochs is None:
            raise ValueError("deterministic needs epochs, not a budget of minutes; give epochs")
        if self.slab % 2 == 0 or (self.slab > 1 and self.dims == 3):
            raise ValueError(
                f"a slab must be odd and needs dims 2, got slab {self.slab} and dims {self.dims}"
            )
        if self.dry_run and self.resume:
            raise ValueError("dry_run and resume exclude each other; give one of them")
        if self.stages and self.early_stop:
            raise ValueError(
                "early_stop and stages exclude each other, because each stage begins anew; give "
                "one of them"
            )
        if self.stages and abs(sum(stage.share for stage in self.stages) - 1) > 1e-6:
            raise ValueError("the shares of the stages must add up to 1")
        if self.mirror and self.augmentation.mirror_axes:
            raise ValueError(
                "mirror chooses the axes, augmentation.mirror_axes names them; give one of them"
            )
        if self.sites is not None and self.splits is not None:
            raise ValueError("sites and splits exclude each other; give one of them")
        self._expect_a_fold()
        return self

    def _expect_a_fold(self) -> None:
        """How many folds sites and splits make is known when they are read."""
        fold, own = self.fold, self.sites is None and self.splits is None
        if isinstance(fold, int) and (fold < 0 or (own and fold >= self.folds)):
            there_are = f"are 0 to {self.folds - 1}" if own else "count from 0"
            raise ValueError(f"fold {fold} does not exist; folds {there_are}")
        if isinstance(fold, str) and fold != ALL_FOLDS and self.sites is None:
            raise ValueError(
                f"fold must be a number from 0 or {ALL_FOLDS}, got {fold!r}; names need sites"
            )
