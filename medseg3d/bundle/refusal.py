"""How a model file is refused: whole and in one sentence."""

LONGEST = 500
COPY_AGAIN = "copy it again from where it was trained"
EXPORT = "give a run folder or a bundle, which medseg3d export RUN writes"


class UnfitError(ValueError):
    """Something in a model file breaks its contract.

    Args:
        finding: What was found, and what was expected.
        remedy: What to do.
    """

    def __init__(self, finding: str, remedy: str = COPY_AGAIN) -> None:
        super().__init__(f"{tamed(finding)}; {remedy}")


def tamed(text: str) -> str:
    r"""Text from a file, without line breaks and control characters, at a readable length.

    Examples:
        >>> tamed("unknown key '\x1b[2J'")
        "unknown key '?[2J'"
    """
    visible = "".join(letter if letter.isprintable() else "?" for letter in text[: LONGEST + 1])
    return visible if len(visible) <= LONGEST else f"{visible[:LONGEST]} ..."
