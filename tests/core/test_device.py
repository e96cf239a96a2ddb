"""Where tensors live."""

import torch

import rfx.core.device as device


def test_what_torch_keeps_of_the_gpu_is_given_back(monkeypatch):
    said = []

    class Model:
        def parameters(self):
            return iter([torch.zeros(1)])

        def to(self, where):
            said.append(str(where))

    monkeypatch.setattr(device, "default_device", lambda: torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: said.append("emptied"))
    with device.on_best_device(Model()):
        said.append("work")
    assert said == ["cuda", "work", "cpu", "emptied"]
