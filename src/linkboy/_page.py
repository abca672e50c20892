"""The frame of every HTML page: one file, light and dark, wide and narrow, that loads nothing from the network."""

import base64
import hashlib
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from linkboy._language import Language, translate, translate_filled
from linkboy._report import format_count, format_percent, visible


def environment(
    package: str, filters: Mapping[str, Callable[..., Any]] | None = None, *, script: str = "", lang: Language = "en"
) -> Any:
    """Return a jinja2 environment whose templates can extend `frame.html`.

    A template writes its sentences as `_("%(rows)s rows", rows=3)`, and the filter `said` translates one that comes with its
    values in it.

    Args:
        package: the package with a folder `templates`, such as `"linkboy.classify"`.
        filters: more filters, beside `visible`, `count` and `percent`.
        script: name of a template that is the one script of the page; the page allows it by its hash, and no other.
        lang: the language of the page.

    Returns:
        The environment, which escapes everything and refuses what is not defined.

    Examples:
        >>> text = "{% extends 'frame.html' %}{% block title %}{{ name }}{% endblock %}"
        >>> page = environment("linkboy.doctor").from_string(text).render(name="a<b")
        >>> "<title>a&lt;b · linkboy</title>" in page, "script-src" in page
        (True, False)
    """
    from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

    made = Environment(
        loader=ChoiceLoader([PackageLoader(package, "templates"), PackageLoader("linkboy", "_templates")]),
        autoescape=True,
        undefined=StrictUndefined,
        extensions=["jinja2.ext.i18n"],
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"percent": format_percent, "count": format_count, "visible": visible, **(filters or {})}
    made.filters |= {"said": partial(translate_filled, lang=lang), "marked": marked_code}
    say = partial(translate, lang=lang)
    made.install_gettext_callables(say, lambda one, many, number: say(one if number == 1 else many), newstyle=True)  # type: ignore[attr-defined]
    made.globals["lang"] = lang
    text = made.get_template(script).render() if script else ""
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    made.globals |= {"script": text, "script_hash": f"sha256-{digest}" if text else ""}
    return made


def marked_code(text: str) -> Any:
    """Escape a text, and mark what stands between backticks as code.

    Examples:
        >>> str(marked_code("call `a<b>`"))
        'call <code>a&lt;b&gt;</code>'
    """
    from markupsafe import Markup, escape

    parts = text.split("`")
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if at % 2 else escape(part) for at, part in enumerate(parts)
    )
