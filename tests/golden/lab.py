"""What the golden tests run: the command line on tiny models that are made here. Of rfx only its
`app` is known."""

from __future__ import annotations

import json
from pathlib import Path

from filelock import FileLock
from typer.main import get_command

from rfx.cli.app import app
from tests.commands import given, run
from tests.conftest import sentences, tokenizer, write_jsonl

HERE = Path(__file__).parent
METHODS = ("rfx", "kwon", "kwon-reference", "kprune", "magnitude", "random")
MODELS = ("bert", "distilbert")
# What they remove first is not all they decide: the plan of a whole run is kept too.
EXPORTED = (
    "rfx",
    "kprune",
)


def kept(name: str) -> dict:
    return json.loads((HERE / name).read_text(encoding="utf-8"))


def options() -> dict[str, list[str]]:
    """Per command the names of its options and arguments; "" is the command line's own."""
    root = get_command(app)

    def names(command) -> list[str]:
        return sorted(
            n
            for p in command.params
            for n in (
                [p.name.upper()]
                if p.param_type_name == "argument"
                else [*p.opts, *p.secondary_opts]
            )
        )

    return {
        "": names(root),
        **{name: names(command) for name, command in sorted(root.commands.items())},
    }


def help_text(command: str) -> str:
    text = run(
        *[command] * bool(command), "--help", COLUMNS="100", TERM="dumb", NO_COLOR="1"
    ).output
    return "".join(line.rstrip() + "\n" for line in text.splitlines())


def _model(name: str, folder: Path) -> None:
    """Random weights, LayerNorms and biases away from their trivial start."""
    import torch
    import transformers as tf

    folder.mkdir()
    words = tokenizer(folder)
    torch.manual_seed(0)
    if name == "bert":
        model = tf.BertForSequenceClassification(
            tf.BertConfig(
                vocab_size=120,
                hidden_size=32,
                num_hidden_layers=3,
                num_attention_heads=4,
                intermediate_size=48,
                max_position_embeddings=66,
            )
        )
    else:
        model = tf.DistilBertForSequenceClassification(
            tf.DistilBertConfig(
                vocab_size=120,
                dim=32,
                n_layers=3,
                n_heads=4,
                hidden_dim=48,
                max_position_embeddings=66,
            )
        )
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p) * (0.2 if p.dim() > 1 else 0.1))
    model.eval().save_pretrained(folder)
    words.save_pretrained(folder)


class Lab:
    """Results by name, each made once, whichever process asks first."""

    def __init__(self, folder: Path):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / "models.lock"):
            for name, n, seed in (("train", 200, 0), ("eval", 100, 1)):
                file = folder / f"{name}.jsonl"
                if not file.exists():
                    write_jsonl(file, sentences(n, seed))
            for name in MODELS:
                if not (folder / name).exists():
                    _model(name, folder / name)

    def _result(self, command: str, model: str, method: str, *more: object) -> dict:
        name = f"{command}-{model}-{method}"
        file = self.folder / f"{name}.json"
        with FileLock(self.folder / f"{name}.lock"):
            if not file.exists():
                files = {n: self.folder / f"{n}.jsonl" for n in ("train", "eval")}
                chosen = {"flops": 0.5, "method": method, "examples": 128}
                more = (*more, "--allow-weak-baseline")  # the models are not trained
                arguments = given(
                    {"model": self.folder / model, **files}, task="text-classification", **chosen
                )
                cache = str(self.folder / "cache")
                result = run(command, *arguments, "--json", *more, RFX_CACHE=cache)
                # a tiny model's latency is no matter here: its gate may fail (1) or be inconclusive
                # (7)
                assert result.exit_code in (0, 1, 7) and result.stdout.startswith("{"), (
                    f"{result.output}{result.exception!r}"
                )
                file.write_text(result.stdout, encoding="utf-8")
        return json.loads(file.read_text(encoding="utf-8"))

    def plan(self, model: str, method: str) -> dict:
        return self._result("plan", model, method)

    def evidence(self, model: str, method: str) -> dict:
        return self._result(
            "prune-export",
            model,
            method,
            "--target",
            "ort",
            "--sequence",
            "16",
            "--out",
            self.folder / f"out-{model}-{method}",
        )


def decided(plan: dict) -> dict:
    """All of a plan that a refactor must keep, bit for bit."""
    return {"hash": plan["hash"], "kept": {s["name"]: s["kept"] for s in plan["sites"]}}


# Evidence: the tree of its keys, and the values that depend on no clock and no machine.

OPEN = (
    "environment.versions",  # its keys depend on what is installed
    "recipe.origin",  # one key for each setting of a recipe
)


def shape(tree, path: str = "") -> dict[str, str]:
    """{path: type of the leaf}; `[]` stands for every entry of a list, `*` for every key of an open
    mapping."""
    if isinstance(tree, dict) and tree:
        found: dict[str, set[str]] = {}
        for key, value in tree.items():
            for p, kind in shape(
                value, f"{path}.{'*' if path in OPEN else key}".lstrip(".")
            ).items():
                found.setdefault(p, set()).update(kind.split("|"))
    elif isinstance(tree, list) and tree:
        found = {}
        for value in tree:
            for p, kind in shape(value, path + "[]").items():
                found.setdefault(p, set()).update(kind.split("|"))
    else:
        return {
            path: "null"
            if tree is None
            else "empty " + type(tree).__name__
            if isinstance(tree, (dict, list))
            else type(tree).__name__
        }
    return {p: "|".join(sorted(kinds)) for p, kinds in found.items()}


def at(tree, path: str):
    """The value at a path of `shape`; with `[]` in it, the list of them."""
    head, _, rest = path.partition(".")
    value = tree[head.removesuffix("[]")]
    if head.endswith("[]"):
        return [at(v, rest) if rest else v for v in value]
    return at(value, rest) if rest else value
