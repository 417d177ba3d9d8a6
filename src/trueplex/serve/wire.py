"""The fields of every request, checked by pydantic: a field that is unknown or cannot be honoured is an error, never ignored."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

MOST_CHOICES = 128


def _refused(reason: str, *harmless: Any) -> BeforeValidator:
    """A field that only takes values which ask for nothing."""

    def check(value: Any) -> Any:
        if value is not None and not any(value == one and type(value) in (type(one), int, float) for one in harmless):
            raise ValueError(f"this server {reason}. Try: leave it out")
        return value

    return BeforeValidator(check)


class Body(BaseModel):
    """Values are taken as they are: the text "3" is no number."""

    model_config = ConfigDict(extra="forbid", strict=True, protected_namespaces=())


Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1, le=2**31 - 1)]
Temperature = Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)]
TopK = Annotated[int, Field(ge=-1, le=2**31 - 1)]
Name = Annotated[str, Field(min_length=1, max_length=512)]
Seed = Annotated[int, Field(ge=0, le=2**63 - 1)]


class Options(Body):
    """How a request is solved, by the names of `trueplex.solve` and of `trueplex solve --help`."""

    paths: Count | Name | None = Field(default=None, description="Paths: a number, 'auto' or 'auto:LIMIT'.")
    thinking: Name | None = Field(
        default=None, description="'discrete', 'multiplex', 'soft', 'stochastic-soft' or 'auto'."
    )
    width: Count | None = Field(default=None, description="K: samples of a multiplex step, or tokens of a soft step.")
    merge: Name | None = Field(default=None, description="'weighted' or 'mean'.")
    without_replacement: bool | None = None
    noise: Name | None = Field(default=None, description="Of stochastic-soft thinking: 'gumbel' or 'dirichlet'.")
    strength: Positive | None = None
    answer_temperature: Temperature | None = None
    answer_top_k: TopK | None = None
    answer_top_p: Share | None = None
    answer_min_p: Share | None = None
    think_tokens: Count | None = Field(default=None, description="Close thinking after this many tokens.")
    cold_entropy: Positive | None = None
    cold_steps: Count | None = None
    max_seconds: Positive | None = Field(default=None, description="Most seconds of a path.")
    verifier: Name | None = Field(default=None, description="What scores the paths; 'none' leaves a plain majority.")
    probe_every: Count | None = Field(default=None, description="Tokens between two scores of a path.")
    prune: Name | None = Field(default=None, description="When to prune weak paths, as --prune.")
    select: Name | None = Field(default=None, description="How the answer is chosen, as --select.")
    answer: Name | None = Field(
        default=None, description="What counts as an answer, as --answer; a file, a pattern or code cannot be named."
    )
    abstain_below: Share | None = None
    max_error: Share | None = None
    alarms: list[Name] | None = Field(default=None, max_length=16, description="As --alarm, without 'call:'.")
    budget_tokens: Count | None = None
    budget_seconds: Positive | None = None
    budget_paths: Count | None = None
    instruction: str | None = Field(
        default=None, description="Added to the problem; '' adds nothing, null is the default."
    )


class Extension(Options):
    """The ``trueplex`` object of OpenAI's bodies."""

    stream_paths: Literal["status", "live"] | None = Field(
        default=None, description="What is streamed of many paths while they run."
    )
    candidates: bool | None = Field(default=None, description="Of live paths: the K candidates of every step as well.")


class StreamOptions(Body):
    include_usage: bool | None = None
    include_obfuscation: Annotated[bool | None, _refused("does not pad its events", False)] = None


class Sampled(Body):
    """The fields that both of OpenAI's endpoints have."""

    model: Name | None = None
    n: Annotated[int, Field(ge=1, le=MOST_CHOICES)] | None = None
    max_tokens: Count | None = None
    temperature: Temperature | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: TopK | None = None
    min_p: Share | None = None
    seed: Seed | None = None
    stop: Annotated[str, Field(min_length=1)] | list[Annotated[str, Field(min_length=1)]] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = None
    trueplex: Extension | None = None
    frequency_penalty: Annotated[float | None, _refused("does not support a frequency penalty", 0)] = None
    presence_penalty: Annotated[float | None, _refused("does not support a presence penalty", 0)] = None
    repetition_penalty: Annotated[float | None, _refused("does not support a repetition penalty", 1)] = None
    logit_bias: Annotated[dict[str, Any] | None, _refused("does not support a logit bias", {})] = None

    @model_validator(mode="after")
    def _streams(self) -> Sampled:
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options has no effect without stream. Try: stream: true, or leave it out")
        own = self.trueplex or Extension()
        if own.stream_paths == "live" and not self.stream:
            raise ValueError("trueplex.stream_paths has no effect without stream. Try: stream: true, or leave it out")
        if own.candidates and own.stream_paths != "live":
            raise ValueError("trueplex.candidates are told of live paths. Try: 'stream_paths': 'live', or leave it out")
        return self


class TextPart(Body):
    type: Literal["text"]
    text: str


class Message(Body):
    """``reasoning`` and ``reasoning_content`` are an assistant's earlier thinking, which the chat template may use or drop."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart] | None = None
    name: Annotated[str | None, _refused("does not support speaker names")] = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    refusal: str | None = None
    annotations: Annotated[list[Any] | None, _refused("does not support annotations", [])] = None
    audio: Annotated[Any, _refused("does not support audio")] = None
    function_call: Annotated[Any, _refused("does not support function calls")] = None
    tool_calls: Annotated[list[Any] | None, _refused("does not support tool calls", [])] = None

    @property
    def text(self) -> str:
        return "\n".join(part.text for part in self.content) if isinstance(self.content, list) else self.content or ""


class JsonSchema(Body):
    name: str | None = None
    description: str | None = None
    schema_: dict[str, Any] | None = Field(default=None, alias="schema")
    strict: bool | None = None


class ResponseFormat(Body):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    @model_validator(mode="after")
    def _whole(self) -> ResponseFormat:
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise ValueError("json_schema is given with the type json_schema, and with no other. Try: give both")
        return self


class ChatBody(Sampled):
    """``POST /v1/chat/completions``."""

    messages: list[Message] = Field(min_length=1)
    max_completion_tokens: Count | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    response_format: ResponseFormat | None = None
    reasoning_effort: Name | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    thinking_token_budget: Count | None = None
    tools: Annotated[list[Any] | None, _refused("does not support tool calls", [])] = None
    tool_choice: Annotated[Any, _refused("does not support tool calls", "none", "auto")] = None
    parallel_tool_calls: Annotated[bool | None, _refused("does not support tool calls", True, False)] = None
    functions: Annotated[list[Any] | None, _refused("does not support function calls", [])] = None
    function_call: Annotated[Any, _refused("does not support function calls", "none", "auto")] = None
    modalities: Annotated[list[str] | None, _refused("only answers in text", ["text"])] = None
    audio: Annotated[Any, _refused("only answers in text")] = None
    prediction: Annotated[Any, _refused("does not support predicted outputs")] = None
    store: Annotated[bool | None, _refused("does not store answers", False)] = None
    metadata: Annotated[dict[str, Any] | None, _refused("does not store answers", {})] = None
    service_tier: Annotated[str | None, _refused("has one tier", "auto", "default")] = None
    verbosity: Annotated[str | None, _refused("does not support verbosity", "medium")] = None
    web_search_options: Annotated[Any, _refused("does not search the web")] = None

    @model_validator(mode="after")
    def _agree(self) -> ChatBody:
        if self.top_logprobs and not self.logprobs:
            raise ValueError("top_logprobs has no effect without logprobs. Try: logprobs: true")
        if None not in (self.max_tokens, self.max_completion_tokens) and self.max_tokens != self.max_completion_tokens:
            raise ValueError("max_tokens and max_completion_tokens differ. Try: give one of them")
        return self


class CompletionBody(Sampled):
    """``POST /v1/completions``."""

    prompt: str | list[str] | list[int] | list[list[int]]
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    echo: Annotated[bool | None, _refused("does not echo prompts", False)] = None
    suffix: Annotated[str | None, _refused("does not support suffixes", "")] = None
    best_of: Annotated[int | None, _refused("has 'trueplex': {'paths': …, 'select': 'best'} for this", 1)] = None

    @model_validator(mode="after")
    def _whole_paths(self) -> CompletionBody:
        if self.trueplex is not None and self.trueplex.stream_paths == "live":
            raise ValueError(
                "trueplex.stream_paths is for chat completions and /v1/solve. Try: ask there, or leave it out"
            )
        return self


class SolveBody(Options):
    """``POST /v1/solve``: the options of `trueplex solve`."""

    problem: str
    id: str = ""
    answers: list[str] | None = None
    model: Name | None = None
    temperature: Temperature | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: TopK | None = None
    min_p: Share | None = None
    max_tokens: Count | None = None
    stop: list[Annotated[str, Field(min_length=1)]] | None = None
    seed: Seed | None = None
    system: str | None = None
    template_arguments: dict[str, Any] | None = None
    stream: bool | None = None
    candidates: bool | None = None


class GradeBody(Body):
    """``POST /v1/grade``: one prediction, and the answers that count as right."""

    prediction: str | None
    answers: list[str] = Field(max_length=256)


class TokenizeBody(Body):
    """``POST /tokenize``: a text, or messages as the chat template writes them."""

    model: Name | None = None
    prompt: str | None = None
    messages: list[Message] | None = None
    add_special_tokens: bool = True
    return_token_strs: bool = False


class DetokenizeBody(Body):
    """``POST /detokenize``."""

    model: Name | None = None
    tokens: list[Annotated[int, Field(ge=0)]] = Field(max_length=1 << 18)
