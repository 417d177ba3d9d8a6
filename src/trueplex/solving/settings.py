"""What a run is asked to do, and what it effectively did: options in, configuration out."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from trueplex.data.traces import Origin
from trueplex.decide import adaptive as schedule
from trueplex.decide import alarms
from trueplex.decide import pruning as policy
from trueplex.decide import voting as vote
from trueplex.decide.budget import Budget
from trueplex.decide.rules import Prune
from trueplex.decide.voting import Choose
from trueplex.engine.thinking import Thinking
from trueplex.errors import OptionError
from trueplex.grading.calls import spelled
from trueplex.grading.kinds import AUTO, BOXED, AnswerKind, as_kind
from trueplex.models.backbone import Backbone
from trueplex.verify.own import ScoreFunction
from trueplex.verify.scorer import Scorer

DEFAULT_STRIDE = 32  # tokens between looks at the traces when nothing asks for a finer cadence


@dataclass(slots=True, frozen=True)
class Settings:
    """What a run is asked to do; validated whole, before any token is spent.

    Attributes:
        verifier: what scores the traces: a name (`trueplex.verify.open`), a `Scorer`, or a function of texts (`ScoreFunction`).
        answer: what counts as an answer: a name in the grammar of `trueplex.grading.kinds`, or an `AnswerKind`.
        paths: traces of each problem: a number, ``auto`` or ``auto:LIMIT`` (`trueplex.decide.adaptive`).
        prune, select, alarms: in the grammars of `trueplex.decide.pruning`, `trueplex.decide.voting` and `trueplex.decide.alarms`;
            ``select`` None is weighted with a scorer and majority without; each may be a function, too
            (`decide.rules.Prune`, `decide.voting.Choose`, `decide.alarms.Look`).
        abstain_below: give no answer at a lower confidence.
        max_error: give answers only as far as at most this share of them is wrong, by the calibration.
        rows: traces decoded together by `stream`; None is the device's own. A `Scheduler` has its own.

    Raises:
        OptionError: a value is out of range, or an option has no effect in this combination.
    """

    paths: int | str = 16
    thinking: Thinking = field(default_factory=Thinking)
    verifier: str | Scorer | ScoreFunction = "auto"
    prune: str | Prune = "none"
    select: str | Choose | None = None
    seed: int = 0
    probe_every: int = DEFAULT_STRIDE
    rows: int | None = None
    alarms: tuple[str | alarms.Look, ...] = ()
    budget: Budget = field(default_factory=Budget)
    abstain_below: float | None = None
    max_error: float | None = None
    answer: str | AnswerKind = AUTO

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**63:
            raise OptionError(f"seed is {self.seed}. Try: a whole number from 0 to 2^63 − 1")
        if self.probe_every < 1:
            raise OptionError(f"probe-every is {self.probe_every}. Try: at least 1")
        if self.select is not None:
            vote.selector(self.select)
        as_kind(self.answer)
        rule = policy.parse(self.prune)
        schedule.schedule_of(self.paths, rule)
        for alarm in self.alarms:
            alarms.parse(alarm)
        if self.verifier == "none":
            self._without_scores(rule)
        for name in ("abstain_below", "max_error"):
            value = getattr(self, name)
            if value is not None and not 0 < value < 1:
                raise OptionError(f"{name.replace('_', '-')} is {value}. Try: a share between 0 and 1")
        if self.abstain_below is not None and self.max_error is not None:
            raise OptionError("abstain-below and max-error both set the least confidence. Try: give one of them")
        if self.max_error is not None and (self.alarms or self.budget != Budget()):
            raise OptionError("max-error promises for runs that end by themselves, and alarms and budgets cut them short. Try: "
                              "drop them, or use abstain-below")  # fmt: skip

    def _without_scores(self, rule: policy.Policy) -> None:
        if rule.needs_scores:
            raise OptionError(f"pruning {self.prune!r} needs scores. Try: --prune none, or give a verifier")
        if self.select is not None and reads_scores(self.select):
            raise OptionError(f"selecting by {self.select!r} needs scores. Try: --select majority, or give a verifier")
        if wanting := [a for a in self.alarms if alarms.parse(a).needs_scores]:
            raise OptionError(f"the alarm {wanting[0]!r} needs scores. Try: drop it, or give a verifier")

    @property
    def kind(self) -> AnswerKind:
        """What counts as an answer."""
        return as_kind(self.answer)

    @property
    def names(self) -> dict[str, Any]:
        """Verifier, policy, selector and answer kind by name, as they are stored with a result."""
        names = {name: getattr(self, name) for name in ("verifier", "prune", "select")}
        named = {name: given if isinstance(given, str | None) else spelled(given) for name, given in names.items()}
        return {**named, "answer": self.kind.spelled}

    def resolved(self, backbone: Backbone) -> Settings:
        """With the thinking and the answers that ``auto`` stands for with this model: one that always boxes says so itself."""
        answer = backbone.answer_kind if self.answer == AUTO and backbone.answer_kind else self.answer
        return replace(self, thinking=self.thinking.resolved(backbone.markers is not None), answer=answer)

    @property
    def schedule(self) -> schedule.PathSchedule:
        """When a problem gets how many traces."""
        return schedule.schedule_of(self.paths, policy.parse(self.prune))


def thinking_options(thinking: Thinking) -> dict[str, Any]:
    """How traces think, defaults filled in; options that do not act in the mode are None."""
    stochastic = thinking.mode == "stochastic-soft"
    return {
        "thinking": thinking.mode,
        "width": thinking.k,
        "merge": thinking.merge_kind,
        "replacement": thinking.replacement if thinking.mode == "multiplex" else None,
        "noise": thinking.noise_kind,
        "strength": (thinking.strength or 1.0) if stochastic else None,
        "sampling": asdict(thinking.sampling),
        "answer_sampling": asdict(thinking.answering),
        "ending": asdict(thinking.ending),
    }


def reads_scores(select: str | Choose) -> bool:
    """Whether a selector cannot do without scores; one of the user's own reads what there is."""
    return isinstance(select, str) and select != "majority" and not select.startswith("call:")


def usual_select(kind: AnswerKind, scored: bool) -> str:
    """The selector where none is asked for. Raises OptionError for whole texts without scores, which have no majority."""
    if kind.free and not scored:
        raise OptionError("whole texts as answers have no majority. Try: give a verifier, such as --verifier entropy")
    return "best" if kind.free else "weighted" if scored else "majority"


def decided_answer(settings: Settings) -> dict[str, Any]:
    """What is stored with a trace of how its answer was found: nothing for the default."""
    return {} if settings.kind.spelled in (AUTO, BOXED) else {"answer": settings.kind.spelled}


def origin(thinking: Thinking | None, backbone: Backbone, decided: dict[str, Any] | None = None) -> Origin:
    """What is stored with every trace of a run; without thinking, what is asked of traces that may think in any way.

    ``decided`` is what else a trace's scores and its end came from, where that must be the same to go on.
    """
    options = json.dumps(thinking_options(thinking) | ({"decided": decided} if decided else {})) if thinking else ""
    return Origin(backbone.fingerprint, backbone.tokenizer_fingerprint, options, backbone.former_fingerprint)


def configuration(settings: Settings, backbone: Backbone) -> dict[str, Any]:
    """The effective configuration, defaults filled in, as stored beside every result (law 10)."""
    thinking = settings.thinking
    return {
        "model": backbone.name,
        "fingerprint": backbone.fingerprint,
        "device": str(backbone.device),
        "dtype": str(backbone.dtype).removeprefix("torch."),
        **({"prompt": asdict(backbone.prompting)} if backbone.prompting else {}),
        "paths": settings.paths if schedule.parse(settings.paths).adaptive else settings.schedule.most,
        **thinking_options(thinking),
        "max_tokens": thinking.ending.most(backbone.default_max_tokens),
        **settings.names,
        "alarms": [alarms.parse(alarm).spelled for alarm in settings.alarms],
        "budget": asdict(settings.budget),
        "abstain_below": settings.abstain_below,
        "max_error": settings.max_error,
        "probe_every": settings.probe_every,
        "seed": settings.seed,
    }
