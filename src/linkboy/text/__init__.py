"""BERT tokenisation, exact and vectorised."""

from linkboy.text._added_tokens import AddedToken
from linkboy.text._encoding import CharSpan, Encoding, TokenSpan
from linkboy.text.basic import BasicTokenizer
from linkboy.text.report import DroppedCharacter, TokenizationReport, TokenizedFile, TokenRow
from linkboy.text.stream import tokenize_file
from linkboy.text.tokenizer import BertTokenizer
from linkboy.text.train import train_wordpiece

__all__ = [
    "AddedToken",
    "BasicTokenizer",
    "BertTokenizer",
    "CharSpan",
    "DroppedCharacter",
    "Encoding",
    "TokenRow",
    "TokenSpan",
    "TokenizationReport",
    "TokenizedFile",
    "tokenize_file",
    "train_wordpiece",
]
