"""The start of the program, as ``medseg3d`` or ``python -m medseg3d``."""

import sys


def main() -> None:
    """Run the command line; Ctrl-C while it is being loaded ends it without a word."""
    if sys.platform == "win32":
        sys.exit("medseg3d: this is Windows, and medseg3d runs on Linux; run it in WSL")
    try:
        from medseg3d import cli
    except KeyboardInterrupt:
        sys.exit(130)
    cli.main()


if __name__ == "__main__":
    main()
