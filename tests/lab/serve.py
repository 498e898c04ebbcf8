"""Runs JupyterLab until standard input ends, so that no server outlives whoever started it."""

import os
import signal
import sys
import threading

from jupyterlab.labapp import main


def stop_at_the_end_of_input() -> None:
    """Wait for the other end of the pipe to close, however its process ended."""
    sys.stdin.read()
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    threading.Thread(target=stop_at_the_end_of_input, daemon=True).start()
    sys.exit(main())
