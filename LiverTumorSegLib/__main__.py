"""`python -m LiverTumorSegLib` is the command line."""

import sys

from LiverTumorSegLib.cli import main

if __name__ == "__main__":
    sys.exit(main())
