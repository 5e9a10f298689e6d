"""``fit --target-domain``: unlabeled images of another domain that a network adapts to."""

from dataclasses import replace

from medseg3d.config import FitConfig
from medseg3d.data.cases import Case, find_inputs
from medseg3d.errors import ConfigError
from medseg3d.networks import NETWORKS

TARGET = "target:"
"""What ids of its cases begin with, since those of the source may be the same."""


def target_cases(config: FitConfig) -> list[Case]:
    """The images of the target domain, without labels; none if there is no such domain.

    Raises:
        DataError: If the folder is missing, or holds no images or faulty ones.
    """
    if config.target_domain is None:
        return []
    found = find_inputs([config.target_domain])
    return [replace(case, id=f"{TARGET}{case.id}") for case in found]


def refuse_other_domains(config: FitConfig) -> None:
    """Find out before the work that network and target domain do not go together.

    Raises:
        ConfigError: If there is one and the network cannot adapt, or the reverse.
        DataError: If the domain holds no usable images.
    """
    name = config.network.name
    adapts = hasattr(NETWORKS[name], "translate")
    if config.target_domain is not None and not adapts:
        raise ConfigError(
            f"network {name!r} cannot adapt to a target domain; leave out --target-domain, or "
            "choose --network unet_gan"
        )
    if adapts and config.target_domain is None:
        raise ConfigError(
            f"network {name!r} adapts to images of another domain; give the folder that holds "
            "them with --target-domain"
        )
    target_cases(config)
