"""`python -m v4kit` is the console command."""

import sys

from v4kit.cli import main

if __name__ == "__main__":
    sys.exit(main())
