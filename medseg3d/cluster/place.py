"""Where the workers are: the address on the command line."""

import re
from dataclasses import dataclass

from medseg3d.errors import ConfigError

_LOCAL = re.compile(r"local:([1-9]\d{0,3})", re.ASCII)
_SCHEDULER = re.compile(r"(?:(?:tcp|tls)://)?(?:[\w.-]+|\[[0-9a-fA-F:.]+\]):\d{1,5}", re.ASCII)


@dataclass(frozen=True)
class Here:
    """Processes of this machine, which end with this one."""

    num_workers: int


@dataclass(frozen=True)
class Elsewhere:
    """The workers of a scheduler that somebody has started."""

    address: str


def parse_address(text: str) -> Here | Elsewhere:
    """Read ``local:N`` or the address of a scheduler.

    Raises:
        ConfigError: If it is neither.

    Examples:
        >>> parse_address("local:4"), parse_address("tcp://10.0.0.1:8786")
        (Here(num_workers=4), Elsewhere(address='tcp://10.0.0.1:8786'))
    """
    text = text.strip()
    if local := _LOCAL.fullmatch(text):
        return Here(int(local[1]))
    if _SCHEDULER.fullmatch(text) and not text.startswith("local:"):
        return Elsewhere(text if "://" in text else f"tcp://{text}")
    raise ConfigError(
        "cluster: expected local:N for N processes of this machine, or the address of a Dask "
        f"scheduler such as tcp://10.0.0.1:8786, got {text!r}"
    )
