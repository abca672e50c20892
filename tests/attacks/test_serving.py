"""What people send to a server to break it, or through it: each ends in one sentence with a status, and little memory."""

import asyncio
import json
import time

import pytest
from tests.attacks.conftest import peak_mib

import linkboy as lb
from linkboy.classify import serving

pytest.importorskip("starlette")

HOST = (b"host", b"127.0.0.1:8000")
JSON = (b"content-type", b"application/json")


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "model"
    texts = [f"{word} {n}" for n in range(20) for word in ("干净", "太吵")]
    lb.train_classifier((texts, ["好评", "差评"] * 20), out)
    return lb.load_classifier(out)


@pytest.fixture
def app(classifier):
    return serving.make_app(classifier, name="a<b>model")


async def asked(app, method, path, *, headers=(HOST, JSON), body=(b"",), raw=None, query=b""):
    """Call an ASGI application; return status, headers and body."""
    pieces, sent = list(body), []

    async def receive():
        if not pieces:
            await asyncio.sleep(3600)  # the body never ends
        piece = pieces.pop(0)
        if isinstance(piece, float):
            await asyncio.sleep(piece)
            return await receive()
        return {"type": "http.request", "body": piece, "more_body": bool(pieces)}

    async def send(message):
        sent.append(message)

    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "path": path, "scheme": "http",
        "raw_path": raw or path.encode(), "query_string": query, "headers": list(headers), "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 8000), "root_path": "",
    }  # fmt: skip
    await app(scope, receive, send)
    content = b"".join(message.get("body", b"") for message in sent)
    return sent[0]["status"], {name.decode(): value.decode() for name, value in sent[0]["headers"]}, content


def ask(app, method, path, **how):
    return asyncio.run(asked(app, method, path, **how))


def post(app, content, **how):
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    status, _, answer = ask(app, "POST", "/predict", **{"body": (body,), **how})
    return status, json.loads(answer)


def error(app, content, **how):
    status, answer = post(app, content, **how)
    assert list(answer) == ["error"]
    assert "\n" not in answer["error"]
    assert len(answer["error"]) < 200
    return status, answer["error"]


def test_one_text_and_many_are_answered_as_in_python(app, classifier):
    alone = classifier.predict(["很干净"], top=2)
    first = {"label": "好评", "probability": pytest.approx(alone.probabilities[0])}
    assert post(app, {"text": "很干净"}) == (200, first)
    status, answer = post(app, {"texts": ["很干净", ""], "top": 5})
    assert status == 200
    assert answer["predictions"][0] == {**first, "top": [first, answer["predictions"][0]["top"][1]]}
    assert len(answer["predictions"]) == 2
    assert post(app, {"texts": []}) == (200, {"predictions": []})


def test_the_pieces_that_decided_are_told(app, classifier):
    status, answer = post(app, {"text": "很干净", "top": 2, "explain": True})
    explained = classifier.explain(["很干净"]).explanations[0]
    why = answer["explanation"]
    assert (status, why["label"], why["against"]) == (200, "好评", "差评")
    assert why["log_odds"] == pytest.approx(explained.log_odds)
    assert why["pieces"][0]["piece"] == explained.pieces[0].piece
    assert "".join(run for _, run in why["runs"]) == "很干净"
    assert post(app, {"text": "", "explain": True})[0] == 200


def test_health_model_and_page(app):
    assert json.loads(ask(app, "GET", "/health")[2]) == {"ok": True}
    model = json.loads(ask(app, "GET", "/model")[2])
    assert (model["name"], model["kind"], model["class_names"]) == ("a<b>model", "ngram", ["好评", "差评"])
    status, headers, page = ask(app, "GET", "/")
    assert (status, headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert b"a&lt;b&gt;model" in page
    assert b"a<b>" not in page
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "connect-src 'self'" in policy
    assert "unsafe-inline'; img" in policy
    assert "script-src 'sha256-" in policy
    chinese = ask(app, "GET", "/", headers=(HOST, (b"accept-language", b"zh-CN,zh;q=0.9")))[2].decode()
    assert "要分类的文本" in chinese


def test_the_page_of_several_labels_speaks_of_labels(classifier):
    several = lb.classify.Classifier(
        classifier.kind, classifier.model, classifier.encoder, classifier.class_names, thresholds=[0.5, 0.5]
    )
    page = ask(lb.classify.make_app(several), "GET", "/")[2].decode()
    assert "ngram model, 2 labels" in page
    assert "Blue speaks for the likeliest label, orange against it" in page
    assert "class that was chosen" not in page
    answer = post(lb.classify.make_app(several), {"text": "很干净", "explain": True})[1]
    assert answer["explanation"]["against"] == f"not {answer['explanation']['label']}"


def test_every_answer_forbids_to_be_framed_stored_or_guessed_at(app):
    for path in ("/", "/health", "/nothing", "/predict"):
        _, headers, _ = ask(app, "GET", path)
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert headers["cache-control"] == "no-store"
        assert "access-control-allow-origin" not in headers


BODIES = {
    b"\xff\xfe": (400, "the body must be UTF-8, got byte 0xff at 0"),
    b"": (400, "the body must be JSON (Expecting value at character 0)"),
    b"[1": (400, "the body must be JSON (Expecting ',' delimiter at character 2)"),
    b"[" * 200_000: (400, "the body is JSON nested too deeply, or with a number too long"),
    b'{"text": ' + b"9" * 5000 + b"}": (400, "the body is JSON nested too deeply, or with a number too long"),
    b'"text"': (400, 'the body must be an object with "text" (a string) or "texts" (a list of strings)'),
    b'{"text": "a", "texts": []}': (
        400,
        'the body must be an object with "text" (a string) or "texts" (a list of strings)',
    ),
    b'{"text": 1}': (400, '"text" must be a string, and "texts" a list of strings'),
    b'{"texts": "abc"}': (400, '"text" must be a string, and "texts" a list of strings'),
    b'{"texts": ["a", null]}': (400, '"text" must be a string, and "texts" a list of strings'),
    b'{"text": "a", "tpo": 1}': (400, "there is no 'tpo' to ask for; did you mean 'top'?"),
    b'{"text": "a", "top": 0}': (400, '"top" must be an integer of at least 1, got 0'),
    b'{"text": "a", "top": true}': (400, '"top" must be an integer of at least 1, got true'),
    b'{"text": "a", "explain": 1}': (400, '"explain" must be true or false, got 1'),
    b'{"texts": ["a"], "explain": true}': (400, '"explain" is for one "text"'),
    b'{"text": "\\ud800"}': (400, "a text holds half of a surrogate pair, which stands for no character"),
    json.dumps({"texts": ["a"] * 257}).encode(): (413, "a request may hold 256 texts, got 257; send several"),
    json.dumps({"text": "a" * 100_001}).encode(): (413, "a text may have 100,000 characters, got 100,001"),
    json.dumps({"text": "a" * 10_001, "explain": True}).encode(): (
        413,
        "a text to explain may have 10,000 characters, got 10,001",
    ),
}


@pytest.mark.parametrize("body", BODIES, ids=lambda body: repr(body[:24]))
def test_bodies_that_are_not_what_is_asked_for_are_refused(app, body):
    assert error(app, body) == BODIES[body]


@pytest.mark.parametrize("kind", [b"text/plain", b"application/x-www-form-urlencoded", b"multipart/form-data", b""])
def test_a_form_of_another_page_cannot_ask(app, kind):
    status, sentence = error(app, {"text": "a"}, headers=(HOST, (b"content-type", kind)))
    assert status == 415
    assert sentence == f"the body must be of the type application/json, got {kind.decode()!r}"


def test_huge_bodies_are_refused_before_they_are_read(app):
    too_large = (413, "a body may have 1,048,576 bytes; send fewer texts at a time")
    assert error(app, b"", headers=(HOST, JSON, (b"content-length", b"99999999999999999999999999"))) == too_large
    assert error(app, b"", headers=(HOST, JSON, (b"content-length", b"-1"))) == too_large

    def endless():
        assert error(app, b"", body=[b"x" * (1 << 16)] * 4000) == too_large

    assert peak_mib(endless) < 20


def test_slow_bodies_are_refused(app, monkeypatch):
    monkeypatch.setattr(serving, "BODY_SECONDS", 0.05)
    started = time.monotonic()
    assert error(app, b"", body=(b"{", *[0.02, b" "] * 100)) == (408, "the body did not arrive within 0 seconds")
    assert time.monotonic() - started < 5


@pytest.mark.parametrize(
    "hosts",
    [
        [],
        [b"evil.example"],
        [b"evil.example:8000"],
        [b"127.0.0.1.evil.example"],
        [b"localhost@evil.example"],
        [b""],
        [b"127.0.0.1", b"evil.example"],
        [b"localhost:99999999"],
        [b"[::1"],
        [b"localhost/x"],
        [b"0.0.0.0"],
        [b"\xff"],
    ],
)
def test_another_name_for_this_machine_is_refused(app, hosts):
    """DNS rebinding: a page of evil.example, whose address becomes 127.0.0.1, asks as its own site."""
    for method, path in (("GET", "/"), ("GET", "/model"), ("POST", "/predict")):
        status, _, answer = ask(app, method, path, headers=(*((b"host", host) for host in hosts), JSON))
        assert status == 421
        assert json.loads(answer)["error"].startswith("this server may not be asked as ")


@pytest.mark.parametrize("host", [b"127.0.0.1", b"localhost:80", b"LOCALHOST", b"[::1]:8000"])
def test_names_of_this_machine_are_fine(app, host):
    assert ask(app, "GET", "/health", headers=((b"host", host),))[0] == 200


@pytest.mark.parametrize(
    "header",
    [
        (b"origin", b"http://evil.example"),
        (b"origin", b"null"),
        (b"origin", b"http://127.0.0.1:9000"),
        (b"origin", b"http://127.0.0.1:8000.evil.example"),
        (b"sec-fetch-site", b"cross-site"),
        (b"sec-fetch-site", b"same-site"),
    ],
)
def test_pages_of_other_sites_may_not_ask(app, header):
    sentence = "pages of other sites may not ask this server"
    assert error(app, {"text": "a"}, headers=(HOST, JSON, header)) == (403, sentence)
    assert ask(app, "GET", "/model", headers=(HOST, header))[0] == 403
    assert ask(app, "OPTIONS", "/predict", headers=(HOST, header))[0] == 405


def test_its_own_page_and_a_link_to_it_are_fine(app):
    own = (b"origin", b"http://127.0.0.1:8000"), (b"sec-fetch-site", b"same-origin")
    assert post(app, {"text": "a"}, headers=(HOST, JSON, *own))[0] == 200
    assert ask(app, "GET", "/", headers=(HOST, (b"sec-fetch-site", b"cross-site")))[0] == 200


@pytest.mark.parametrize(
    "path",
    ["/../etc/passwd", "//evil.example", "/predict/", "/%2e%2e/config.json", "/static/../x", "/model\0", "/Predict"],
)
def test_paths_lead_to_nothing_but_what_is_there(app, path):
    for raw in (path.encode(), b"/" + path.encode()):
        status, headers, answer = ask(app, "GET", path, raw=raw)
        assert (status, json.loads(answer)["error"]) == (
            404,
            "there is nothing here; see /, /predict, /model and /health",
        )
        assert "location" not in headers


def test_other_methods_are_refused(app):
    for method, path in (("GET", "/predict"), ("PUT", "/model"), ("DELETE", "/"), ("TRACE", "/health")):
        status, _, answer = ask(app, method, path)
        assert status == 405
        assert json.loads(answer)["error"] == "use POST for /predict and GET for /, /model and /health"


def together(app, bodies):
    async def all_at_once():
        made = [asked(app, "POST", "/predict", body=(json.dumps(body).encode(),)) for body in bodies]
        return await asyncio.gather(*made)

    return [(status, json.loads(answer)) for status, _, answer in asyncio.run(all_at_once())]


def test_requests_that_come_together_are_one_batch_and_each_gets_its_own_answer(app, classifier, monkeypatch):
    sizes = []
    real = type(classifier).predict

    def counted(self, texts, **keywords):
        sizes.append(len(texts))
        return real(self, texts, **keywords)

    monkeypatch.setattr(type(classifier), "predict", counted)
    words = ["干净", "太吵"]
    answers = together(app, [{"text": words[n % 2], "top": 1 + n % 2} for n in range(100)])
    assert [status for status, _ in answers] == [200] * 100
    assert [answer["label"] for _, answer in answers] == ["好评", "差评"] * 50
    assert ["top" in answer for _, answer in answers] == [False, True] * 50
    assert sum(sizes) == 100
    assert len(sizes) <= 3


def test_a_burst_is_answered_or_refused(app):
    answers = together(app, [{"text": f"干净 {n}"} for n in range(3000)])
    statuses = {status: sum(status == s for s, _ in answers) for status in (200, 503)}
    assert sum(statuses.values()) == 3000
    assert statuses[200] >= serving.MOST_WAITING_TEXTS
    assert statuses[503]
    refused = next(answer for status, answer in answers if status == 503)
    assert refused == {"error": "too many texts are waiting; try again in a second"}
    assert together(app, [{"text": "干净"}])[0][0] == 200  # what was refused is forgotten


def test_bodies_that_wait_to_be_complete_cannot_fill_the_memory(app, monkeypatch):
    monkeypatch.setattr(serving, "BODY_SECONDS", 0.5)

    async def many():
        made = [asked(app, "POST", "/predict", body=(b"x" * (1 << 20), 60.0)) for _ in range(60)]
        return [status for status, _, _ in await asyncio.gather(*made)]

    statuses = asyncio.run(many())
    assert set(statuses) == {408, 503}
    assert statuses.count(408) <= 32


def test_a_failure_of_the_classifier_is_an_answer_and_the_next_request_is_fine(app, classifier, monkeypatch):
    monkeypatch.setattr(type(classifier), "predict", lambda *arguments, **keywords: 1 / 0)
    with pytest.raises(ZeroDivisionError):  # which the server logs
        post(app, {"text": "a"})
    monkeypatch.undo()
    assert post(app, {"text": "a"})[0] == 200
