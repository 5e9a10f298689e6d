"""Models for other programs: ONNX or OpenVINO, and what must be done before and after."""

import json
import shutil
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch import nn

from medseg3d import __version__
from medseg3d.bundle import SUFFIX, Bundle, inspect_bundle
from medseg3d.config import ExportConfig, PredictConfig
from medseg3d.errors import ConfigError, RunError, UnknownNameError
from medseg3d.geometry.grid import ANISOTROPY
from medseg3d.inference.backends.conversion import (
    INPUT,
    OUTPUT,
    TOLERANCE,
    Converter,
    convert,
    expect_equal,
    probe,
    taken,
)
from medseg3d.inference.backends.opening import missing
from medseg3d.inference.backends.registered import BACKENDS, UnfitBackendError
from medseg3d.inference.backends.source import Source
from medseg3d.inference.windows import LARGEST_WINDOW, LEAST_WEIGHT, SIGMA
from medseg3d.io import atomic
from medseg3d.io.digests import sha256_of
from medseg3d.machine import num_processors
from medseg3d.types import Size3

RULE_OF_SLICES = (
    "Across slice_axis the network sees each slice alone, so that other rules hold than those "
    "below: n slices take m = ceil(n / window) windows of ceil(n / m) slices, evenly spread from 0 "
    "to n - ceil(n / m), places rounded, without overlap; weights are 1 along this axis; and "
    "whether a volume is seen whole is told by the voxels and edges of one slice of it and of the "
    "window."
)


def export_portable(source: Path, config: ExportConfig) -> Path:
    """Write a model in the form of another library, with its description as JSON beside it.

    The files are read again and compared with torch in float32 on some windows; if they do not
    agree, none is left.

    Args:
        source: The bundle.
        config: What to write and where.

    Returns:
        The file to open first.

    Raises:
        ConfigError: If the form is unknown, its library not installed, or the suffix another.
        ModelError: If the bundle is damaged.
        RunError: If a file exists or cannot be written, or the network cannot be converted.
    """
    converter = _converter(str(config.format))
    target = _target(config, converter)
    names = [target.with_suffix(suffix) for suffix in converter.suffixes]
    names.append(target.with_name(f"{target.name}.json"))
    for name in names:
        if name.exists() and not config.overwrite:
            raise RunError(f"{name} exists already; give --overwrite to replace it")
    contents = inspect_bundle(source)
    network = Source(source, contents.bundle).network()
    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        try:
            model = convert(converter, network, contents.bundle.channels)
            converter.save(model, folder, target.stem)
            del model
            compared = _compared(converter, folder, target.stem, network, contents.bundle)
        except UnfitBackendError as error:
            raise RunError(
                f"{source} cannot be written as {config.format}: {error}; give a bundle instead, "
                "by leaving out --format"
            ) from error
        facts = {
            "medseg3d": __version__,
            "source": {"file": source.name, "sha256": contents.sha256},
            "model": _model_facts(converter, folder, contents.bundle, network),
            **description(contents.bundle),
            "compared": compared,
        }
        told = json.dumps(facts, indent=1, ensure_ascii=False)
        (folder / names[-1].name).write_text(f"{told}\n", encoding="utf-8")
        with ExitStack() as stack:
            for name in names:
                shutil.copyfile(folder / name.name, stack.enter_context(atomic(name)))
    return target


def description(bundle: Bundle) -> dict[str, Any]:
    """What surrounds the network, as numbers and as rules in words."""
    plan = bundle.plan
    return {
        "preprocessing": {
            "orientation": "RAS",
            "spacing_mm": plan.spacing,
            "coarse_axis": plan.coarse_axis,
            "coarse_ratio": ANISOTROPY,
            "channels": [channel.model_dump(mode="json") for channel in plan.channels],
            "rules": [
                "Reorder the voxel axes to RAS: i to the right, j to the front, k to the head.",
                "Cut to the smallest box in which any channel is not 0.",
                "Scheme ct: clip to lower .. upper, subtract mean, divide by sd.",
                "Scheme zscore: subtract the mean and divide by the standard deviation of the "
                "image's own voxels in the box that are not 0, or of all where those are equal "
                "and masks is true; no spread becomes 0.",
                "New edges are round(n * spacing / spacing_mm), at least 1; voxel centers lie at "
                "(index + 0.5) / n of the box in both grids.",
                "Resample each channel by cubic splines, the border voxels repeated outside, and "
                "clip to the range it had. Along the axis with the longest voxels, if they are "
                "more than coarse_ratio times the shortest, or else along coarse_axis, take the "
                "nearest plane instead.",
            ],
        },
        "windows": {
            "window": plan.window,
            "slice_axis": plan.single_slices,
            "overlap": PredictConfig.model_fields["overlap"].default,
            "sigma_as_part_of_edge": SIGMA,
            "least_weight": LEAST_WEIGHT,
            "largest_whole_volume_in_windows": LARGEST_WINDOW,
            "mirror_axes": plan.mirror_axes,
            "mirrored_channels": plan.mirrored_labels,
            "rules": [
                *([] if plan.single_slices is None else [RULE_OF_SLICES]),
                "Pad by 0 on both sides, the larger half behind, to at least the window.",
                "Per axis of n voxels: ceil((n - window) / (window * (1 - overlap))) + 1 windows, "
                "evenly spread from 0 to n - window, places rounded.",
                "Weights exp(-0.5 * ((index - (edge - 1) / 2) / (sigma * edge)) ** 2) per axis, "
                "multiplied, divided by the largest, at least least_weight; sum weights * logits, "
                "divide by the sum of the weights.",
                "A window in which every channel is constant is not looked at; voxels that no "
                "other window covers get the first channel.",
                "A volume that fits into largest_whole_volume_in_windows times the window's voxels "
                "is seen whole: each edge of the window that is shorter than the volume's grows "
                "by multiples_of until it is not, unless multiples_of is the window itself.",
                "Mirrored averaging is optional: flip along every subset of mirror_axes, flip the "
                "logits back, and with axis 0 in it take mirrored_channels of them.",
            ],
        },
        "postprocessing": {
            "labels": [
                {"channel": channel, "value": value, "name": plan.labels[value]}
                for channel, value in enumerate(sorted(plan.labels))
            ],
            "rules": [
                "Interpolate these means linearly to the voxels of the box, the border "
                "repeated outside.",
                "Each voxel takes the value of the channel with the largest logit; outside the "
                "box it is 0.",
                "Reorder the axes to those of the image.",
                "Cleaning, by label name: first take away parts (26-connected) of all labels that "
                "are smaller than the label's largest (keep_largest) or than min_volume_mm3; then "
                "(fill_holes), smaller bounding boxes first, give the label those voxels of value "
                "0 from which no 6-connected way outside of the label leads to the image's border; "
                "of an image of one slice, that is the border of its plane.",
            ],
            "cleaning": bundle.model_dump(mode="json", include={"cleaning"})["cleaning"],
        },
    }


def _converter(name: str) -> Converter[Any]:
    forms = [each for each in BACKENDS if hasattr(BACKENDS[each], "converter")]
    if name not in forms:
        raise UnknownNameError(f"--format {name} is unknown; known: {', '.join(forms)}")
    if absent := missing(name):
        raise ConfigError(
            f"--format {name} needs {' and '.join(absent)}, which this Python does not have; "
            f'install with pip install "medseg3d[{BACKENDS.facts(name)["extra"]}]"'
        )
    backend: Any = BACKENDS[name]
    converter: Converter[Any] = backend.converter()
    return converter


def _target(config: ExportConfig, converter: Converter[Any]) -> Path:
    suffix = converter.suffixes[0]
    name = config.run.resolve().name.removesuffix(SUFFIX) + suffix
    out = config.out or Path(name)
    if out.is_dir():
        return out / name
    if out.suffix != suffix:
        raise ConfigError(f"-o {out}: expected a name that ends in {suffix}, such as {out}{suffix}")
    return out


def _compared(
    converter: Converter[Any], folder: Path, stem: str, network: nn.Module, bundle: Bundle
) -> dict[str, Any]:
    """Compare what was written with torch, in windows of different shapes.

    Raises:
        UnfitBackendError: If logits differ.
    """
    run = converter.float32(converter.load(folder, stem), num_processors())
    windows = _windows(bundle.plan.patch_size, getattr(network, "divisor", (1, 1, 1)))
    windows = taken(network, bundle.channels, windows)
    largest = max(expect_equal(network, run, probe(bundle.channels, each)) for each in windows)
    return {
        "with": "torch, float32",
        "windows": windows,
        "largest_difference_as_part_of_largest_logit": largest,
        "tolerance": TOLERANCE,
    }


def _windows(window: Size3, divisor: Size3) -> list[Size3]:
    """The plan's window and two smaller ones, with edges that the network takes unpadded."""
    shapes = []
    for share in ((1, 1, 1), (2, 1, 2), (2, 2, 1)):
        edges = zip(window, share, divisor, strict=True)
        i, j, k = (max(2, -(-edge // part // step)) * step for edge, part, step in edges)
        shapes.append((i, j, k))
    return list(dict.fromkeys(shapes))


def _model_facts(
    converter: Converter[Any], folder: Path, bundle: Bundle, network: nn.Module
) -> dict[str, Any]:
    axes = ["i", "j", "k"]
    return {
        "format": converter.name,
        "written_with": converter.version,
        "files": {path.name: sha256_of(path) for path in sorted(folder.iterdir())},
        "network": bundle.network,
        "input": {
            "name": INPUT,
            "dtype": "float32",
            "axes": ["batch", "channel", *axes],
            "channels": bundle.channels,
            "multiples_of": getattr(network, "divisor", (1, 1, 1)),
        },
        "output": {
            "name": OUTPUT,
            "dtype": "float32",
            "axes": ["batch", "label", *axes],
            "labels": bundle.plan.num_labels,
        },
    }
