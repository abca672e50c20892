"""Train a classifier on rows made in Python, look at what it gets wrong, predict with it, and load it again."""

import tempfile
from pathlib import Path

import linkboy as lb

GOOD = ["干净", "舒服", "热情", "方便", "安静", "clean", "quiet", "friendly"]
BAD = ["脏", "吵", "冷漠", "破旧", "太差", "dirty", "noisy", "rude"]


def main(out: Path) -> lb.Classifier:
    rows = [
        (f"{one} {two}", label) for label, words in (("good", GOOD), ("bad", BAD)) for one in words for two in words
    ]
    texts, labels = zip(*rows, strict=True)

    report = lb.train_classifier((texts, labels), out)  # a data frame or the path of a file will do as well
    print(report.metrics["test"])

    classifier = lb.load_classifier(report.directory)
    print(classifier.predict(["房间 干净", "rude 破旧", "so so"], top=2))
    return classifier


if __name__ == "__main__":
    main(Path(tempfile.mkdtemp()) / "model")
