"""A task whose inputs are no text, and a family that nobody has read: each is one part that
registers itself, and the job goes through."""

import json

import numpy as np
import pytest

import rfx
from rfx.core.inputs import BATCH, InputSpec, TensorInput
from rfx.core.plan import Kind, Site
from rfx.tasks.base import Example, Feature
from rfx.tasks.columns import column, field
from rfx.tasks.find import task_class

SIZE, PATCH, CLASSES = 16, 4, 3
TOKENS = (SIZE // PATCH) ** 2 + 1


class Scaling:
    """Grey values 0..255 to -1..1."""

    def __call__(self, pixels):
        picture = np.asarray(pixels, dtype=np.float32).reshape(1, SIZE, SIZE)
        return np.repeat(picture, 3, axis=0) / 127.5 - 1  # [3, H, W]

    def save_pretrained(self, folder):
        (folder / "preprocessor_config.json").write_text(json.dumps({"scale": 1 / 127.5}))


class Pictures(task_class("text-classification")):
    """Rows of grey values, as a list each, and their class."""

    name = "pictures"
    auto_class = "AutoModelForImageClassification"
    roles = ("image", "label")

    @classmethod
    def load_preprocessor(cls, source):
        return Scaling()

    @classmethod
    def input_spec(cls, model, preprocessor):
        axes = (BATCH, 3, SIZE, SIZE)
        return InputSpec((TensorInput("pixel_values", "float32", axes, "normal"),))

    def length(self, feature):
        return TOKENS

    def examples(self, rows, *, need_labels=True):
        image = column(rows, "image", {"image": "image"} | self.columns)
        return [Example({"image": list(field(row, image))}, int(row["label"])) for row in rows]

    def encode(self, examples):
        return [
            Feature(
                i,
                {"pixel_values": self.tokenizer(e.inputs["image"])},
                {"labels": np.asarray(e.label, dtype=np.int64)},
                {"tokens": TOKENS},
            )
            for i, e in enumerate(examples)
        ]

    def collate(self, features, pad_to=None):
        return {"pixel_values": np.stack([f.ids["pixel_values"] for f in features])}


class ViT:
    """The layers of transformers' ViT, as module paths."""

    name = "vit-of-a-test"
    model_types = ("vit",)

    def sites(self, model):
        found = []
        for i, layer in enumerate(model.vit.layers):
            at, heads = f"vit.layers.{i}", model.config.num_attention_heads
            width = layer.attention.o_proj.in_features // heads
            parts = [f"{at}.attention.{n}_proj" for n in "qkv"]
            norm = f"{at}.layernorm_after"
            after = f"vit.layers.{i + 1}.layernorm_before"
            if i + 1 == len(model.vit.layers):
                after = "vit.layernorm"
            found += [
                Site(
                    *(f"layer.{i}.mha", i, Kind.MHA, heads, width, tuple(parts)),
                    *(f"{at}.attention.o_proj", f"{at}.attention", at, norm, 2),
                ),
                Site(
                    *(f"layer.{i}.ffn", i, Kind.FFN, layer.mlp.fc2.in_features, 1),
                    *((f"{at}.mlp.fc1",), f"{at}.mlp.fc2", f"{at}.mlp", at, after, 0),
                ),
            ]
        return found


def pictures(n, seed):
    """A bright square in one of three places, on noise."""
    rng = np.random.default_rng(seed)
    rows = []
    for label in rng.integers(0, CLASSES, n):
        grey = rng.integers(0, 90, (SIZE, SIZE))
        grey[5 * label : 5 * label + 5, 5 * label : 5 * label + 5] += 150
        rows.append({"image": grey.ravel().tolist(), "label": int(label)})
    return rows


@pytest.fixture(scope="module")
def trained_on_pictures(tmp_path_factory):
    import torch
    import transformers

    folder = tmp_path_factory.mktemp("pictures")
    for name, n, seed in (("train", 256, 0), ("dev", 120, 1)):
        text = "".join(json.dumps(row) + "\n" for row in pictures(n, seed))
        (folder / f"{name}.jsonl").write_text(text)
    torch.manual_seed(0)
    config = transformers.ViTConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        image_size=SIZE,
        patch_size=PATCH,
        num_labels=CLASSES,
    )
    model = transformers.ViTForImageClassification(config)
    scale, rows = Scaling(), pictures(256, 0)
    inputs = torch.from_numpy(np.stack([scale(r["image"]) for r in rows]))
    labels = torch.tensor([r["label"] for r in rows])
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3)
    for _ in range(4):
        for part in torch.randperm(len(rows)).split(32):
            loss = model(pixel_values=inputs[part], labels=labels[part]).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    model.eval().save_pretrained(folder / "model")
    return folder


def test_a_model_of_pictures_is_pruned_and_proved(trained_on_pictures, cache, forgets, tmp_path):
    rfx.register("task", "pictures")(Pictures)
    rfx.register("family", "vit-of-a-test")(ViT)
    folder = trained_on_pictures
    recipe = rfx.Recipe(
        model=str(folder / "model"),
        task="pictures",
        target="ort",
        data={"train": str(folder / "train.jsonl"), "eval": str(folder / "dev.jsonl")},
        budget={"flops": 0.6},
        calibration={"examples": 128},
    )
    evidence = rfx.prune_export(recipe, tmp_path / "out")
    gates = {g.name: g.outcome for g in evidence.gates}
    assert gates["shrunk"] == gates["same"] == "pass", evidence.gates
    assert evidence.accuracy.dense > 0.9 and evidence.accuracy.pruned > 0.6
    assert evidence.flops_ratio <= 0.6 and evidence.latency.ratio < 1
    config = (tmp_path / "out" / "triton").glob("*/config.pbtxt")
    assert "pixel_values" in next(config).read_text()
    assert {g.name: g.outcome for g in rfx.verify(tmp_path / "out").gates}["same"] == "pass"
