"""An OpenAI-compatible server as a source of discrete paths: one streamed chat completion a path, read as it comes.

vLLM, SGLang, llama.cpp, `trueplex serve` and hosted services all speak this. Each path is a request of its own, not a choice of
one request with ``n``: a stream of its own can be closed when its path is pruned, and servers that cache prefixes share
the prompt all the same. Needs the extra ``endpoint`` (the `openai` client).
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from trueplex.decide.budget import Budget
from trueplex.errors import MissingExtra, OptionError, TrueplexError
from trueplex.models.backbone import DEFAULT_INSTRUCTION
from trueplex.models.markers import FAMILIES
from trueplex.models.prompt import PromptOptions
from trueplex.solving.settings import Settings
from trueplex.types import Problem, Steps

TOP = 20  # alternatives asked for with every token: as many as DeepConf reads, and as most servers allow
KEY = "OPENAI_API_KEY"
OPENERS, CLOSERS = (tuple(mark for tags in FAMILIES for mark in getattr(tags, side)) for side in ("start", "end"))


class EndpointError(TrueplexError, ConnectionError):
    """A server cannot be reached, refuses, or does not give what is needed."""


@dataclass(frozen=True)
class Endpoint:
    """A server, and how its model is asked.

    Attributes:
        url: such as http://127.0.0.1:8000/v1; where it has no path, ``/v1`` is added.
        model: the name that the server gives it; None takes the only one there is.
        key: the API key; None takes that of the environment variable ``OPENAI_API_KEY``.
        timeout: seconds without a word from the server after which a request counts as lost.
        most: requests at once.
        prompting: system message, instruction and template arguments, as for a local model.

    Raises:
        OptionError: the address is none, or a limit is not positive.
    """

    url: str
    model: str | None = None
    key: str | None = None
    timeout: float = 300.0
    most: int = 32
    prompting: PromptOptions = field(default_factory=PromptOptions)

    def __post_init__(self) -> None:
        if not self.url.startswith(("http://", "https://")):
            raise OptionError(f"the endpoint is {self.url!r}. Try: an address such as http://127.0.0.1:8000/v1")
        if not 0 < self.timeout < math.inf or self.most < 1:
            raise OptionError(
                f"an endpoint's timeout is {self.timeout} and its requests at once are {self.most}. Try: positive numbers"
            )

    @property
    def base(self) -> str:
        """The address up to ``/v1``."""
        plain = self.url.rstrip("/")
        return plain if urlsplit(plain).path else f"{plain}/v1"

    def messages(self, problem: Problem) -> list[dict[str, str]]:
        """The conversation that puts a problem to the model."""
        instruction = DEFAULT_INSTRUCTION if self.prompting.instruction is None else self.prompting.instruction
        system = [{"role": "system", "content": self.prompting.system}] if self.prompting.system else []
        return [*system, {"role": "user", "content": problem.text + instruction}]


@dataclass(slots=True)
class Said:
    """What one path has said so far. Its tokens are those of the log-probabilities, and pieces of text where there are none.

    Attributes:
        logps, entropy, confidence: of every token, as `Steps` has them, NaN where they were not told: some servers tell those
            of the answer alone. The entropy is that of the alternatives that were told and of the rest as one: a lower bound.
        untold: a token of the answer came without its log-probability.
        thinking_tokens: tokens up to the end of thinking.
        ended: the server's reason; empty while it goes on.
    """

    reasoning: str = ""
    content: str = ""
    tokens: int = 0
    thinking_tokens: int = 0
    logps: list[float] = field(default_factory=list)
    entropy: list[float] = field(default_factory=list)
    confidence: list[float] = field(default_factory=list)
    prompt_tokens: int = 0
    untold: bool = False
    ended: str = ""

    def hear(self, chunk: Any) -> None:
        """Take in a chunk of a streamed chat completion."""
        if chunk.usage is not None:
            self.prompt_tokens = chunk.usage.prompt_tokens or 0
            self._pad((chunk.usage.completion_tokens or 0) - self.tokens)  # pieces may have held several tokens
        for choice in chunk.choices:
            thought = getattr(choice.delta, "reasoning", None) or getattr(choice.delta, "reasoning_content", None) or ""
            before, said = self.closed, choice.delta.content or ""
            self.reasoning, self.content = self.reasoning + thought, self.content + said
            told = (choice.logprobs and choice.logprobs.content) or []
            for token in told:
                self._weigh(token)
            self.untold |= bool(said) and not told
            self._pad(not told and bool(thought or said))
            if thought or (self.closed and not before):
                self.thinking_tokens = self.tokens
            self.ended = choice.finish_reason or self.ended

    def _pad(self, tokens: int) -> None:
        """Count tokens of which nothing else is known."""
        self.tokens += max(0, tokens)
        for column in (self.logps, self.entropy, self.confidence):
            column += [math.nan] * tokens

    def _weigh(self, token: Any) -> None:
        offered = [max(t.logprob, -100.0) for t in token.top_logprobs or ()] or [token.logprob]
        shares = np.exp(offered)
        rest = max(0.0, 1.0 - float(shares.sum()))
        self.tokens += 1
        self.logps.append(token.logprob)
        self.entropy.append(float(-(shares * offered).sum()) - (rest * math.log(rest) if rest > 0 else 0.0))
        self.confidence.append(-sum(offered) / len(offered))

    @property
    def closed(self) -> bool:
        """Whether thinking was closed within the text, as by a server that does not keep thinking apart."""
        return any(mark in self.content for mark in CLOSERS)

    @property
    def answer_text(self) -> str | None:
        """What stands behind the thinking; None where thinking was never closed."""
        if self.closed:
            return self.content[max(self.content.rfind(mark) + len(mark) for mark in CLOSERS if mark in self.content) :]
        return None if self.content.lstrip().startswith(OPENERS) else self.content

    @property
    def text(self) -> str:
        """All of it, thinking between its usual tags."""
        return f"<think>\n{self.reasoning.strip()}\n</think>\n\n{self.content}" if self.reasoning else self.content

    def steps(self) -> Steps:
        """All tokens as discrete steps: the ids, which no server tells, are 0, and what is not known is 0 as well."""
        columns = (np.nan_to_num(np.array(c, np.float32)) for c in (self.logps, self.entropy, self.confidence))
        return _discrete(*columns)

    def weighed(self, tokens: int) -> Steps:
        """Those of the first tokens whose log-probabilities are known."""
        columns = [np.array(c[:tokens], np.float32) for c in (self.logps, self.entropy, self.confidence)]
        known = ~np.isnan(columns[0])
        return _discrete(*(column[known] for column in columns))


def _discrete(logps: np.ndarray, entropy: np.ndarray, confidence: np.ndarray) -> Steps:
    wide = (len(logps), 1)
    return Steps(np.zeros(wide, np.int32), np.ones(wide, np.float32), logps[:, None], entropy, confidence)


class Server:
    """A connection to an endpoint; many threads may ask at once.

    Raises:
        MissingExtra: the `openai` client is not installed.
        EndpointError: the server cannot be reached, wants another key, or has several models and none was named.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        try:
            import openai
        except ImportError as error:
            raise MissingExtra("openai", "endpoint") from error
        self.endpoint, self._openai = endpoint, openai
        key = endpoint.key or os.environ.get(KEY) or "none"
        self._client: Any = openai.OpenAI(base_url=endpoint.base, api_key=key, timeout=endpoint.timeout, max_retries=2)
        self.model, self._own = self._chosen()

    def _chosen(self) -> tuple[str, dict[str, Any]]:
        """The model, and what `trueplex serve` must be told so that a request is one plain path."""
        named = self.endpoint.model
        try:
            cards = list(self._client.models.list())
        except self._openai.OpenAIError as error:
            if named is not None and isinstance(error, self._openai.NotFoundError):
                return named, {}  # a server without a list
            raise self.failure(error) from error
        names = [card.id for card in cards]
        if named is None and len(names) != 1:
            raise EndpointError(
                f"{self.endpoint.base} serves {len(names)} models ({', '.join(names[:8])}). Try: --served-model NAME"
            )
        if named is not None and names and named not in names:
            raise EndpointError(f"{self.endpoint.base} has no model {named!r}. Try: one of {', '.join(names[:8])}")
        ours = any(card.owned_by == "trueplex" for card in cards)
        return named or names[0], {"trueplex": {"paths": 1, "thinking": "discrete", "verifier": "none"}} if ours else {}

    def read(
        self, problem: Problem, index: int, settings: Settings, logprobs: int | None, gone: threading.Event
    ) -> Iterator[Any]:
        """The chunks of one path as they come; closed when it is `gone`.

        ``logprobs`` is the number of alternatives to tell beside every token's log-probability; None tells neither.

        Raises:
            EndpointError: the server refuses, fails or is silent for too long.
        """
        sampling, ending = settings.thinking.sampling, settings.thinking.ending
        extra = {
            "top_k": sampling.top_k,
            "min_p": sampling.min_p,
            "chat_template_kwargs": dict(self.endpoint.prompting.template_arguments),
        }
        asked: dict[str, Any] = {
            "max_tokens": ending.max_tokens, "stop": list(ending.stop), "top_p": sampling.top_p if sampling.top_p < 1 else None,
            "logprobs": logprobs is not None, "top_logprobs": logprobs,
        }  # fmt: skip
        try:
            with self._client.chat.completions.create(
                model=self.model, messages=self.endpoint.messages(problem), stream=True, temperature=sampling.temperature,
                seed=settings.seed + index, stream_options={"include_usage": True},
                extra_body={name: value for name, value in extra.items() if value} | self._own,
                **{name: value for name, value in asked.items() if value},
            ) as stream:  # fmt: skip
                for chunk in stream:
                    if gone.is_set():
                        return
                    yield chunk
        except self._openai.OpenAIError as error:
            raise self.failure(error) from error
        except Exception as error:  # what httpx raises while a stream is read passes the client by
            if type(error).__module__.split(".")[0] not in ("httpx", "httpx2", "httpcore"):
                raise
            raise EndpointError(
                f"{self.endpoint.base} closed the connection early ({type(error).__name__}). Try: look at the server's log"
            ) from error

    def failure(self, error: Exception) -> EndpointError:
        """The client's error, in a line."""
        base, told = self.endpoint.base, getattr(error, "body", None)
        message = str(told.get("message") or told.get("detail") or told) if isinstance(told, dict) else str(error)
        short = " ".join(message.split())[:300]
        if isinstance(error, self._openai.APITimeoutError):
            return EndpointError(
                f"{base} sent nothing for {self.endpoint.timeout:g} seconds. Try: a longer --endpoint-timeout, or fewer requests at once with --max-batch-size"
            )
        if isinstance(error, self._openai.APIConnectionError):
            return EndpointError(
                f"cannot reach {base} ({error.__cause__ or short}). Try: check the address, and that the server runs"
            )
        if isinstance(error, self._openai.AuthenticationError | self._openai.PermissionDeniedError):
            return EndpointError(f"{base} rejected the API key ({short}). Try: set {KEY}, or --endpoint-key-file FILE")
        status = getattr(error, "status_code", None)
        hint = "" if "Try: " in short else ". Try: other options, or look at the server's log"
        return EndpointError(f"{base} says {f'{status}: ' if status else ''}{short.rstrip('.')}{hint}")


def check(settings: Settings) -> None:
    """Raise OptionError for what no endpoint can do, before anything is asked.

    Rules that compare paths at the same token need paths that grow in step; those of an endpoint do not.
    """
    thinking, ending = settings.thinking, settings.thinking.ending
    here = "over an endpoint, which samples plain paths"
    if thinking.mode not in ("auto", "discrete"):
        raise OptionError(
            f"--thinking {thinking.mode} is not possible {here}. Try: --thinking discrete, or a local --model"
        )
    wrong = {
        "--think-tokens": ending.think_tokens, "--cold-entropy": ending.cold_entropy, "--alarm": settings.alarms,
        "--max-error": settings.max_error, "options of the answer's own sampling": thinking.answer_sampling,
        "a budget": settings.budget != Budget(),
    }  # fmt: skip
    if given := next((name for name, value in wrong.items() if value), None):
        raise OptionError(f"{given} has no effect {here}. Try: drop it, or use a local --model")


def deadline(settings: Settings) -> float:
    """When a path that starts now is late, by `time.monotonic`."""
    return time.monotonic() + (settings.thinking.ending.max_seconds or math.inf)
