"""A large file is trained on in memory that grows by little more than its texts."""

import subprocess
import sys

import numpy as np
import pytest

MEASURE = """
import resource, sys
from linkboy import cli
code = cli.run(sys.argv[1:])
print("peak", code, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


def write_rows(path, count):
    generator = np.random.default_rng(0)
    words = np.array(["".join(map(chr, generator.integers(0x4E00, 0x9000, 2))) for _ in range(5000)])
    labels = generator.integers(0, 500, (count, 1)) // 50
    chosen = np.where(generator.random((count, 9)) < 0.3, labels * 500, 0) + generator.integers(0, 500, (count, 9))
    with path.open("w", encoding="utf-8") as file:
        for label, row in zip(labels[:, 0].tolist(), words[chosen], strict=True):
            file.write(f"{''.join(row)}\tclass{label}\n")


def peak_of(folder, count):
    write_rows(folder / f"{count}.tsv", count)
    command = [sys.executable, "-c", MEASURE, "train", folder / f"{count}.tsv", "--out", folder / f"{count}"]
    run = subprocess.run([*map(str, command), "--epochs", "1"], capture_output=True, text=True, check=True)
    word, code, peak = run.stdout.splitlines()[-1].split()
    assert (word, code) == ("peak", "0")
    return int(peak)


@pytest.mark.slow
def test_memory_grows_by_less_than_300_bytes_a_row(tmp_path):
    """A row is 55 bytes in the file and 110 as a Python string; its features would be some 600."""
    few, many = 700_000, 1_300_000
    growth = (peak_of(tmp_path, many) - peak_of(tmp_path, few)) / (many - few)
    assert growth < 300, f"{growth:.0f} bytes a row"
