"""A plain Hugging Face causal LM and its tokenizer, made ready to read merged embeddings.

What trueplex must know about transformers' models stands here: which attention masks a model takes, its special
ids, its limits. How one is found is in `load`, which ones are refused in `check`.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from inspect import signature
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from trueplex.checksums import is_named
from trueplex.models import attention
from trueplex.models.families import taken
from trueplex.models.fingerprint import fingerprint_of, former_fingerprint_of, tokenizer_fingerprint
from trueplex.models.head import Head, head_of, transformer_of
from trueplex.models.inputs import Inputs
from trueplex.models.kinds import MASKS, SLIDING, kinds_of
from trueplex.models.lanes import LaneCache, Pass, Piece
from trueplex.models.markers import Markers, Tags, given_tags, markers_of, tags_of
from trueplex.models.rotary import fixed_positions
from trueplex.models.sizes import Sizes, sizes_of
from trueplex.models.states import ProbedCache

T = TypeVar("T")

THINK_END = "</think>"
DEFAULT_INSTRUCTION = "\nPlease reason step by step, and put your final answer within \\boxed{}."
HIDDEN = -1e30  # the logit of a row of the embeddings that is no token
DEFAULT_MAX_TOKENS = 4096  # the length of the papers' training runs


@dataclass
class Backbone:
    """A model that passed the load-time self-check. Make one with `load`.

    ``instruction`` is added to every problem; a model folder may set its own by
    ``problem_instruction`` in config.json (the embedded model does: it needs none), and by ``answer_kind`` the kind of its answers that
    ``--answer auto`` stands for. ``tags`` are the texts that open and
    close thinking, ``markers`` the same as ids; both None for a model without.
    """

    name: str
    model: Any
    tokenizer: Any

    def __post_init__(self) -> None:
        config = self.model.config
        self.config = config.get_text_config(decoder=True)
        self.device: torch.device = self.model.device
        self.dtype: torch.dtype = self.model.dtype
        self.vocabulary = min(len(self.tokenizer), self.config.vocab_size)
        self.padded = self.config.vocab_size > self.vocabulary
        self.prompting: Any = None  # the PromptOptions of every prompt that is made without some of its own
        self.tags: Tags | None = tags_of(self.tokenizer)
        self.markers: Markers | None = markers_of(self.tokenizer, self.tags)
        self.think_end = self._single_id(THINK_END)
        self.ends = self._end_ids()
        self.instruction: str = getattr(config, "problem_instruction", DEFAULT_INSTRUCTION)
        self.answer_kind: str | None = getattr(config, "answer_kind", None)
        self.kinds = kinds_of(self.config)
        self.full = self.kinds.masks == {"full_attention"}
        self.reads_on = False  # whether recurrent layers read several tokens behind a state; the self-check tells
        self._inputs = Inputs(self.model)
        self._takes_positions = "past_key_values" in signature(self.model.forward).parameters  # Mamba takes none
        self.model.eval().requires_grad_(False)
        self.model.set_attn_implementation(attention.NAME)
        self.compiled: Any = None  # the `CompiledStep` of decode steps, where one was asked for
        self.captured: Any = None  # the `CapturedStep` of the same
        self.memory: int | None = None  # the most bytes of KV of a batch; None is a share of what is free
        self.kept: dict[Any, Any] = {}  # what is loaded for this model and shared, as its verifiers; freed with it
        # Held while the model, or its tokenizer, is at work for one caller: threads and streams take turns, pass by pass.
        self.lock = threading.RLock()
        self._last_hidden: Tensor | None = None
        transformer_of(self.model).register_forward_hook(self._keep_hidden)

    def _keep_hidden(self, module: Any, arguments: Any, output: Any) -> None:
        self._last_hidden = output[0]

    def give_back(self) -> None:
        """Give back the device's memory that is kept for speed alone."""
        if self.captured is not None:
            self.captured.forget()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def last_hidden(self) -> Tensor:
        """The last hidden states [B, N, H] of the forward pass before, once: they are forgotten here."""
        hidden, self._last_hidden = self._last_hidden, None
        assert hidden is not None, "no forward pass came before"
        return hidden.to(self.device)  # layers may be on several

    @property
    def head(self) -> Head:
        """Last hidden states [n, H] → logits [n, V]."""
        return head_of(self.model)

    def _single_id(self, token: str) -> int | None:
        found = self.tokenizer.convert_tokens_to_ids(token)
        return None if found is None or found == self.tokenizer.unk_token_id else found

    def _end_ids(self) -> frozenset[int]:
        configured = getattr(self.model.generation_config, "eos_token_id", None)
        ids = configured if isinstance(configured, list) else [configured]
        return frozenset(i for i in (*ids, self.tokenizer.eos_token_id) if i is not None)

    @property
    def layers(self) -> int:
        return self.config.num_hidden_layers

    @property
    def hidden_size(self) -> int:
        return self.config.hidden_size

    @property
    def one_by_one(self) -> str:
        """Why neighbouring tokens of a probe cannot be read at once; empty where they can."""
        if self.kinds.recurrent and not self.reads_on:
            return "this model's recurrent layers read one at a time behind a state"
        return "this model's chunked attention may part them" if "chunked_attention" in self.kinds.masks else ""

    @property
    def max_positions(self) -> int:
        return fixed_positions(self.config) or getattr(self.config, "max_position_embeddings", None) or 2**31

    @property
    def default_max_tokens(self) -> int:
        """The model's own ``max_new_tokens`` where its generation config has one."""
        return getattr(self.model.generation_config, "max_new_tokens", None) or DEFAULT_MAX_TOKENS

    def markers_for(self, think_start: str | None, think_end: str | None) -> Markers | None:
        """The markers of thinking where a caller gave the text of one or both; None for a model without."""
        return markers_of(self.tokenizer, given_tags(think_start, think_end, self.tags))

    @property
    def input_size(self) -> int:
        """Numbers that the model reads at a position: its embedding, and those by layer where it has some."""
        return self.hidden_size + self._inputs.more

    def embed(self, ids: Tensor) -> Tensor:
        """What the model reads [..., input size] for ids [...]; see `models.inputs`."""
        return self._inputs(ids)

    def named_inputs(self, inputs: Tensor) -> dict[str, Tensor]:
        """Inputs [B, q, input size], or [B, q, H] of a probe, by the names under which the model takes them."""
        return self._inputs.named(inputs)

    def masks(self, positions: Tensor, columns: int, behind: int | Tensor = 0) -> Any:
        """What the model takes as attention_mask for queries at positions [B, q] over kv columns.

        A column is seen when it is at least `behind` columns (one number, or [q]) before the query's position and, in
        sliding and chunked layers, within the window or the chunk. Additive, in the model's dtype.
        """
        places = torch.arange(columns, device=positions.device)
        built = {kind: self.mask_of(positions, places, behind, kind) for kind in self.kinds.masks}
        if self.kinds.named and built:
            return {name: built.get(MASKS.get(name, name)) for name in self.kinds.named}
        return next(iter(built.values()), None)

    def mask_of(self, positions: Tensor, column: Tensor, behind: int | Tensor, kind: str) -> Tensor:
        """The mask of one kind, over columns that stand at places [n]."""
        position = positions[:, None, :, None]
        hidden = column > position - (behind if isinstance(behind, int) else behind[:, None])
        if kind == SLIDING:
            hidden |= column <= position - self.config.sliding_window
        elif kind == "chunked_attention":
            hidden |= column < position - position % self.config.attention_chunk_size
        additive = torch.zeros(hidden.shape, dtype=self.dtype, device=positions.device)
        return additive.masked_fill_(hidden, torch.finfo(self.dtype).min)

    def forward(self, inputs: Tensor, positions: Tensor, cache: Any, columns: int, whole: bool = False,
                probe_pass: attention.ProbePass | None = None) -> tuple[Tensor, Tensor]:  # fmt: skip
        """One pass: inputs [B, q, input size] at positions [B, q] → (logits [B, V] in the model's dtype, hidden [B, q, H]).

        Logits are those of column 0. ``whole`` says that a plain causal pass from position 0 is meant: where all layers are
        full attention, no mask is built then. With a probe pass, queries read its columns before their probe, and those of
        their own probe up to themselves; where it has states, each probe is a row of the inputs.
        """
        if probe_pass is None:
            none = self.no_mask(1) if self.kinds.named else None
            return self._run(
                inputs, positions, cache, none if whole and self.full else self.masks(positions, columns), {}
            )
        beside = positions.view(probe_pass.batch, -1)
        if probe_pass.states:
            cache = ProbedCache(self.kinds, probe_pass.states)
        probe_pass = replace(probe_pass, positions=beside, cache=cache)
        mask = self.masks(beside, columns, probe_pass.behind(beside.shape[1]))
        return self._run(inputs, positions, cache, mask, {"probe_pass": probe_pass})

    def decode_pass(self, cache: LaneCache, segments: Sequence[Piece], starts: np.ndarray, inputs: Tensor,
                    kept: bool = True, step: object = None) -> tuple[Tensor, Tensor]:  # fmt: skip
        """One pass over rows [first, last) of lanes: inputs [B, q, input size] at positions starts [B] … + q → logits, hidden as above.

        The new keys and values are written at those positions; what of them counts, the caller knows. Rows that begin
        at 0 are read causally. The states of recurrent layers become those behind the last input, unless it is not ``kept``.
        A ``step`` of decoding, which says what stands beside the tokens, a probe or True for nothing, may be compiled and recorded;
        its results are to be used before the next one is taken.
        """
        recorded = self.captured if step is not None else None
        if recorded is not None and (found := recorded(cache, segments, starts, inputs, step)) is not None:
            return found
        columns, begun = inputs.shape[1], bool(starts.min() > 0)
        at_once = 1 if begun and self.kinds.recurrent and not self.reads_on else columns
        parts = []
        with cache.running(segments, begun, kept):
            for at in range(0, columns, at_once):
                cache.passing = passing = self._planned(cache, segments, starts + at, at_once)
                own = inputs[:, at : at + at_once]
                found = self.compiled(own, passing, step) if step is not None and self.compiled is not None else None
                parts.append(self.plain_pass(own, passing) if found is None else found)
        return parts[0][0], torch.cat([hidden for _, hidden in parts], 1) if len(parts) > 1 else parts[0][1]

    def plain_pass(self, inputs: Tensor, passing: Pass) -> tuple[Tensor, Tensor]:
        """A planned pass, as the model's own code computes it."""
        extra = {"passing": passing}
        return self._run(inputs, passing.positions, passing.cache, self.no_mask(inputs.shape[1]), extra)

    def _planned(self, cache: LaneCache, segments: Sequence[Piece], starts: np.ndarray, columns: int) -> Pass:
        """A pass with its masks."""
        by = (
            attention.READ_BY
            if attention.by_shape(self.device, self.dtype) and columns <= attention.PACKED_COLUMNS
            else 1
        )
        passing = cache.plan(segments, starts, columns, self.device, by)
        for segment in passing.segments:
            rows = slice(None) if len(passing.positions) == 1 else segment.span
            positions = passing.positions[rows] if segment.write is None else passing.positions[rows][:1]
            total = segment.lane.before + segment.columns
            for kind in self.kinds.masks:
                # every row sees all that is read, or it is a plain causal pass
                alike = segment.write is not None and segment.write + columns == segment.columns
                alike &= columns == 1 or (segment.write == 0 and not segment.lane.prefix)
                if alike and total <= self._reach(kind, total):
                    segment.masks[kind] = None
                else:
                    segment.masks[kind] = self.mask_of(positions, segment.places(kind, self.device), 0, kind)
        return passing

    def _reach(self, kind: str, total: int) -> int:
        """How many columns from the beginning on are all seen by a kind of attention."""
        if kind == SLIDING:
            return self.config.sliding_window
        return self.config.attention_chunk_size if kind == "chunked_attention" else total

    def no_mask(self, columns: int) -> Any:
        """What a model takes as attention_mask where attention finds its own; anything that it need not build itself."""
        if not self.kinds.masks:
            return None
        if self.kinds.named:
            return dict.fromkeys(self.kinds.named)
        return torch.empty(1, 1, columns, 0, device=self.device)

    def _run(self, inputs: Tensor, positions: Tensor, cache: Any, mask: Any, extra: dict[str, Any]) -> tuple[Tensor, Tensor]:  # fmt: skip
        if self._takes_positions:
            given = taken(self.config.model_type, cache)
            extra = {**extra, "past_key_values": given, "position_ids": positions}
        else:
            extra = {"cache_params": cache}
        with self.lock, attention.without_cudnn(self.device):
            output = self.model(
                **self.named_inputs(inputs),
                attention_mask=mask,
                use_cache=cache is not None,
                logits_to_keep=torch.zeros(1, dtype=torch.long, device=self.device),
                **extra,
            )
            hidden = self.last_hidden()
        return self.tokens_only(output.logits[:, 0]), hidden

    def tokens_only(self, logits: Tensor) -> Tensor:
        """Logits [B, V] in which rows of the embeddings that are no token have none."""
        if self.padded:
            logits[:, self.vocabulary :] = HIDDEN
        return logits

    @cached_property
    def sizes(self) -> Sizes:
        """What the cache stores; read off one pass."""
        cache = LaneCache(self.kinds)
        lane = cache.add(1, 1)
        with torch.inference_mode():
            self.decode_pass(cache, [(lane, 0, 1)], np.zeros(1, dtype=np.int64), self.embed(torch.zeros(1, 1, dtype=torch.long, device=self.device)))  # fmt: skip
        return sizes_of(lane)

    @property
    def token_bytes(self) -> int:
        """Bytes of keys and values of one token, as the model stores them; 0 where it keeps states alone."""
        return self.sizes.token

    def row_bytes(self, columns: int, dropped: int = 0) -> int:
        """Bytes that a row of so many columns takes, with its states; sliding layers are without so many of them."""
        return columns * self.sizes.token - dropped * self.sizes.sliding + self.sizes.states

    def unread(self, tokens: int) -> int:
        """How many of so many tokens no sliding layer will read again."""
        return max(0, tokens - self.config.sliding_window) if SLIDING in self.kinds.masks else 0

    @cached_property
    def fingerprint(self) -> str:
        """A name for these weights (`trueplex.models.fingerprint`); `load` sets that of the files."""
        return fingerprint_of(self.model.state_dict())

    @cached_property
    def former_fingerprint(self) -> str:
        """What version 0.2 called these weights."""
        return former_fingerprint_of(self.model.state_dict())

    @cached_property
    def tokenizer_fingerprint(self) -> str:
        return tokenizer_fingerprint(self.tokenizer)

    def renamed(self, told: T, where: Any) -> T:
        """What a file of an earlier run tells, with this model's name where that has the name of version 0.2."""
        text = json.dumps(told)
        if self.former_fingerprint not in text:
            return told
        is_named(self.former_fingerprint, self.fingerprint, self.former_fingerprint, where)
        return json.loads(text.replace(self.former_fingerprint, self.fingerprint))

    def decode(self, ids: Sequence[int]) -> str:
        with self.lock:
            return self.tokenizer.decode(list(ids), skip_special_tokens=False)
