"""python -m minidit COMMAND; see --help."""

import signal
import sys

from minidit.cli import main

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.exit(main())
