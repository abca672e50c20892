"""A trained classifier behind HTTP: a page to try texts, and answers to programs, for `linkboy serve`."""

import asyncio
import dataclasses
import json
import math
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

from linkboy._checks import did_you_mean
from linkboy._language import LANGUAGES, Language
from linkboy._page import environment
from linkboy._version import __version__
from linkboy.classify.reading._columns import join_columns
from linkboy.classify.results._page import PIECES, shades
from linkboy.classify.saved.classifier import Classifier
from linkboy.classify.saved.explain import Explanation
from linkboy.classify.saved.predictions import Predictions
from linkboy.text._scripts import font_language

MOST_BODY = 1 << 20  # bytes of a request
MOST_BODIES = 1 << 25  # bytes of all requests that are being read
MOST_TEXT = 100_000  # characters
MOST_TEXTS = 256  # of a request
MOST_EXPLAINED = 10_000  # characters
BODY_SECONDS = 10.0
GATHER_SECONDS = 0.003
MOST_WAITING_TEXTS = 1024
MOST_WAITING_CHARACTERS = 1 << 21
_BATCH_TEXTS, _BATCH_CHARACTERS = 512, 1 << 18
_EXPLAINED_AS = 64  # texts that an explanation takes the time of
LOOPBACK = ("localhost", "127.0.0.1", "::1")
TOP_ON_PAGE = 10
_KEYS = ("text", "texts", "top", "explain")
_HEADERS = {
    "cache-control": "no-store",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}


class RefusedError(ValueError):
    """A request that is not answered, with the status of HTTP and one sentence."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


@dataclasses.dataclass(frozen=True)
class Question:
    """What a request asks for.

    Args:
        texts: the texts.
        one: whether one text was given and not a list.
        top: how many classes to name for each.
        explain: whether to say which pieces decided.
    """

    texts: Sequence[str]
    one: bool
    top: int
    explain: bool


def asked_of(body: bytes, columns: Sequence[str] = ()) -> Question:
    """Return what the body of a request asks for.

    Args:
        body: the body.
        columns: those that the texts are made of; where there are several, a text is an object with a string for each.

    Raises:
        RefusedError: it is not what `POST /predict` takes.

    Examples:
        >>> asked_of(b'{"text": "good", "top": 2}')
        Question(texts=['good'], one=True, top=2, explain=False)
    """
    try:
        given = json.loads(body.decode())
    except UnicodeDecodeError as error:
        raise RefusedError(
            400, f"the body must be UTF-8, got byte 0x{body[error.start]:02x} at {error.start}"
        ) from None
    except json.JSONDecodeError as error:
        raise RefusedError(400, f"the body must be JSON ({error.msg} at character {error.pos})") from None
    except (ValueError, RecursionError):
        raise RefusedError(400, "the body is JSON nested too deeply, or with a number too long") from None
    if not isinstance(given, dict) or ("text" in given) == ("texts" in given):
        raise RefusedError(400, 'the body must be an object with "text" (a string) or "texts" (a list of strings)')
    unknown = next((key for key in given if key not in _KEYS), None)
    if unknown is not None:
        raise RefusedError(400, f"there is no {unknown[:60]!r} to ask for{did_you_mean(unknown[:60], _KEYS)}")
    one = "text" in given
    texts = [given["text"]] if one else given["texts"]
    if len(columns) > 1 and isinstance(texts, list):
        texts = [_joined(text, columns) for text in texts]
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise RefusedError(400, '"text" must be a string, and "texts" a list of strings')
    asked = Question(texts, one, given.get("top", 1), given.get("explain", False))
    _check(asked)
    return asked


def _joined(text: Any, columns: Sequence[str]) -> str:
    """Return a text of several columns as the classifier reads it."""
    if not (
        isinstance(text, dict) and set(text) == set(columns) and all(isinstance(part, str) for part in text.values())
    ):
        names = " and ".join(json.dumps(column, ensure_ascii=False) for column in columns)
        raise RefusedError(
            400, f"a text must be an object with a string for {names}, the columns that the classifier reads"
        )
    return join_columns([text[column] for column in columns])


def _check(asked: Question) -> None:
    if len(asked.texts) > MOST_TEXTS:
        raise RefusedError(413, f"a request may hold {MOST_TEXTS} texts, got {len(asked.texts)}; send several")
    longest = max(map(len, asked.texts), default=0)
    if longest > MOST_TEXT:
        raise RefusedError(413, f"a text may have {MOST_TEXT:,} characters, got {longest:,}")
    if isinstance(asked.top, bool) or not isinstance(asked.top, int) or asked.top < 1:
        raise RefusedError(400, f'"top" must be an integer of at least 1, got {json.dumps(asked.top)[:60]}')
    if not isinstance(asked.explain, bool):
        raise RefusedError(400, f'"explain" must be true or false, got {json.dumps(asked.explain)[:60]}')
    if asked.explain and not asked.one:
        raise RefusedError(400, '"explain" is for one "text"')
    if asked.explain and longest > MOST_EXPLAINED:
        raise RefusedError(413, f"a text to explain may have {MOST_EXPLAINED:,} characters, got {longest:,}")
    if any("\ud800" <= character <= "\udfff" for text in asked.texts if not text.isascii() for character in text):
        raise RefusedError(400, "a text holds half of a surrogate pair, which stands for no character")


def answers_of(predictions: Predictions, top: int) -> list[dict[str, Any]]:
    """Return each prediction as an object of JSON.

    It has `label` and `probability`, or `labels` and `probabilities` where a text may have several labels; and `top`, the
    likeliest classes, where more than one is asked for.
    """
    answers = []
    for label, share, pairs in zip(predictions.labels, predictions.probabilities, predictions.top, strict=True):
        several = isinstance(label, tuple)
        answer: dict[str, Any] = (
            {"labels": list(label), "probabilities": list(map(_finite, share))}
            if several
            else {"label": label, "probability": _finite(share)}
        )
        if top > 1:
            answer["top"] = [{"label": name, "probability": _finite(likely)} for name, likely in pairs[:top]]
        answers.append(answer)
    return answers


def explanation_of(explanation: Explanation) -> dict[str, Any]:
    """Return an explanation as an object of JSON; `runs` are pieces of the text, shaded by which class they speak for."""
    return {
        "label": explanation.label,
        "against": explanation.against,
        "log_odds": _finite(explanation.log_odds),
        "exact": explanation.exact,
        "pieces": [
            {"piece": piece.piece, "kind": piece.kind, "log_odds": _finite(piece.log_odds), "spans": piece.spans}
            for piece in explanation.pieces[:PIECES]
        ],
        "runs": shades(explanation),
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None  # JSON has no NaN


class Gathered:
    """Answers requests together: what comes within a few milliseconds, or while the model is busy, is one batch.

    Args:
        classifier: predicts, on one thread.
    """

    def __init__(self, classifier: Classifier) -> None:
        self._classifier = classifier
        self._thread = ThreadPoolExecutor(1)
        self._pending: deque[tuple[Question, asyncio.Future[Any]]] = deque()
        self._working: asyncio.Task[None] | None = None
        self._texts = self._characters = 0

    async def answer(self, asked: Question) -> Any:
        """Return the answer to a request.

        Raises:
            RefusedError: too many are waiting.
        """
        texts, characters = _size(asked)
        if self._texts + texts > MOST_WAITING_TEXTS or self._characters + characters > MOST_WAITING_CHARACTERS:
            raise RefusedError(503, "too many texts are waiting; try again in a second")
        self._texts, self._characters = self._texts + texts, self._characters + characters
        try:
            future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
            self._pending.append((asked, future))
            if self._working is None:
                self._working = asyncio.create_task(self._work())
            return await future
        finally:
            self._texts, self._characters = self._texts - texts, self._characters - characters

    async def _work(self) -> None:
        try:
            await asyncio.sleep(GATHER_SECONDS)
            while self._pending:
                batch = self._next()
                if not batch:
                    continue
                run = asyncio.get_running_loop().run_in_executor
                try:
                    answers = await run(self._thread, self._answered, [asked for asked, _ in batch])
                except Exception as error:  # noqa: BLE001 (each request gets it)
                    answers = [error] * len(batch)
                for (_, future), answer in zip(batch, answers, strict=True):
                    if future.done():  # the asker has gone
                        continue
                    future.set_exception(answer) if isinstance(answer, Exception) else future.set_result(answer)
        finally:
            self._working = None

    def _next(self) -> list[tuple[Question, asyncio.Future[Any]]]:
        batch, texts, characters = [], 0, 0
        while self._pending and texts < _BATCH_TEXTS and characters < _BATCH_CHARACTERS:
            asked, future = self._pending.popleft()
            if not future.done():
                batch.append((asked, future))
                more = _size(asked)
                texts, characters = texts + more[0], characters + more[1]
        return batch

    def _answered(self, batch: Sequence[Question]) -> list[Any]:
        """Predict all texts of a batch at once, and give each request its own."""
        texts = [text for asked in batch for text in asked.texts]
        predictions = self._classifier.predict(texts, top=max((asked.top for asked in batch), default=1))
        answers, start = [], 0
        for asked in batch:
            end = start + len(asked.texts)
            own = predictions.part(start, end)
            made = answers_of(own, asked.top)
            start = end
            if asked.explain:
                explained = self._classifier.explain(asked.texts).explanations[0]
                made[0]["explanation"] = explanation_of(explained)
            answers.append(made[0] if asked.one else {"predictions": made})
        return answers


def _size(asked: Question) -> tuple[int, int]:
    count = len(asked.texts) + _EXPLAINED_AS * asked.explain
    return max(count, 1), sum(map(len, asked.texts)) + 1


def make_app(classifier: Classifier, *, name: str = "classifier", allowed_hosts: Collection[str] = LOOPBACK) -> Any:
    """Return an ASGI application that answers with a classifier: a page at `/`, and `/predict`, `/model` and `/health`.

    Args:
        classifier: the classifier.
        name: what to call it on the page.
        allowed_hosts: the names under which it may be asked; others are refused, so that no page of another site can reach
            it by giving its own name this machine's address.

    Returns:
        A Starlette application.

    Raises:
        ModuleNotFoundError: Starlette is not installed; the message says how to install it.
    """
    try:
        from starlette.applications import Starlette
        from starlette.routing import Route
    except ModuleNotFoundError:
        raise _not_installed() from None
    site = _Site(classifier, name, allowed_hosts)
    routes = [
        Route("/", site.guarded(site.page, json_only=False), methods=["GET"]),
        Route("/health", site.guarded(site.health), methods=["GET"]),
        Route("/model", site.guarded(site.model), methods=["GET"]),
        Route("/predict", site.guarded(site.predict), methods=["POST"]),
    ]
    handlers: Mapping[Any, Any] = {
        404: _refusal_of(404, "there is nothing here; see /, /predict, /model and /health"),
        405: _refusal_of(405, "use POST for /predict and GET for /, /model and /health"),
        500: _refusal_of(500, "the classifier failed; the log of the server says why"),
    }
    app = Starlette(routes=routes, exception_handlers=handlers)
    app.router.redirect_slashes = False
    return app


def server() -> Any:
    """Return the package `uvicorn`.

    Raises:
        ModuleNotFoundError: it is not installed; the message says how to install it.
    """
    try:
        import uvicorn
    except ModuleNotFoundError:
        raise _not_installed() from None
    return uvicorn


def _not_installed() -> ModuleNotFoundError:
    return ModuleNotFoundError(
        "linkboy serve needs starlette and uvicorn, which are not installed; run: pip install 'linkboy[serve]'"
    )


Handler = Callable[[Any], Awaitable[Any]]


class _Site:
    """What is behind each path.

    Args:
        classifier: the classifier.
        name: what to call it.
        allowed_hosts: the names under which it may be asked.
    """

    def __init__(self, classifier: Classifier, name: str, allowed_hosts: Collection[str]) -> None:
        self._classifier, self._name = classifier, name
        self._hosts = {host.lower().strip("[]") for host in allowed_hosts}
        self._gathered = Gathered(classifier)
        self._pages: dict[Language, tuple[str, str]] = {lang: self._rendered(lang) for lang in LANGUAGES}
        self._held = 0

    def guarded(self, handler: Handler, *, json_only: bool = True) -> Handler:
        """Return a handler that refuses requests under other names or from other sites, and puts refusals into JSON."""

        async def answer(request: Any) -> Any:
            try:
                _check_host(request.headers, self._hosts)
                _check_origin(request.headers, navigates=not json_only)
                return await handler(request)
            except RefusedError as refused:
                return _refusal(refused.status, str(refused))

        return answer

    async def page(self, request: Any) -> Any:
        from starlette.responses import HTMLResponse

        first = request.headers.get("accept-language", "").lstrip().lower()
        text, policy = self._pages["zh" if first.startswith("zh") else "en"]
        return HTMLResponse(text, headers={**_HEADERS, "content-security-policy": policy, "vary": "accept-language"})

    async def health(self, request: Any) -> Any:
        return _json({"ok": True})

    async def model(self, request: Any) -> Any:
        classifier = self._classifier
        about = {"name": self._name, "kind": classifier.kind, "class_names": classifier.class_names}
        about["text_columns"] = classifier.text_columns
        return _json({**about, "linkboy": __version__, "most_texts": MOST_TEXTS, "most_characters": MOST_TEXT})

    async def predict(self, request: Any) -> Any:
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise RefusedError(415, f"the body must be of the type application/json, got {kind[:60]!r}")
        asked = asked_of(await self._body(request), self._classifier.text_columns)
        return _json(await self._gathered.answer(asked))

    async def _body(self, request: Any) -> bytes:
        """Return the body of a request, within bounds of size and time."""
        too_large = RefusedError(413, f"a body may have {MOST_BODY:,} bytes; send fewer texts at a time")
        length = request.headers.get("content-length", "0")
        if not length.isdecimal() or int(length[:20]) > MOST_BODY:
            raise too_large
        pieces: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(BODY_SECONDS):
                async for piece in request.stream():
                    size, self._held = size + len(piece), self._held + len(piece)
                    if size > MOST_BODY:
                        raise too_large
                    if self._held > MOST_BODIES:
                        raise RefusedError(503, "too many requests are being read; try again in a second")
                    pieces.append(piece)
        except TimeoutError:
            raise RefusedError(408, f"the body did not arrive within {BODY_SECONDS:.0f} seconds") from None
        finally:
            self._held -= size
        return b"".join(pieces)

    def _rendered(self, lang: Language) -> tuple[str, str]:
        """Return the page in a language, and the policy that allows its one script and requests to this server."""
        made = environment("linkboy.classify", {"script": font_language}, script="serve.js", lang=lang)
        text = made.get_template("serve.html").render(
            name=self._name,
            kind=self._classifier.kind,
            classes=len(self._classifier.class_names),
            columns=self._classifier.text_columns,
            several=self._classifier.several,
            top=min(TOP_ON_PAGE, len(self._classifier.class_names)),
            most=MOST_EXPLAINED,
        )
        policy = (
            "default-src 'none'; style-src 'unsafe-inline'; img-src data:; connect-src 'self'; base-uri 'none'; "
            f"form-action 'none'; frame-ancestors 'none'; script-src '{made.globals['script_hash']}'"
        )
        return text, policy


def _check_host(headers: Any, allowed: Collection[str]) -> None:
    """Refuse a request under a name that is not allowed, as of a page whose name was given this machine's address."""
    given = headers.getlist("host")
    host = _host_of(given[0]) if len(given) == 1 else None
    if host is None or host not in allowed:
        shown = ", ".join(given)[:60]
        raise RefusedError(421, f"this server may not be asked as {shown!r}; allow that name where it is started")


def _host_of(host: str) -> str | None:
    try:
        parts = urlsplit(f"//{host}")
        return parts.hostname if parts.netloc == host and "@" not in host and parts.port != 0 else None
    except ValueError:
        return None


def _check_origin(headers: Any, *, navigates: bool) -> None:
    """Refuse a request that a page of another site has made; a link from there to the page itself is fine."""
    origins = headers.getlist("origin")
    own = {f"http://{headers['host'].lower()}", f"https://{headers['host'].lower()}"}
    site = headers.get("sec-fetch-site", "none")
    foreign = any(origin.lower() not in own for origin in origins)
    if foreign or (site in ("cross-site", "same-site") and not navigates):
        raise RefusedError(403, "pages of other sites may not ask this server")


def _json(answer: object) -> Any:
    from starlette.responses import JSONResponse

    return JSONResponse(answer, headers=_HEADERS)


def _refusal(status: int, sentence: str) -> Any:
    from starlette.responses import JSONResponse

    headers = dict(_HEADERS)
    if status == 503:
        headers["retry-after"] = "1"
    if status in (408, 413):
        headers["connection"] = "close"  # what is left of the body is not read
    return JSONResponse({"error": sentence}, status, headers=headers)


def _refusal_of(status: int, sentence: str) -> Callable[[Any, Exception], Awaitable[Any]]:
    async def answer(request: Any, error: Exception) -> Any:
        return _refusal(status, sentence)

    return answer
