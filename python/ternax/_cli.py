"""The console script ``ternax``: the same Rust code as the binary."""

from __future__ import annotations

import os
import sys

from ternax import _host


def main() -> None:
    """Runs the command on this process's arguments and exits with its code."""
    arguments = [os.fsencode(argument) for argument in sys.argv[1:]]
    sys.exit(int(_host.call("command", *_host.texts(arguments))))
