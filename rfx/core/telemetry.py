"""Reports that other libraries send to their makers are switched off: a run of rfx opens no
connection of its own.

Some of rfx's dependencies report their use when they are imported: the wheels of ONNX Runtime from
1.32 on, OpenVINO, and the client of the Hugging Face Hub. `import rfx` comes before all of them and
switches the reports off, in this process and in those that it starts. A variable that the user has
set stays as it is, and `RFX_ALLOW_TELEMETRY=1` leaves everything as the libraries have it.
"""

from __future__ import annotations

import os
import sys

ALLOW = "RFX_ALLOW_TELEMETRY"
SWITCHES = {
    # Read when the library is loaded; its disable_telemetry_events() comes too late.
    "ORT_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    # https://consoledonottrack.com, which the client of the Hub and others obey.
    "DO_NOT_TRACK": "1",
}
# Packages that do nothing but report. Who imports one finds that it is not installed, for which
# OpenVINO (that has no variable to switch it off) is prepared.
REPORTERS = ("openvino_telemetry",)


def switch_off() -> None:
    """Switch the reports off, unless the user wants them. Safe to call twice."""
    if os.environ.get(ALLOW, "").strip().lower() in ("1", "true", "yes", "on"):
        return
    for name, value in SWITCHES.items():
        os.environ.setdefault(name, value)
    for name in REPORTERS:
        sys.modules.setdefault(name, None)  # type: ignore[arg-type]
