"""Two processes under DistributedDataParallel end with the rows of one that sees both batches; run with `pytest -m scale`."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tests.embeddings.gloo_worker import FROZEN, STEPS, batch, make_model, train

HERE = Path(__file__).parent
ROOT = HERE.parents[1]

pytestmark = pytest.mark.scale


def test_two_processes_keep_the_frozen_rows_and_train_the_others_as_one_would(tmp_path):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT / 'src'}"}
    running = [
        subprocess.Popen(
            [sys.executable, HERE / "gloo_worker.py", str(rank), tmp_path], env=environment, stderr=subprocess.PIPE, text=True
        )
        for rank in range(2)
    ]  # fmt: skip
    for process in running:
        _, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
    for sparse in (False, True):
        states = [torch.load(tmp_path / f"rank{rank}-{sparse}.pt", weights_only=True) for rank in range(2)]
        alone = make_model(seed=0, sparse=sparse)
        start = alone[0].weight.detach()
        pairs = [(batch(step, 0), batch(step, 1)) for step in range(STEPS)]
        train(alone, [tuple(map(torch.cat, zip(*pair, strict=True))) for pair in pairs], sparse=sparse)
        for name, value in alone.state_dict().items():
            torch.testing.assert_close(states[0][name], value)
            assert torch.equal(states[0][name], states[1][name])
        assert torch.equal(states[1]["0.weight"][FROZEN], start[FROZEN])
        assert not torch.equal(states[1]["0.weight"], start)
