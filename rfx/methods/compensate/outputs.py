"""Between two layers of a walk: what the teacher's next layer reads."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rfx.core.plan import Site
from rfx.models.calls import HiddenStates
from rfx.models.streams import Trace, stream_is_output

if TYPE_CHECKING:
    import torch


class LayerOutputs:
    """Keeps the teacher's next hidden states without a third store: the closing site's target
    stream gives them by the layer's own LayerNorm, or is them (pre-LN). Where neither holds (a
    masked teacher) they are kept themselves."""

    def __init__(self, model: torch.nn.Module, closing: Site):
        self.model, self.closing, self.how = model, closing, ""

    def put(self, i: int, trace: Trace, teacher: HiddenStates, targets: HiddenStates) -> None:
        """After batch i: the target is stored; `teacher[i]` has been used and may be replaced."""
        import torch

        output = trace.output
        if output is None:  # a whole model, after which nothing comes
            return
        if not self.how:
            self.how = "keep"
            stream = trace.streams[self.closing.name]
            if stream_is_output(self.closing):
                rebuilt, how = stream, "same"
            else:
                rebuilt, how = self.model.get_submodule(self.closing.norm)(stream), "norm"
            if torch.equal(rebuilt, output) and (
                torch.equal(targets[i], stream.half().to(stream.dtype))
                or torch.equal(targets[i], stream)
            ):
                self.how = how
        if self.how == "keep":
            teacher[i] = output

    def to_next(self, teacher: HiddenStates, targets: HiddenStates) -> None:
        """`teacher` becomes the next layer's inputs."""
        for i in range(len(teacher)):
            if self.how == "norm":
                teacher[i] = self.model.get_submodule(self.closing.norm)(targets[i])
            elif self.how == "same":
                teacher[i] = targets[i]
