"""A plain Hugging Face causal LM and its tokenizer, made ready to read merged embeddings.

What trueplex must know about transformers' models stands here: which attention masks a model takes, its special
ids, its limits. How one is found is in `load`, which ones are refused in `check`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import get_layer_types_and_kwargs

from trueplex.errors import ModelError
from trueplex.models import attention, placement
from trueplex.models.head import Head, head_of
from trueplex.models.markers import Markers, Tags, given_tags, markers_of, tags_of

THINK_END = "</think>"
ATTENTION_KINDS = ("full_attention", "sliding_attention")
DEFAULT_INSTRUCTION = "\nPlease reason step by step, and put your final answer within \\boxed{}."
DEFAULT_MAX_TOKENS = 4096  # the length of the papers' training runs


@dataclass
class Backbone:
    """A model that passed the load-time self-check. Make one with `load`.

    ``instruction`` is added to every problem; a model folder may set its own by
    ``problem_instruction`` in config.json (the embedded model does: it needs none). ``tags`` are the texts that open and
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
        self.kinds = kinds_of(self.config)
        # Models that name their layers' kinds take a mask per kind; the others one for all layers.
        self.mask_by_kind = getattr(self.config, "layer_types", None) is not None
        self.model.eval().requires_grad_(False)
        self.model.set_attn_implementation(attention.NAME)
        self.kept: dict[Any, Any] = {}  # what is loaded for this model and shared, as its verifiers; freed with it
        self._last_hidden: Tensor | None = None
        self.model.base_model.register_forward_hook(self._keep_hidden)

    def _keep_hidden(self, module: Any, arguments: Any, output: Any) -> None:
        self._last_hidden = output[0]

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
    def max_positions(self) -> int:
        return getattr(self.config, "max_position_embeddings", None) or 2**31

    @property
    def default_max_tokens(self) -> int:
        """The model's own ``max_new_tokens`` where its generation config has one."""
        return getattr(self.model.generation_config, "max_new_tokens", None) or DEFAULT_MAX_TOKENS

    def markers_for(self, think_start: str | None, think_end: str | None) -> Markers | None:
        """The markers of thinking where a caller gave the text of one or both; None for a model without."""
        return markers_of(self.tokenizer, given_tags(think_start, think_end, self.tags))

    def embed(self, ids: Tensor) -> Tensor:
        """Embeddings [..., H] of ids [...], by the module, as some models scale inside it."""
        return self.model.get_input_embeddings()(ids)

    def masks(self, positions: Tensor, columns: int, behind: int = 0) -> Any:
        """What the model takes as attention_mask for queries at positions [B, q] over kv columns.

        A column is seen when it is at least `behind` columns before the query's position and, in
        sliding layers, within the window. Additive, in the model's dtype.
        """
        built = {kind: self._mask(positions, columns, behind, kind) for kind in set(self.kinds)}
        if self.mask_by_kind:
            return built
        (mask,) = built.values()
        return mask

    def _mask(self, positions: Tensor, columns: int, behind: int, kind: str) -> Tensor:
        position = positions[:, None, :, None]
        column = torch.arange(columns, device=positions.device)
        hidden = column > position - behind
        if kind == "sliding_attention":
            hidden |= column <= position - self.config.sliding_window
        additive = torch.zeros(hidden.shape, dtype=self.dtype, device=positions.device)
        return additive.masked_fill_(hidden, torch.finfo(self.dtype).min)

    def forward(self, embeddings: Tensor, positions: Tensor, cache: Any, columns: int, whole: bool = False,
                probe_pass: attention.ProbePass | None = None,
                row_blocks: Sequence[attention.RowBlock] = (), shared_prefix: int = 0) -> tuple[Tensor, Tensor]:  # fmt: skip
        """One pass: embeddings [B, q, H] at positions [B, q] → (logits [B, V] float32, hidden [B, q, H]).

        Logits are those of column 0, as the columns behind it are probes. ``whole`` says that a plain causal pass is meant:
        every row sees all `columns` (one query column, equal lengths), or as many columns are asked as read, from position 0.
        Where all layers are full attention, no mask is built then. With a
        probe pass, queries read its columns before their position, and themselves. ``row_blocks`` say
        how far blocks of rows need to be read, ``shared_prefix`` how many first columns all rows have
        in common: hints for speed alone.
        """
        full = set(self.kinds) == {"full_attention"}
        none = {"full_attention": None} if self.mask_by_kind else None
        extra: dict[str, Any] = {} if probe_pass is None else {"probe_pass": probe_pass}
        if row_blocks:
            extra["row_blocks"] = row_blocks
        if shared_prefix and full:
            extra["shared_prefix"] = shared_prefix
        output = self.model(
            inputs_embeds=embeddings,
            attention_mask=none if whole and full else self.masks(positions, columns, int(probe_pass is not None)),
            position_ids=positions,
            past_key_values=cache,
            use_cache=cache is not None,
            logits_to_keep=torch.zeros(1, dtype=torch.long, device=self.device),
            **extra,
        )
        logits = output.logits[:, 0].float()
        if self.padded:
            logits[:, self.vocabulary :] = float("-inf")
        return logits, self.last_hidden()

    @cached_property
    def fingerprint(self) -> str:
        """A name for these weights: a hash of every tensor's shape and first 64 values as bf16.

        The same for one checkpoint loaded as float32 or bfloat16, on any device.
        """
        return fingerprint_of(self.model.state_dict())

    @cached_property
    def tokenizer_fingerprint(self) -> str:
        return tokenizer_fingerprint(self.tokenizer)

    def decode(self, ids: Sequence[int]) -> str:
        return self.tokenizer.decode(list(ids), skip_special_tokens=False)


def fingerprint_of(state: Mapping[str, Tensor]) -> str:
    """What `Backbone.fingerprint` is of a model with this state dict."""
    digest = hashlib.blake2b(digest_size=12)
    for name, tensor in sorted(state.items()):
        tensor = placement.whole(tensor)
        if type(tensor) not in (Tensor, torch.nn.Parameter):  # a quantised weight, which knows few operations
            tensor = tensor.dequantize()
        head = tensor.detach().flatten()[:64].to("cpu", torch.bfloat16).view(torch.int16)
        digest.update(f"{name}{tuple(tensor.shape)}".encode() + head.numpy().tobytes())
    return digest.hexdigest()


def tokenizer_fingerprint(tokenizer: Any) -> str:
    """A name for a tokenizer: a hash of its vocabulary and its ids."""
    vocabulary = json.dumps(sorted(tokenizer.get_vocab().items(), key=lambda entry: entry[1]))
    return hashlib.blake2b(vocabulary.encode(), digest_size=12).hexdigest()


def kinds_of(config: Any) -> list[str]:
    """The attention kind of every layer. Raises ModelError for layers that are not attention over KV."""
    kinds, _ = get_layer_types_and_kwargs(config)
    wrong = sorted(set(kinds) - set(ATTENTION_KINDS))
    if wrong:
        raise ModelError(
            f"{config.model_type} has layers of kind {', '.join(wrong)}; a probe needs a KV cache that it can read whole, "
            "and leave as it was. Try: choose a model with full or sliding-window attention only"
        )
    if not getattr(config, "layer_types", None) and len(set(kinds)) > 1:
        raise ModelError(f"{config.model_type} mixes attention kinds without naming them. Try: choose another model")
    return kinds
