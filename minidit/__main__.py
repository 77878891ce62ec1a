"""python -m minidit COMMAND; see --help."""

import signal
import sys

from minidit.cli import main

if __name__ == "__main__":
    if signal.getsignal(signal.SIGINT) == signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.exit(main())
