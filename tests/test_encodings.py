"""The advice about the encoding of bytes that are not UTF-8 is right on short lines of many languages."""

import random

import pytest

from linkboy._encodings import encoding_of_mark, likely_encodings, looks_binary, unmarked_utf16

LINES = {
    "gb18030": ["很好,正", "评论,标签", "房间很干净\t好评", "这家店的菜味道不错，下次还来", "价格贵，质量一般"],
    "big5": ["這家店的菜味道不錯，下次還來", "房間很乾淨\t好評", "評論,標籤", "服務太差,負面"],
    "shift_jis": ["とても良い,正", "部屋がきれいでした\tポジ", "テキスト,ラベル", "料理が美味しい"],
    "euc_jp": ["とても良い,正", "部屋がきれいでした\tポジ"],
    "cp949": ["아주 좋아요,긍정", "음식이 맛이 없어요\t부정", "텍스트,라벨", "방이 깨끗하고 좋았습니다"],
    "cp1252": ["café très bon", "bäd", "free msg å£1.50", "El niño está aquí", "“quoted” – really", "it’s good", "£5"],
    "cp1250": ["bardzo dobry posiłek, pyszności", "příliš žluťoučký kůň", "łóżko było niewygodne"],
    "cp1254": ["kötü şey ığdır"],
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
