"""Flipped bits and cut-off ends in every kind of file: what is read is what was written, or is refused, or is told to be lost."""

from __future__ import annotations

import json
import random
import shutil
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from world import hushed

Value = Any
JUNK: list[Any] = [None, True, 0, -1, 2**63, 1e308, "", "x", [], {}, [1], ["x"], {"a": 1}]


@dataclass(frozen=True)
class Kind:
    """A kind of file: where it lies in the world, what is read of it, and whether records may be lost if that is told.

    ``read`` is called with the folder that holds the file. ``records``: the value is a mapping, of which a part may be
    missing if a message says so. ``lines``: so may the last ones, where a cut falls between two lines. ``other``: instead of
    the value there may be another, if a message says so. ``typed``: JSON that is also read without its checksum, as an older
    version wrote it or a person edited it, with values of wrong types in it: whatever is read, nothing breaks.
    """

    file: str
    read: Callable[[Path], Value]
    records: bool = False
    lines: bool = False
    other: bool = False
    typed: bool = False
    unchecked: bool = False  # made by others: no checksum, so that only the way it fails is looked at


def kinds(base: Path, backbone: Any) -> dict[str, Kind]:
    """All kinds of files that trueplex writes and reads, and that a world holds."""
    from trueplex.checksums import check_seal
    from trueplex.data.about import about
    from trueplex.data.problems import read_file
    from trueplex.data.traces import read, read_traces
    from trueplex.decide.calibration import Calibration
    from trueplex.evals.run import read_timing
    from trueplex.files import read_json
    from trueplex.models.fingerprint import fingerprint_of
    from trueplex.report import read as report
    from trueplex.report.page import markdown
    from trueplex.report.sections import sections
    from trueplex.solving.rollouts import Manifest
    from trueplex.train import values
    from trueplex.train.common.state import last_checkpoint, read_lines, read_weights
    from trueplex.verify.combined import Combination
    from trueplex.verify.one_token import OneTokenVerifier
    from trueplex.verify.readers.checkpoint import card_of

    def plain(row: dict[str, Any]) -> Any:
        """Arrays as lists, whose text leaves nothing out."""
        return sorted((name, v.tolist() if hasattr(v, "tolist") else v) for name, v in row.items())

    def traces(name: str) -> Callable[[Path], Value]:
        def found(folder: Path) -> Value:
            list(read_traces(folder / name))
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
        material = report.read([folder / "results.json"])
        with report.as_results([folder]):
            markdown(list(sections(material)), "", material)
        return [run.result for run in (*material.runs, *material.scores)]

    whole = {
        "traces.arrow": Kind("rolled/traces.arrow", traces("traces.arrow"), records=True),
        "traces.jsonl": Kind("made/solve/t.jsonl", traces("t.jsonl"), records=True, lines=True, typed=True),
        "rollout.json": Kind("rolled/rollout.json", lambda f: vars(read_json(f / "rollout.json", Manifest)), typed=True),
        "results.json": Kind("eval/results.json", results, typed=True),
        "timing.json": Kind("eval/timing.json", lambda f: {k: vars(v) for k, v in read_timing(f / "timing.json").items()}, other=True, typed=True),
        "verifier.json": Kind("verifier/verifier.json", verifier, typed=True),
        "a verifier's weights": Kind("verifier/adapter_model.safetensors", verifier),
        "calibration.json": Kind("verifier/calibration.json", lambda f: repr(Calibration.read(f)), typed=True),
        "t.jsonl.about.json": Kind("made/solve/t.jsonl.about.json", lambda f: asdict(about(f / "t.jsonl")), other=True, typed=True),
        "combined.json": Kind("combined/combined.json", lambda f: asdict(Combination.load(f)), typed=True),
        "results.json of scores": Kind("made/eval-verifier/out/results.json", results, typed=True),
        "recipe.json": Kind("trained/recipe.json", state("recipe.json"), typed=True),
        "validation.jsonl": Kind("trained/validation.jsonl", lines("validation.jsonl"), records=True, lines=True, typed=True),
        "metrics.jsonl": Kind("policy/metrics.jsonl", lines("metrics.jsonl"), records=True, lines=True, typed=True),
        "best.safetensors": Kind("trained/best.safetensors", lambda f: fingerprint_of(read_weights(f / "best.safetensors"))),
        "values.jsonl": Kind("made/train-values/out/values.jsonl", valued, records=True, lines=True, typed=True),
        "values.json": Kind("made/train-values/out/values.json", values.steps_of, typed=True),
        "a policy's adapter": Kind("policy/adapter/adapter_model.safetensors", sealed),
        "a policy's adapter_config.json": Kind("policy/adapter/adapter_config.json", sealed),
        "checksums.json": Kind("policy/adapter/checksums.json", sealed),
        "reward.json": Kind("reward/reward.json", lambda f: card_of(str(f), "outcome", None), typed=True),
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
        ways = ["flip"] * flips + ["cut"] * cuts + ["type"] * (cuts * kind.typed)
        for way in ways:
            at, content = _damaged(drawn, way, whole, file.suffix)
            file.write_bytes(content)
            told.clear()
            ends = way == "cut" and (at == 0 or whole[at - 1] == ord("\n"))
            outcome = _outcome(kind, place, right, told, ends, way == "type" or kind.unchecked)
            outcomes[("wrong type, " if way == "type" else "") + outcome.split(":")[0]] += 1
            if outcome.startswith(("changed", "raised", "lost in silence")):
                faults.append(f"{name}, {way} at {at}: {outcome}")
    return {"outcomes": dict(outcomes), "faults": faults}


def _damaged(drawn: random.Random, way: str, whole: bytes, suffix: str) -> tuple[int, bytes]:
    """A place in a file, and the file damaged there."""
    if way == "cut":
        at = drawn.randrange(len(whole))
        return at, whole[:at]
    if way == "flip":
        at, content = drawn.randrange(8 * len(whole)), bytearray(whole)
        content[at // 8] ^= 1 << at % 8
        return at, bytes(content)
    rows = [json.loads(line) for line in (whole.splitlines() if suffix == ".jsonl" else [whole])]
    for row in rows:
        row.pop("checksum", None)
    at = drawn.randrange(len(rows))
    rows[at] = _retyped(drawn, rows[at])
    return at, "".join(json.dumps(row) + "\n" for row in rows).encode()


def _retyped(drawn: random.Random, value: Any) -> Any:
    """The same with a value of a wrong type somewhere, or a field that is missing."""
    if isinstance(value, dict) and value and drawn.random() < 0.9:
        name = drawn.choice(list(value))
        return {
            n: _retyped(drawn, v) if n == name else v for n, v in value.items() if n != name or drawn.random() < 0.8
        }
    if isinstance(value, list) and value and drawn.random() < 0.7:
        at = drawn.randrange(len(value))
        return [*value[:at], _retyped(drawn, value[at]), *value[at + 1 :]]
    return drawn.choice(JUNK)


def plain(value: Value) -> Value:
    return json.loads(json.dumps(value, default=str))


def _outcome(kind: Kind, place: Path, right: Value, told: list[str], whole_lines: bool, unchecked: bool) -> str:
    from trueplex.errors import TrueplexError

    try:
        found = plain(kind.read(place))
    except TrueplexError as error:
        one_line = "\n" not in str(error) and "Try: " in str(error)
        return "refused in one line" if one_line else f"raised: not one line with advice: {error}"
    except Exception as error:
        return f"raised: {error!r} in {traceback.extract_tb(error.__traceback__)[-1]}"
    if found == right or unchecked:
        return "unchanged" if found == right else "read as it stands"
    lost = isinstance(found, dict) and all(right.get(name) == value for name, value in found.items())
    if kind.lines and lost and whole_lines:
        return "cut between two lines, which nothing tells"
    if kind.records and lost:
        return "told what was lost" if told else f"lost in silence: {len(right) - len(found)} of {len(right)}"
    if kind.other and told:
        return "told, and an earlier one taken"
    return f"changed in silence: {str(found)[:100]}"
