"""What a confidence means: how often a vote that looks like this one was right on validation problems.

`trueplex calibrate` learns it, from stored traces of problems with answers, and writes ``calibration.json`` into the
verifier's folder (or the model's, for votes without a verifier). This module reads it and applies it: plain Python.

- **Confidence**: a logistic function of what a vote shows (`looks`), one for each way to run that was calibrated, and one
  for each selector, for runs between those.
- **Largest error**: for given options, the confidence from which on answers may be given so that at most a share
  ``alpha`` of the given ones is wrong. Thresholds are tested from the most confident down, each by the exact
  binomial tail on held-out problems (fixed-sequence testing, Angelopoulos et al., arXiv 2110.01052): for
  problems that are exchangeable with those, the bound holds with probability 1 − `DELTA`.
- **Scores**: the probability that a finished trace with this score is right, and, for each way of thinking, the band of
  scores in which neither can be said: the third state, uncertain. It is for paths that no policy has chosen among.
"""

from __future__ import annotations

import json
import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trueplex.errors import OptionError, VerifierError
from trueplex.files import write_json
from trueplex.types import Trace, Vote

FILE = "calibration.json"
DELTA = 0.05
PLAIN = ("none", "deepconf", "logprob", "entropy", "orm", "prm", "genrm")  # scorers that are no verifier folder
THINKING = ("thinking", "width", "merge", "replacement", "noise", "strength", "sampling", "answer_sampling", "ending")
LOOKS = (
    "log-odds of the share",
    "log of the paths with an answer",
    "log-odds of the mean score",
    "log-odds of the highest score",
)


def looks(votes: Sequence[Vote], traces: Sequence[Trace]) -> list[float]:
    """What a vote shows, in the order of `LOOKS`; only the first two where nothing was scored.

    The share is that of the leading answer, with half a vote added on either side, so that one path alone is no
    certainty. Scores are those of the leading answer's paths.
    """
    total, paths = sum(v.weight for v in votes), sum(v.paths for v in votes)
    share = (votes[0].weight / total if total > 0 else 1 / len(votes)) * paths
    shown = [math.log((share + 0.5) / (paths - share + 0.5)), math.log(paths)]
    scores = [
        t.score for t in traces if t.answer == votes[0].answer and t.score is not None and not math.isnan(t.score)
    ]
    if scores:
        shown += [_log_odds(sum(scores) / len(scores)), _log_odds(max(scores))]
    return shown


def _log_odds(share: float) -> float:
    share = min(max(share, 1e-3), 1 - 1e-3)
    return math.log(share / (1 - share))


def condition(options: dict[str, Any]) -> str:
    """The name of the options that decide how votes come about, from a run's configuration."""
    if (
        options["verifier"].partition(":")[0] not in PLAIN
    ):  # the calibration belongs to one verifier, however it is called
        options = {**options, "verifier": "trained"}
    return json.dumps(
        {name: options[name] for name in (*THINKING, "verifier", "paths", "prune", "select")}, sort_keys=True
    )


def way_of_thinking(options: str) -> str:
    """What of a `condition`, or of the thinking options of a stored trace, decides how a single trace comes about."""
    found = json.loads(options)
    return json.dumps({name: found[name] for name in THINKING}, sort_keys=True)


def _but_paths(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name not in ("paths", "prune")}


@dataclass(frozen=True, slots=True)
class Band:
    """Scores of finished traces: trusted from `high` on, doubted below `low`, uncertain between.

    ``error`` bounds the share of wrong traces among the trusted, and of right ones among the doubted.
    """

    low: float
    high: float
    error: float

    def stored(self) -> dict[str, float | None]:
        """As JSON has it, which knows no infinity: None for an end that is not reached."""
        ends = {"low": self.low, "high": self.high}
        return {**{name: end if math.isfinite(end) else None for name, end in ends.items()}, "error": self.error}

    @classmethod
    def restored(cls, stored: dict[str, Any]) -> Band:
        low, high = stored["low"], stored["high"]
        return cls(-math.inf if low is None else low, math.inf if high is None else high, stored["error"])

    def state(self, score: float) -> str:
        return "trusted" if score >= self.high else "doubted" if score < self.low else "uncertain"


@dataclass(frozen=True)
class Calibration:
    """What `trueplex calibrate` learned; `load` reads it.

    Attributes:
        votes: by selector and by `condition`, the intercept and the weights of `LOOKS`.
        held: by `condition`, (confidence, right) of held-out problems.
        points: (score, probability of being right) of finished traces, both rising.
        bands: the third state, by `way_of_thinking`.
        belongs: what it was made for: fingerprints of the model and the verifier.
    """

    votes: dict[str, list[float]]
    held: dict[str, list[tuple[float, bool]]]
    points: list[tuple[float, float]] = field(default_factory=list)
    bands: dict[str, Band] = field(default_factory=dict)
    belongs: dict[str, Any] = field(default_factory=dict)

    def confidence(self, select: str, votes: Sequence[Vote], traces: Sequence[Trace], name: str = "") -> float | None:
        """The probability that the leading answer is right; None when this selector was not calibrated.

        By the function of the run's `condition`, if `name` was calibrated, else by that of all runs of this selector.
        """
        weights = self.votes.get(name, self.votes.get(select))
        if weights is None or not votes:
            return None
        shown = [1.0, *looks(votes, traces)]
        assert len(shown) == len(weights), (select, shown)
        return 1 / (1 + math.exp(-sum(w * x for w, x in zip(weights, shown, strict=True))))

    def covers(self, name: str, policy: bool = False) -> bool:
        """Whether runs of these options (a `condition`) were calibrated: alike in all but the policy, with as many paths
        or between the fewest and the most. With ``policy``, alike in that as well.
        """
        asked = json.loads(name)
        alike = [c for c in map(json.loads, self.held) if _but_paths(c) == _but_paths(asked)]
        alike = [c for c in alike if not policy or c["prune"] == asked["prune"]]
        numbers = [c["paths"] for c in alike if isinstance(c["paths"], int)]
        if isinstance(asked["paths"], int):
            return bool(numbers) and min(numbers) <= asked["paths"] <= max(numbers)
        return any(c["paths"] == asked["paths"] for c in alike)

    def band(self, name: str) -> Band | None:
        """What the scores of finished traces say in a run of these options (a `condition`).

        None where nothing is promised: another way of thinking, or a policy that chose among the paths.
        """
        return None if json.loads(name)["prune"] != "none" else self.bands.get(way_of_thinking(name))

    def probability(self, score: float) -> float:
        """The probability that a finished trace of this score is right, by linear interpolation."""
        place = bisect_right([s for s, _ in self.points], score)
        if place in (0, len(self.points)):
            return self.points[min(place, len(self.points) - 1)][1]
        (s0, p0), (s1, p1) = self.points[place - 1 : place + 1]
        return p0 + (p1 - p0) * (score - s0) / (s1 - s0)

    def threshold(self, name: str, error: float) -> float:
        """The least confidence to answer with, so that at most a share `error` of the answers is wrong.

        Raises:
            OptionError: `name` (a `condition`) was not calibrated, or there are too few problems for such an error.
        """
        if name not in self.held:
            raise OptionError("--max-error needs a calibration with exactly these options. Try: run `trueplex calibrate` "
                              "with them, or use --abstain-below")  # fmt: skip
        threshold = safe_threshold(self.held[name], error)
        if threshold is None:
            raise OptionError(f"no confidence is high enough to promise an error of at most {error:g} from "
                              f"{len(self.held[name])} calibration problems. Try: a larger error, or more problems")  # fmt: skip
        return threshold

    def beside(self, other: Calibration | None) -> Calibration:
        """This calibration, with what another of the same model and verifier says of other ways to run and to think."""
        if other is None or other.belongs != self.belongs:
            return self
        return Calibration({**other.votes, **self.votes}, {**other.held, **self.held}, self.points or other.points,
                           {**other.bands, **self.bands}, self.belongs)  # fmt: skip

    def save(self, folder: Path) -> None:
        """Write the file, whole or not at all."""
        content = {
            "belongs": self.belongs, "looks": LOOKS, "votes": self.votes, "points": self.points,
            "bands": {name: band.stored() for name, band in self.bands.items()},
            "held": {name: [[round(c, 5), int(right)] for c, right in pairs] for name, pairs in self.held.items()},
        }  # fmt: skip
        write_json(folder / FILE, content)

    @classmethod
    def load(cls, folder: Path, belongs: dict[str, Any]) -> Calibration | None:
        """The calibration in a folder, None when there is none or it belongs to another model or verifier.

        Raises:
            VerifierError: the file cannot be read.
        """
        path = folder / FILE
        if not path.exists():
            return None
        try:
            content = json.loads(path.read_text())
            if content["belongs"] != belongs:
                return None
            held = {name: [(float(c), bool(r)) for c, r in pairs] for name, pairs in content["held"].items()}
            points = [(float(s), float(p)) for s, p in content["points"]]
            bands = {name: Band.restored(band) for name, band in content["bands"].items()}
            return cls(content["votes"], held, points, bands, belongs)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise VerifierError(f"{path} cannot be read ({error!r}). Try: run `trueplex calibrate` again") from error


def safe_threshold(pairs: Sequence[tuple[float, bool]], error: float, delta: float = DELTA) -> float | None:
    """The lowest confidence from which on at most a share `error` of answers is wrong; None when there is none.

    Thresholds are tested from high to low, a step of a fiftieth of the problems each, and the search ends at the
    first whose errors could, with a chance above `delta`, come from a larger rate. Where it begins must not
    depend on what was right: at the most confident quarter, or more if even no error at all would prove nothing.
    """
    ranked = sorted(pairs, reverse=True)
    proof = math.ceil(math.log(delta) / math.log1p(-error))
    found = None
    for count in range(max(proof, len(ranked) // 4), len(ranked) + 1, max(1, len(ranked) // 50)):
        lowest = ranked[count - 1][0]
        given = [right for confidence, right in ranked if confidence >= lowest]
        if binomial_tail(len(given), given.count(False), error) > delta:
            break
        found = lowest
    return found


def binomial_tail(n: int, wrong: int, rate: float) -> float:
    """The chance of at most `wrong` errors in n answers, if each is wrong at `rate`."""
    logs = [
        math.lgamma(n + 1)
        - math.lgamma(k + 1)
        - math.lgamma(n - k + 1)
        + k * math.log(rate)
        + (n - k) * math.log1p(-rate)
        for k in range(wrong + 1)
    ]
    return sum(map(math.exp, logs))


def band_of(pairs: Sequence[tuple[float, bool]], error: float) -> Band:
    """The band of uncertain scores, from (score, right) of finished held-out traces.

    Trusted scores by `safe_threshold`; doubted ones by the same rule with the roles of right and wrong exchanged.
    """
    high = safe_threshold(pairs, error)
    low = safe_threshold([(-score, not right) for score, right in pairs], error)
    high = math.inf if high is None else high
    return Band(min(high, -math.inf if low is None else -low), high, error)
