"""Every option, defined, typed and documented once for Python, YAML and the command line.

A field whose ``json_schema_extra`` has ``cli`` becomes a flag (or, with ``positional``, an
argument); all others are reached through ``--config FILE.yaml`` and ``--set key=value``.
"""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    field_validator,
    model_validator,
)

from medseg3d.errors import ConfigError

M = TypeVar("M", bound=BaseModel)

FLAG: dict[str, Any] = {"cli": True}
ARGUMENT: dict[str, Any] = {"cli": True, "positional": True}


def _flag(*names: str) -> dict[str, Any]:
    """Mark a field as a command-line flag with these short names."""
    return {"cli": True, "names": list(names)}


class Options(BaseModel):
    """Common behavior: unknown keys are errors, values do not change after construction."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


class Part(Options):
    """A network or loss by name, with options for its constructor."""

    name: str = Field(description="Registered name.")
    options: dict[str, Any] = Field(default_factory=dict, description="Constructor options.")

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value


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
        0.15, ge=0, le=1, description="Share of patches for each of noise, blur, gamma, contrast."
    )


class FitConfig(Options):
    """Options of ``medseg3d fit``."""

    exclusive: ClassVar[tuple[frozenset[str], ...]] = (frozenset({"epochs", "max_minutes"}),)
    """Options that replace each other: one given later puts the others out of force."""

    data: Path = Field(
        description="Folder with the cases to learn from.", json_schema_extra=ARGUMENT
    )
    out: Path | None = Field(
        None,
        description="Run folder; default runs/<data>_<network>_<time>.",
        json_schema_extra=_flag("-o"),
    )
    network: Part = Field(
        Part(name="unet3d"),
        description="Network by name (medseg3d list networks).",
        json_schema_extra=FLAG,
    )
    loss: Part = Field(
        Part(name="dice_ce"),
        description="Loss by name (medseg3d list losses).",
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
        description="Train this long instead; default 60 when no epochs are given.",
        json_schema_extra=FLAG,
    )
    fold: int = Field(
        0, ge=0, description="Fold that is held out for validation.", json_schema_extra=FLAG
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
    skip_unpaired: bool = Field(
        False,
        description="Leave out images without a label map and label maps without an image.",
        json_schema_extra=FLAG,
    )
    plan: Path | None = Field(
        None, description="A plan.yaml, perhaps edited, to use instead of measuring one."
    )
    folds: int = Field(5, ge=2, description="Number of folds, grouped by patient.")
    cache: Path | None = Field(
        None, description="Folder of preprocessed cases; default runs/.cache."
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
        None, gt=0, description="Channels of the finest stage, instead of the measured choice."
    )
    memory_gb: float | None = Field(
        None, gt=0, description="Memory that training may take; default from the machine."
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
    augmentation: AugmentationConfig = Field(
        AugmentationConfig(), description="Random changes of training patches."
    )
    validate_every: int | None = Field(
        None,
        gt=0,
        description="Epochs between validations; default so that they take about 5 % of the time.",
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
    stages: tuple[StageConfig, ...] = Field(
        (), description="Training stages for networks that have them (hdenseunet)."
    )

    @model_validator(mode="after")
    def _one_budget(self) -> FitConfig:
        if self.epochs is not None and self.max_minutes is not None:
            raise ValueError("epochs and max_minutes exclude each other; give one of them")
        if self.stages and abs(sum(stage.share for stage in self.stages) - 1) > 1e-6:
            raise ValueError("the shares of the stages must add up to 1")
        if self.mirror and self.augmentation.mirror_axes:
            raise ValueError(
                "mirror chooses the axes, augmentation.mirror_axes names them; give one of them"
            )
        if self.fold >= self.folds:
            raise ValueError(f"fold {self.fold} does not exist; folds are 0 to {self.folds - 1}")
        return self


class StageConfig(Options):
    """One training stage of a network that is trained in parts."""

    name: str = Field(description="Stage as the network calls it, such as 2d, 3d or joint.")
    share: float = Field(gt=0, le=1, description="Share of the budget.")


class PredictConfig(Options):
    """Options of ``medseg3d predict``."""

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "fast": {"overlap": 0.25, "mirror": False},
        "accurate": {"overlap": 0.5, "mirror": True},
    }
    """What a preset puts in place of defaults; an option that is given stays."""

    inputs: tuple[Path, ...] = Field(
        min_length=1,
        description="Images or folders of images; CASE_0000, CASE_0001 ... are channels.",
        json_schema_extra=ARGUMENT,
    )
    model: tuple[Path, ...] = Field(
        (),
        description="Run folder or bundle; repeatable, then their probabilities are averaged; "
        "default the newest finished run under ./runs.",
        json_schema_extra=_flag("-m"),
    )
    out: Path | None = Field(
        None,
        description="File for one input, else folder; default <input>_seg.nii.gz beside it.",
        json_schema_extra=_flag("-o"),
    )
    overlap: float = Field(
        0.5,
        ge=0,
        lt=1,
        description="Fraction of a window shared with its neighbor.",
        json_schema_extra=FLAG,
    )
    fast: bool = Field(
        False,
        description="Larger steps between windows (overlap 0.25) and no mirrored copies.",
        json_schema_extra=FLAG,
    )
    accurate: bool = Field(
        False,
        description="Mirrored copies if the model was trained with --mirror, overlap 0.5.",
        json_schema_extra=FLAG,
    )
    crop: bool = Field(
        True,
        description="Look only at the box around the body; air far from it is background.",
        json_schema_extra=FLAG,
    )
    roi: str | None = Field(
        None,
        pattern=r"^\s*\d*:\d*\s*,\s*\d*:\d*\s*,\s*\d*:\d*\s*$",
        description="Predict only voxels x0:x1,y0:y1,z0:z1 in the order of the file, ends left "
        "out; the rest is background.",
        json_schema_extra=FLAG,
    )
    roi_mask: Path | None = Field(
        None,
        description="Predict only where this label map, or <case id> in this folder of them, is "
        "not 0.",
        json_schema_extra=FLAG,
    )
    backend: str = Field(
        "auto",
        description="What computes the network: auto takes the fastest that is installed and "
        "valid here (medseg3d list backends).",
        json_schema_extra=FLAG,
    )
    precision: Literal["auto", "bf16", "fp16", "fp32"] = Field(
        "auto",
        description="Arithmetic of the network; auto takes bf16 where it is fast and leaves the "
        "labels as they are.",
        json_schema_extra=FLAG,
    )
    threads: int | None = Field(
        None,
        gt=0,
        description="Processors to use; default all that this process is allowed.",
        json_schema_extra=FLAG,
    )
    max_memory: str | None = Field(
        None,
        pattern=r"^\s*\d+(\.\d+)?\s*[KMGT]?(i?B)?\s*$",
        description="Memory to stay below, such as 4G or 900M; default what the machine, its "
        "container and other programs leave.",
        json_schema_extra=FLAG,
    )
    device: str = Field(
        "auto",
        pattern=r"^(auto|cpu|cuda(:\d+)?)$",
        description="auto, cpu, cuda or cuda:N.",
        json_schema_extra=FLAG,
    )
    probabilities: bool = Field(
        False,
        description="Also write the probabilities of all labels as <name>_probabilities.nii.gz.",
        json_schema_extra=FLAG,
    )
    uncertainty: bool = Field(
        False,
        description="Also write the entropy of the probabilities, from 0 (sure) to 1, as "
        "<name>_uncertainty.nii.gz.",
        json_schema_extra=FLAG,
    )
    shard: str | None = Field(
        None,
        description="Do the i-th of n parts of the cases, as i/n, or as the job array says: slurm.",
        json_schema_extra=FLAG,
    )
    cluster: str | None = Field(
        None,
        description="Predict in the workers of a Dask scheduler at this address, or of local:N "
        "worker processes.",
        json_schema_extra=FLAG,
    )
    overwrite: bool = Field(False, description="Replace existing files.", json_schema_extra=FLAG)
    skip_existing: bool = Field(
        False,
        description="Leave out cases whose outputs are there, to go on after an interruption.",
        json_schema_extra=FLAG,
    )
    format: str | None = Field(
        None,
        description="nii.gz, nii, nrrd, seg.nrrd, mha, mgz or dicom-seg; default as -o, or nii.gz.",
        json_schema_extra=FLAG,
    )
    replace_nonfinite: float | None = Field(
        None,
        allow_inf_nan=False,
        description="Take this number where an image holds NaN or infinity, instead of refusing "
        "the case.",
        json_schema_extra=FLAG,
    )
    mirror: bool = Field(
        False,
        description="Average over copies mirrored along the axes of the training: up to 8 times "
        "slower, a little better.",
        json_schema_extra=FLAG,
    )

    @model_validator(mode="before")
    @classmethod
    def _preset(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        chosen = [name for name in cls.presets if values.get(name)]
        if len(chosen) > 1:
            raise ValueError("fast and accurate exclude each other; give one of them")
        preset = cls.presets[chosen[0]] if chosen else {}
        return {**preset, **values}

    @model_validator(mode="after")
    def _one_region(self) -> PredictConfig:
        if self.roi is not None and self.roi_mask is not None:
            raise ValueError("roi and roi_mask exclude each other; give one of them")
        return self

    @field_validator("model", mode="before")
    @classmethod
    def _one_or_more(cls, value: Any) -> Any:
        if value is None:
            return ()
        return (value,) if isinstance(value, str | Path) else value

    @property
    def memory_limit(self) -> int | None:
        """Bytes of ``max_memory``."""
        if self.max_memory is None:
            return None
        text = self.max_memory.strip().removesuffix("B").removesuffix("i").strip()
        power = " KMGT".find(text[-1]) if text[-1] in "KMGT" else 0
        return int(float(text.rstrip("KMGT ")) * 1024**power)


class ScoreConfig(Options):
    """Options of ``medseg3d score``."""

    predictions: Path = Field(
        description="Predicted label map or folder of them.", json_schema_extra=ARGUMENT
    )
    references: Path = Field(
        description="Reference label map or folder of them.", json_schema_extra=ARGUMENT
    )
    out: Path = Field(
        Path("scores.csv"),
        description="Table to write; the summary goes beside it as .json.",
        json_schema_extra=_flag("-o"),
    )
    skip_unpaired: bool = Field(
        False,
        description="Leave out predictions without a reference and references without a "
        "prediction.",
        json_schema_extra=FLAG,
    )
    tolerance_mm: float = Field(
        1.0,
        gt=0,
        description="Accepted surface distance of surface Dice, in mm.",
        json_schema_extra=FLAG,
    )
    overwrite: bool = Field(False, description="Replace existing files.", json_schema_extra=FLAG)
    shard: str | None = Field(
        None,
        description="Do the i-th of n parts of the cases, as i/n, or as the job array says: slurm; "
        "the table is then named as scores-2of4.csv.",
        json_schema_extra=FLAG,
    )
    cluster: str | None = Field(
        None,
        description="Score in the workers of a Dask scheduler at this address, or of local:N "
        "worker processes.",
        json_schema_extra=FLAG,
    )
    border_is_surface: bool = Field(
        True,
        description="Count voxels at the image border as surface, as MONAI and MedPy do; "
        "without, a structure cut by the field of view has no surface there, as in CHAOS.",
    )
    labels: dict[int, str] | None = Field(
        None, description="Label values and names; default all values found, names if known."
    )

    @field_validator("out")
    @classmethod
    def _csv(cls, value: Path) -> Path:
        if value.suffix.lower() != ".csv":
            raise ValueError(f"the table is written as CSV, so {value.name} must end in .csv")
        return value


class ExportConfig(Options):
    """Options of ``medseg3d export``."""

    run: Path = Field(
        description="Run folder, finished or not, or a bundle.", json_schema_extra=ARGUMENT
    )
    out: Path | None = Field(
        None,
        description="File or folder to write; default <run>.medseg3d in the current folder.",
        json_schema_extra=_flag("-o"),
    )
    format: str | None = Field(
        None,
        description="onnx or openvino, for other programs, with a JSON file of what they must do "
        "before and after; default a bundle for predict.",
        json_schema_extra=FLAG,
    )
    overwrite: bool = Field(False, description="Replace an existing file.", json_schema_extra=FLAG)


class CheckConfig(Options):
    """Options of ``medseg3d check``."""

    data: Path = Field(description="Folder with labeled cases.", json_schema_extra=ARGUMENT)
    as_json: bool = Field(
        False,
        description="Print everything that was found as JSON instead of tables.",
        json_schema_extra={"cli": True, "flag": "--json"},  # pydantic has a method json
    )
    html: Path | None = Field(
        None,
        description="Also write a page with pictures of the cases that are odd: an .html file, or "
        "a folder for check.html.",
        json_schema_extra=FLAG,
    )
    overwrite: bool = Field(False, description="Replace an existing page.", json_schema_extra=FLAG)
    fix: Path | None = Field(
        None,
        description="New folder for a repaired copy; fixes.csv in it lists every change.",
        json_schema_extra=FLAG,
    )
    dry_run: bool = Field(
        False,
        description="Only say what the repaired copy would change.",
        json_schema_extra=FLAG,
    )
    resample_labels: bool = Field(
        False,
        description="In the copy, resample label maps that lie elsewhere to their image.",
        json_schema_extra=FLAG,
    )
    ignore_geometry: bool = Field(
        False,
        description="In the copy, give them the affine of their image instead.",
        json_schema_extra=FLAG,
    )
    resample_channels: bool = Field(
        False,
        description="In the copy, resample channels on another grid to the first.",
        json_schema_extra=FLAG,
    )
    map: tuple[str, ...] | None = Field(
        None,
        description="In the copy, replace a label value, such as 255=1; repeatable.",
        json_schema_extra=FLAG,
    )
    onehot: bool = Field(
        False,
        description="In the copy, merge label maps that hold one mask per label.",
        json_schema_extra=FLAG,
    )
    replace_nonfinite: float | None = Field(
        None,
        allow_inf_nan=False,
        description="In the copy, write this number where an image holds NaN or infinity.",
        json_schema_extra=FLAG,
    )
    rounding_voxels: float = Field(
        0.05,
        ge=0,
        lt=0.5,
        description="In the copy, label maps at most this far off get the affine of their image.",
    )

    @property
    def label_map(self) -> dict[int, int]:
        """The replacements of label values."""
        pairs = (text.partition("=") for text in self.map or ())
        return {int(old): int(new) for old, _, new in pairs}

    @field_validator("map")
    @classmethod
    def _pairs(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        for text in value or ():
            old, _, new = text.partition("=")
            if not (old.lstrip("-").isdecimal() and new.isdecimal()):
                raise ValueError(f"{text!r} is no pair of label values, such as 255=1")
        if value and len({text.partition("=")[0] for text in value}) < len(value):
            raise ValueError("a label value is mapped twice")
        return value

    @model_validator(mode="after")
    def _one_way(self) -> CheckConfig:
        if self.resample_labels and self.ignore_geometry:
            raise ValueError("resample_labels and ignore_geometry exclude each other")
        return self


FitConfig.model_rebuild()


def validated(model: type[M], values: Mapping[str, Any], *, source: str = "options") -> M:
    """Build a model, or say in one sentence per problem what is wrong.

    Args:
        model: The model to build.
        values: Its fields.
        source: Where the values come from, to begin the message with: a file or "options".

    Raises:
        ConfigError: If a key is unknown or a value does not fit.
    """
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        problems = "; ".join(_problem(model, dict(item)) for item in error.errors())
        raise ConfigError(f"{source}: {problems}") from None


def _problem(model: type[BaseModel], item: dict[str, Any]) -> str:
    place = ".".join(str(step) for step in item["loc"])
    if item["type"] == "extra_forbidden":
        known = _fields_at(model, item["loc"][:-1])
        close = get_close_matches(str(item["loc"][-1]), known, n=1)
        hint = f"did you mean {close[0]}?" if close else f"known: {', '.join(known)}"
        return f"unknown key {place!r}; {hint}"
    if item["type"] == "missing":
        return f"{place} is missing"
    message = str(item["msg"]).removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    return f"{place}: {message}, got {item['input']!r}" if place else message


def _fields_at(model: type[BaseModel], place: tuple[Any, ...]) -> list[str]:
    for step in place:
        field = model.model_fields.get(str(step))
        inner = field.annotation if field else None
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            return list(model.model_fields)
        model = inner
    return list(model.model_fields)


def read_yaml(path: Path) -> dict[str, Any]:
    """Keys and values of a YAML 1.2 file (``1e-3`` is a number, ``no`` is a text).

    Raises:
        ConfigError: If the file is missing, not YAML or not a mapping.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        values = YAML(typ="safe").load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); check the name") from None
    except (YAMLError, UnicodeDecodeError) as error:
        detail = " ".join(str(error).split())
        raise ConfigError(f"{path}: not valid YAML: {detail}") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected keys and values, found a {type(values).__name__}")
    return {str(key): value for key, value in values.items()}


def to_yaml(model: BaseModel, *, title: str) -> str:
    """The model as YAML text, each key under its description."""
    import io

    from ruamel.yaml import YAML
    from ruamel.yaml.comments import CommentedMap, CommentedSeq

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return CommentedMap({key: plain(item) for key, item in value.items()})
        if isinstance(value, list):
            sequence = CommentedSeq(plain(item) for item in value)
            if not any(isinstance(item, dict) for item in value):
                sequence.fa.set_flow_style()
            return sequence
        return value

    dumped = model.model_dump(mode="json")
    document = CommentedMap()
    for key, value in dumped.items():
        document[key] = plain(value)
        description = type(model).model_fields[key].description
        if description:
            document.yaml_set_comment_before_after_key(key, before=description)
    document.yaml_set_start_comment(title)
    yaml = YAML()
    yaml.width = 4096
    text = io.StringIO()
    yaml.dump(document, text)
    return text.getvalue()
