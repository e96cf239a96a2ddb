"""The Fisher probe: the second moment of its gradient is the Fisher information of the predictive
distribution."""

from itertools import count
from types import SimpleNamespace

import pytest
import torch

from rfx.methods.scores.predictive import Signs, fisher_probe, knowledge_probe, residual_probe


def second_moment(probe, logits, draws=20000):
    """Mean over draws of v vT, v the gradient of each example's probe in its logits: [batch, C,
    C]."""
    total = 0
    for _ in range(draws // 1000):
        z = logits.detach().repeat(1000, *[1] * (logits.dim() - 1)).requires_grad_(True)
        probe(z).sum().backward()
        v = z.grad.flatten(1).view(1000, len(logits), -1)
        total = total + torch.einsum("dbi,dbj->bij", v, v) / draws
    return total


def fisher(p):
    return torch.diag_embed(p) - p[:, :, None] * p[:, None, :]


@pytest.mark.parametrize("classes", [2, 5])
def test_the_second_moment_is_the_fisher_information(classes):
    logits = torch.randn(3, classes, generator=torch.Generator().manual_seed(0)) * 2
    seeds = count()
    found = second_moment(
        lambda z: fisher_probe(SimpleNamespace(logits=z), {}, ("logits",), Signs(next(seeds))),
        logits,
    )
    torch.testing.assert_close(found, fisher(logits.softmax(-1)), atol=0.02, rtol=0)


def test_two_classes_take_no_chance():
    logits = torch.randn(4, 2)
    values = [
        fisher_probe(SimpleNamespace(logits=logits), {}, ("logits",), Signs(seed)).abs()
        for seed in (0, 1)
    ]
    torch.testing.assert_close(*values)


def test_spans_leave_padding_out_and_are_independent_of_each_other():
    start, end = torch.randn(2, 6), torch.randn(2, 6)
    inputs = {"attention_mask": torch.tensor([[1] * 6, [1] * 4 + [0] * 2])}
    seeds = count()

    def probe(z):
        times = len(z) // 2
        outputs = SimpleNamespace(start_logits=z[:, :6], end_logits=z[:, 6:])
        return fisher_probe(
            outputs,
            {"attention_mask": inputs["attention_mask"].repeat(times, 1)},
            ("start_logits", "end_logits"),
            Signs(next(seeds)),
        )

    found = second_moment(probe, torch.cat([start, end], 1))
    p = [x.masked_fill(inputs["attention_mask"] == 0, -1e4).softmax(-1) for x in (start, end)]
    wanted = torch.stack([torch.block_diag(fisher(p[0])[i], fisher(p[1])[i]) for i in range(2)])
    torch.testing.assert_close(found, wanted, atol=0.03, rtol=0)
    assert (found[1][[4, 5, 10, 11]] == 0).all()


def test_tokens_are_averaged_over_real_ones():
    logits = torch.randn(2, 4, 3)
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    seeds = count()
    found = second_moment(
        lambda z: fisher_probe(
            SimpleNamespace(logits=z),
            {"attention_mask": mask.repeat(len(z) // 2, 1)},
            ("logits",),
            Signs(next(seeds)),
        ),
        logits,
    )
    p = logits.softmax(-1)
    wanted = torch.stack(
        [
            torch.block_diag(
                *(fisher(p[i])[t] * float(mask[i, t]) / mask[i].sum() for t in range(4))
            )
            for i in range(2)
        ]
    )
    torch.testing.assert_close(found, wanted, atol=0.02, rtol=0)


def test_knowledge_adds_the_gradient_of_kl_to_the_teachers_fisher_information():
    z, teacher, T = torch.randn(2, 4), torch.randn(2, 4), 2.0
    seeds = count()
    found = second_moment(
        lambda x: knowledge_probe(
            SimpleNamespace(logits=x),
            {},
            ("logits",),
            Signs(next(seeds)),
            {"logits": teacher.repeat(len(x) // 2, 1)},
            T,
        ),
        z,
    )
    p, q = (z / T).softmax(-1), (teacher / T).softmax(-1)
    leaf = z.clone().requires_grad_(True)
    (T**2 * (q * (q.log() - (leaf / T).log_softmax(-1))).sum()).backward()
    wanted = leaf.grad[:, :, None] * leaf.grad[:, None, :] + T**2 * fisher(q)
    torch.testing.assert_close(leaf.grad, T * (p - q))
    torch.testing.assert_close(found, wanted, atol=0.05, rtol=0)


def test_a_regression_has_a_second_moment_of_one_at_its_teacher():
    z = torch.randn(3, 1)
    found = second_moment(
        lambda x: fisher_probe(SimpleNamespace(logits=x), {}, ("logits",), Signs(0)), z, 1000
    )
    torch.testing.assert_close(found, torch.ones(3, 1, 1))


def test_away_from_its_teacher_a_regression_has_one_and_the_squared_error():
    z, teacher = torch.randn(3, 1), torch.randn(3, 1)
    found = second_moment(
        lambda x: knowledge_probe(
            SimpleNamespace(logits=x),
            {},
            ("logits",),
            Signs(0),
            {"logits": teacher.repeat(len(x) // 3, 1)},
            2.0,
        ),
        z,
        1000,
    )
    torch.testing.assert_close(
        found, (1 + (z - teacher).square())[:, :, None], rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("classes", [2, 4])
def test_the_residual_is_measured_along_the_probe_in_the_metric_of_the_teacher(classes):
    """The row's second moment is the teacher's Fisher information, and the target is the row times
    what is missing."""
    z, teacher, T = torch.randn(2, classes), torch.randn(2, classes), 2.0
    seeds, targets, rows = count(), [], []
    for _ in range(4000):
        x = z.clone().requires_grad_(True)
        scalar, target = residual_probe(
            SimpleNamespace(logits=x), {}, ("logits",), Signs(next(seeds)), {"logits": teacher}, T
        )
        scalar.sum().backward()
        rows.append(x.grad)
        targets.append(target)
    rows, targets = torch.stack(rows), torch.stack(targets)
    torch.testing.assert_close(targets, (rows * (teacher - z)).sum(-1), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        torch.einsum("dbi,dbj->bij", rows, rows) / len(rows),
        fisher((teacher / T).softmax(-1)),
        atol=0.03,
        rtol=0,
    )


def test_the_residual_of_a_regression_is_its_error():
    z, teacher = torch.randn(3, 1, requires_grad=True), torch.randn(3, 1)
    scalar, target = residual_probe(
        SimpleNamespace(logits=z), {}, ("logits",), Signs(0), {"logits": teacher}, 2.0
    )
    (rows,) = torch.autograd.grad(scalar.sum(), z)
    torch.testing.assert_close(target, (rows * (teacher - z).detach()).sum(-1))
    torch.testing.assert_close(rows.abs(), torch.ones(3, 1))


@pytest.mark.parametrize("kind", ["classes", "tokens", "spans"])
def test_the_signs_depend_on_the_example_alone(kind):
    """Not on the examples beside it, the pass it came in, or how far it is padded."""
    g = torch.Generator().manual_seed(0)
    lengths = [5, 3, 4, 2]

    def gradient(some, pad, first):
        mask = torch.tensor([[1] * n + [0] * (pad - n) for n in lengths[some]])
        if kind == "classes":
            outputs, names = (
                {"logits": torch.randn(4, 5, generator=g.manual_seed(1))[some]},
                ("logits",),
            )
        elif kind == "tokens":
            outputs, names = (
                {"logits": torch.randn(4, 5, 3, generator=g.manual_seed(1))[some]},
                ("logits",),
            )
            outputs = {"logits": torch.nn.functional.pad(outputs["logits"], (0, 0, 0, pad - 5))}
        else:
            outputs = {
                n: torch.randn(4, 5, generator=g.manual_seed(i))[some]
                for i, n in enumerate(("start_logits", "end_logits"))
            }
            outputs, names = (
                {n: torch.nn.functional.pad(z, (0, pad - 5)) for n, z in outputs.items()},
                tuple(outputs),
            )
        leaves = {n: z.requires_grad_(True) for n, z in outputs.items()}
        fisher_probe(
            SimpleNamespace(**leaves), {"attention_mask": mask}, names, Signs(7, first)
        ).sum().backward()
        return [z.grad[:, :5] for z in leaves.values()]

    whole = gradient(slice(0, 4), 5, 0)
    for a, b in zip(whole, gradient(slice(2, 4), 8, 2)):
        torch.testing.assert_close(a[2:], b)
    for a, b in zip(whole, gradient(slice(2, 4), 8, 0)):
        # Other examples of the sample: other signs.
        assert not torch.allclose(
            a[2:].abs() if kind == "classes" else a[2:], b.abs() if kind == "classes" else b
        )
