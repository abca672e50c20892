"""The auto-encoder runs, learns through the quantiser, and draws its picture."""

import importlib.util
from pathlib import Path

import torch

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_the_auto_encoder_trains_through_its_quantiser_and_draws(tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(EXAMPLES)
    spec = importlib.util.spec_from_file_location("csi_autoencoder", EXAMPLES / "csi_autoencoder.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    picture = tmp_path / "nmse.png"
    curves = module.main(str(picture), steps=4)
    assert {len(values) for values in curves.values()} == {len(module.BITS)}
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert "bits per number" in capsys.readouterr().out

    x = module.clustered_channels(2, torch.Generator().manual_seed(1))
    assert x.shape == (2, 2, 32, 32)
    assert 0 < x.min() < x.max() < 1
    model = module.CsiAutoEncoder()
    module.restore(model, x, bits=2).sum().backward()
    assert model.encoder[0][0].weight.grad.abs().sum() > 0
