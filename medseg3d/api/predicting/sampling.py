"""Samples for ``predict``: which models can be asked for them, and those of one case."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from medseg3d.api.predicting.targets import Target
from medseg3d.bundle import read_bundle
from medseg3d.data.preprocess import WorkingCase
from medseg3d.errors import ConfigError
from medseg3d.inference.planes import ONE
from medseg3d.inference.predictor import Predictor
from medseg3d.inference.sampling import Sampler, draw, entropy_of
from medseg3d.inference.windows import Advance
from medseg3d.io import Volume, write_labels, write_scaled
from medseg3d.types import LabelMap


def refuse_samples(models: Sequence[Path]) -> None:
    """Refuse to draw samples from models that cannot, or from several.

    Raises:
        ConfigError: Naming the model and networks that can.
    """
    from medseg3d.networks import NETWORKS

    if len(models) > 1:
        raise ConfigError(
            f"samples are drawn from one model, but {len(models)} are given, whose random numbers "
            "mean different things; name one with --model, or leave out --samples"
        )
    name = read_bundle(models[0]).network
    if not hasattr(NETWORKS[name], "sample"):
        able = [each for each in NETWORKS if hasattr(NETWORKS[each], "sample")]
        raise ConfigError(
            f"{models[0]} is a {name}, which knows one answer per image and cannot be sampled; "
            f"leave out --samples, or train one of {', '.join(able)}"
        )


class Samples:
    """Draws label maps with a model, case by case.

    Args:
        predictor: Says how windows lie.
        model: The bundle.
        number: How many to draw.
        seed: Of the random numbers; the same for every case.
    """

    def __init__(self, predictor: Predictor, model: Path, number: int, *, seed: int) -> None:
        from medseg3d.inference.backends.source import Source

        module = Source(model, predictor.bundle).network()
        size = int(module.latent_size)  # type: ignore[arg-type]
        self._predictors = [
            predictor.with_network(
                Sampler(
                    module,
                    draw(place, size, seed=seed),
                    device=predictor.device,
                    threads=predictor.threads,
                )
            )
            for place in range(number)
        ]

    def __call__(
        self, working: WorkingCase, max_slab_bytes: int, advances: Sequence[Advance | None]
    ) -> Iterator[LabelMap]:
        """Label maps ``(I, J, K)`` of a prepared case, in the order of its file.

        Args:
            working: The prepared case.
            max_slab_bytes: Memory that half-finished logits may take.
            advances: Told of the windows of each sample.
        """
        for predictor, advance in zip(self._predictors, advances, strict=True):
            found = predictor.label(working, max_slab_bytes=max_slab_bytes, advance=advance)
            yield found.labels


def write_samples(
    target: Target, samples: Sequence[LabelMap], like: Volume, names: Mapping[int, str]
) -> None:
    """Write label maps that were drawn, and the entropy of their labels.

    Raises:
        RunError: If an output cannot be written.
    """
    assert target.entropy is not None, "it is named with the samples"
    for path, sample in zip(target.samples, samples, strict=True):
        write_labels(path, sample, like, names=names)
    write_scaled(target.entropy, entropy_of(samples, len(names)), like, slope=1 / ONE)


def in_turn(advance: Advance | None, parts: int) -> list[Advance | None]:
    """What to tell of the windows of each part of the work, one part after the other.

    Examples:
        >>> first, last = in_turn(lambda done, windows: print(done, windows), 2)
        >>> first(3, 4), last(1, 4)
        3 8
        5 8
        (None, None)
    """

    def told(part: int) -> Advance | None:
        if advance is None:
            return None
        return lambda done, windows: advance(part * windows + done, parts * windows)

    return [told(part) for part in range(parts)]
