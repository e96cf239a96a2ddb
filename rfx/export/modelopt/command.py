"""The command line: `python -m rfx.quantize`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from rfx.core.entry import Parser, result, run_command, say, start
from rfx.core.errors import ExitCode
from rfx.core.streams import messages
from rfx.export.modelopt.quantize import INSTALL, METHODS, PRECISIONS, quantize


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m rfx.quantize",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="INT8 or FP8 by explicit Q/DQ, for an fp32 ONNX file of rfx. Runs in an "
        "environment of its own:\n"
        f"  {INSTALL.replace(' && ', chr(10) + '  ')}",
        epilog="Faster is not promised and accuracy is not kept for sure: measure both, see "
        "docs/pages/how-to/quantization.md.",
    )
    parser.add_argument("model", type=Path, help="fp32 ONNX file")
    parser.add_argument(
        "--calibration",
        type=Path,
        required=True,
        help="npz: an int64 array [examples, tokens] for each input",
    )
    parser.add_argument(
        "--precision", choices=PRECISIONS, required=True, help="of the matrix products"
    )
    parser.add_argument("--out", "-o", type=Path, required=True, help="the quantized ONNX file")
    parser.add_argument(
        "--attention",
        action="store_true",
        help="the products of the attention too, not only the linears",
    )
    parser.add_argument(
        "--method", choices=METHODS, default="max", help="how ranges are chosen (max)"
    )
    talk = parser.add_mutually_exclusive_group()
    talk.add_argument(
        "--quiet", "-q", action="store_true", help="nothing but the result and errors"
    )
    talk.add_argument("--verbose", "-v", action="store_true", help="modelopt's messages too")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Quantize one file and print one line of JSON; returns the exit code (those of
    `rfx.core.errors.ExitCode`)."""
    options = _parser().parse_args(argv)

    def command() -> int:
        facts = quantize(
            options.model,
            options.calibration,
            options.out,
            precision=options.precision,
            attention=options.attention,
            method=options.method,
            note=(lambda text: None) if options.quiet else say,
            chatter=messages() if options.verbose else None,
        )
        result(facts)
        return int(ExitCode.PASS)

    return run_command(command, interrupted=lambda: "Nothing was written.", show=options.verbose)


if __name__ == "__main__":
    start(main)
