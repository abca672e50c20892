"""The auto-encoder of the tip list is initialised by one call, nothing left out, and its signal gets through."""

import importlib.util
from pathlib import Path

EXAMPLE = Path(__file__).parents[2] / "examples" / "initialize_by_rule.py"


def test_one_call_initialises_every_tensor_of_the_auto_encoder(capsys):
    spec = importlib.util.spec_from_file_location("initialize_by_rule", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.main()
    printed = capsys.readouterr().out
    assert "signal after: healthy" in printed
    assert "unmatched" not in printed
    assert "encoder.0.0.weight" in printed
    model = module.CsiAutoEncoder()
    assert model(module.torch.zeros(2, 2, 32, 32)).shape == (2, 2, 32, 32)
