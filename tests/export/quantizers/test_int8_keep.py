"""Sites that a quantized file keeps in fp32."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from rfx.core.errors import UsageError
from rfx.export.onnx import export_onnx
from rfx.export.quantizers.onnxruntime import OnnxRuntimeDynamic, integer_weights
from rfx.export.quantizers.products import module_of, weights_of_products
from rfx.models.families.find import find_sites
from tests.families import make, text_inputs

NAMES = ("input_ids", "attention_mask")
GIVEN = {
    "input_ids": np.arange(2, 16).reshape(2, 7),
    "attention_mask": np.array([[1] * 7, [1] * 5 + [0] * 2]),
}


@pytest.fixture(scope="module")
def model():
    return make("bert")


def write(model, folder, **more):
    given = {"inputs": text_inputs(NAMES), "output_names": ("logits",), **more}
    return onnx.load(export_onnx(model, folder / "m.onnx", **given))


def logits(proto):
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, GIVEN)[0]


def test_all_kept_is_the_fp32_file_and_all_but_one_changes_that_one_alone(model, tmp_path):
    plain = write(model, tmp_path)
    modules = {module_of(name) for name in weights_of_products(plain)}
    whole = write(model, tmp_path, precision="int8", keep_fp32=modules)
    np.testing.assert_array_equal(logits(whole), logits(plain))
    site = next(s for s in find_sites(model) if s.name == "layer.1.ffn")
    own = {*site.inputs, site.output}
    one = write(model, tmp_path, precision="int8", keep_fp32=modules - own)
    assert {module_of(name) for name in integer_weights(one)} == own
    assert OnnxRuntimeDynamic(keep_fp32=modules - own).compare(plain, one) == (2, [])
    assert (
        len(OnnxRuntimeDynamic().compare(plain, one)[1]) == len(modules) - 2
    )  # what should be in integers
    assert 0 < np.abs(logits(one) - logits(plain)).max() < 0.2


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_only_what_is_quantized_can_keep_something(model, precision, tmp_path):
    with pytest.raises(UsageError, match="quantizes nothing") as refused:
        write(model, tmp_path, precision=precision, keep_fp32=["classifier"])
    assert "--keep-fp32" in refused.value.next_step and not list(tmp_path.glob("*.onnx"))
