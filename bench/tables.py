"""Write docs/results.md, and what README.md and docs/serve.md show of results, from the files under results/.

    python bench/tables.py            write them
    python bench/tables.py --check    exit 1 when they are not what the files say

No number there is typed by hand. A results file that is not there yet gives no table, and one line says so.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import claims
import learning
from cells import (
    MODES,
    ROOT,
    counted,
    made_by,
    measured,
    missing,
    percent,
    read,
    read_all,
    spread,
    table,
)
from deciding_tables import confidence_parts, deciding_parts
from hybrid import hybrid_parts
from real_tables import afternoon as afternoon_table
from real_tables import readme_real, real_claim_parts, real_parts
from score_tables import scorer_parts, verifier_study_parts
from serve_tables import serve_parts, solved
from speed_tables import speed_parts

BEGIN, END = "<!-- {}: written by bench/tables.py -->", "<!-- end of {} -->"


README_METHODS = {
    "majority": "majority of 128 paths: what any sampler can do",
    "weighted": "the same paths, weighted by a one-token verifier",
    "weighted~half:4/4+auto": "`half:4/4+auto`: weak paths pruned, more started while the vote is open",
}


def readme_results() -> str:
    """What the README says of votes: on a real model, and on the embedded one where no verifier of a real one was measured."""
    real, whole = readme_real()
    why = (
        "**Why not vLLM, n = 16 and a majority?** Often that is the right choice: it needs nothing trained, and vLLM decodes faster than "
        "the engine here, which runs a model's own code."
    )
    how = "How much a verifier adds to a model of yours depends on how often the majority is wrong where some path is right."
    return "\n\n".join(part for part in (f"{why} {real}".rstrip(), "" if whole else embedded_readme(), how) if part)


def embedded_readme() -> str:
    """Right answers and tokens by method, means over the suites of the embedded model."""
    decided, rows = read("deciding.json"), list[list[str]]()
    if decided is None:
        return missing("deciding.json", "deciding")
    for name, title in README_METHODS.items():
        cells = [title]
        for suites in decided["modes"].values():
            right = sum(f["methods"][name]["128"]["mean"] for f in suites.values()) / len(suites)
            saved = sum(f["of_128"][name]["saved"] for f in suites.values()) / len(suites)
            cells += [f"{100 * right:.1f}", f"{100 * saved:.0f}" if "~" in name else "–"]
        rows.append(cells)
    head = [text for mode in decided["modes"] for text in (f"{mode}: right, %", "tokens saved, %")]
    sizes = {f["problems"] for suites in decided["modes"].values() for f in suites.values()}
    return (
        "What a verifier adds to the embedded model of 1.2 M parameters:\n\n"
        f"{table(['six suites', *head], rows)}\n\n{counted(sizes)} problems a suite; intervals are in [results](docs/results.md), where "
        "`half:4/4+auto` was added after the others had been measured on the same traces." + measured(decided)
    )


def vote_table(suites: dict[str, Any]) -> str:
    n = str(next(iter(suites.values()))["samples"])
    head = [
        "suite", "pass@1", f"majority of {n}", f"pass@{n}", f"weighted − majority, of {n}", "best of 16 − pass@1",
        "tokens, mean (5–95 %, max)",
    ]  # fmt: skip
    rows = []
    for name, f in suites.items():
        t = f["tokens"]
        rows.append([name, percent(f["pass"]["1"]), percent(f["methods"]["majority"][n]), percent(f["pass"][n]),
                     percent(f["weighted_minus_majority"][n]), percent(f["best_minus_pass1"]["16"]),
                     f"{t['mean']:.0f} ({t['p5']}–{t['p95']}, {t['max']})"])  # fmt: skip
    return table(head, rows)


def score_table(suites: dict[str, Any]) -> str:
    shares = ("0.25", "0.5", "0.75", "1.0")
    head = [
        "suite",
        *(f"within, at {float(s):.0%}" for s in shares),
        "over all traces, at 100%",
        "within, by mean entropy",
    ]
    rows = []
    for name, f in suites.items():
        cells = [f["auroc_within"][s] for s in shares]
        rows.append(
            [
                name,
                *(f"{c['mean']:.2f} [{c['low']:.2f}, {c['high']:.2f}]" for c in cells),
                spread(f["auroc_all"]["1.0"], 2),
                f"{f['auroc_within_entropy']['mean']:.2f}",
            ]
        )
    return table(head, rows)


def describe(result: dict[str, Any]) -> str:
    config, machine = result["config"], result["machine"]
    return (
        f"model `{config['model']}` ({config['fingerprint']}, {config['dtype']} on {config['device']}), temperature "
        f"{config['sampling']['temperature']}, seed {config['seed']}; torch {machine['torch']}, transformers "
        f"{machine['transformers']}, {machine['cores']} cores, {machine['threads']} thread"
    )


def pages() -> dict[Path, str]:
    results = {mode: found for mode in MODES if (found := read(f"reference-{mode}.json"))}
    parts = ["# Results\n\nWritten by `bench/tables.py` from the files under `results/`; `make results` measures those. Each "
             "table says which version measured it.", *real_claim_parts(), *real_parts(), *claim_parts(results), *reference_parts(results), *policy_parts(results),
             *scorer_parts(), *verifier_study_parts(), *deciding_parts(), *confidence_parts(), *study_parts(), *hybrid_parts(), *speed_parts(),
             *serve_parts()]  # fmt: skip
    readme, serve, afternoon = (ROOT / page for page in ("README.md", "docs/serve.md", "docs/afternoon.md"))
    return {ROOT / "docs" / "results.md": "\n\n".join(parts) + "\n", serve: within(serve.read_text(), "transcript", solved(whole=True)),
               readme: within(within(readme.read_text(), "transcript", solved(whole=False)), "results", readme_results()),
               afternoon: within(afternoon.read_text(), "results", afternoon_table())}  # fmt: skip


def within(page: str, name: str, text: str) -> str:
    """A page with other text between the two comments of that name."""
    begin, end = BEGIN.format(name), END.format(name)
    before, _, rest = page.partition(begin)
    _, _, after = rest.partition(end)
    return f"{before}{begin}\n{text}\n{end}{after}"


def study() -> dict[str, Any]:
    """Every results file of the study, ways of thinking first, in the order of the Makefile."""
    order = [
        "discrete",
        "soft",
        "gumbel",
        "multiplex2",
        "multiplex3",
        "multiplex6",
        "multiplex2mean",
        "multiplex3mean",
        "multiplex6mean",
    ]
    return dict(
        sorted(
            read_all("study").items(),
            key=lambda item: (order.index(item[0]) if item[0] in order else len(order), item[0]),
        )
    )


def learned() -> dict[str, list[dict[str, Any]]]:
    """The tests of all training runs, by way of thinking."""
    found: dict[str, list[dict[str, Any]]] = {}
    for run in read_all("learning").values():
        if run["test"]:
            found.setdefault(learning.way(run), []).append(run["test"])
    return found


def claim_parts(results: dict[str, Any]) -> list[str]:
    """The claims that the results files allow to check, a table for each version that measured them."""
    found = study()
    judged = {mode: scores for mode in MODES if (scores := read(f"scorers-{mode}.json"))}
    decided, trained = read("deciding.json"), learned()
    checked = [
        (found.values(), claims.thinking_claims(found)),
        (results.values(), claims.verifier_claims(results)),
        (judged.values(), claims.rival_claims(judged)),
        ([decided] if decided else [], claims.deciding_claims(decided or {})),
        ([test for tests in trained.values() for test in tests], claims.learning_claims(trained)),
    ]
    by_version: dict[str, list[list[str]]] = {}
    told: dict[str, str] = {}
    for files, rows in checked:
        if rows:
            version = made_by(next(iter(files)))
            told[version] = measured(*files).strip()
            by_version.setdefault(version, []).extend(rows)
    if not by_version:
        return []
    parts = [
        "## What the papers claim, at this scale\n\nDifferences in points over the same problems, with 95 % bootstrap intervals. A "
        "claim holds where the whole interval is on its side of zero, and fails where the whole interval is on the other. The "
        "model is small and was trained for neither thinking mode: what fails here may hold at scale, and vice versa. "
        "Claims about thinking rest on few problems a suite: their intervals are rough."
    ]
    for version in sorted(by_version, reverse=True):
        parts += [told[version], table(["claim", "at this scale", "by suite"], by_version[version])]
    return parts


def reference_parts(results: dict[str, Any]) -> list[str]:
    parts = [missing(f"reference-{mode}.json", "measure") for mode in MODES if mode not in results]
    for mode, result in results.items():
        suites = result["suites"]
        first = next(iter(suites.values()))
        if len(parts) == len(MODES) - len(results):
            parts.append(
                f"## The embedded model\n\n{first['problems']} test problems a suite; {describe(result)}. Percentages with 95 % "
                "bootstrap intervals over problems; differences are paired on the same traces."
                + measured(*results.values())
            )
        parts += [f"### {mode}, {first['samples']} traces a problem", vote_table(suites), "AUROC of the verifier's score:",
                  score_table(suites)]  # fmt: skip
    return parts


def policy_parts(results: dict[str, Any]) -> list[str]:
    """The policy that ships, against the model that it was trained from."""
    learned, base = read("reference-multiplex-policy.json"), results.get("multiplex")
    if learned is None or base is None:
        return [missing("reference-multiplex-policy.json", "policy")]
    suites, rows = learned["suites"], []
    for suite, f in suites.items():
        before = base["suites"][suite]
        apart = f["pass"]["1"]["low"] > before["pass"]["1"]["high"]
        rows.append([suite, percent(before["pass"]["1"]), percent(f["pass"]["1"]), "yes" if apart else "no",
                     f"{before['tokens']['mean']:.0f}", spread(f["tokens"], 0), f"{100 * before['truncated']:.1f}", f"{100 * f['truncated']:.1f}"])  # fmt: skip
    first, base_problems = next(iter(suites.values())), next(iter(base["suites"].values()))["problems"]
    return [
        f"## `reference-multiplex`\n\nThe embedded model after learning to think in multiplex tokens (K = 3): {first['problems']} test problems "
        f"a suite, {first['samples']} traces each, by the adapter as it ships; before, the embedded model thinking in the same way, on {base_problems} problems. How it was "
        "made: [learning](learning.md)." + measured(learned, base),
        table(
            [
                "suite",
                "pass@1 before",
                "after",
                "intervals apart",
                "tokens before",
                "after",
                "truncated before, %",
                "after",
            ],
            rows,
        ),
        "With the verifier of its own:",
        vote_table(suites),
        score_table(suites),
    ]


def study_parts() -> list[str]:
    found = study()
    if "discrete" not in found:
        return [missing("study/discrete.json", "thinking")]
    first = next(iter(found["discrete"]["suites"].values()))
    sizes = [f"pass@{k}" for k in ("1", "4", "16", "64") if k in first["pass"]]
    return [
        f"## The study\n\n{first['problems']} test problems a suite, {first['samples']} traces each ({describe(found['discrete'])}); "
        "percent, with the paired difference to discrete at one sample." + measured(*found.values()),
        table(
            ["suite", "thinking", *sizes, "− discrete", "tokens", "truncated, %", "explored, %"],
            claims.study_table(found),
        ),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    for path, text in pages().items():
        if check and path.read_text() != text:
            sys.exit(f"{path.name} is not what results/ says. Try: python bench/tables.py")
        if not check:
            path.write_text(text)


if __name__ == "__main__":
    main()
