"""A body as a `Request` for the scheduler: defaults filled in, limits checked, the prompt built.

Everything here runs on a separate thread with its own copy of the tokenizer, so a long prompt blocks nobody.
"""

from __future__ import annotations

import copy
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from pydantic import ValidationError

from trueplex.decide.budget import Budget
from trueplex.decide.calibration import Calibration
from trueplex.engine.constraint import NewConstraint
from trueplex.engine.limits import Ending
from trueplex.engine.sampling import Sampling
from trueplex.engine.thinking import Thinking
from trueplex.errors import InputError, OptionError
from trueplex.grading.kinds import AUTO
from trueplex.models.backbone import Backbone
from trueplex.models.markers import thinking_after
from trueplex.models.prompt import PromptOptions, make_prompt
from trueplex.serve.allowed import check_lengths, check_options
from trueplex.serve.options import ServerOptions
from trueplex.serve.refusals import Refusal, of_validation
from trueplex.serve.structured import JSON
from trueplex.serve.wire import (
    ChatBody,
    CompletionBody,
    DetokenizeBody,
    Extension,
    Message,
    Options,
    Sampled,
    SolveBody,
    TokenizeBody,
)
from trueplex.solving.request import Account, Request
from trueplex.solving.scorers import choose_calibration, choose_scorer
from trueplex.solving.settings import Settings
from trueplex.types import Problem, Prompt
from trueplex.verify.scorer import Scorer

PATHS = 8  # of a request where nobody says
THINKING = ("thinking", "width", "merge", "without_replacement", "noise", "strength")
COMPARING = ("prune", "select")  # defaults that a single path has no use for
SPREADING = ("paths", "width", "merge", "without_replacement")  # defaults that greedy decoding has no use for
SAMPLING = ("temperature", "top_k", "top_p", "min_p")


@dataclass(frozen=True)
class Asked:
    """A body, ready to run.

    Attributes:
        choices: how many answers the client wants; more than 1 are the paths themselves, without a vote.
        stops: its stop strings.
        prompting: how the problem was put to the model; None for a raw prompt.
    """

    request: Request
    prompt: Prompt
    choices: int
    stops: tuple[str, ...]
    prompting: PromptOptions | None

    @property
    def settings(self) -> Settings:
        return self.request.settings

    @property
    def single(self) -> bool:
        """Whether each path is an answer of its own, whose tokens can be sent as they come."""
        return self.choices > 1 or self.settings.paths == 1


class Desk:
    """Reads bodies. Raises OptionError, InputError, VerifierError or `Refusal` for what cannot be done."""

    def __init__(self, backbone: Backbone, options: ServerOptions) -> None:
        self._model, self.options = backbone, options  # the first is for scorers, which run beside the model
        self.backbone = copy.copy(backbone)
        self.backbone.tokenizer = copy.deepcopy(backbone.tokenizer)
        self.name = options.name or backbone.name
        self._scorer = lru_cache(256)(self._open_scorer)
        try:
            self.defaults = {k: v for k, v in Extension(**options.defaults).model_dump().items() if v is not None}
            # What is read from disk or walks all weights is read now, before anybody asks.
            self.solve(SolveBody(problem="What is 1 + 1?", stream=False))
        except ValidationError as error:
            raise OptionError(of_validation(error).message) from error
        except Refusal as error:
            raise OptionError(error.message) from error
        _ = self.backbone.fingerprint

    # -- the three kinds of bodies --------------------------------------------------------------------

    def chat(self, body: ChatBody, constraint: NewConstraint | None = None) -> Asked:
        """``constraint`` is what the body's response format comes to."""
        self._known(body.model)
        text = body.messages[-1]
        if text.role != "user":
            raise Refusal(
                400,
                f"the last message is the {text.role}'s. Try: end with a user's message",
                f"messages[{len(body.messages) - 1}].role",
                "invalid_value",
            )
        extension = body.trueplex or Extension()
        limit = body.max_tokens if body.max_completion_tokens is None else body.max_completion_tokens
        given = self._given(extension, body.n or 1, body.temperature == 0)
        if body.thinking_token_budget is not None:
            if given.get("think_tokens", body.thinking_token_budget) != body.thinking_token_budget:
                raise Refusal(400, "thinking_token_budget and trueplex.think_tokens both limit thinking, and differ. Try: give one of them",
                              "thinking_token_budget", "invalid_value")  # fmt: skip
            given["think_tokens"] = body.thinking_token_budget
        settings, stops = self._settings(given, body, limit, _listed(body.stop))
        prompting = self._prompting(body, given, settings)
        prompt = self._prompt(Problem(text.text), prompting, body.reasoning_effort)
        asked = self._asked(settings, prompt, body.n or 1, stops, prompting)
        return asked if constraint is None else self._structured(asked, constraint)

    def _structured(self, asked: Asked, constraint: NewConstraint) -> Asked:
        """With answers that are JSON, in their tokens and in the vote."""
        tagged = self.backbone.markers is not None
        if not tagged and asked.settings.thinking.resolved(tagged).mode != "discrete":
            raise Refusal(
                400,
                f"{self.name} has no thinking tags, so that its merged steps are its answer. Try: 'trueplex': {{'thinking': 'discrete'}}",
                "response_format",
                "invalid_value",
            )
        if asked.settings.answer != AUTO:
            raise Refusal(400, "with a response format the answer is its JSON value, so 'answer' has no effect. Try: leave it out",
                          "trueplex.answer", "invalid_value")  # fmt: skip
        settings = replace(asked.request.settings, answer=JSON)
        return replace(asked, request=replace(asked.request, constraint=constraint, settings=settings))

    def completion(self, body: CompletionBody) -> list[Asked]:
        """One for each prompt."""
        self._known(body.model)
        several = isinstance(body.prompt, list) and body.prompt and not isinstance(body.prompt[0], int)
        prompts: Sequence[Any] = body.prompt if several else [body.prompt]  # type: ignore[assignment]
        if not 1 <= len(prompts) <= self.options.max_paths:
            raise Refusal(400, f"{len(prompts)} prompts. Try: 1 to {self.options.max_paths}", "prompt", "invalid_value")
        given = self._given(body.trueplex or Extension(), body.n or 1, body.temperature == 0)
        if given.pop("instruction", None):
            raise Refusal(
                400,
                "a raw prompt is used as is, so an instruction has no effect. Try: write it into the prompt",
                "trueplex.instruction",
                "invalid_value",
            )
        settings, stops = self._settings(given, body, body.max_tokens, _listed(body.stop))
        return [self._asked(settings, self._raw(prompt), body.n or 1, stops, None) for prompt in prompts]

    def solve(self, body: SolveBody) -> Asked:
        self._known(body.model)
        given = self._given(body, 1, False)
        settings, stops = self._settings(given, body, body.max_tokens, tuple(body.stop or ()))
        base = self.backbone.prompting or PromptOptions()
        prompting = replace(
            base,
            system=base.system if body.system is None else body.system,
            template_arguments=_merged(base.template_arguments, body.template_arguments),
            instruction=_instruction(given.get("instruction"), base.instruction),
        )
        problem = Problem(body.problem, body.id, None if body.answers is None else tuple(body.answers))
        return self._asked(settings, self._prompt(problem, prompting), 1, stops, prompting)

    def tokenize(self, body: TokenizeBody) -> list[int]:
        """The ids of a text, or of messages as the chat template writes them."""
        self._known(body.model)
        if body.messages:
            prompting = self._conversation(body.messages, self.backbone.prompting or PromptOptions(), "")
            return list(make_prompt(Problem(body.messages[-1].text), self.backbone, prompting).ids)
        found = self.backbone.tokenizer(body.prompt, add_special_tokens=body.add_special_tokens, verbose=False)
        return list(found["input_ids"])

    def detokenize(self, body: DetokenizeBody) -> str:
        self._known(body.model)
        self._in_vocabulary(body.tokens, "tokens")
        return self.backbone.decode(body.tokens)

    def _in_vocabulary(self, ids: Sequence[int], field: str) -> None:
        if not all(0 <= i < self.backbone.vocabulary for i in ids):
            raise Refusal(
                400,
                f"a token id is outside the vocabulary of {self.backbone.vocabulary}. Try: ids from /tokenize",
                field,
                "invalid_value",
            )

    # -- options --------------------------------------------------------------------------------------

    def _known(self, model: str | None) -> None:
        if model not in (None, self.name):
            raise Refusal(
                404,
                f"there is no model {model[:200]!r}. Try: {self.name!r}, as GET /v1/models lists it",
                "model",
                "model_not_found",
            )

    def _given(self, asked: Options, choices: int, greedy: bool) -> dict[str, Any]:
        """The options of a body, with the server's defaults for what it leaves open."""
        own = {name: getattr(asked, name) for name in Options.model_fields if getattr(asked, name) is not None}
        defaults = dict(self.defaults)
        if any(name in own for name in THINKING):
            defaults = {name: value for name, value in defaults.items() if name not in THINKING}
        given = {
            "paths": 1 if greedy else min(PATHS, self.options.max_paths),
            **{k: v for k, v in defaults.items() if not (greedy and k in SPREADING)},
            **own,
        }
        if choices > 1:
            if given["paths"] != 1:
                raise Refusal(400, f"n is {choices} choices, and each choice is a single path, not a vote over {given['paths']}. "
                              "Try: n: 1, or 'trueplex': {'paths': 1}", "n", "invalid_value")  # fmt: skip
            given = {"verifier": "none"} | own | {"paths": choices}
        if given["paths"] == 1 or choices > 1:
            given = {name: value for name, value in given.items() if name not in COMPARING or name in own}
        check_options(given, self.defaults, self.options)
        return given

    def _settings(
        self, given: dict[str, Any], body: Sampled | SolveBody, max_tokens: int | None, stops: tuple[str, ...]
    ) -> tuple[Settings, tuple[str, ...]]:
        check_lengths(max_tokens, stops, self.backbone.max_positions, self.options)
        sampling = Sampling(**{n: v for n in SAMPLING if (v := _kept(n, getattr(body, n))) is not None})
        answer = {n: v for n in SAMPLING if (v := _kept(n, given.get(f"answer_{n}"))) is not None}
        merges = any(given.get(name) is not None for name in ("width", "merge")) or given.get("without_replacement")
        ending = Ending(max_tokens or self._usual_tokens(), given.get("think_tokens"), given.get("cold_entropy"),
                        given.get("cold_steps"), stops, given.get("max_seconds"))  # fmt: skip
        thinking = Thinking(
            given.get("thinking") or ("multiplex" if merges else "auto"), given.get("width"), given.get("merge"), sampling,
            replace(sampling, **answer) if answer else None, ending, not given.get("without_replacement"),
            given.get("noise"), given.get("strength"),
        )  # fmt: skip
        budget = Budget(*(given.get(f"budget_{kind}") for kind in ("tokens", "seconds", "paths")))
        direct = ("paths", "verifier", "probe_every", "prune", "select", "answer", "abstain_below", "max_error")
        seed = body.seed if body.seed is not None else self.options.seed
        return Settings(
            **{name: given[name] for name in direct if name in given}, thinking=thinking, budget=budget,
            alarms=tuple(given.get("alarms", ())), seed=secrets.randbits(53) if seed is None else seed,
        ), stops  # fmt: skip

    def _usual_tokens(self) -> int | None:
        """The limit of a path for which nobody gave one: None leaves the model's own."""
        most = self.options.max_tokens
        return most if most is not None and most < self.backbone.default_max_tokens else None

    def _asked(
        self, settings: Settings, prompt: Prompt, choices: int, stops: tuple[str, ...], prompting: PromptOptions | None
    ) -> Asked:
        scorer, calibration = self._scorer(settings.names["verifier"], settings.probe_every)
        if scorer is None:  # what needs scores is refused here; the rest is a plain majority
            _, settings = choose_scorer(self._model, settings)
        seconds = min(settings.budget.seconds or self.options.max_seconds, self.options.max_seconds)
        account = Account(replace(settings.budget, seconds=seconds))
        request = Request(prompt.problem, settings, scorer, calibration, (), account, prompt)
        return Asked(request, prompt, choices, stops, prompting)

    def _open_scorer(self, verifier: str, every: int) -> tuple[Scorer | None, Calibration | None]:
        scorer, settings = choose_scorer(self._model, Settings(verifier=verifier, probe_every=every))
        return scorer, choose_calibration(self._model, scorer, settings)

    # -- prompts --------------------------------------------------------------------------------------

    def _prompting(self, body: ChatBody, given: dict[str, Any], settings: Settings) -> PromptOptions:
        """How a conversation is put to the model. The instruction asks for an answer that can be voted on."""
        base = self.backbone.prompting or PromptOptions()
        boxed = body.response_format is None or body.response_format.type == "text"
        votes = settings.paths != 1 and (body.n or 1) == 1 and boxed
        usual = base.instruction if votes or base.instruction is not None else ""
        options = self._conversation(body.messages, base, _instruction(given.get("instruction"), usual))
        return replace(options, template_arguments=_merged(base.template_arguments, body.chat_template_kwargs))

    def _conversation(self, messages: Sequence[Message], base: PromptOptions, instruction: str | None) -> PromptOptions:
        turns = [("system" if m.role == "developer" else m.role, self._content(m)) for m in messages[:-1]]
        system = base.system
        if turns and turns[0][0] == "system":
            system = turns.pop(0)[1]
        return replace(base, system=system, instruction=instruction, messages=(*base.messages, *turns))

    def _content(self, message: Message) -> str:
        """A message's text; an assistant's earlier thinking stands before it, between the model's tags."""
        thought, tags = message.reasoning or message.reasoning_content, self.backbone.tags
        if message.role != "assistant" or not thought or not tags or not (tags.start and tags.end):
            return message.text
        return f"{tags.start[0]}\n{thought}\n{tags.end[0]}\n\n{message.text}"

    def _prompt(self, problem: Problem, options: PromptOptions, effort: str | None = None) -> Prompt:
        if effort is None:
            return self._bounded(make_prompt(problem, self.backbone, options))
        arguments = [("reasoning_effort", effort)] + ([("enable_thinking", False)] if effort == "none" else [])
        for argument in arguments:
            try:
                return self._bounded(
                    make_prompt(
                        problem,
                        self.backbone,
                        replace(options, template_arguments=(*options.template_arguments, argument)),
                    )
                )
            except OptionError:
                continue  # this template has no such argument
        raise Refusal(
            400,
            f"the chat template of {self.name} has no reasoning effort. Try: 'trueplex': {{'think_tokens': …}}, or leave it out",
            "reasoning_effort",
            "invalid_value",
        )

    def _raw(self, text: str | list[int]) -> Prompt:
        """A prompt that no template touches."""
        if isinstance(text, str):
            ids = self.backbone.tokenizer(text, verbose=False)["input_ids"]
        else:
            ids = text
            self._in_vocabulary(ids, "prompt")
            text = self.backbone.decode(ids)
        if not ids:
            raise InputError("the prompt is empty. Try: give some text")
        thinking = thinking_after(text, self.backbone.tags if self.backbone.markers else None)
        return self._bounded(Prompt(Problem(text if text.strip() else repr(text)), tuple(ids), text, thinking))

    def _bounded(self, prompt: Prompt) -> Prompt:
        most = min(self.backbone.max_positions - 2, self.options.max_prompt_tokens or self.backbone.max_positions)
        if len(prompt.ids) > most:
            raise Refusal(
                400,
                f"the prompt is {len(prompt.ids)} tokens long, and at most {most} are possible here. Try: shorten it",
                "messages",
                "context_length_exceeded",
            )
        return prompt


def _listed(stop: str | list[str] | None) -> tuple[str, ...]:
    return (stop,) if isinstance(stop, str) else tuple(stop or ())


def _kept(name: str, value: Any) -> Any:
    """A filter's value that keeps all, as other servers spell it, is none."""
    return 0 if name == "top_k" and value == -1 else value


def _merged(base: tuple[tuple[str, Any], ...], own: dict[str, Any] | None) -> tuple[tuple[str, Any], ...]:
    return tuple((dict(base) | (own or {})).items())


def _instruction(own: str | None, usual: str | None) -> str | None:
    return usual if own is None else own and f"\n{own}"
