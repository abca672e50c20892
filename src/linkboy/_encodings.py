"""Which encoding bytes that are not UTF-8 most likely have, as advice that the reader can check with their own eyes."""

import codecs
import functools
import itertools
import re
from collections.abc import Iterator, Sequence

# The frequent characters of a language: bytes read in a wrong encoding rarely hit them.
_CHINESE = (
    "的一是不了在人有我他这个们中来上大为和国地到以说时要就出会可也你对生能而子那得于着下自之年过发后作里用道行所然家种事成方多经么去法学如都同现当没"
    "动面起看定天分还进好小部其些主样理心她本前开但因只从想实日军者意无力它与长把机十民第公此已工使情明性知全三又关点正业外将两高间由问很最重并物手应"
    "战向头文体政美相见被利什二等产或新己制身果加月话合回特代内信表化老给世位次度门任常先海通教儿原东声提立及比员解水名真论处走义各入几口认条平系气题"
    "活尔更别打女变四神总何电数安少报才结反受目太量再感建务做接必场件计管期市直德资命山金指许统区保至队形社便空决治展马科司五基眼书非则听白却界达光放强"
    "即像难且权思王象完设式色路记南品住告类求据程北边死张该交规万取拉格望觉术领共确传师观清今切院让识候带导争运房间干净服务差评酒店菜味吃脏吵舒破旧冷热"
    "论标签容别坏慢快喜欢错爱便宜贵值太差满推荐错"
)
_TRADITIONAL = (
    "這個們來為國說時對於著過發後裡種經麼學現當沒動還進樣開從實軍無與長機關點業將兩間問並應戰頭體見產話內給門東聲員論處義幾認條氣題爾別變總電數報結務"
    "場計資許統區隊決馬書則聽卻達強難權設記類據邊張該規萬覺術領確傳師觀讓識帶導爭運淨評髒舊熱標籤壞歡錯愛貴滿薦的一是不了在人有我他中上大和地到以要就出"
    "會可也你生能而子那得下自之年作用道行所然家事成方多去法如都同面起看定天分好小部其些主理心她本前但因只想日者意力它把十民第公此已工使情明性知全三又正外"
    "高由很最重物手向文政美相被利什二等或新己制身果加月合回特代信表化老世位次度任常先海通教原提立及比解水名真走各入口平系活更打女四神何安少才反受目太量再"
    "感建做接必件管期市直德命山金指保至形社便空治展科司五基眼非白界光放房服務差酒店菜味吃吵舒破冷容快慢喜宜值推"
)
_KOREAN = (
    "이다는에의가을를은한고하지도로서나사인그아것시자기리어대있해들라보과일정수으게만전부제상면주장원여구동스마없요우안거오무조성방습니까네했좋빠비음식맛"
    "와중년관국공진점선신물세문경내화소영때위유연당분간적발회실결모생저더같말잘너최별감품질배송"
)
# The letters beside those of ASCII of each language: a file is mostly in one, and another code page mixes several.
_WESTERN = (
    "àâçéèêëîïôùûüÿœæ",
    "äöüß",
    "áéíóúüñªº",
    "áâãàçéêíóôõúü",
    "àèéìíîòóù",
    "åäöæøéü",
    "áðéíóúýþæö",
    "éèëïöüçñàêáí",
)
_CENTRAL = ("ąćęłńóśźż", "áčďéěíňóřšťúůýžäôĺľŕ", "áéíóöőúüű", "ăâîșțşţ", "čćšžđ", "äöüß")
_TURKISH = ("çğıöşüâîûİ",)
_BALTIC = ("ąčęėįšųūž", "āčēģīķļņšūž", "äõöüšž")
_SIGNS = "€£§°©®«»“”„‘’‚–—…•·¿¡½¼²™"
# The most frequent letters of other alphabets, then the rest, capitals left out: code pages of one script swap the two.
_RUSSIAN = ("оеаинтсрвлк", "мдпуяыьгзбчйхжшюцщэфъё")
_GREEK = ("αοιετσνηυρπςόύίά", "κμλέήωώθδγχφβξζψ")
_HEBREW = ("יוהלאתרבשמ", "גדזחטךכםןנסעףפץצק")
_ARABIC = ("اليمنوتربة", "ثجحخدذزسشصضطظعغفقكهىءأإآؤئ،؟")
_THAI = ("านรกอเงมยลวดท่้ี", "".join(map(chr, range(0x0E01, 0x0E5C))))
_PUNCTUATION = ",。!?:;、()「」『』“”‘’…—·《》【】~".translate({ord(c): ord(c) + 0xFEE0 for c in ",!?:;()~"})

# The languages of each, and how much less likely a file is to be in it than in the first.
_LATIN = {
    "cp1252": (_WESTERN, 0.0),
    "cp1250": (_CENTRAL, 0.02),
    "cp1254": (_TURKISH, 0.02),
    "mac_roman": (_WESTERN, 0.1),
    "iso8859_2": (_CENTRAL, 0.02),
    "cp1257": (_BALTIC, 0.04),
    "cp850": (_WESTERN, 0.13),
    "cp852": (_CENTRAL, 0.13),
}
_ALPHABETS = {
    "cp1255": _HEBREW,
    "cp1256": _ARABIC,
    "cp874": _THAI,
    "cp1253": _GREEK,
    "cp1251": _RUSSIAN,
    "koi8_r": _RUSSIAN,
    "iso8859_5": _RUSSIAN,
    "cp866": _RUSSIAN,
}
_WIDE = {"gb18030": _CHINESE, "big5": _TRADITIONAL, "cp949": _KOREAN, "shift_jis": "", "euc_jp": ""}
_CODECS = {"big5": "cp950", "shift_jis": "cp932"}  # the supersets that Windows writes under these names
# What to pass where a line is in none of these, but in what contains it, or is UTF-8 after all.
_WIDER = {
    "ascii": ("utf-8",),
    "gb2312": ("utf-8", "gb18030"),
    "gbk": ("utf-8", "gb18030"),
    "gb18030": ("utf-8",),
    "big5": ("utf-8", "cp950", "big5hkscs"),
    "cp950": ("utf-8", "big5hkscs"),
    "shift_jis": ("utf-8", "cp932"),
    "cp932": ("utf-8",),
    "euc_kr": ("utf-8", "cp949"),
    "cp949": ("utf-8",),
    "cp1252": ("utf-8",),
}
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_SHIFTS = {"iso2022_jp": b"\x1b$", "iso2022_kr": b"\x1b$)C", "hz": b"~{"}
_CONTROLS = tuple({*range(32)} - {*b"\t\n\v\f\r\x1a\x1b"})  # no text has them, whatever its encoding
_MANY_CONTROLS = 0.02
_CUT = 3  # bytes of a character that the end of the head may cut
_LEAST = 0.45  # below it nothing is advised
_NEAR = 0.12  # what is so near the best is named too
_SHOWN = 20
_EVIDENCE = 4000  # bytes that are looked at for the encoding of a whole file


def encoding_of_mark(head: bytes) -> str | None:
    r"""Return the encoding that a byte order mark at the start of a file names, `None` without one.

    Examples:
        >>> encoding_of_mark("a".encode("utf-16")), encoding_of_mark(b"a")
        ('utf-16', None)
    """
    return next((name for mark, name in _MARKS if head.startswith(mark)), None)


def unmarked_utf16(head: bytes) -> str | None:
    r"""Return `"utf-16-le"` or `"utf-16-be"` where every other byte of a file's start is zero, `None` where not.

    Examples:
        >>> unmarked_utf16("text and label".encode("utf-16-le"))
        'utf-16-le'
    """
    for name, zeros in (("utf-16-le", head[1::2]), ("utf-16-be", head[::2])):
        others = head[::2] if name == "utf-16-le" else head[1::2]
        if len(zeros) > 3 and zeros.count(0) > 0.4 * len(zeros) and others.count(0) < 0.05 * len(others):
            return name
    return None


def escaped_encoding(head: bytes) -> str | None:
    r"""Return the encoding whose shift sequences a file's start holds: its bytes are ASCII, its text is not.

    Examples:
        >>> escaped_encoding("部屋".encode("iso2022_jp")), escaped_encoding(b"~{ and \x1b[1m are no text")
        ('iso2022_jp', None)
    """
    if not head.isascii():
        return None
    whole = head[: head.rfind(b"\n") + 1] or head
    for name, sequence in _SHIFTS.items():
        if sequence in whole and not (decoded(whole, name) or "").isascii():
            return name
    return None


def looks_binary(head: bytes) -> bool:
    r"""Return whether the start of a file is that of a program, a picture or weights: not UTF-8, with many control characters.

    Examples:
        >>> looks_binary(bytes(range(256))), looks_binary("很好,正".encode("gb18030"))
        (True, False)
    """
    kept = head.decode("utf-8", "ignore").encode()
    controls = sum(head.count(byte) for byte in _CONTROLS)
    return len(kept) < len(head) - _CUT and controls > _MANY_CONTROLS * len(head)


def likely_encodings(raw: bytes) -> list[tuple[str, str]]:
    r"""Return what bytes that are not UTF-8 most likely are: names of encodings with the bytes read in them, likeliest first.

    The list is empty where nothing is likely, and where the bytes are UTF-8 with a few damaged places. Each character that
    is not ASCII counts one where it is frequent in the language, a half where it belongs to it, and nothing elsewhere.

    Args:
        raw: a line or more.

    Returns:
        At most two encodings.

    Examples:
        >>> likely_encodings("很好,正".encode("gb18030"))
        [('gb18030', '很好,正')]
        >>> likely_encodings("café, très bon".encode("cp1252"))[0]
        ('cp1252', 'café, très bon')
    """
    if _damaged_utf8(raw):
        return []
    scores = sorted(_scores(raw), key=lambda each: -each[0])
    near = [(name, text) for score, name, text in scores if score >= max(_LEAST, scores[0][0] - _NEAR)]
    return near[:1] + [other for other in near[1:] if other[1] != near[0][1]][:1]


class EncodingAdvice:
    r"""What to say of the lines of a file that are not in its encoding.

    All such lines of the file's start tell together how each of them reads: one line is rarely enough to tell two code pages
    apart. Where most lines are in the encoding, another one for the whole file is no advice.

    Args:
        encoding: what the file is read in.
        head: its first bytes.

    Examples:
        >>> EncodingAdvice("utf-8").of("很好,正".encode("gb18030"), 0)
        "byte 1 is not UTF-8 (0xba), but the line reads '很好,正' with encoding='gb18030'"
    """

    def __init__(self, encoding: str, head: bytes = b"") -> None:
        self._encoding, self._head = encoding, head

    def of(self, raw: bytes, place: int) -> str:
        """Return what is wrong with a line whose byte at `place` is not in the encoding, and how the line most likely reads."""
        exception, names = self._seen
        codec = codecs.lookup(self._encoding).name
        if exception and codec == "utf-8" and _is_cut(raw):
            return (
                f"byte {place + 1} is not {self._encoding.upper()} (0x{raw[place]:02x}), as where a file was cut off inside a "
                "character"
            )
        wider = _WIDER.get(codec, ())
        names = [name for name in wider if decoded(raw, name) is not None][:1] or names
        texts = {decoded(raw, _CODECS.get(name, name)): name for name in reversed(names)}
        found = [(name, text) for text, name in reversed(texts.items()) if text is not None] or likely_encodings(raw)
        shown = [f"{text.strip()[:_SHOWN]!r} with encoding={name!r}" for name, text in found]
        line = "the line, unlike most others," if exception else "the line"
        advice = f", but {line} reads {' or '.join(shown)}" if shown else ""
        return f"byte {place + 1} is not {self._encoding.upper()} (0x{raw[place]:02x}){advice}"

    @functools.cached_property
    def _seen(self) -> tuple[bool, list[str]]:
        """Return whether most lines are in the encoding, and the likeliest encodings of the others."""
        lines = [line for line in self._head.split(b"\n")[:-1] if not line.isascii()]
        bad = [line for line in lines if decoded(line, self._encoding) is None]
        return len(lines) > max(2 * len(bad), 2), [name for name, _ in likely_encodings(b"\n".join(bad)[:_EVIDENCE])]


def _is_cut(raw: bytes) -> bool:
    """Return whether bytes are UTF-8 but for a character at their end of which a part is missing.

    A single byte behind nothing but ASCII may as well be a letter of another encoding.

    Examples:
        >>> _is_cut("很好".encode()[:-1]), _is_cut("café".encode("latin-1"))
        (True, False)
    """
    try:
        raw.decode()
    except UnicodeDecodeError as error:
        sure = len(raw) - error.start > 1 or not raw[: error.start].isascii()
        return sure and error.reason == "unexpected end of data"
    return False


def decoded(raw: bytes, encoding: str) -> str | None:
    """Return bytes as text, `None` where they are not in the encoding."""
    try:
        return raw.decode(encoding)
    except UnicodeDecodeError:
        return None


def _damaged_utf8(raw: bytes) -> bool:
    kept = raw.decode("utf-8", "ignore").encode()
    foreign, left = (sum(byte > 127 for byte in each) for each in (raw, kept))
    return left > 0.7 * foreign


def _scores(raw: bytes) -> Iterator[tuple[float, str, str]]:
    for name in (*_WIDE, *_LATIN, *_ALPHABETS):
        text = decoded(raw, _CODECS.get(name, name)) or ""
        foreign = [character for character in text if ord(character) > 127]
        if not foreign or any(not (character.isprintable() or character.isspace()) for character in text):
            continue
        if name in _LATIN:
            languages, less = _LATIN[name]
            yield _latin_score(text, languages) - less, name, text
        elif name in _ALPHABETS:
            yield _alphabet_score(text, foreign, *_ALPHABETS[name]), name, text
        else:
            score = sum(_wide_score(name, character, _WIDE[name]) for character in foreign)
            yield score / len(foreign), name, text


def _latin_score(text: str, languages: Sequence[str]) -> float:
    """Accents stand alone or in pairs between Latin letters; bytes of wide encodings come in long runs."""
    runs = list(re.finditer(r"[^\x00-\x7f]+", text))
    words = [run[0] for run in runs if len(run[0]) <= 3 and _in_latin_word(run)]
    good = max(
        sum(len(word) for word in words if all(c in letters or c.lower() in letters or c in _SIGNS for c in word))
        for letters in languages
    )
    upper = sum(character.isupper() and before.islower() for before, character in itertools.pairwise(text))
    return (0.9 * good - 0.5 * upper) / sum(len(run[0]) for run in runs)


def _in_latin_word(run: re.Match[str]) -> bool:
    """Return whether characters outside ASCII may stand where they do: several letters are no word, and no sign is in one."""
    before, after = (run.string[place : place + 1].isalpha() for place in (run.start() - 1, run.end()))
    letters = [character.isalpha() for character in run[0]]
    if sum(letters) > 1 and not (before or after):
        return False
    return any(letters) or run[0] == "’" or not (before and after)


def _alphabet_score(text: str, foreign: Sequence[str], frequent: str, rest: str) -> float:
    """Words of another alphabet hold no Latin letters, and capitals at their beginning at most."""
    good = sum(
        1.0 if c in frequent else 0.55 if c in rest else 0.35 if c.lower() in frequent + rest else 0.0 for c in foreign
    )
    words = re.findall(r"[^\W\d_]+", text)
    wrong = sum(len(word) for word in words if not word.isascii() and re.search("[A-Za-z]", word))
    wrong += sum(before.islower() and after.isupper() for before, after in itertools.pairwise(text))
    latin = sum(character.isascii() and character.isalpha() for character in text)
    return max(0.0, good - 2 * wrong) / len(foreign) * min(1.0, 4 * len(foreign) / (latin + 1))


def _wide_score(name: str, character: str, frequent: str) -> float:
    code = ord(character)
    if character in frequent:
        return 1.0
    if character in _PUNCTUATION or 0xFF01 <= code <= 0xFF5E or code == 0x3000:
        return 0.6
    if name in ("shift_jis", "euc_jp"):
        return 1.0 if 0x3041 <= code <= 0x30FC else 0.5 if 0x4E00 <= code <= 0x9FFF and _level(character, name) else 0.0
    if name == "cp949":
        return 0.7 if 0xAC00 <= code <= 0xD7A3 and _encodes(character, "euc_kr") else 0.0
    return 0.5 if _level(character, name) else 0.0


def _level(character: str, name: str) -> bool:
    """Return whether a character is in the first level of its standard, which holds the usual ones."""
    codec, first, last = {
        "gb18030": ("gb2312", 0xB0, 0xD7), "big5": ("big5", 0xA4, 0xC6), "shift_jis": ("shift_jis", 0x88, 0x97),
        "euc_jp": ("euc_jp", 0xB0, 0xCF),
    }[name]  # fmt: skip
    try:
        return first <= character.encode(codec)[0] <= last
    except UnicodeEncodeError:
        return False


def _encodes(character: str, codec: str) -> bool:
    try:
        return bool(character.encode(codec))
    except UnicodeEncodeError:
        return False
