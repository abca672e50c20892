"""The small transformer."""

import torch

from linkboy.classify.models._transformer import TextTransformer


def test_a_transformer_sees_the_order_of_tokens_and_survives_texts_without_any(tmp_path):
    torch.manual_seed(0)
    model = TextTransformer(50, 3, max_length=8).eval()
    one, other = model(torch.tensor([[1, 2, 3]])), model(torch.tensor([[3, 2, 1]]))
    assert (one - other).abs().max() > 1e-4
    empty = model(torch.zeros(2, 5, dtype=torch.int64))
    torch.testing.assert_close(empty, model.head.bias.expand(2, 3))
    assert model(torch.ones(1, 30, dtype=torch.int64)).isfinite().all()
