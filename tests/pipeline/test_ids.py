"""Tables of ids: models that are fed no tokens have none."""

import types

import pytest
import torch

from rfx.pipeline.ids import table_sizes


class Model(torch.nn.Module):
    def __init__(self, embeddings):
        super().__init__()
        self.embeddings = embeddings

    def get_input_embeddings(self):
        if isinstance(self.embeddings, type):
            raise self.embeddings("not fed tokens")
        return self.embeddings


@pytest.mark.parametrize("error", [NotImplementedError, AttributeError])
def test_a_model_that_is_not_fed_tokens_has_no_table(error):
    """ConvNeXt and Wav2Vec2 raise."""
    assert table_sizes(types.SimpleNamespace(model=Model(error))) == {}
    assert table_sizes(types.SimpleNamespace(model=torch.nn.Linear(1, 1))) == {}
    table = torch.nn.Embedding(7, 2)
    assert table_sizes(types.SimpleNamespace(model=Model(table))) == {"input_ids": 7}
    assert table_sizes(types.SimpleNamespace(model=Model(torch.nn.Conv2d(3, 4, 2)))) == {}
