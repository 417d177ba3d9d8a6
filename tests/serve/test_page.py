"""The page in a real browser, without a window: ask, watch, open a path, by mouse, by keyboard, on a phone, in the dark."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlencode

import pytest

import trueplex
from trueplex.engine.sampling import Sampling
from trueplex.engine.thinking import Thinking
from trueplex.models.load import load
from trueplex.solving.settings import Settings
from trueplex.types import Problem

for needed in ("fastapi", "uvicorn", "playwright"):
    pytest.importorskip(needed)

from playwright.sync_api import Browser, Page, expect, sync_playwright  # noqa: E402

from serve.recorded import Stage, create_mock, record  # noqa: E402
from solving.scripted import serving  # noqa: E402

pytestmark = pytest.mark.slow  # a browser
CHROMIUM = shutil.which("chromium")
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking"]
GITA = (
    "Gita has 36 shells. Gita nearly loses 22, but keeps them. Gita gives away 9. The number doubles. Half of them are lost. "
    "The number doubles. How many shells are there now?"
)
PATHS = 8
PHONE = {"width": 360, "height": 740}
# The lowest contrast of any text on the page, against the background that lies behind it (WCAG 2, 1.4.3).
CONTRAST = """() => {
  const channels = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const light = (colour) => { const [r, g, b] = channels(colour).slice(0, 3).map((c) => c / 255).map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const behind = (node) => { for (let at = node; at; at = at.parentElement) { const colour = getComputedStyle(at).backgroundColor;
    if (colour.startsWith("rgb") && (channels(colour)[3] ?? 1) === 1) return colour; } return "rgb(255, 255, 255)"; };
  let worst = [99, ""];
  for (const node of document.querySelectorAll("h1, h2, p, span, dt, dd, label, summary, button, a, pre")) {
    if (!node.checkVisibility() || ![...node.childNodes].some((n) => n.nodeType === 3 && n.data.trim()) || node.closest(".pruned, .truncated, .sr, .stack, .answer, :disabled")) continue;
    const [one, other] = [light(getComputedStyle(node).color), light(behind(node))].sort((a, b) => b - a);
    const contrast = (one + 0.05) / (other + 0.05);
    if (contrast < worst[0]) worst = [contrast, node.outerHTML.slice(0, 120)];
  }
  return worst;
}"""


@pytest.fixture(scope="module")
def events() -> list[dict[str, Any]]:
    """What a run of the embedded model told: 8 paths, some of them pruned, several answers, merged steps."""
    hot = Thinking(sampling=Sampling(temperature=1.3))
    settings = Settings(paths=PATHS, thinking=hot, probe_every=8, prune="drop:1@24/6")
    return record(load("reference"), Problem(GITA), settings)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("there is no chromium here")
    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)


@pytest.fixture
def stage(events: list[dict[str, Any]]) -> Stage:
    return Stage(events)


@pytest.fixture
def visit(browser: Browser, stage: Stage) -> Iterator[Callable[..., Page]]:
    """Opens the page; fails when it asks anybody else for anything, or complains."""
    with serving(create_mock(stage)) as url:
        contexts, wrong = [], []

        def opened(path: str = "/", **how: Any) -> Page:
            contexts.append(browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **how}))
            page = contexts[-1].new_page()
            page.set_default_timeout(10_000)
            page.on("request", lambda r: wrong.append(r.url) if not r.url.startswith((url, "data:", "blob:")) else None)
            page.on(
                "console", lambda m: wrong.append(m.text) if m.type == "error" and "status of 4" not in m.text else None
            )
            page.on("pageerror", lambda error: wrong.append(str(error)))
            page.goto(url + path)
            page.wait_for_selector(".chip")
            return page

        yield opened
        for context in contexts:
            context.close()
        assert not wrong


def ask(page: Page) -> Page:
    page.fill("#problem", GITA)
    page.keyboard.press("Enter")
    page.wait_for_selector("#replay-bar:not([hidden])")
    return page


def seen(page: Page) -> list[list[str]]:
    """Rows of the race, as (class, text of the end)."""
    return page.eval_on_selector_all(
        "#paths .row", "rows => rows.map(r => [r.classList[1], r.querySelector('.end').textContent])"
    )


# -- ask, and watch ------------------------------------------------------------------------------------


def test_a_race_is_shown_as_it_was_told(visit: Callable[..., Page], stage: Stage) -> None:
    page, solution = ask(visit()), stage.events[-1]
    assert stage.asked == [
        {"problem": GITA, "paths": 16, "probe_every": 8, "stream": True, "candidates": True},
    ]
    assert seen(page) == [[p["status"], p["answer"] or "pruned"] for p in solution["paths"]]
    assert len({p["answer"] for p in solution["paths"]}) > 2, "the recorded race is too plain"
    assert page.inner_text("#answer") == solution["answer"] and page.inner_text("#state") == "Answer"
    votes = page.eval_on_selector_all("#votes .vote", "v => v.map(x => x.querySelector('.vote-answer').textContent)")
    assert votes == [v["answer"] for v in solution["votes"]]
    agreeing = solution["votes"][0]["paths"]
    assert page.inner_text("#sure-figure") == f"{agreeing} of {PATHS}"
    expect(page.locator("#told")).to_contain_text(f"Answer: {solution['answer']}. {agreeing} of {PATHS} paths agree.")
    line = page.get_attribute("#paths .row .line", "d") or ""
    assert line.count("L") >= len([e for e in stage.events if e["event"] == "score" and e["path"] == 0])
    ticks = page.get_attribute("#paths .row .ticks", "d") or ""
    explored = [
        s
        for e in stage.events
        if e["event"] == "tokens" and e["path"] == 0
        for s in e["steps"]
        if len(s["candidates"]) > 1
    ]
    assert ticks.count("M") == len(explored) > 0


def test_a_race_is_watched_while_it_runs_and_can_be_stopped(visit: Callable[..., Page], stage: Stage) -> None:
    stage.held = True
    page = visit()
    page.fill("#problem", GITA)
    page.click("#go")
    expect(page.locator("#state")).to_have_text("Leading so far")
    assert page.is_visible("#stop") and page.is_hidden("#replay-bar")
    page.click("#stop")
    expect(page.locator("#state")).to_have_text("Stopped; leading was")
    page.wait_for_timeout(200)
    assert stage.gone and page.is_hidden("#stop") and page.is_hidden("#alert")


def test_a_calibrated_confidence_an_abstention_and_no_answer(visit: Callable[..., Page], stage: Stage) -> None:
    solution = stage.events[-1]
    page = visit()
    for change, state, figure in (
        ({"confidence": 0.934}, "Answer", "93 %"),
        ({"confidence": 0.31, "answer": None, "state": "uncertain"}, "Not sure enough to answer", "31 %"),
        ({"answer": None, "state": "none", "votes": []}, "No path came to an answer", None),
    ):
        stage.events = [*stage.events[:-1], {**solution, **change}]
        ask(page)
        assert page.inner_text("#state") == state
        assert page.is_hidden("#sure") if figure is None else page.inner_text("#sure-figure") == figure


def test_where_scores_overrule_the_count_the_page_says_so(visit: Callable[..., Page], stage: Stage) -> None:
    votes = [{"answer": "36", "weight": 1.95, "paths": 2}, {"answer": "29", "weight": 0.16, "paths": 6}]
    stage.events = [*stage.events[:-1], {**stage.events[-1], "votes": votes, "answer": "36"}]
    assert "29 would have won, with 6 paths" in ask(visit()).inner_text("#upset")


# -- a path, opened ------------------------------------------------------------------------------------------


def test_an_opened_path_shows_its_thought_and_the_candidates_of_every_merged_step(
    visit: Callable[..., Page], stage: Stage
) -> None:
    page = ask(visit())
    page.click('.row[data-index="0"]')
    told = [e for e in stage.events if e["event"] == "tokens" and e["path"] == 0]
    for box, phase in (("#thinking", "thinking"), ("#answering", "answer")):
        page.uncheck("#stacked")
        text = "".join(e["text"] for e in told if e["phase"] == phase)
        shown = page.inner_text(box)
        assert re.sub(r"\s|⏎|␣", "", shown) == re.sub(r"\s|<\|end\|>|</think>", "", text)
    page.check("#stacked")
    distinct = [
        {text for text, _ in s["candidates"]} for e in told for s in e["steps"]
    ]  # equal samples are one candidate
    merged = [texts for texts in distinct if len(texts) > 1]
    stacks = page.eval_on_selector_all("#path .stack", "all => all.map(s => [...s.children].map(c => c.textContent))")
    assert len(stacks) == len(merged)
    assert [len(s) for s in stacks] == [len(texts) for texts in merged]
    page.click("#path .merge >> nth=1")
    assert f"mixes {len(merged[1])} candidates" in page.inner_text("#step")
    assert page.locator("#step .weights li").count() == len(merged[1])


def test_everything_goes_by_keyboard(visit: Callable[..., Page]) -> None:
    page = ask(visit())
    active = "document.activeElement.getAttribute('aria-label') || document.activeElement.id"
    page.focus("#paths .row")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowUp")
    assert page.evaluate(active).startswith("Path 1:")
    page.keyboard.press("Enter")
    expect(page.locator("#path")).to_be_visible()
    assert page.evaluate(active) == "path-title"
    page.keyboard.press("ArrowRight")
    first = page.evaluate(active)
    page.keyboard.press("ArrowRight")
    assert first.startswith("step ") and page.evaluate(active) != first
    page.keyboard.press("ArrowLeft")
    assert page.evaluate(active) == first and "Step" in page.inner_text("#step")
    page.keyboard.press("n")
    assert page.inner_text("#path-title") == "Path 2"
    page.keyboard.press("Escape")
    expect(page.locator("#path")).to_be_hidden()
    assert page.evaluate(active).startswith("Path 2:")
    page.keyboard.press("/")
    assert page.evaluate(active) == "problem"
    page.keyboard.press("Shift+Enter")
    assert "\n" not in page.input_value("#problem").strip() and page.is_hidden("#stop")


def test_every_control_has_a_name(visit: Callable[..., Page]) -> None:
    page = ask(visit())
    page.click('.row[data-index="0"]')
    page.eval_on_selector_all("details", "all => all.forEach(d => d.open = true)")
    unnamed = page.eval_on_selector_all(
        "button, input, select, textarea, a",
        """all => all.filter(e => !(e.labels && e.labels.length) && !e.getAttribute('aria-label') && !e.textContent.trim()).map(e => e.outerHTML)""",
    )
    assert not unnamed
    assert page.locator("[aria-live=polite], [role=status], [role=alert]").count() >= 4


# -- how it looks, and where ------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_in_both_schemes(visit: Callable[..., Page], scheme: str) -> None:
    page = visit(color_scheme=scheme, reduced_motion="reduce")
    for look in (lambda: None, lambda: ask(page), lambda: page.click('.row[data-index="0"]')):
        look()
        worst, where = page.evaluate(CONTRAST)
        assert worst >= 4.5, where
    bright = page.evaluate("getComputedStyle(document.body).backgroundColor").startswith("rgb(24")
    assert bright is (scheme == "light")


def test_a_phone_shows_all_of_it_without_scrolling_sideways(visit: Callable[..., Page]) -> None:
    page = visit(viewport=PHONE, has_touch=True, is_mobile=True)
    fits = "document.documentElement.scrollWidth <= innerWidth"
    assert page.evaluate(fits)
    page.fill("#problem", GITA)
    page.press("#problem", "Enter")
    assert page.is_hidden("#run"), "on a phone, Enter starts a line"
    page.tap("#go")
    page.wait_for_selector("#replay-bar:not([hidden])")
    page.eval_on_selector_all("details", "all => all.forEach(d => d.open = true)")
    assert page.evaluate(fits)
    assert page.evaluate("document.querySelector('.row').offsetHeight") >= 44
    page.tap('.row[data-index="1"]')
    assert page.evaluate("document.getElementById('path').offsetWidth === innerWidth") and page.evaluate(fits)
    page.tap("#path .merge >> nth=0")
    assert "candidates" in page.inner_text("#step")


# -- what may go wrong -------------------------------------------------------------------------------------------


def test_what_a_model_writes_is_shown_and_never_run(visit: Callable[..., Page], stage: Stage) -> None:
    evil = "<img src=x onerror=\"document.title='run'\"></script><script>document.title='run'</script>"
    step = {"text": evil, "entropy": 1.0, "candidates": [[evil, 0.6], ["&lt;b&gt;", 0.4]]}
    path = {"index": 0, "status": "finished", "tokens": 1, "score": 0.5, "answer": evil, "text": evil, "reason": evil}
    votes = [{"answer": evil, "weight": 1.0, "paths": 1}]
    stage.events = [
        {"event": "started", "id": "1", "problem": evil, "paths": 1, "config": {}},
        {"event": "tokens", "path": 0, "text": evil, "tokens": 1, "phase": "thinking", "steps": [step]},
        {"event": "stopped", "path": 0, "status": "finished", "reason": evil, "tokens": 1, "answer": evil},
        {**stage.events[-1], "answer": evil, "votes": votes, "paths": [path]},
    ]
    page = ask(visit())
    page.click(".row")
    page.click("#path .merge")
    assert page.inner_text("#answer") == evil and evil in page.inner_text("#step")
    assert page.title() == "trueplex" and page.locator("main img, dialog img").count() == 0


def refused(message: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": "invalid_request_error", "param": "prune", "code": None}}


@pytest.mark.parametrize(
    ("status", "message", "headers", "shown"),
    [
        (400, "unknown pruning rule 'x'. Try: half:32", {}, "unknown pruning rule 'x'. Try: half:32"),
        (429, "the queue is full", {"Retry-After": "7"}, "the queue is full (Free again in about 7 s.)"),
        (401, "wrong key", {}, "wrong key"),
    ],
)
def test_a_refusal_is_shown_in_the_servers_words(
    visit: Callable[..., Page], stage: Stage, status: int, message: str, headers: dict[str, str], shown: str
) -> None:
    stage.refusal = (status, refused(message), headers)
    page = visit()
    page.fill("#problem", GITA)
    page.click("#go")
    expect(page.locator("#alert")).to_have_text(shown)
    assert page.is_hidden("#run") and page.is_hidden("#stop")
    if status == 401:
        assert page.evaluate("document.activeElement.id") == "key"
        page.fill("#key", "secret")
        stage.refusal = None
        ask(page)
        assert page.is_hidden("#alert") and stage.keys[-1] == "Bearer secret"


@pytest.mark.parametrize(
    ("last", "shown"),
    [([], "ended early"), ([{"event": "error", "error": {"message": "the time is up"}}], "the time is up")],
)
def test_a_broken_stream_is_told_and_what_came_is_kept(
    visit: Callable[..., Page], stage: Stage, last: list[dict[str, Any]], shown: str
) -> None:
    stage.events = [*stage.events[:-1], *last]
    page = ask(visit())
    expect(page.locator("#alert")).to_contain_text(shown)
    assert len(seen(page)) == PATHS and page.inner_text("#state") == "Stopped; leading was"


# -- once more, and elsewhere ------------------------------------------------------------------------------------


def test_a_replay_goes_through_the_race_again(visit: Callable[..., Page]) -> None:
    page = ask(visit())
    end = (seen(page), page.inner_text("#verdict"))
    move = "place => { const s = document.getElementById('scrub'); s.value = place; s.dispatchEvent(new Event('input', { bubbles: true })); }"
    page.evaluate(move, 0)
    assert page.locator(".row").count() == 0 and page.locator("#votes .vote").count() == 0
    page.evaluate(move, 60)
    assert {status for status, _ in seen(page)} >= {"running"}
    page.evaluate(move, 10**6)
    assert (seen(page), page.inner_text("#verdict")) == end
    page.click("#replay")
    expect(page.locator("#replay")).to_have_text("Pause")
    page.wait_for_selector(".row.running")
    page.click("#replay")
    expect(page.locator("#replay")).to_have_text("Replay")


def test_the_same_request_as_code(visit: Callable[..., Page], stage: Stage) -> None:
    page = visit()
    problem = 'It\'s "5 − 3"\\n: how $much`?'
    page.fill("#problem", problem)
    page.click("#more summary")
    page.fill("[name=temperature]", "0.7")
    page.fill("[name=prune]", "half:32")
    page.fill("[name=max_tokens]", "200")
    page.click("#code summary")
    if shutil.which("curl"):
        subprocess.run(["bash", "-c", page.inner_text("#curl")], check=True, capture_output=True, timeout=20)
        wanted = {"paths": 16, "prune": "half:32", "temperature": 0.7, "max_tokens": 200, "probe_every": 8}
        assert stage.asked == [{"problem": problem, **wanted}]
    sent: list[dict[str, Any]] = []
    source = page.inner_text("#python").replace("from openai import OpenAI", "")
    exec(
        compile(source, "the page's code", "exec"), {"OpenAI": lambda **how: FakeClient(sent), "print": lambda *a: None}
    )
    assert sent == [
        {"model": "reference", "messages": [{"role": "user", "content": problem}], "temperature": 0.7,
         "max_completion_tokens": 200, "extra_body": {"trueplex": {"paths": 16, "prune": "half:32", "probe_every": 8}}}
    ]  # fmt: skip


class FakeClient:
    """Takes what the page's Python code would send."""

    def __init__(self, sent: list[dict[str, Any]]) -> None:
        self.sent, self.chat = sent, self
        self.completions = self

    def create(self, **asked: Any) -> Any:
        self.sent.append(asked)
        message = type("Message", (), {"content": ""})
        return type(
            "Reply",
            (),
            {"choices": [type("Choice", (), {"message": message})], "trueplex": {"confidence": 0, "votes": []}},
        )


def test_an_address_holds_the_question_and_its_options(visit: Callable[..., Page], stage: Stage) -> None:
    page = visit("/#problem=What+is+2+%2B+2%3F&paths=4&select=majority")
    assert page.input_value("#problem") == "What is 2 + 2?" and not stage.asked, "it asks only when it is told to"
    page.click("#go")
    page.wait_for_selector("#replay-bar:not([hidden])")
    assert {"problem": "What is 2 + 2?", "paths": 4, "select": "majority"}.items() <= stage.asked[0].items()


# -- the real server ------------------------------------------------------------------------------------------------


def test_equal_samples_are_one_candidate_and_a_late_answer_is_told_apart(
    visit: Callable[..., Page], stage: Stage
) -> None:
    """The server tells each of the K samples; and in one event the steps before and behind the end of thinking."""
    steps = [
        {"text": "4", "entropy": 0.1, "candidates": [["4", 0.2], ["7", 0.3], ["4", 0.2], ["7", 0.3]]},
        {"text": "2", "entropy": 0.1, "candidates": [["2", 0.5], ["2", 0.5]]},
        *({"text": text, "entropy": 0.0, "candidates": [[text, 1.0]]} for text in ("</think>", "It", " is 7")),
    ]
    stage.events = [
        {"event": "started", "id": "1", "problem": "?", "paths": 1, "config": {}},
        {"event": "tokens", "path": 0, "text": "42", "tokens": 5, "phase": "thinking", "steps": steps},
        {"event": "tokens", "path": 0, "text": "It is 7", "tokens": 5, "phase": "answer"},
        {"event": "stopped", "path": 0, "status": "finished", "reason": "end", "tokens": 5, "answer": "7"},
        {**stage.events[-1], "answer": "7", "paths": [], "votes": [{"answer": "7", "weight": 1.0, "paths": 1}]},
    ]
    page = ask(visit())
    page.click(".row")
    assert page.eval_on_selector_all("#path .stack > span", "all => all.map(c => c.textContent)") == ["7", "4"]
    assert page.inner_text("#answering") == "It is 7" and "It" not in page.inner_text("#thinking")


@pytest.mark.slow
def test_the_page_of_the_real_server_shows_what_solve_gives(browser: Browser) -> None:
    app = pytest.importorskip("trueplex.serve.app")
    backbone = load("reference")
    solution = trueplex.solve(backbone, GITA, paths=6, temperature=1.3, probe_every=8, prune="drop:1@24/5")
    with serving(app.create_app(backbone)) as url:
        page = browser.new_page()
        page.goto(
            f"{url}/#{urlencode({'problem': GITA, 'paths': 6, 'temperature': 1.3, 'probe_every': 8, 'prune': 'drop:1@24/5'})}"
        )
        page.wait_for_selector(".chip")
        page.click("#go")
        page.wait_for_selector("#replay-bar:not([hidden])", timeout=60_000)
        assert seen(page) == [[t.status.value, t.answer or "pruned"] for t in solution.traces]
        assert page.inner_text("#answer") == solution.answer and page.is_hidden("#alert")
        page.click('.row[data-index="0"]')
        assert solution.traces[0].steps is not None
        assert page.locator("#path .merge").count() == (~solution.traces[0].steps.consensus).sum()
        page.close()
