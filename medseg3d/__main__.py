"""``python -m medseg3d``: the command line where the script is not on the path."""

from medseg3d.cli import main

if __name__ == "__main__":
    main()
