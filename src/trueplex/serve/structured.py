"""Answers that are JSON, by llguidance: every token that the schema does not allow is kept from being drawn.

It acts in the answer alone, so that thinking stays free; equal values are equal votes, whatever their spelling.
"""

from __future__ import annotations

import json
import threading
from functools import cached_property

import torch
from llguidance import LLMatcher, LLTokenizer
from llguidance.hf import from_tokenizer
from llguidance.torch import allocate_token_bitmask, fill_next_token_bitmask
from torch import Tensor

from trueplex.engine.constraint import NewConstraint
from trueplex.grading.kinds import AnswerKind, plain
from trueplex.models.backbone import Backbone
from trueplex.serve.refusals import Refusal
from trueplex.serve.wire import ResponseFormat

OBJECT = {"type": "object"}
BLANKS = r"( |\n[ \t]{0,20})?"  # between tokens of JSON: a small model would write blanks without end


class Grammars:
    """Makes constraints of schemas, for one model's tokenizer, which is read at the first one."""

    def __init__(self, backbone: Backbone) -> None:
        self.backbone = backbone
        self._lock = threading.Lock()

    @cached_property
    def _tokens(self) -> LLTokenizer:
        ends = sorted(self.backbone.ends)
        return from_tokenizer(self.backbone.tokenizer, n_vocab=self.backbone.config.vocab_size, eos_token=ends)

    def of(self, asked: ResponseFormat) -> NewConstraint:
        """Raises Refusal for an unsupported schema."""
        schema = (asked.json_schema.schema_ or OBJECT) if asked.json_schema else OBJECT
        grammar = LLMatcher.grammar_from_json_schema(json.dumps(schema), {"whitespace_pattern": BLANKS})
        with self._lock:
            tokens = self._tokens
        first = LLMatcher(tokens, grammar)
        if first.is_error():
            told = " ".join(first.get_error().split())[:200].rstrip(".")
            raise Refusal(
                400, f"the schema is not supported ({told}). Try: a simpler one", "response_format", "invalid_schema"
            )
        ends = torch.tensor(sorted(self.backbone.ends), device=self.backbone.device)
        return lambda: Structured(first.deep_copy(), tokens, ends)


class Structured:
    """One path's answer, token by token."""

    def __init__(self, matcher: LLMatcher, tokens: LLTokenizer, ends: Tensor) -> None:
        self._matcher, self._ends = matcher, ends
        self._bits = allocate_token_bitmask(1, tokens.vocab_size)

    def mask(self, logits: Tensor) -> None:
        kept = logits[self._ends].clone()
        if self._matcher.is_stopped():  # the value is complete, or the library has given up: the answer ends
            logits.fill_(float("-inf"))
            logits[self._ends] = kept
            return
        fill_next_token_bitmask(self._matcher, self._bits, 0)
        shifts = torch.arange(32, dtype=torch.int32)
        allowed = ((self._bits[0][:, None] >> shifts) & 1).bool().flatten()[: len(logits)]
        logits.masked_fill_(~allowed.to(logits.device), float("-inf"))

    def take(self, token: int) -> None:
        if not self._matcher.is_stopped():
            self._matcher.consume_token(token)


def read_json(text: str) -> str | None:
    """The value that a text begins with, spelled as all equal ones are: sorted keys, no blanks, 1 for 1.0."""
    text = text.lstrip()
    try:
        value, _ = json.JSONDecoder().raw_decode(text)
        return json.dumps(plain(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    except (ValueError, RecursionError):
        return None


JSON = AnswerKind("the JSON value of the response format", read_json, lambda one, other: one == other)
