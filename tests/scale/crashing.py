"""Run by torchrun: train with a checkpoint every step; once, process 1 kills itself in the middle of a step."""

import os
import signal
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from tests.training.helpers import small_run

from linkboy.training import Checkpointer, fit, is_main_process, process_count, process_index, wait_for_everyone


def main(out: Path, crash_at: int) -> None:
    torch.set_num_threads(1)
    wait_for_everyone()
    assert process_count() == 2
    model, cross_entropy, optimizer, loader, scheduler = small_run()
    calls, marker = [], out / "crashed"

    def loss_fn(output, target):
        """The loss; in its call number `crash_at` process 1 is gone."""
        calls.append(1)
        if len(calls) == crash_at and process_index() == 1 and not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return cross_entropy(output, target)

    history = fit(
        model, loss_fn, optimizer, loader, scheduler=scheduler, epochs=3, accumulate=2, seed=7, progress=False, log=(),
        checkpoint=Checkpointer(out / "checkpoints", every_steps=1), device="cpu",
    )  # fmt: skip
    if is_main_process():
        save_file(model.state_dict(), out / "model.safetensors")
        print(f"{history.steps} steps, resumed from {history.resumed_from}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
