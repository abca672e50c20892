"""Rooms name the arguments of Python; the command line names its options."""

import pytest

from linkboy.cli._wording import as_options
from linkboy.cli.app import _options

SENTENCES = {
    "rows.tsv line 2: the label is empty; correct the line or pass on_bad_row='skip'":
        "rows.tsv line 2: the label is empty; correct the line or pass --on-bad-row skip",
    "m is not empty; pass overwrite=True to replace it, resume=True to continue, or another directory":
        "m is not empty; pass --overwrite to replace it, --resume to continue, or another directory",
    "name one, such as text_column='my text', or write": "name one, such as --text-column 'my text', or write",
    "it was started with refit=True, and now it is run with refit=False":
        "it was started with --refit, and now it is run with --no-refit",
    "it was started with lr=None, and now it is run with lr=0.3; pass":
        "it was started without --lr, and now it is run with --lr 0.3; pass",
    "it was started with model='cnn'": "it was started with --model cnn",
    "pass device='cpu' or device='auto'": "pass --device cpu or --device auto",
    "too few rows; pass one as valid=...": "too few rows; pass one as --valid ...",
    "reduction='none' is not an option, and a = b neither": "reduction='none' is not an option, and a = b neither",
}  # fmt: skip


@pytest.mark.parametrize("sentence", SENTENCES)
def test_arguments_become_options(sentence):
    assert as_options(sentence, _options()) == SENTENCES[sentence]
