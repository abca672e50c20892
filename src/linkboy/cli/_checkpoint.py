"""Looking into the checkpoints of a training: checkpoint."""

import sys
from pathlib import Path

from linkboy._report import plural
from linkboy.cli._printing import show_report


def checkpoint(path: Path, /, *, weights: Path | None = None, json: bool = False) -> int:
    """Show what a directory of checkpoints holds, or write the weights of a model; the exit status is 1 if one is damaged.

    Parameters
    ----------
    path
        A directory that fit(checkpoint=...) saved to, or one step-<n> in it. Nothing in it is executed.
    weights
        A .safetensors file to write the model's weights to: those of the newest whole checkpoint, from any number of processes.
    json
        Print one JSON object.
    """
    from linkboy.training._checkpoint import Checkpointer, contents_of, is_checkpoint_name, write_weights

    if weights is not None and weights.suffix != ".safetensors":
        raise ValueError(f"--weights must be a .safetensors file, got {str(weights)!r}")
    one = is_checkpoint_name(path.name)
    report = contents_of(path, [path]) if one else Checkpointer(path).contents()
    show_report(report, json=json)
    if weights is not None:
        count = write_weights(path, weights)
        print(f"wrote {plural(count, 'tensor')} to {weights}", file=sys.stderr)
    return 0 if report.ok else 1
