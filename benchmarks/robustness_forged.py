"""Forged evidence: every kind that the tests know, given to `rfx gate`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


def forged(folder: Path) -> dict[str, Any]:
    """How many kinds of forged evidence were made, how many were refused, and by what words.

    Args:
        folder: an empty one; the documents are written into it.
    """
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))
    from rfx.core.errors import UsageError
    from rfx.pipeline.gate import gate
    from tests.evidence import test_precision_evidence as quantized
    from tests.evidence import test_size_evidence as sizes
    from tests.evidence import test_vocabulary_evidence as vocabularies
    from tests.evidence.test_sound import FORGED, honest
    from tests.evidences import make_quantized

    def in_int8() -> dict[str, Any]:
        return quantized.document(make_quantized())

    def excluding() -> dict[str, Any]:
        return quantized.document(quantized.excluding())

    def sized() -> dict[str, Any]:
        return quantized.document(sizes.sized())

    def pruned() -> dict[str, Any]:
        return quantized.document(vocabularies.pruned())

    rows = []
    kinds = [(kind, forge, honest) for kind, (forge, _) in FORGED.items()]
    kinds += [(kind, forge, in_int8) for kind, (forge, _) in quantized.FORGED.items()]
    for kind, (forge, _) in quantized.FORGED_SITES.items():
        kinds.append((kind, lambda data, forge=forge: forge(data["quantization"]), excluding))
    kinds += [(kind, forge, sized) for kind, (forge, _) in sizes.FORGED.items()]
    kinds += [(kind, forge, pruned) for kind, (forge, _) in vocabularies.FORGED.items()]
    for number, (kind, forge, make) in enumerate(kinds):
        data = make()
        forge(data)
        file = folder / f"{number}.json"
        file.write_text(json.dumps(data), encoding="utf-8")
        try:
            gate(file)
            said = ""
        except UsageError as error:
            said = (error.got or "").replace(f"{file}: ", "")
        rows.append({"forged": kind, "refused": bool(said), "said": said[:160]})
    judged = {}
    judged_kinds = {
        "honest": honest,
        "honest-int8": in_int8,
        "honest-excluding": excluding,
        "honest-size": sized,
        "honest-vocabulary": pruned,
    }
    for name, make in judged_kinds.items():
        file = folder / f"{name}.json"
        file.write_text(json.dumps(make()), encoding="utf-8")
        judged[name] = gate(file).outcome
    return {
        "kinds": len(rows),
        "refused": sum(row["refused"] for row in rows),
        "the honest one is judged": judged["honest"],
        "the honest one in int8 is judged": judged["honest-int8"],
        "the honest one with sites in fp32 is judged": judged["honest-excluding"],
        "the honest one under a size is judged": judged["honest-size"],
        "the honest one with a smaller vocabulary is judged": judged["honest-vocabulary"],
        "rows": rows,
    }
