"""A target for the coverage-guided fuzzer atheris, to be run by hand. It is no part of the suite.

    pip install atheris
    python tests/fuzz/atheris_documents.py recipe -max_total_time=600 CORPUS_FOLDER

The first argument is the reader (see TARGETS in tests/fuzz/targets.py); the rest are libFuzzer's. A
crash is an input for which something but a `UserError` came out; libFuzzer writes it to a file.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))


def main() -> None:
    import atheris

    with atheris.instrument_imports(include=["rfx"]):
        from tests.fuzz.targets import TARGETS, fed

    name = sys.argv.pop(1) if len(sys.argv) > 1 else ""
    if name not in TARGETS:
        sys.exit(f"usage: {sys.argv[0]} ({' | '.join(TARGETS)}) [options of libFuzzer]")
    atheris.Setup(sys.argv, lambda data: fed(name, data))
    atheris.Fuzz()


if __name__ == "__main__":
    main()
