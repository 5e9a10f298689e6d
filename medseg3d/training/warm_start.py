"""Weights of another model as the beginning of a training.

Most weights fit as they are. Those whose size follows the number of labels or of channels, as in
the heads and the first convolution, are taken over label by label and channel by channel, by
name; those of the classes of images likewise. Which ones these are is told by the network itself:
it is built once with a label more and once with a channel more, without memory for it, and
compared.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from medseg3d.errors import ConfigError

Build = Callable[[int, int, int], nn.Module]
"""Builds the network for so many channels, labels and classes."""

SHOWN = 3


@dataclass(frozen=True)
class Ends:
    """What goes into a network and what comes out.

    Attributes:
        channels: Names of the image channels.
        labels: Names of the logit channels; the first is the background, whatever its name.
        classes: Names of the classes of images, if it tells them apart.
    """

    channels: tuple[str, ...]
    labels: tuple[str, ...]
    classes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Taken:
    """What a network has of the weights of a model.

    Attributes:
        labels: Labels whose weights it has.
        new_labels: Labels that the model did not know.
        lost_labels: Labels of the model that are no longer wanted.
        channels: Channels whose weights it has.
        new_channels: Channels that the model did not know.
        lost_channels: Channels of the model that are no longer there.
        classes: Classes whose weights it has.
        new_classes: Classes that the model did not know.
        lost_classes: Classes of the model that are no longer wanted.
        whole: Weights that were taken as they are.
        in_part: Weights that were taken for the known labels and channels.
        anew: Weights that were left as they were.
    """

    labels: tuple[str, ...]
    new_labels: tuple[str, ...]
    lost_labels: tuple[str, ...]
    channels: tuple[str, ...]
    new_channels: tuple[str, ...]
    lost_channels: tuple[str, ...]
    classes: tuple[str, ...]
    new_classes: tuple[str, ...]
    lost_classes: tuple[str, ...]
    whole: tuple[str, ...]
    in_part: tuple[str, ...]
    anew: tuple[str, ...]

    def __str__(self) -> str:
        count = len(self.whole) + len(self.in_part) + len(self.anew)
        told = [f"{len(self.whole)} of {count} weights as they are"]
        for weights, how in ((self.in_part, "in part"), (self.anew, "not")):
            if weights:
                told.append(f"{len(weights)} {how} ({_some(weights)})")
        for kind, new, lost in (
            ("labels", self.new_labels, self.lost_labels),
            ("channels", self.new_channels, self.lost_channels),
            ("classes", self.new_classes, self.lost_classes),
        ):
            if new:
                told.append(f"new {kind}: {', '.join(new)}")
            if lost:
                told.append(f"{kind} left behind: {', '.join(lost)}")
        return "; ".join(told)


def take_weights(
    network: nn.Module, weights: Mapping[str, Tensor], *, was: Ends, now: Ends, build: Build
) -> Taken:
    """Put all weights of a model into a network that can be used there.

    Labels and channels of equal names are the same. The weights of a new label stay as they are;
    those of a new channel become 0 where others are known, so that the network begins by doing
    what the model did. A weight that follows the number of labels or channels in another way
    than one entry each is taken only if these are the same in both; one that is there for some
    numbers of them only stays as it is where it is new, and is left behind where it is gone.

    Args:
        network: Changed in place.
        weights: Of the model, by name.
        was: Channels, labels and classes of the model.
        now: Those of the network.
        build: Builds the network for other numbers of them.

    Raises:
        ConfigError: If the model's network is another one; nothing is changed then.
    """
    own, sides = network.state_dict(), _sides(was, now)
    found = _fits(network, weights, sides, build)
    for name, fit in found.items():
        if fit.is_taken:
            _copy(weights[name], own[name], fit, sides)
    changed = [name for name, fit in found.items() if fit.axes]
    of_channels, of_labels, of_classes = sides
    return Taken(
        labels=of_labels.kept,
        new_labels=of_labels.new,
        lost_labels=of_labels.lost,
        channels=of_channels.kept,
        new_channels=of_channels.new,
        lost_channels=of_channels.lost,
        classes=of_classes.kept,
        new_classes=of_classes.new,
        lost_classes=of_classes.lost,
        whole=tuple(n for n, fit in found.items() if fit.is_taken and n not in changed),
        in_part=tuple(n for n in changed if found[n].is_taken),
        anew=tuple(name for name, fit in found.items() if not fit.is_taken),
    )


def refuse_another(
    network: nn.Module, weights: Mapping[str, Tensor], *, was: Ends, now: Ends, build: Build
) -> None:
    """Refuse what :func:`take_weights` would, for a network that may be without memory.

    Raises:
        ConfigError: If the model's network is another one.
    """
    _fits(network, weights, _sides(was, now), build)


@dataclass(frozen=True)
class _Side:
    """Channels, labels or classes of both.

    Attributes:
        was: Names in the model.
        now: Names in the network.
        known: Place in the model by place in the network.
    """

    was: Sequence[str]
    now: Sequence[str]
    known: Mapping[int, int]

    @property
    def is_same(self) -> bool:
        return self.known == {i: i for i in range(len(self.now))} and not self.lost

    @property
    def kept(self) -> tuple[str, ...]:
        return tuple(name for place, name in enumerate(self.now) if place in self.known)

    @property
    def new(self) -> tuple[str, ...]:
        return tuple(name for place, name in enumerate(self.now) if place not in self.known)

    @property
    def lost(self) -> tuple[str, ...]:
        taken = set(self.known.values())
        return tuple(name for place, name in enumerate(self.was) if place not in taken)


@dataclass(frozen=True)
class _Fit:
    """How a weight of the model goes into the network.

    Attributes:
        axes: Axes whose entries are those of a side (its number) that changed.
        is_taken: Whether it is.
    """

    axes: Mapping[int, int]
    is_taken: bool


def _same(was: Sequence[str], now: Sequence[str], first: int = 0) -> dict[int, int]:
    """Places of equal names, counted from ``first``; lists that are the same are so throughout."""
    if list(was) == list(now):
        return {i + first: i + first for i in range(len(now))}
    return {i + first: was.index(name) + first for i, name in enumerate(now) if name in was}


def _sides(was: Ends, now: Ends) -> tuple[_Side, _Side, _Side]:
    labels = {0: 0} | _same(was.labels[1:], now.labels[1:], 1)
    return (
        _Side(was.channels, now.channels, known=_same(was.channels, now.channels)),
        _Side(was.labels, now.labels, known=labels),
        _Side(was.classes, now.classes, known=_same(was.classes, now.classes)),
    )


def _fits(
    network: nn.Module, weights: Mapping[str, Tensor], sides: Sequence[_Side], build: Build
) -> dict[str, _Fit]:
    """How every weight of the model goes into the network."""
    sizes = [len(side.now) for side in sides]
    with torch.device("meta"):
        model = _built(build, [len(side.was) for side in sides])
        grown = [
            {}
            if side.is_same
            else _built(build, [size + (number == place) for number, size in enumerate(sizes)])
            for place, side in enumerate(sides)
        ]
    _refuse_another(model, _shapes_of(weights))
    return {
        name: _fit(model.get(name), shape, [shapes.get(name) for shapes in grown], sides)
        for name, shape in _shapes(network).items()
    }


def _built(build: Build, sizes: Sequence[int]) -> dict[str, tuple[int, ...]]:
    channels, labels, classes = sizes
    return _shapes(build(channels, labels, classes))


def _shapes(network: nn.Module) -> dict[str, tuple[int, ...]]:
    return _shapes_of(network.state_dict())


def _shapes_of(weights: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in weights.items()}


def _fit(
    was: Sequence[int] | None,
    shape: Sequence[int],
    grown: Sequence[Sequence[int] | None],
    sides: Sequence[_Side],
) -> _Fit:
    """How one weight follows the sides; see :class:`_Fit`."""
    expected, axes, is_taken = list(shape), {}, True
    for number, (wider, side) in enumerate(zip(grown, sides, strict=True)):
        if wider is None or len(wider) != len(shape):  # there only with so many labels
            is_taken = is_taken and side.is_same
            continue
        for axis, (here, there) in enumerate(zip(shape, wider, strict=True)):
            if here == there or side.is_same:
                continue
            expected[axis] += (there - here) * (len(side.was) - len(side.now))
            axes[axis] = number
            is_taken = is_taken and there == here + 1 and here == len(side.now)
    return _Fit(axes, is_taken and was == tuple(expected))


def _refuse_another(
    expected: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]]
) -> None:
    """Refuse weights that are not all those of the network that the options make."""
    wrong = [name for name in found if expected.get(name) != found[name]]
    wrong += [name for name in expected if name not in found]
    if wrong:
        raise ConfigError(
            f"{len(wrong)} weights of the model to begin with are of another network, such as "
            f"{_some(wrong)}; leave out the options of the network that differ from the model's"
        )


def _copy(source: Tensor, target: Tensor, fit: _Fit, sides: Sequence[_Side]) -> None:
    """Copy what is known, in place."""
    places = [torch.arange(length) for length in target.shape]
    for axis, number in fit.axes.items():
        known = sides[number].known
        places[axis] = torch.tensor(list(known), dtype=torch.long)
        source = source.index_select(axis, torch.tensor(list(known.values()), dtype=torch.long))
        if number == 0 and known and target.ndim > 1:
            new = [place for place in range(target.shape[axis]) if place not in known]
            target.index_fill_(axis, torch.tensor(new, dtype=torch.long), 0)
    if fit.axes:
        target[torch.meshgrid(*places, indexing="ij")] = source.to(target.dtype)
    else:
        target.copy_(source)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
