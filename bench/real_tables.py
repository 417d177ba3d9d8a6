"""The tables of a real model: what `make real` measured."""

from __future__ import annotations

from typing import Any

from cells import measured, missing, percent, read, spread, table
from score_tables import scorer_tables, scorer_title

FEW = 100  # problems: below it a page says that they are few


def real_results() -> tuple[dict[str, Any], dict[str, Any]] | None:
    """What `make real` wrote: votes on test problems, and scores of the same traces."""
    test, scores = read("real/test.json"), read("real/scores.json")
    return None if test is None or scores is None else (test, scores)


def named(test: dict[str, Any]) -> str:
    return str(test["config"]["model"]).rpartition("/")[2]


def few(problems: int) -> str:
    return "These are few problems: read the intervals. " if problems < FEW else ""


def real_parts() -> list[str]:
    """The chapter of a real model."""
    found = real_results()
    if found is None:
        return [missing("real/scores.json", "real MODEL=…")]
    test, scores = found
    (suite, f), config = next(iter(test["suites"].items())), test["config"]
    n = str(f["samples"])
    rows = [["one path", percent(f["pass"]["1"])], [f"majority of {n}", percent(f["methods"]["majority"][n])]]
    rows += [[f"weighted by {scorer_title(name)}", percent(judged["votes"]["weighted"])] for name, judged in next(iter(scores["suites"].values()))["scorers"].items()]  # fmt: skip
    rows.append([f"any of {n} paths", percent(f["pass"][n])])
    return [
        f"## A real model: {suite} with {named(test)}\n\n{f['problems']} test problems, {n} traces each, discrete, temperature "
        f"{config['sampling']['temperature']}, at most {config['ending']['max_tokens']} tokens ({100 * f['truncated']:.0f} % are cut off), {config['dtype']} "
        f"on {config['device']}. {few(f['problems'])}Verifiers were trained on other problems, by `make real`." + measured(test, scores),
        table(["answer by", "right, %"], rows),
        verifier_table(),
        scorer_tables(scores),
    ]  # fmt: skip


def verifier_table() -> str:
    """What the verifiers learned from, and how good they were on problems held out from training."""
    rows = []
    for name in ("m1", "m4"):
        card = read(f"real/verifier-{name}.json")
        if card is not None:
            recipe, held = card["recipe"], card["validation"]
            rows.append([str(recipe["probe_tokens"]), str(card["traces"]), str(recipe["rank"]), f"{recipe['epochs']:g}",
                         *(f"{held[f'within_auroc@{share}']:.2f}" for share in ("0.5", "1.0"))])  # fmt: skip
    head = ["probe tokens", "traces learned from", "rank", "epochs", "AUROC within, held out, at half", "at the end"]
    return table(head, rows)


def real_line() -> str:
    """For the README: one sentence with what a verifier did for a real model; empty without results."""
    found = real_results()
    if found is None:
        return ""
    test, scores = found
    suite, f = next(iter(test["suites"].items()))
    judged = next(iter(scores["suites"].values()))["scorers"]
    n = str(f["samples"])
    best = max((name for name in judged if name.rpartition("/")[2].startswith("verifier-")), key=lambda name: judged[name]["within"]["1.0"]["mean"])  # fmt: skip
    chosen = judged[best]
    free = max(
        (name for name in judged if "verifier-" not in name), key=lambda name: judged[name]["within"]["1.0"]["mean"]
    )
    return (
        f"\n\nOn a real model, {named(test)}, {suite}, {f['problems']} problems with {n} paths: one path {percent(f['pass']['1'])} %, majority "
        f"{percent(f['methods']['majority'][n])} %, weighted by a verifier from {read_traces(best)} traces {percent(chosen['votes']['weighted'])} %, any path "
        f"{percent(f['pass'][n])} %. AUROC within problems: verifier {spread(chosen['within']['1.0'], 2)}, best free score (`{free}`) "
        f"{spread(judged[free]['within']['1.0'], 2)}. {few(f['problems'])}".rstrip() + measured(test, scores)
    )  # fmt: skip


def read_traces(name: str) -> str:
    card = read(f"real/{name.rpartition('/')[2]}.json")
    return "?" if card is None else str(card["traces"])
