"""Plain-Python BERT tokenisation, written from the rules alone and sharing no code or table with linkboy."""

import unicodedata

HAN = [
    range(0x3400, 0x4DC0), range(0x4E00, 0xA000), range(0xF900, 0xFB00), range(0x20000, 0x2A6E0),
    range(0x2A700, 0x2B740), range(0x2B740, 0x2B820), range(0x2B820, 0x2CEB0), range(0x2F800, 0x2FA20),
]  # fmt: skip
ASCII_SIGNS = set("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~")


def clean(text: str, private: bool) -> str:
    out = []
    for c in text:
        kind = unicodedata.category(c)
        if c in "\t\n\r" or kind == "Zs":
            out.append(" ")
        elif not (kind in {"Cc", "Cf"} or c == "\ufffd" or (kind == "Co" and not private)):
            out.append(c)
    return "".join(out)


def sign(c: str) -> bool:
    return c in ASCII_SIGNS or unicodedata.category(c)[0] == "P"


def basic(text, lower=True, strip=None, han=True, never_split=(), private=True) -> list[str]:
    strip = lower if strip is None else strip
    text = clean(text, private)
    if han:
        text = "".join(f" {c} " if any(ord(c) in block for block in HAN) else c for c in text)
    tokens: list[str] = []
    for token in text.split():
        if token in never_split:
            tokens.append(token)
            continue
        if lower:
            token = token.lower()
        if strip:
            token = "".join(c for c in unicodedata.normalize("NFD", token) if unicodedata.category(c) != "Mn")
        tokens += "".join(f" {c} " if sign(c) else c for c in token).split(" ")
    return [token for token in tokens if token]


def pieces(word: str, vocab, limit=200, unknown="[UNK]") -> list[str]:
    if len(word) > limit:
        return [unknown]
    found, begin = [], 0
    while begin < len(word):
        for end in range(len(word), begin, -1):
            candidate = word[begin:end] if begin == 0 else "##" + word[begin:end]
            if candidate in vocab:
                found.append(candidate)
                begin = end
                break
        else:
            return [unknown]
    return found


class Reference:
    def __init__(self, vocab: dict[str, int], limit=200, **options):
        self.vocab, self.limit, self.options, self.seen = vocab, limit, options, {}

    def ids(self, text: str) -> list[int]:
        out: list[int] = []
        for word in basic(text, **self.options):
            if word not in self.seen:
                if word in self.options.get("never_split", ()):
                    self.seen[word] = [self.vocab.get(word, self.vocab["[UNK]"])]
                else:
                    self.seen[word] = [self.vocab[piece] for piece in pieces(word, self.vocab, self.limit)]
            out += self.seen[word]
        return out
