"""BERT tokenisation, exact and vectorised."""

from linkboy.text.basic import BasicTokenizer
from linkboy.text.explain import TokenizationReport
from linkboy.text.tokenizer import BertTokenizer

__all__ = ["BasicTokenizer", "BertTokenizer", "TokenizationReport"]
