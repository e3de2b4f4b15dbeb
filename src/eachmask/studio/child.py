"""The child process of a job: the package's own command, ended as by Ctrl-C once the studio that began it is gone."""

from __future__ import annotations

import os
import runpy
import signal
import sys
import threading


def main() -> None:
    """Run ``eachmask`` with this process's arguments; standard input is a pipe that the studio holds open."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the studio runs in a shell's background
    threading.Thread(target=_end_with_studio, daemon=True).start()
    sys.argv[0] = "eachmask"
    runpy.run_module("eachmask", run_name="__main__", alter_sys=True)


def _end_with_studio() -> None:
    os.read(0, 1)  # nothing is ever written: it returns when the other end is closed, also by kill -9
    os.kill(os.getpid(), signal.SIGINT)


if __name__ == "__main__":
    main()
