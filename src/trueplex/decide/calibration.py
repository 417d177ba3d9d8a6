"""What a confidence means: how often a vote that looks like this one was right on validation problems.

`trueplex calibrate` learns it, from stored traces of problems with answers, and writes ``calibration.json`` into the
verifier's folder (or the model's, for votes without a verifier). This module reads it and applies it: plain Python.

- **Confidence**: a logistic function of the `features` of a vote, one for each `Condition` that was calibrated, and one
  for each selector, for runs between those.
- **Largest error**: for a condition, the confidence from which on answers may be given so that at most a share
  ``alpha`` of the given ones is wrong. Thresholds are tested from the most confident down, each by the exact
  binomial tail on held-out problems (fixed-sequence testing, Angelopoulos et al., arXiv 2110.01052): for
  problems that are exchangeable with those, the bound holds with probability 1 − `DELTA`.
- **Scores**: for each `WayOfThinking`, the band of scores in which neither right nor wrong can be said of a finished
  trace: the third state, uncertain. It holds for paths that no policy has chosen among.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from scipy.special import bdtr

from trueplex.decide import adaptive, pruning
from trueplex.errors import OptionError, VerifierError, reason
from trueplex.files import read_json, write_json
from trueplex.grading.kinds import AUTO, BOXED
from trueplex.types import Trace, Vote

FILE = "calibration.json"
DELTA = 0.05
PLAIN = (
    "none",
    "deepconf",
    "logprob",
    "entropy",
    "combined",
    "orm",
    "prm",
    "genrm",
    "call",
)  # scorers that are not a verifier folder
FEATURES = (
    "log-odds of the share",
    "log of the paths with an answer",
    "log-odds of the mean score",
    "log-odds of the highest score",
)

Options = tuple[tuple[str, Any], ...]  # the pairs of a JSON object, by name: hashable


@dataclass(frozen=True, slots=True)
class WayOfThinking:
    """The options that decide how a single trace comes about, by their names in a run's configuration."""

    thinking: str
    width: int
    merge: str | None
    replacement: bool | None
    noise: str | None
    strength: float | None
    sampling: Options
    answer_sampling: Options
    ending: Options

    def stored(self) -> dict[str, Any]:
        """As JSON has it."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: dict(v) if name in ("sampling", "answer_sampling", "ending") else v for name, v in values.items()}

    @property
    def name(self) -> str:
        """The key of a JSON object."""
        return json.dumps(self.stored(), sort_keys=True)


@dataclass(frozen=True, slots=True)
class Condition:
    """The options that decide how votes come about; make one with `condition`."""

    way: WayOfThinking
    verifier: str
    paths: int | str
    prune: str
    select: str
    answer: str = AUTO

    def stored(self) -> dict[str, Any]:
        """As JSON has it: one flat object."""
        decided = {name: getattr(self, name) for name in ("verifier", "paths", "prune", "select")}
        if self.answer != AUTO:
            decided["answer"] = self.answer
        return dict(sorted({**self.way.stored(), **decided}.items()))

    @property
    def name(self) -> str:
        """The key of a JSON object."""
        return json.dumps(self.stored(), sort_keys=True)


def way_of_thinking(options: Mapping[str, Any]) -> WayOfThinking:
    """The thinking options in a run's configuration, or in what is stored with a trace. Raises KeyError for a missing one."""
    return WayOfThinking(**{f.name: _hashable(options[f.name]) for f in fields(WayOfThinking)})


def condition(options: Mapping[str, Any]) -> Condition:
    """The condition in a run's configuration. Raises KeyError for a missing option.

    A verifier is called ``trained`` whatever its folder, as a calibration belongs to one verifier. ``auto`` in the
    policy is the same as ``auto`` in the number of paths. Answers in boxes are found by ``auto`` as by ``boxed``: one condition.
    """
    verifier, paths, prune = options["verifier"], options["paths"], options["prune"]
    if verifier.partition(":")[0] not in PLAIN:
        verifier = "trained"
    policy = pruning.parse("none" if "call:" in prune else prune)  # a function of a run may be out of reach here
    if policy.adaptive:
        paths = f"auto:{adaptive.schedule_of(paths, policy).most}"
        prune = "+".join(rule.spelled for rule in policy.rules) or "none"
    answer = options.get("answer", AUTO)
    return Condition(
        way_of_thinking(options), verifier, paths, prune, options["select"], AUTO if answer == BOXED else answer
    )


def _hashable(value: Any) -> Any:
    if isinstance(value, Mapping):
        return tuple(sorted((name, _hashable(v)) for name, v in value.items()))
    return tuple(map(_hashable, value)) if isinstance(value, list | tuple) else value


def features(votes: Sequence[Vote], traces: Sequence[Trace]) -> list[float]:
    """What a vote shows, in the order of `FEATURES`; only the first two where nothing was scored.

    The share is that of the leading answer, with half a vote added on either side, so that one path alone is not
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


@dataclass(frozen=True, slots=True)
class Band:
    """Scores of finished traces: trusted from `high` on, doubted below `low`, uncertain between.

    ``error`` bounds the share of wrong traces among the trusted, and of right ones among the doubted.
    """

    low: float
    high: float
    error: float

    def stored(self) -> dict[str, float | None]:
        """As JSON has it, which has no infinity: None for an end that is never reached."""
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
    """What `trueplex calibrate` learned; `read` reads it.

    Attributes:
        votes: by selector and by condition, the intercept and the weights of `FEATURES`.
        held: by condition, (confidence, right) of held-out problems.
        bands: the third state, by way of thinking.
        belongs: what it was made for: fingerprints of the model and the verifier.
    """

    votes: dict[str | Condition, list[float]]
    held: dict[Condition, list[tuple[float, bool]]]
    bands: dict[WayOfThinking, Band] = field(default_factory=dict)
    belongs: dict[str, Any] = field(default_factory=dict)

    def confidence(self, select: str, votes: Sequence[Vote], traces: Sequence[Trace],
                   asked: Condition | None = None) -> float | None:  # fmt: skip
        """The probability that the leading answer is right; None when this selector was not calibrated.

        By the function of the condition `asked`, if that was calibrated, else by that of all runs with this selector.
        """
        weights = self.votes.get(select) if asked is None else self.votes.get(asked, self.votes.get(select))
        if weights is None or not votes:
            return None
        shown = [1.0, *features(votes, traces)]
        assert len(shown) == len(weights), (select, shown)
        return 1 / (1 + math.exp(-sum(w * x for w, x in zip(weights, shown, strict=True))))

    def covers(self, asked: Condition, policy: bool = False) -> bool:
        """Whether runs like the one `asked` about were calibrated: alike in all but the policy, with as many paths or
        between the fewest and the most. With ``policy``, alike in that as well.
        """
        alike = [c for c in self.held if replace(c, paths=0, prune="") == replace(asked, paths=0, prune="")]
        alike = [c for c in alike if not policy or c.prune == asked.prune]
        numbers = [c.paths for c in alike if isinstance(c.paths, int)]
        if isinstance(asked.paths, int):
            return bool(numbers) and min(numbers) <= asked.paths <= max(numbers)
        return any(c.paths == asked.paths for c in alike)

    def band(self, asked: Condition) -> Band | None:
        """What the scores of finished traces say in such a run.

        None where nothing is promised: another way of thinking, or a policy that chose among the paths.
        """
        return None if asked.prune != "none" else self.bands.get(asked.way)

    def threshold(self, asked: Condition, error: float) -> float:
        """The least confidence to answer with, so that at most a share `error` of the answers is wrong.

        Raises:
            OptionError: this condition was not calibrated, or there are too few problems for so small an error.
        """
        if asked not in self.held:
            raise OptionError("--max-error needs a calibration with exactly these options. Try: run `trueplex calibrate` "
                              "with them, or use --abstain-below")  # fmt: skip
        threshold = safe_threshold(self.held[asked], error)
        if threshold is None:
            raise OptionError(f"no confidence is high enough to promise an error of at most {error:g} from "
                              f"{len(self.held[asked])} calibration problems. Try: a larger error, or more problems")  # fmt: skip
        return threshold

    def beside(self, other: Calibration | None) -> Calibration:
        """This calibration, completed by what another of the same model and verifier says of other conditions."""
        if other is None or other.belongs != self.belongs:
            return self
        return Calibration(
            {**other.votes, **self.votes}, {**other.held, **self.held}, {**other.bands, **self.bands}, self.belongs
        )

    def save(self, folder: Path) -> None:
        """Write the file, whole or not at all."""
        content = {
            "belongs": self.belongs, "features": FEATURES,
            "votes": {key if isinstance(key, str) else key.name: weights for key, weights in self.votes.items()},
            "bands": {way.name: band.stored() for way, band in self.bands.items()},
            "held": {c.name: [[round(p, 5), int(right)] for p, right in pairs] for c, pairs in self.held.items()},
        }  # fmt: skip
        write_json(folder / FILE, content)

    @classmethod
    def read(cls, folder: Path) -> Calibration | None:
        """The calibration in a folder; None when there is none.

        Raises:
            VerifierError: the file cannot be read, or was changed.
        """
        path = folder / FILE
        if not path.exists():
            return None
        try:
            stored = read_json(path, _Stored)
            votes: dict[str | Condition, list[float]] = {
                condition(json.loads(name)) if name.startswith("{") else name: weights
                for name, weights in stored.votes.items()
            }
            held = {
                condition(json.loads(name)): [(p, bool(r)) for p, r in pairs] for name, pairs in stored.held.items()
            }
            bands = {way_of_thinking(json.loads(name)): Band.restored(band) for name, band in stored.bands.items()}
            return cls(votes, held, bands, stored.belongs)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, OptionError) as error:
            raise VerifierError(
                f"{path} cannot be read ({reason(error)}). Try: run `trueplex calibrate` again, after removing it"
            ) from error


@dataclass(frozen=True)
class _Stored:
    """The file: a `Calibration` as JSON has it."""

    belongs: dict[str, str]
    votes: dict[str, list[float]]
    held: dict[str, list[tuple[float, int]]]
    bands: dict[str, dict[str, float | None]]


def safe_threshold(pairs: Sequence[tuple[float, bool]], error: float) -> float | None:
    """The lowest confidence from which on at most a share `error` of answers is wrong; None when there is none.

    Thresholds are tested from high to low, in steps of a fiftieth of the problems, and the search ends at the first
    whose errors could come from a larger rate with a probability above `DELTA`. Where it starts must not depend on
    which answers were right: at the most confident quarter, or at more problems if a quarter without any error would
    prove nothing.
    """
    ranked = sorted(pairs, reverse=True)
    proof = math.ceil(math.log(DELTA) / math.log1p(-error))
    found = None
    for count in range(max(proof, len(ranked) // 4), len(ranked) + 1, max(1, len(ranked) // 50)):
        lowest = ranked[count - 1][0]
        given = [right for confidence, right in ranked if confidence >= lowest]
        if bdtr(given.count(False), len(given), error) > DELTA:
            break
        found = lowest
    return found


def band_of(pairs: Sequence[tuple[float, bool]], error: float) -> Band:
    """The band of uncertain scores, from (score, right) of finished held-out traces.

    Trusted scores by `safe_threshold`; doubted ones by the same rule with the roles of right and wrong exchanged.
    """
    high = safe_threshold(pairs, error)
    low = safe_threshold([(-score, not right) for score, right in pairs], error)
    high = math.inf if high is None else high
    return Band(min(high, -math.inf if low is None else -low), high, error)
