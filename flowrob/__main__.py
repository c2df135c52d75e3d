"""``python -m flowrob``: the command line of :mod:`flowrob.cli`."""

import sys

from flowrob.cli import main

if __name__ == "__main__":
    sys.exit(main())
