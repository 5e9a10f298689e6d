"""``export`` and ``info``: model files to hand on, and what is in one."""

import logging
import os
import shutil
from pathlib import Path
from typing import Any

from medseg3d.bundle import (
    BEST,
    FILE_NAME,
    SUFFIX,
    inspect_bundle,
    load_bundle,
    read_bundle,
)
from medseg3d.bundle.description import MOST_DICE_CHANGE
from medseg3d.config import Cleaning, ExportConfig, given
from medseg3d.errors import ConfigError, ModelError, RunError
from medseg3d.io import atomic
from medseg3d.machine import in_words
from medseg3d.runs import expect_one_run

log = logging.getLogger("medseg3d")

TOLD_OF_TRAINING = ("fold", "seed", "steps", "minutes", "versions")
"""What ``info`` tells of the training; names of cases and folders may be personal."""


def export(run: Path | str | ExportConfig, **options: Any) -> Path:
    """Write the model of a run as one file that is all ``predict`` needs.

    With ``format`` it is written for other programs instead, with a JSON file of what they
    must do before and after (:mod:`medseg3d.api.portable`). Of a run that is not finished,
    these are the best weights so far. The model is loaded once before, and the copy is compared
    with it before it appears.

    Args:
        run: Run folder or bundle, or all options.
        **options: See :class:`medseg3d.config.ExportConfig`.

    Returns:
        The file.

    Raises:
        ConfigError: If the file has another suffix, or the format is unknown or not installed.
        ModelError: If there is no usable model.
        RunError: If the file exists or cannot be written, or a conversion does not compute the
            same.
    """
    config = given(ExportConfig, "run", run, options)
    source = _model_in(config.run)
    if config.format is None:
        target = _copied(source, config)
    else:
        from medseg3d.api.portable import export_portable

        target = export_portable(source, config)
    if source.name == BEST.name:
        score = read_bundle(source).scores.get("mean")
        log.warning(
            "%s is not finished: these are its best weights so far%s",
            config.run,
            "" if score is None else f" (mean Dice {score:.4f})",
        )
    return target


def _copied(source: Path, config: ExportConfig) -> Path:
    """A copy of the bundle that is compared with it."""
    target = _target(config)
    if os.path.lexists(target):
        if target.exists() and target.samefile(source):
            raise RunError(f"{target} is the model itself; choose another file with -o")
        if not config.overwrite:
            raise RunError(f"{target} exists already; give --overwrite to replace it")
    expected = inspect_bundle(source).sha256
    load_bundle(source)
    with atomic(target) as partial:
        shutil.copyfile(source, partial)
        if inspect_bundle(partial).sha256 != expected:
            raise RunError(f"{target}: the copy differs from {source}; check the disk")
    return target


def info(model: Path | str) -> dict[str, Any]:
    """What is in a model file, after all its digests were found right.

    Args:
        model: Run folder or bundle.

    Returns:
        File, size and digest, versions, network and options, parameters, plan, precision,
        changes of the mean Dice by others, scores, cleaning and training, ready for JSON. Case
        ids are counted, not told.

    Raises:
        ModelError: If there is none, or it is damaged.
    """
    path = _model_in(Path(model))
    contents = inspect_bundle(path)
    bundle = contents.bundle
    return {
        "file": str(path),
        "bytes": contents.size,
        "sha256": contents.sha256,
        **bundle.model_dump(mode="json", include={"format", "medseg3d", "network", "options"}),
        "parameters": contents.num_parameters,
        "tensors": contents.num_weights,
        **bundle.model_dump(mode="json", include={"plan", "precision", "dice_changes", "scores"}),
        **bundle.model_dump(mode="json", include={"cleaning"}),
        "training": {
            name: bundle.training[name] for name in TOLD_OF_TRAINING if name in bundle.training
        },
        "cases": len(bundle.cases) or bundle.plan.num_cases,
    }


def info_rows(facts: dict[str, Any]) -> list[dict[str, str]]:
    """The facts of :func:`info` as lines for people."""
    plan = facts["plan"]
    told = dict(facts["training"])
    versions = told.pop("versions", {})
    lines = {
        "file": facts["file"],
        "size": in_words(facts["bytes"]),
        "sha256": facts["sha256"],
        "written by": f"medseg3d {facts['medseg3d']}, bundle format {facts['format']}",
        "network": facts["network"],
        "options": _listed(facts["options"]),
        "parameters": f"{facts['parameters']:,}",
        "labels": ", ".join(f"{value} {name}" for value, name in plan["labels"].items()),
        "channels": ", ".join(_channel(channel) for channel in plan["channels"]),
        "spacing": f"{_times(plan['spacing'])} mm",
        "patch": f"{_times(plan['patch_size'])} voxels",
        "precision": ", ".join([facts["precision"], *map(_change, facts["dice_changes"].items())]),
        "Dice": ", ".join(f"{name} {score:.4f}" for name, score in facts["scores"].items()),
        "post-processing": "; ".join(map(_cleaned, facts["cleaning"].items())) or "none",
        "training": _listed({"cases": facts["cases"]} | told),
        "versions": _listed(versions),
    }
    return [{"what": what, "value": _printable(value)} for what, value in lines.items()]


def _model_in(path: Path) -> Path:
    """The bundle itself, or of a run folder the final one, else the best so far."""
    if not path.is_dir():
        return path
    expect_one_run(path)
    for model in (path / FILE_NAME, path / BEST):
        if model.exists():
            return model
    raise ModelError(
        f"{path} holds neither {FILE_NAME} nor {BEST}; give a run folder that has been validated "
        "once, or a bundle"
    )


def _target(config: ExportConfig) -> Path:
    name = config.run.resolve().name.removesuffix(SUFFIX) + SUFFIX
    out = config.out or Path(name)
    if out.is_dir():
        return out / name
    if out.suffix != SUFFIX:
        raise ConfigError(f"-o {out}: a model file must end in {SUFFIX}, such as {out}{SUFFIX}")
    return out


def _listed(values: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())


def _change(item: tuple[str, float]) -> str:
    """The verdict of ``fit`` on an arithmetic."""
    precision, change = item
    told = "accepted" if abs(change) < MOST_DICE_CHANGE else "refused"
    return f"{precision} changes the mean Dice by {change:+.4f}: {told}"


def _cleaned(item: tuple[str, dict[str, Any]]) -> str:
    label, rule = item
    return f"{label}: {Cleaning.model_validate(rule).in_words}"


def _channel(channel: dict[str, Any]) -> str:
    limits = f"{channel['lower']:g} to {channel['upper']:g}"
    return f"{channel['name']} ({channel['scheme']}, {limits})"


def _times(edges: list[float]) -> str:
    return " x ".join(f"{edge:g}" for edge in edges)


def _printable(text: str) -> str:
    """Without control characters, which a file could bring to the terminal."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)
