"""Flipped bits and cut-off ends in every kind of file: what is read is what was written, or is refused, or is told to be lost."""

from __future__ import annotations

import json
import random
import shutil
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from world import hushed

Value = Any


@dataclass(frozen=True)
class Kind:
    """A kind of file: where it lies in the world, what is read of it, and whether records may be lost if that is told.

    ``read`` is called with the folder that holds the file. ``records``: the value is a mapping, of which a part may be
    missing if a message says so. ``lines``: so may the last ones, where a cut falls between two lines. ``other``: instead of the value there may be another, if a message says so.
    """

    file: str
    read: Callable[[Path], Value]
    records: bool = False
    lines: bool = False
    other: bool = False
    unchecked: bool = False  # made by others: no checksum, so that only the way it fails is looked at


def kinds(base: Path, backbone: Any) -> dict[str, Kind]:
    """All kinds of files that trueplex writes and reads, and that a world holds."""
    from trueplex.checksums import check_seal
    from trueplex.data.problems import read_file
    from trueplex.data.traces import read
    from trueplex.decide.calibration import Calibration
    from trueplex.evals.run import read_timing
    from trueplex.files import read_json
    from trueplex.models.fingerprint import fingerprint_of
    from trueplex.report import read as report
    from trueplex.solving.rollouts import Manifest
    from trueplex.train import values
    from trueplex.train.common.state import last_checkpoint, read_lines, read_weights
    from trueplex.verify.one_token import OneTokenVerifier
    from trueplex.verify.readers.checkpoint import card_of

    def plain(row: dict[str, Any]) -> Any:
        """Arrays as lists, whose text leaves nothing out."""
        return sorted((name, v.tolist() if hasattr(v, "tolist") else v) for name, v in row.items())

    def traces(name: str) -> Callable[[Path], Value]:
        def found(folder: Path) -> Value:
            return {f"{r['problem']} {r['seed']} {r['index']}": repr(plain(r)) for r in read(folder / name)}

        return found

    def verifier(folder: Path) -> Value:
        loaded = OneTokenVerifier._read(folder, backbone)
        return loaded.fingerprint, loaded.alpha, loaded.card

    def sealed(folder: Path) -> Value:
        check_seal(folder)
        return "whole"

    def state(name: str) -> Callable[[Path], Value]:
        return lambda folder: read_json(folder / name, dict[str, Any])

    def checkpoint(folder: Path) -> Value:
        return last_checkpoint(folder)

    def lines(name: str) -> Callable[[Path], Value]:
        return lambda folder: {str(i): row for i, row in enumerate(read_lines(folder / name))}

    def valued(folder: Path) -> Value:
        return {str(name): [v.tolist() for v in pair] for name, pair in values.read_values(folder).items()}

    def results(folder: Path) -> Value:
        return [run.result for run in report.read([folder / "results.json"]).runs]

    whole = {
        "traces.arrow": Kind("rolled/traces.arrow", traces("traces.arrow"), records=True),
        "traces.jsonl": Kind("made/solve/t.jsonl", traces("t.jsonl"), records=True, lines=True),
        "rollout.json": Kind("rolled/rollout.json", lambda f: vars(read_json(f / "rollout.json", Manifest))),
        "results.json": Kind("eval/results.json", results),
        "timing.json": Kind("eval/timing.json", lambda f: {k: vars(v) for k, v in read_timing(f / "timing.json").items()}, other=True),
        "verifier.json": Kind("verifier/verifier.json", verifier),
        "a verifier's weights": Kind("verifier/adapter_model.safetensors", verifier),
        "calibration.json": Kind("verifier/calibration.json", lambda f: repr(Calibration.read(f))),
        "recipe.json": Kind("trained/recipe.json", state("recipe.json")),
        "validation.jsonl": Kind("trained/validation.jsonl", lines("validation.jsonl"), records=True, lines=True),
        "metrics.jsonl": Kind("policy/metrics.jsonl", lines("metrics.jsonl"), records=True, lines=True),
        "best.safetensors": Kind("trained/best.safetensors", lambda f: fingerprint_of(read_weights(f / "best.safetensors"))),
        "values.jsonl": Kind("made/train-values/out/values.jsonl", valued, records=True, lines=True),
        "values.json": Kind("made/train-values/out/values.json", values.steps_of),
        "a policy's adapter": Kind("policy/adapter/adapter_model.safetensors", sealed),
        "a policy's adapter_config.json": Kind("policy/adapter/adapter_config.json", sealed),
        "checksums.json": Kind("policy/adapter/checksums.json", sealed),
        "reward.json": Kind("reward/reward.json", lambda f: card_of(str(f), "outcome", None)),
        "a reward model's weights": Kind("reward/model.safetensors", sealed),
        "problems.jsonl": Kind("problems.jsonl", lambda f: len(read_file(str(f / "problems.jsonl"))[0]), unchecked=True),
    }  # fmt: skip
    checkpoints = sorted(
        (base / "trained" / "checkpoints").glob("checkpoint-*"), key=lambda p: int(p.name.rpartition("-")[2])
    )
    for part in (
        sorted(p for p in checkpoints[-1].iterdir() if p.is_file() and p.suffix != ".md") if checkpoints else ()
    ):
        whole[f"checkpoint/{part.name}"] = Kind(str(part.relative_to(base)), lambda f: checkpoint(f.parent), other=True)
    return {name: kind for name, kind in whole.items() if (base / kind.file).exists()}


def damaged_in(base: Path, work: Path, name: str, kind: Kind, flips: int, cuts: int, seed: int) -> dict[str, Any]:
    """Read a kind of file damaged in so many ways: the number of each outcome, and the faults."""
    drawn, place = random.Random(f"{seed} {name}"), work / Path(kind.file).parent
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(
        (base / kind.file).parent, place, ignore=shutil.ignore_patterns("made", "rolled") if place == work else None
    )
    if place.name.startswith("checkpoint-"):
        for beside in (base / kind.file).parent.parent.glob("checkpoint-*"):
            shutil.copytree(beside, place.parent / beside.name, dirs_exist_ok=True)
    file = work / kind.file
    whole = file.read_bytes()
    outcomes: Counter[str] = Counter()
    faults: list[str] = []
    with hushed() as told:
        right = plain(kind.read(place))
        for number in range(flips + cuts):
            content = bytearray(whole)
            what, at = (
                ("flip", drawn.randrange(8 * len(whole))) if number < flips else ("cut", drawn.randrange(len(whole)))
            )
            if what == "flip":
                content[at // 8] ^= 1 << at % 8
            file.write_bytes(content if what == "flip" else content[:at])
            told.clear()
            ends = what == "cut" and (at == 0 or content[at - 1] == ord("\n"))
            outcome = _outcome(kind, place, right, told, ends)
            outcomes[outcome.split(":")[0]] += 1
            if outcome.startswith(("changed", "raised", "lost in silence")):
                faults.append(f"{name}, {what} at {at}: {outcome}")
    return {"outcomes": dict(outcomes), "faults": faults}


def plain(value: Value) -> Value:
    return json.loads(json.dumps(value, default=str))


def _outcome(kind: Kind, place: Path, right: Value, told: list[str], whole_lines: bool) -> str:
    from trueplex.errors import TrueplexError

    try:
        found = plain(kind.read(place))
    except TrueplexError as error:
        one_line = "\n" not in str(error) and "Try: " in str(error)
        return "refused in one line" if one_line else f"raised: not one line with advice: {error}"
    except Exception as error:
        return f"raised: {error!r} in {traceback.extract_tb(error.__traceback__)[-1]}"
    if found == right or kind.unchecked:
        return "unchanged"
    lost = isinstance(found, dict) and all(right.get(name) == value for name, value in found.items())
    if kind.lines and lost and whole_lines:
        return "cut between two lines, which nothing tells"
    if kind.records and lost:
        return "told what was lost" if told else f"lost in silence: {len(right) - len(found)} of {len(right)}"
    if kind.other and told:
        return "told, and an earlier one taken"
    return f"changed in silence: {str(found)[:100]}"


def damage(base: Path, work: Path, backbone: Any, flips: int, cuts: int, seed: int) -> dict[str, Any]:
    """Flips and cuts in every kind of file: by kind, the outcomes, and all faults."""
    found = {
        name: damaged_in(base, work, name, kind, flips, cuts, seed) for name, kind in kinds(base, backbone).items()
    }
    return {
        "flips of each": flips, "cuts of each": cuts, "outcomes": {name: f["outcomes"] for name, f in found.items()},
        "faults": [fault for f in found.values() for fault in f["faults"]],
    }  # fmt: skip
