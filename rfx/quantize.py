"""`python -m rfx.quantize`, as documented; the code is in `rfx.export.modelopt`."""

from __future__ import annotations

from rfx.core.entry import start
from rfx.export.modelopt.command import main

if __name__ == "__main__":
    start(main)
