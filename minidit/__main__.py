"""python -m minidit COMMAND; see --help."""

import sys

from minidit.cli import main

if __name__ == "__main__":
    sys.exit(main())
