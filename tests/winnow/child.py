"""A program for the supervisor's tests: `NAME DIRECTORY [die|stubborn]` notes its start and its SIGTERM in a file."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

if __name__ == "__main__":
    name, directory, *manner = sys.argv[1:]
    notes = Path(directory) / "notes"

    def note(what: str) -> None:
        with notes.open("a") as file:
            file.write(f"{name} {what} {os.getpid()}\n")

    def stop(*_: object) -> None:
        note("stopped")
        if "stubborn" not in manner:
            sys.exit(0)

    signal.signal(signal.SIGTERM, stop)
    note("started")
    print(f"{name} says hello", flush=True)
    if "die" in manner:
        sys.exit(7)
    while True:
        time.sleep(0.05)
