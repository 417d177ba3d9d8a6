"""The page at `/`: ask, watch the race of the paths, open one, and copy the request as code.

It is one text: markup, style and scripts are files of their own here, and are put together when the page is asked for
first. Nothing in it is fetched from elsewhere, and its content security policy lets nothing else run: what a model wrote
is only ever shown as text.
"""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from importlib.resources import files

STYLE = "page.css"
SCRIPTS = (
    "page_run.js",
    "page_race.js",
    "page_path.js",
    "page_ask.js",
)  # in the order in which they build on each other


@cache
def page_html() -> str:
    """The whole page. It speaks to `/v1/models` and `/v1/solve` of the server that it came from."""
    style = _read(STYLE)
    script = "\n".join(map(_read, SCRIPTS))
    policy = (
        f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; connect-src 'self'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    parts = {"policy": policy, "style": style, "script": script}
    page = _read("page.html")
    for name, text in parts.items():
        page = page.replace(f"{{{{{name}}}}}", text, 1)
    return page


def _read(name: str) -> str:
    return files("trueplex.serve").joinpath(name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """The source of a content security policy that lets exactly this text pass."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
