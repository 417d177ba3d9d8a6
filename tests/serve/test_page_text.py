"""The page as a text: what no browser is needed for."""

from __future__ import annotations

import re
from pathlib import Path

from trueplex.serve.page import SCRIPTS, page_html


def test_the_page_is_one_text_that_fetches_nothing_and_never_reads_markup() -> None:
    page = page_html()
    assert "{{" not in page and page.count("<script") == 1 and page.count("<style>") == 1
    outside = set(re.findall(r"https?://[^\s\"'`<)]+", page)) - {"http://www.w3.org/2000/svg"}
    assert not outside and "@import" not in page and " src=" not in page
    for name in SCRIPTS:
        script = Path(__file__).parents[2].joinpath("src/trueplex/serve", name).read_text()
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", script), (
            name
        )
        assert "</script" not in script and len(script.splitlines()) <= 400, name
    assert "default-src 'none'" in page and "unsafe" not in page
