"""BERT tokenisation, exact and vectorised."""

from linkboy.text.basic import BasicTokenizer
from linkboy.text.report import TokenizationReport
from linkboy.text.stream import TokenizedFile, tokenize_file
from linkboy.text.tokenizer import BertTokenizer
from linkboy.text.train import train_wordpiece

__all__ = [
    "BasicTokenizer",
    "BertTokenizer",
    "TokenizationReport",
    "TokenizedFile",
    "tokenize_file",
    "train_wordpiece",
]
