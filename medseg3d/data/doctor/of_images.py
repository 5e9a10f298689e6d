"""Checks of images: channels, intensities and where the voxels lie."""

from collections import Counter
from collections.abc import Iterator
from math import log

from medseg3d.data.doctor import CHECKS
from medseg3d.data.doctor.facts import CaseFacts, Survey
from medseg3d.data.doctor.findings import Finding, Severity
from medseg3d.data.doctor.outliers import outliers
from medseg3d.data.fingerprint import AIR_HU

HUGE = 1e6
"""Intensities beyond this are rarely meant."""

LEAST_SPACING_MM, MOST_SPACING_MM = 1e-3, 100.0
LEAST_HU = -50.0
"""A scan in Hounsfield units holds fat or air, below this."""

FEW_SLICES = 4
"""A volume with this many times fewer slices than rows rarely has cubic voxels."""


@CHECKS.register("channels")
def channels(survey: Survey) -> Iterator[Finding]:
    """Every image has the channels that are named, or as many as the others."""
    numbers = Counter(facts.num_channels for facts in survey.facts)
    if not numbers:
        return
    usual, times = numbers.most_common(1)[0]
    names = survey.dataset.channel_names
    for facts in survey.facts:
        found = facts.num_channels
        image = facts.case.images[0]
        if names is not None and found != len(names):
            message = (
                f"image {image} has {_channels(found)}, expected {len(names)} ({', '.join(names)})"
            )
        elif found != usual:
            others = "cases have" if times > 1 else "case has"
            message = f"image {image} has {_channels(found)}, {times} other {others} {usual}"
        else:
            continue
        remedy = "add the missing files or correct the channels in dataset.json"
        yield facts.about_image(Severity.ERROR, "channels", message, remedy)


@CHECKS.register("file-oddity")
def file_oddities(survey: Survey) -> Iterator[Finding]:
    """What the reader found odd in a file and dealt with."""
    for facts in survey.facts:
        for note in facts.notes:
            yield facts.about_image(Severity.WARNING, "file-oddity", note)


@CHECKS.register("image-constant")
def constant_images(survey: Survey) -> Iterator[Finding]:
    """Channels of one value only."""
    for facts in survey.facts:
        for number, channel in enumerate(facts.channels):
            if channel.minimum == channel.maximum:
                message = f"{_channel(facts, number)} is {channel.minimum:g} everywhere"
                yield facts.about_image(
                    Severity.WARNING, "image-constant", message, "check that the scan was exported"
                )


@CHECKS.register("image-huge-values")
def huge_values(survey: Survey) -> Iterator[Finding]:
    """Intensities that no scanner gives."""
    for facts in survey.facts:
        for number, channel in enumerate(facts.channels):
            largest = max(channel.minimum, channel.maximum, key=abs)
            if abs(largest) > HUGE:
                message = (
                    f"{_channel(facts, number)} reaches {largest:.4g}, "
                    f"99 % of it lie below {channel.percentiles[4]:.4g}"
                )
                yield facts.about_image(
                    Severity.WARNING,
                    "image-huge-values",
                    message,
                    "check the scaling in the header",
                )


@CHECKS.register("ct-not-hu")
def not_hounsfield(survey: Survey) -> Iterator[Finding]:
    """CT that is not in Hounsfield units."""
    names = survey.dataset.channel_names or ()
    for number in range(max((facts.num_channels for facts in survey.facts), default=0)):
        named = number < len(names) and names[number].strip().lower() == "ct"
        if not (named or _is_ct(survey, number)):
            continue
        why = "is called CT but" if named else "is unlike most cases, which look like CT: it"
        for facts in survey.facts:
            if number < facts.num_channels and facts.channels[number].minimum > LEAST_HU:
                channel = facts.channels[number]
                message = (
                    f"{_channel(facts, number)} {why} ranges from {channel.minimum:.4g} to "
                    f"{channel.maximum:.4g}, not in Hounsfield units (air is -1000)"
                )
                remedy = "export it again with slope and intercept"
                yield facts.about_image(Severity.WARNING, "ct-not-hu", message, remedy)


@CHECKS.register("spacing-unlikely")
def unlikely_spacings(survey: Survey) -> Iterator[Finding]:
    """Voxels that are too small or too large for a scan of a patient."""
    for facts in survey.facts:
        spacing = facts.grid.spacing
        if min(spacing) < LEAST_SPACING_MM or max(spacing) > MOST_SPACING_MM:
            severity = Severity.ERROR if min(spacing) < LEAST_SPACING_MM else Severity.WARNING
            message = (
                f"image {facts.case.images[0]} has voxels of {_mm(spacing)}, expected edges from "
                f"{LEAST_SPACING_MM:g} to {MOST_SPACING_MM:g} mm"
            )
            yield facts.about_image(
                severity, "spacing-unlikely", message, "write the spacing in mm into the header"
            )


@CHECKS.register("spacing-lost")
def lost_spacings(survey: Survey) -> Iterator[Finding]:
    """Every case claims cubes of 1 mm, though there are few slices."""
    facts = survey.facts
    if not facts or any(one.grid.spacing != (1.0, 1.0, 1.0) for one in facts):
        return
    flat = [one for one in facts if min(one.grid.shape) * FEW_SLICES <= max(one.grid.shape)]
    if len(flat) * 2 > len(facts):
        yield Finding(
            severity=Severity.WARNING,
            code="spacing-lost",
            message=f"every case has voxels of exactly 1 x 1 x 1 mm, but {len(flat)} have few "
            f"slices, such as {flat[0].case_id} with {_times(flat[0].grid.shape)}: the spacing "
            "was probably lost, and every distance in mm will be wrong",
            fix="convert the scans again from their source, or set the spacing in the headers",
        )


@CHECKS.register("spacing-outlier")
def odd_spacings(survey: Survey) -> Iterator[Finding]:
    """Voxels unlike those of the other cases."""
    for axis, name in enumerate(("left-right", "back-front", "foot-head")):
        logs = {facts.case_id: log(facts.grid.canonical().spacing[axis]) for facts in survey.facts}
        for facts in _those(survey, outliers(logs, least=log(1.5))):
            message = (
                f"has voxels of {_mm(facts.grid.spacing)}, {name} unlike most of the other cases"
            )
            yield facts.about_image(Severity.WARNING, "spacing-outlier", message)


@CHECKS.register("size-outlier")
def odd_sizes(survey: Survey) -> Iterator[Finding]:
    """A field of view unlike that of the other cases."""
    for axis, name in enumerate(("left-right", "back-front", "foot-head")):
        grids = {facts.case_id: facts.grid.canonical() for facts in survey.facts}
        extents = {case: grid.shape[axis] * grid.spacing[axis] for case, grid in grids.items()}
        logs = {case: log(extent) for case, extent in extents.items()}
        for facts in _those(survey, outliers(logs, least=log(1.5))):
            message = (
                f"extends over {extents[facts.case_id]:.4g} mm {name}, unlike most other cases"
            )
            yield facts.about_image(Severity.WARNING, "size-outlier", message)


@CHECKS.register("orientation-outlier")
def odd_orientations(survey: Survey) -> Iterator[Finding]:
    """Cases stored in another order of axes than most; they are turned when read."""
    orders = {facts.case_id: facts.grid.orientation for facts in survey.facts}
    usual = max(sorted(set(orders.values())), key=list(orders.values()).count, default="")
    for facts in survey.facts:
        if orders[facts.case_id] != usual:
            message = f"is stored as {orders[facts.case_id]}, most cases as {usual}; it is turned"
            yield facts.about_image(Severity.NOTE, "orientation-outlier", message)


@CHECKS.register("intensity-outlier")
def odd_intensities(survey: Survey) -> Iterator[Finding]:
    """A range of intensities unlike that of the other cases."""
    count = max((facts.num_channels for facts in survey.facts), default=0)
    for number in range(count):
        found = {
            facts.case_id: facts.channels[number].percentiles
            for facts in survey.facts
            if number < facts.num_channels
        }
        if not found:
            continue
        ranges = {
            case: log(value[4] - value[0]) for case, value in found.items() if value[4] > value[0]
        }
        odd = outliers(ranges, least=log(4))
        # other units than those of CT are arbitrary, and each case is normalized by itself
        severity = Severity.WARNING if _is_ct(survey, number) else Severity.NOTE
        for facts in _those(survey, odd):
            low, _, middle, _, high = facts.channels[number].percentiles
            message = (
                f"{_channel(facts, number)} lies between {low:.4g} and {high:.4g} with a median of "
                f"{middle:.4g}, unlike most other cases"
            )
            yield facts.about_image(severity, "intensity-outlier", message)


def _is_ct(survey: Survey, number: int) -> bool:
    """Whether most images hold air in Hounsfield units; other units differ between scans."""
    lows = [facts.channels[number].minimum for facts in survey.facts if number < facts.num_channels]
    return sum(low <= AIR_HU for low in lows) * 2 > len(lows)


def _those(survey: Survey, odd: dict[str, float]) -> Iterator[CaseFacts]:
    return (facts for facts in survey.facts if facts.case_id in odd)


def _channel(facts: CaseFacts, number: int) -> str:
    return "the image" if facts.num_channels == 1 else f"channel {number}"


def _channels(number: int) -> str:
    return f"{number} channel{'' if number == 1 else 's'}"


def _mm(spacing: tuple[float, ...]) -> str:
    return " x ".join(f"{edge:.4g}" for edge in spacing) + " mm"


def _times(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) + " voxels"
