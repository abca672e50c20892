"""The advice about the encoding of bytes that are not UTF-8 is right on short lines of many languages."""

import random

import pytest

from linkboy._encodings import (
    EncodingAdvice,
    encoding_of_mark,
    escaped_encoding,
    likely_encodings,
    looks_binary,
    unmarked_utf16,
)

LINES = {
    "gb18030": ["很好,正", "评论,标签", "房间很干净\t好评", "这家店的菜味道不错，下次还来", "价格贵，质量一般"],
    "big5": ["這家店的菜味道不錯，下次還來", "房間很乾淨\t好評", "評論,標籤", "服務太差,負面"],
    "shift_jis": ["とても良い,正", "部屋がきれいでした\tポジ", "テキスト,ラベル", "料理が美味しい"],
    "euc_jp": ["とても良い,正", "部屋がきれいでした\tポジ"],
    "cp949": ["아주 좋아요,긍정", "음식이 맛이 없어요\t부정", "텍스트,라벨", "방이 깨끗하고 좋았습니다"],
    "cp1252": ["café très bon", "bäd", "free msg å£1.50", "El niño está aquí", "“quoted” – really", "it’s good", "£5"],
    "cp1250": ["bardzo dobry posiłek, pyszności", "příliš žluťoučký kůň", "łóżko było niewygodne"],
    "cp1254": ["kötü şey ığdır"],
    "iso8859_2": ["łóżko było niewygodne, źle", "příliš žluťoučký kůň"],
    "cp1257": ["šaltas maistas, bloga aptarnavimo kokybė į jūrą"],
    "cp850": ["Schönes Hotel, gerne wieder für Gäste"],
    "iso8859_5": ["очень хорошо,плюс", "Плохой сервис\t0"],
    "cp866": ["очень хорошо,плюс", "Плохой сервис\t0"],
    "cp1251": ["очень хорошо,плюс", "Плохой сервис\t0"],
    "koi8_r": ["очень хорошо,плюс", "Плохой сервис\t0"],
    "cp1253": ["πολύ καλό", "κακή εξυπηρέτηση"],
    "cp1255": ["שלום עולם", "טוב מאוד"],
    "cp1256": ["جيد جدا", "سيء للغاية"],
    "cp874": ["ดีมาก", "ห้องสะอาด"],
}
CASES = [(codec, line) for codec, lines in LINES.items() for line in lines]


@pytest.mark.parametrize(("codec", "line"), CASES)
def test_a_short_line_is_enough(codec, line):
    name, text = likely_encodings(line.encode({"big5": "cp950", "shift_jis": "cp932"}.get(codec, codec)))[0]
    assert text == line
    assert name in (codec, "cp1252", "cp1250", "cp1254") if codec in ("cp1252", "cp1254") else name == codec


FILES = {
    "cp1254": ["Çok güzel bir film, herkese öneririm", "Şahane manzaralı bir otel", "Sıkıcı kitap, bitiremedim, ığdır"],
    "cp1250": [
        "Nagyon jó volt az étel",
        "Árvíztűrő tükörfúrógép",
        "Soha többé, szörnyű",
        "Őszi eső hull a hűvös kertre",
    ],
    "iso8859_2": ["Jídlo bylo výborné", "Příliš žluťoučký kůň", "Špatná obsluha, nikdy více", "Šest tříd"],
    "cp1252": ["Ein Möbel", "für alle Gäste, größer", "il était une fois", "naïve, maître, sûr"],
    "mac_roman": ["El niño comió muy bien, mañana", "¿Por qué tardó tanto?", "está en la montaña"],
    "cp850": ["Schönes Hotel, gerne wieder für Gäste", "überteuert und öde", "Größe passt nicht"],
}


@pytest.mark.parametrize("codec", FILES)
def test_the_lines_of_a_file_tell_code_pages_apart(codec):
    lines = [f"{line}\tyes".encode(codec) for line in FILES[codec]]
    advice = EncodingAdvice("utf-8", b"label\ttext\n" + b"\n".join(lines) + b"\n")
    for line, raw in zip(FILES[codec], lines, strict=True):
        place = next(place for place, byte in enumerate(raw) if byte > 127)
        first = f"{line}\tyes"[:20]
        told = advice.of(raw, place)
        assert told.startswith(
            f"byte {place + 1} is not UTF-8 (0x{raw[place]:02x}), but the line reads {first!r} with"
        ), told
        assert f"{first!r} with encoding={codec!r}" in told.partition(" or ")[0], told


def test_one_line_of_another_encoding_is_no_advice_for_the_file():
    lines = ["schöne Tür".encode(), "für Gäste".encode(), "größer".encode(), "Möbel".encode("cp1252")]
    told = EncodingAdvice("utf-8", b"\n".join(lines) + b"\n").of(lines[-1], 1)
    assert told == "byte 2 is not UTF-8 (0xf6), but the line, unlike most others, reads 'Möbel' with encoding='cp1252'"
    assert EncodingAdvice("utf-8").of(b"\x81\xfe\x8d", 0) == "byte 1 is not UTF-8 (0x81)"


def test_ascii_that_stands_for_other_characters_is_known():
    for name, line in (("iso2022_jp", "とても良い"), ("iso2022_kr", "아주 좋아요"), ("hz", "很好，正")):
        assert escaped_encoding(f"label\ttext\nyes\t{line}\n".encode(name)) == name
        assert escaped_encoding(f"label\ttext\nyes\t{line}\nno\t{line}\n".encode(name)[:-3]) == name
    for text in (b"", b"plain text\n", b"~{ and ~}\n", b"\x1b[1mbold\x1b[0m $B", b"a ~{ b\n", "很好".encode()):
        assert escaped_encoding(text) is None


def test_utf8_with_a_damaged_place_is_no_other_encoding():
    assert likely_encodings("这家店的菜味道不错".encode()[:-1]) == []
    assert likely_encodings("très bon, à côté".encode() + b"\xff") == []


def test_random_bytes_are_nothing_for_sure():
    draw = random.Random(0)
    found = [likely_encodings(bytes(draw.randrange(128, 256) for _ in range(60))) for _ in range(50)]
    assert sum(map(bool, found)) <= 2


def test_marks_and_zeros_name_an_encoding():
    for name in ("utf-16", "utf-32"):
        assert encoding_of_mark("a".encode(name)) == name
    assert encoding_of_mark(b"\xef\xbb\xbfa") == "utf-8"
    assert encoding_of_mark(b"a,b") is None
    assert unmarked_utf16("text,label\n".encode("utf-16-be")) == "utf-16-be"
    assert unmarked_utf16("text,label\n".encode("utf-16-le")) == "utf-16-le"
    assert unmarked_utf16(b"text,label\n\0\0") is None


def test_what_is_no_text_in_any_encoding_is_known():
    pixels = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 8
    assert looks_binary(pixels)
    assert not looks_binary("名\x01前\0".encode() * 9)  # UTF-8 with odd separators is text
    for encoding in ("gb18030", "big5", "shift_jis", "euc_jp", "iso2022_jp"):
        assert not looks_binary("房間は静かだった，".encode(encoding, "ignore") * 99)
    assert not looks_binary("très bon".encode("cp1252"))
