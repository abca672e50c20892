"""BERT tokenisation, exact and vectorised."""

from linkboy.text.basic import BasicTokenizer

__all__ = ["BasicTokenizer"]
