"""The report: from stored results alone, self-contained, told apart, and clear about what it cannot read."""

from __future__ import annotations

import json
import re
import sys
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from conftest import stored_trace
from trueplex.cli import main as cli
from trueplex.errors import InputError, TrueplexError
from trueplex.evals.run import write_results
from trueplex.evals.summary import summarise
from trueplex.report import drawing, figures, tables
from trueplex.report.headline import headlines
from trueplex.report.read import Material, describe, last, read
from trueplex.report.sections import sections

CONFIG = {"model": "reference", "fingerprint": "0" * 24, "device": "cpu", "dtype": "float32", "paths": 8, "thinking": "discrete",
          "width": 1, "merge": None, "replacement": None, "noise": None, "sampling": {"temperature": 1.0, "top_p": 1.0, "top_k": 0},
          "ending": {"think_tokens": None}, "max_tokens": 640, "seed": 0}  # fmt: skip
MULTIPLEX = {"thinking": "multiplex", "width": 3, "merge": "weighted", "replacement": True}


def result(seed: int, **config: object) -> dict:
    rng, traces = np.random.default_rng(seed), []
    for problem in range(6):
        for i in range(8):
            right = bool(rng.random() < 0.5)
            traces.append(stored_trace(i, "4" if right else "<5>", right, float(rng.random()), f"problem {problem}"))
    return {
        "config": CONFIG | config,
        "machine": {"torch": "2"},
        "suites": {s: summarise(traces) for s in ("easy", "a & <b>")},
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two kinds of thinking, widths and budgets, judged scores and a training run, as the commands write them."""
    root = tmp_path_factory.mktemp("results")
    write_results(result(0), root / "discrete")
    write_results(result(1, **MULTIPLEX), root / "k3")
    (root / "k3" / "timing.json").write_text(json.dumps({"easy": {"seconds": 2.0, "traces": 48, "tokens": 240}}))
    for budget in (16, 32):
        write_results(result(2, ending={"think_tokens": budget}), root / f"b{budget}")
    cell = {"mean": 0.5, "low": 0.4, "high": 0.6}
    judged = {
        "within": {"0.5": cell, "0.7": None, "1.0": cell},
        "over_all": {"1.0": {"mean": 0.875, "low": 0.8125, "high": 0.9375}},
        "calibration": {"ece": cell, "curve": [{"score": 0.2, "right": 0.3}]},
        "votes": {"weighted": cell, "weighted_minus_majority": cell},
    }
    write_results({"config": {}, "suites": {"easy": {"scorers": {"auto": judged}}}}, root / "judged")
    (root / "rl.json").write_text(json.dumps({"run": {}, "curves": {"reward": [0.1] * 30, "entropy": [1.0] * 30, "odd": ["x"]},
                                              "validation": {"step": [10, 20], "right": [0.2, 0.3]}}))  # fmt: skip
    return root


def all_of(folder: Path) -> list[Path]:
    return [folder / name for name in ("discrete", "k3", "b16", "b32", "judged", "rl.json")]


def report(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["trueplex", "report", *arguments])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    return int(stop.value.code or 0)


class Fetches(HTMLParser):
    """Everything that a browser would go and get, and whether the text was escaped."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.found += [
            v or "" for k, v in attrs if k in ("src", "href", "xlink:href") and not (v or "").startswith("#")
        ]


def test_a_page_fetches_nothing_and_shows_everything(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "page.html"
    assert report(monkeypatch, *map(str, all_of(folder)), "--out", str(page), "--title", "A <study>") == 0
    text = page.read_text()
    parser = Fetches()
    parser.feed(text)
    assert parser.found == [] and not parser.tags & {"script", "link", "img", "iframe", "b"}
    assert "@import" not in text and not re.search(r"url\((?!#)", text) and "A &lt;study&gt;" in text
    titles = re.findall(r"<h2[^>]*>([^<]*)", text)
    assert titles == ["Main results", "pass@k", "Accuracy against tokens", "Width and merge", "Length budget", "Scores over a trace",
                      "Reliability", "Entropy and exploration", "Lengths", "Scores judged", "Training", "In detail"]  # fmt: skip
    names = re.findall(r'\bid="([^"]+)"', text)
    referred = re.findall(r'(?:href="#|url\(#)([^")]+)', text)
    assert set(referred) <= set(names)
    for picture in re.findall(r"<svg.*?</svg>", text, re.DOTALL):
        ElementTree.fromstring(picture)
    assert len(text) < 3_000_000
    cells = re.findall(r"<td[^>]*>([^<]*)</td>", text)
    assert {"0.100 → 0.100", "1.000 → 1.000", "0.88 [0.81, 0.94]"} <= set(cells)  # a training run, and an AUROC
    assert "prefers-color-scheme: dark" in text and "var(--one)" in text and 'class="headline"' in text
    assert re.search(r"<footer>Made \d{4}-\d\d-\d\d with trueplex .* by <code>trueplex report ", text)


def test_the_same_results_give_the_same_files(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("one", "two"):
        out = ["--out", str(tmp_path / f"{name}.html"), "--markdown", str(tmp_path / f"{name}.md")]
        assert report(monkeypatch, str(folder / "discrete"), *out) == 0
    one, two = ((tmp_path / f"{name}.html").read_text().replace(f"/{name}.", "") for name in ("one", "two"))
    assert one == two  # the command on the page names the file
    lines = (tmp_path / "one.md").read_text().splitlines()
    grid = [line for line in lines if line.startswith("|")]
    assert lines[0] == "# trueplex: results" and grid and all(line.endswith("|") for line in grid)


def test_figures_are_files_of_their_own(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert report(monkeypatch, str(folder / "k3"), "--figures", str(tmp_path), "--format", "png") == 0
    names = {path.name for path in tmp_path.iterdir()}
    assert {
        "pass-at-k.png",
        "tokens-1.png",
        "trajectories-1.png",
        "reliability.png",
        "entropy.png",
        "lengths-1.png",
    } <= names
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in tmp_path.iterdir())


def test_an_ablation_joins_runs_of_the_same_problems(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A suite that only one width ran on has no line to draw, nor has a run of other problems a place on another's."""
    runs = read([folder / "discrete", folder / "k3"]).runs
    suites = list(runs[0].suites)
    groups = {"weighted": [(run.config["width"], run) for run in runs]}
    assert figures.ablated(groups, suites) == suites
    drawn = figures.ablation(groups, suites, "K", trend=False)
    assert [axes.get_title("left") for axes in drawn.axes if axes.get_visible()] == suites
    assert all(line.get_linestyle() == "None" for line in drawn.axes[0].get_lines())  # widths are no trend
    runs[1].suites[suites[0]]["ids"] = ["others"]
    assert figures.ablated(groups, suites) == suites[1:]
    for run in runs[1:]:
        run.result["suites"] = {f"other {name}": f for name, f in run.suites.items()}
    assert figures.ablated(groups, [*suites, *runs[1].suites]) == []
    titles = [part.title for part in sections(Material(runs))]
    assert "Width and merge" not in titles and "pass@k" in titles


@pytest.mark.parametrize("arguments", [[], ["--format", "png"], ["--figures", "f", "--format", "gif"]])
def test_options_that_cannot_act_are_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    assert report(monkeypatch, str(folder / "k3"), *arguments) == 2


def test_what_is_no_result_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no results\.json"):
        read([tmp_path])
    for text, says in (
        ("{", "cannot read"),
        ("[1]", "no results of eval"),
        ('{"suites": {"a": {"pass": {}}}}', "earlier version"),
        ('{"suites": {"a": 3}}', "x.json: the results lack what a report shows"),
        ('{"suites": {"a": {"pass": {}, "curves": []}}, "config": 3}', "x.json: the results lack"),
        ('{"suites": {"a": {"pass": {}, "curves": []}}}', "KeyError: 'config'"),
    ):
        (tmp_path / "x.json").write_text(text)
        with pytest.raises(TrueplexError, match=says):
            read([tmp_path / "x.json"])


def test_runs_are_called_by_how_they_thought(folder: Path) -> None:
    assert [run.name for run in read(all_of(folder)).runs] == [
        "discrete", "multiplex K = 3", "discrete, ≤ 16 thinking tokens", "discrete, ≤ 32 thinking tokens"]  # fmt: skip
    twice = read([folder / "discrete", folder / "discrete"]).runs
    assert [run.name for run in twice] == ["discrete (discrete 1)", "discrete (discrete 2)"]
    assert describe(CONFIG | MULTIPLEX | {"merge": "mean"}) == "multiplex K = 3, mean"


def test_tables_say_what_the_results_say(folder: Path) -> None:
    material = read([folder / "discrete", folder / "k3"])
    own = material.runs[1].suites["easy"]
    line = next(
        row
        for row in tables.main(material).rows
        if row[0].startswith("easy (6 problems: too few to tell") and row[1] == "multiplex K = 3"
    )
    assert line[3] == tables.percent(own["pass"]["1"]) and line[5] == tables.percent(own["methods"]["weighted"]["8"])
    gains = tables.compared(material)
    other = material.runs[0].suites["easy"]
    assert gains is not None
    expected = np.mean(np.subtract(own["right"], other["right"]) / 8)
    assert gains.rows[0][2].startswith(f"{100 * expected:+.1f} ")
    pair = next(p for p in own["pairs"] if (p["one"], p["other"]) == ("majority", "weighted"))
    shown = next(row for row in tables.pairs(material.runs[1], ["easy"]).rows if row[1] == "weighted − majority")
    assert shown[4] == f"{pair['loss']} / {pair['tie']} / {pair['win']}"


def test_three_lines_at_most_have_a_colour_and_each_a_dash_of_its_own() -> None:
    look = drawing.looks({"first": 0.1, "low": 0.2, "high": 0.9, "middle": 0.5})
    assert look.names == ("first", "high", "middle") and look.grey(["low", "first", "low"]) == " Grey: low."
    coloured = [look.of(name) for name in look.names]
    assert len({x["color"] for x in coloured}) == len({x["linestyle"] for x in coloured}) == 3
    assert look.of("low")["color"] == drawing.REST


def test_shares_stand_on_axes_from_0_to_100_and_names_at_line_ends_do_not_overlap(folder: Path) -> None:
    runs = read([folder / "discrete", folder / "k3"]).runs
    axes = figures.pass_at_k(runs, ["easy"]).axes[0]
    assert axes.get_ylim() == (0, 100)
    names = {text.get_text(): text.get_position()[1] for text in axes.texts}
    assert set(names) == {"discrete", "multiplex K = 3"}
    assert abs(names["discrete"] - names["multiplex K = 3"]) >= drawing.GAP - 1e-9


def test_few_problems_are_said_and_no_share_is_certain() -> None:
    """One right problem of one is not 100 % [100, 100], and an AUROC of 1.00 over it is not a figure."""
    certain = {"mean": 1.0, "low": 1.0, "high": 1.0}
    assert (
        tables.percent(certain, 20) == "100.0 [84, 100]"
        and tables.percent({"mean": 0.0, "low": 0.0, "high": 0.0}, 20) == "0.0 [0, 16]"
    )
    assert tables.area(certain, 1) == "– (1 problems)" and tables.area(certain, 20) == "1.00 [1.00, 1.00]"
    assert tables.called("easy", 19) == "easy (19 problems: too few to tell)" and tables.called("easy", 20) == "easy"


def test_the_headline_states_a_difference_only_where_the_interval_does(folder: Path) -> None:
    runs = read([folder / "discrete", folder / "k3"]).runs
    assert headlines(Material(runs)) == ["Multiplex K = 3 against discrete: 12 problems are too few to tell."]
    for run, right in zip(runs, (2, 6), strict=True):
        run.result["suites"] = {
            "easy": run.suites["easy"] | {"ids": [str(i) for i in range(30)], "right": [right] * 30}
        }
    told = headlines(Material(runs))[0]
    assert (
        told
        == "With one trace, multiplex K = 3 is right 50.0 points [50.0, 50.0] more often than discrete (30 problems)."
    )
    runs[1].suites["easy"]["right"] = [0, 4] * 15
    assert headlines(Material(runs))[0].startswith("With one trace, no difference is found")
    runs[1].suites["easy"]["ids"] = ["others"] * 30
    assert "cannot be compared" in headlines(Material(runs))[0]


def test_the_best_cell_of_each_group_is_marked_but_not_among_too_few() -> None:
    rows = [["a", "x", "10.0 [1, 20]"], ["a", "y", "30.0 [1, 50]"], ["b (3 problems: too few to tell)", "x", "1.0"], ["b (3 problems: too few to tell)", "y", "–"]]  # fmt: skip
    table = tables.Table("t", "", ["suite", "run", "pass@1"], rows, ("pass@1",))
    assert table.best() == {(1, 2)} and table.numeric() == {2}
    assert "**30.0 [1, 50]**" in table.markdown() and "---:" in table.markdown()


def test_seconds_stand_over_tokens_where_the_rate_is_known(folder: Path) -> None:
    run = read([folder / "k3"]).runs[0]
    figure = figures.against_tokens(run, ["easy"])
    assert run.rates == {"easy": 120.0} and figure.axes[0].child_axes[0].get_xlabel() == "seconds"
    assert not figures.against_tokens(read([folder / "discrete"]).runs[0], ["easy"]).axes[0].child_axes


def test_many_runs_share_their_figures_and_limited_ones_stand_apart(folder: Path, tmp_path: Path) -> None:
    for width in (2, 6):
        write_results(result(width, **MULTIPLEX | {"width": width}), tmp_path / str(width))
    material = read([*all_of(folder), tmp_path / "2", tmp_path / "6"])
    titles = {part.title: part for part in sections(material)}
    assert [p.name for p in titles["Accuracy against tokens"].pictures] == ["tokens"]
    assert [p.name for p in titles["Width and merge"].pictures] == ["width"]
    lines = [line.get_label().lstrip("_") for line in titles["pass@k"].pictures[0].figure().axes[0].get_lines()]
    assert lines == ["discrete", "multiplex K = 3", "multiplex K = 2", "multiplex K = 6"]


def test_a_folder_of_files_is_read_discrete_first(folder: Path, tmp_path: Path) -> None:
    for name in ("b16", "k3", "discrete"):
        (tmp_path / f"{name}.json").write_bytes((folder / name / "results.json").read_bytes())
    assert [run.name for run in read([tmp_path]).runs] == [
        "discrete",
        "multiplex K = 3",
        "discrete, ≤ 16 thinking tokens",
    ]


def test_a_combination_is_not_called_as_its_verifier() -> None:
    names = ("combined", "combined:mine", "combined:runs/mine", "runs/mine", "orm:runs/outcome")
    assert [last(name) for name in names] == ["combined", "combined:mine", "combined:mine", "mine", "outcome"]
