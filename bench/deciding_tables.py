"""The tables about deciding early: policies on stored traces, live runs, time against tokens."""

from __future__ import annotations

from typing import Any

import claims
from cells import counted, measured, missing, percent, read, table


def lost(cells: list[dict[str, Any]]) -> str:
    """On how many suites the whole interval of a difference is below zero."""
    return f"{sum(c['high'] < 0 for c in cells)} of {len(cells)}"


def deciding_table(suites: dict[str, Any]) -> str:
    """A line a method over 128 traces: what it saves, and on how many suites it loses to the two votes over all."""
    rows = []
    for name in next(iter(suites.values()))["of_128"]:
        if name.startswith("best") and "~" in name:
            continue  # the file has them; behind a policy that leaves few, they differ little from the weighted vote
        cells = [f["of_128"][name] for f in suites.values()]
        saved = [c["saved"] for c in cells]
        right = sum(f["methods"][name]["128"]["mean"] for f in suites.values()) / len(suites)
        rows.append([f"`{name}`", f"{100 * right:.1f}", f"{100 * sum(saved) / len(saved):.1f} ({100 * min(saved):.0f}–{100 * max(saved):.0f})",
                     lost([c["minus weighted"] for c in cells]), lost([c["minus best"] for c in cells])])  # fmt: skip
    return table(
        ["of 128 traces", "right", "tokens saved (by suite)", "significantly below `weighted`", "below `best`"], rows
    )


def half_table(suites: dict[str, Any], name: str) -> str:
    """One policy, suite by suite."""
    rows = []
    for suite, f in suites.items():
        cell = f["of_128"][name]
        rows.append([suite, percent(f["methods"][name]["128"]), f"{100 * cell['saved']:.1f}",
                     claims.points(cell["minus weighted"]), claims.points(cell["minus best"])])  # fmt: skip
    return table(["suite", "right", "tokens saved, %", "− weighted of 128", "− best of 128"], rows)


def confidence_parts() -> list[str]:
    """How good the confidence is on test problems, for each calibrated configuration."""
    found = read("calibration.json")
    if found is None:
        return [missing("calibration.json", "calibration")]
    rows = []
    for r in found["runs"]:
        how, wrong = r["condition"], r["error_among_answered"]
        rows.append([how["thinking"], str(how["paths"]), how["select"], how["prune"], str(r["problems"]), f"{100 * r['right']:.1f}",
                     f"{r['ece']:.3f}", f"{100 * r['answered']:.0f}", "–" if wrong is None else f"{100 * wrong:.1f}"])  # fmt: skip
    under = sum(r["ece"] < 0.05 for r in found["runs"])
    return [
        f"## Confidence\n\nFitted on validation problems, evaluated on test problems: the expected calibration error is under 0.05 "
        f"for {under} of {len(found['runs'])} configurations. With `--max-error {found['config']['error']:g}`: the share that is "
        "answered, and the share of those that is wrong." + measured(found),
        table(["thinking", "paths", "select", "prune", "problems", "right, %", "calibration error", "answered, %", "wrong among them, %"],
              rows),
    ]  # fmt: skip


def fresh_parts() -> list[str]:
    """The policy chosen on the traces above, on other problems and draws."""
    found = read("deciding-fresh.json")
    if found is None:
        return [missing("deciding-fresh.json", "fresh")]
    rows, policies = [], [name for name in next(iter(found["suites"].values()))["methods"] if "~" in name]
    for suite, f in found["suites"].items():
        n = str(f["samples"])
        whole = f["methods"]["weighted"][n]
        for name in policies:
            one = f["methods"][name][n]
            apart = next(p for p in f["pairs"] if {p["one"], p["other"]} == {"weighted", name})
            sign = 1 if apart["one"] == name else -1
            low, high = sorted(sign * apart[end] + 0.0 for end in ("low", "high"))
            rows.append([suite, f"`{name}`", percent(one), percent(whole), f"{100 * (1 - one['tokens'] / whole['tokens']):.1f}",
                         claims.points({"mean": sign * apart["mean"] + 0.0, "low": low, "high": high})])  # fmt: skip
    first = next(iter(found["suites"].values()))
    return [
        f"### On fresh problems\n\n{first['problems']} other problems a suite, {first['samples']} traces each "
        f"({found['config']['thinking']}, seed {found['config']['seed']})." + measured(found),
        table(["suite", "policy", "right", f"`weighted` of {first['samples']}", "tokens saved, %", "difference"], rows),
    ]


def deciding_parts() -> list[str]:
    found, live = read("deciding.json"), read("deciding-live.json")
    sizes = {f["problems"] for suites in (found or {"modes": {}})["modes"].values() for f in suites.values()}
    parts = [missing("deciding.json", "deciding")] if found is None else [
        f"## Deciding early\n\n{counted(sizes)} problems a suite, {found['paths']} traces each, "
        "stored once; policies simulated on them. `NAME~POLICY` is a vote on what the policy left, `NAME:SCORER` one by an untrained "
        "score. Tokens count every probe of a policy; the plain votes are charged one probe a trace. `half:4/4+auto` was added after the "
        "others had been measured on these traces, so its figures are not an independent test." + measured(found),
        "![Accuracy against tokens, for every policy](deciding.svg)",
    ]  # fmt: skip
    for mode, suites in (found or {"modes": {}})["modes"].items():
        parts += [
            f"### {mode}",
            deciding_table(suites),
            "`weighted~half:4/4+auto` by suite:",
            half_table(suites, "weighted~half:4/4+auto"),
        ]
    parts += fresh_parts()
    if live is None:
        return [*parts, missing("deciding-live.json", "deciding-live")]
    rows = [[f"`{name}`", f"{f['seconds']:.2f}", f"{f['tokens']:.0f}", percent(f["right"]),
             claims.points(f["minus none"]) if f["minus none"] else "–"] for name, f in live["live"].items()]  # fmt: skip
    queued = read("deciding-queue.json")
    shares = [[how, n, f"{100 * f['time_saved']:.0f}", f"{100 * f['tokens_saved']:.0f}", f"{f['ratio']:.2f}"]
              for how, result in (("one problem alone", live), ("in a queue of problems, four at once", queued)) if result
              for n, f in result["half:32, saved"].items()]  # fmt: skip
    share = live["share of time at 256 traces"]
    return [
        *parts,
        f"### Live\n\n{live['problems']} problems of {', '.join(live['suites'])}, one at a time, {live['paths']} multiplex traces each, "
        "weighted vote; seconds of the whole run, including probes and scheduling." + measured(live, queued),
        table(["policy", "seconds a problem", "tokens", "right", "− none"], rows),
        "A step has a fixed cost, however few rows it has: with a single problem, pruning some of a few paths saves little time. "
        "When problems are queued, freed rows are reused at once.",
        table(["`half:32`", "traces", "time saved, %", "tokens saved, %", "ratio"], shares),
        f"At 256 traces the policy takes {100 * share['policy']:.2f} % of a run's time and the votes {100 * share['vote']:.2f} %; compacting "
        f"the cache after pruning takes {100 * share['moving rows']:.2f} %.",
    ]
