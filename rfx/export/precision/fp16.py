"""fp16: five bits of exponent and ten of mantissa (IEEE 754 binary16)."""

from __future__ import annotations

import numpy as np

from rfx.export.precision.base import Half


def _patterns(values: np.ndarray) -> np.ndarray:
    return values.astype("<f2").view("<u2")


FP16 = Half("fp16", "FLOAT16", "tensor(float16)", 65504.0, _patterns)
