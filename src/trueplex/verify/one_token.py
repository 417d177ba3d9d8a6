"""One-Token Verification (arXiv 2603.01025): a LoRA, one learnable probe token or several, a small head.

At step t the ToT, the "token of truth", stands at position t + 1 and reads the base model's KV of
positions ≤ t; LoRA acts on the ToT alone (see `lora`), and its last hidden state goes through the head to a
score in [0, 1]. Of several tokens, as in STOP (arXiv 2604.16029), those behind see those before them, which gives the
probe as many more passes through the layers to think in. The base model is frozen and, whenever no probe is being read,
exactly itself.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from trueplex.checksums import is_named
from trueplex.errors import OptionError, VerifierError
from trueplex.models import placement
from trueplex.models.backbone import Backbone
from trueplex.models.head import transformer_of
from trueplex.verify import folder as files
from trueplex.verify.lora import ProbeLoRAs

PREFIX = "base_model.model."  # PEFT's names are seen from its own wrapper
POOLS, MOST_TOKENS = ("last", "learned"), 16
SMALLEST = 1e-3  # added to a standard deviation, so that a number that is always the same is not blown up
_LOADING = threading.Lock()  # two threads that ask for one verifier at once get one object


@dataclass(frozen=True)
class ProbeShape:
    """What a probe is made of.

    Attributes:
        tokens: M, how many probe tokens; 1 is OTV's, 4 is STOP's.
        repeated: one embedding M times, as in STOP, instead of M embeddings.
        pool: what the head reads: the ``last`` token's hidden state, or a ``learned`` mean of all.

    Raises:
        OptionError: a value is out of range, or has no effect with one token.
    """

    tokens: int = 1
    repeated: bool = False
    pool: str = "last"

    def __post_init__(self) -> None:
        if not 1 <= self.tokens <= MOST_TOKENS:
            raise OptionError(f"probe-tokens is {self.tokens}. Try: 1 to {MOST_TOKENS}")
        if self.pool not in POOLS:
            raise OptionError(f"unknown probe-pool {self.pool!r}. Try: one of {', '.join(POOLS)}")
        if self.tokens == 1 and (self.repeated or self.pool != "last"):
            raise OptionError("one probe token is neither repeated nor pooled. Try: --probe-tokens 4")


class Probe(nn.Module):
    """The embeddings of the probe tokens, [H] of one or of a repeated one, else [M, H], and the regression head."""

    def __init__(self, hidden_size: int, shape: ProbeShape = ProbeShape()) -> None:
        super().__init__()
        single = shape.tokens == 1 or shape.repeated
        self.shape = shape
        self.token = nn.Parameter(torch.empty(hidden_size) if single else torch.empty(shape.tokens, hidden_size))
        self.head = nn.Linear(hidden_size, 1)
        if shape.pool == "learned":
            self.pool = nn.Parameter(torch.zeros(shape.tokens))

    def forward(self, hidden: Tensor) -> Tensor:
        """Final hidden states [..., M, H] → logits of the score [...], float32."""
        hidden = hidden.to(self.head.weight.dtype)
        if self.shape.pool == "learned":
            read = (hidden * torch.softmax(self.pool, 0)[:, None]).sum(-2)
        else:
            read = hidden[..., -1, :]
        return self.head(read).squeeze(-1).float()


class OneTokenVerifier(nn.Module):
    """A verifier of a backbone; also the `ProbeColumn` that scores live traces while they decode.

    It is on the base model's layers only while `attached` or `probing` is open, so any number may share one base. While it
    learns, its head may read standardised states, (state - ``center``) / ``spread``; `fold` leaves a plain head.

    Args:
        rank: LoRA rank on every linear layer of the transformer, shared experts included; 0 trains the token and head
            only. Routed experts whose weights are one tensor for all of them get none (see `lora.left_out`).
        alpha: LoRA alpha; the scale is alpha / rank.
        targets: ends of the names of the layers that get LoRA, such as ``q_proj``; empty for all.
        shape: how many probe tokens, and what of them the head reads.

    Raises:
        OptionError: the rank is negative, or no layer has such a name.
    """

    center: Tensor
    spread: Tensor

    def __init__(self, backbone: Backbone, rank: int = 16, alpha: float | None = None,
                 targets: Sequence[str] = (), shape: ProbeShape = ProbeShape()) -> None:  # fmt: skip
        super().__init__()
        if placement.shared(backbone.model):
            raise OptionError("a verifier cannot read a model that processes share. Try: --verifier none")
        if rank < 0:
            raise OptionError(f"LoRA rank is {rank}. Try: 0 (head only) or a positive rank")
        self._backbone = (backbone,)  # a tuple, so that the base is no submodule of the verifier
        if shape.tokens > 1 and (why := backbone.one_by_one):
            raise OptionError(f"a probe has {shape.tokens} tokens, and {why}. Try: --probe-tokens 1")
        self.rank, self.alpha = rank, float(2 * rank if alpha is None else alpha)
        self.shape = shape
        self.probe = Probe(backbone.hidden_size, shape)
        self.register_buffer("center", torch.zeros(backbone.hidden_size))
        self.register_buffer("spread", torch.ones(backbone.hidden_size))
        with torch.no_grad():
            embeddings = backbone.model.get_input_embeddings().weight
            self.probe.token.copy_(embeddings[: backbone.vocabulary].float().mean(0))
        self.card: dict[str, Any] = {}
        self.targets = linear_names(backbone, targets) if rank else []
        layers = {name: backbone.model.get_submodule(name) for name in self.targets}
        self.adapters = ProbeLoRAs(transformer_of(backbone.model), layers, rank, self.alpha / rank if rank else 0.0)
        self.to(backbone.device)
        for adapter, layer in zip(self.adapters.values(), layers.values(), strict=True):
            adapter.to(layer.weight.device)  # layers may be on several
        self._fingerprint: str | None = None

    @torch.no_grad()
    def begin_from(self, other: OneTokenVerifier) -> None:
        """Take another verifier's weights, to go on learning; of its one token each of several becomes a copy.

        Raises:
            OptionError: its rank, layers or alpha differ, or it has several tokens and another number of them.
        """
        own: dict[str, Tensor] = dict(self.named_parameters())
        theirs: dict[str, Tensor] = dict(other.named_parameters())
        theirs = {n: t.expand_as(own[n]) if n == "probe.token" and t.dim() == 1 else t for n, t in theirs.items()}
        fits = (self.alpha, self.targets) == (other.alpha, other.targets) and other.shape.tokens in (
            1,
            self.shape.tokens,
        )
        if not fits or any(n not in own or own[n].shape != t.shape for n, t in theirs.items()):
            raise OptionError(f"the verifier to start from has rank {other.rank} and {other.shape.tokens} probe tokens, which differs. "
                              f"Try: --rank {other.rank} --probe-tokens {other.shape.tokens}, and its layers")  # fmt: skip
        for name, tensor in theirs.items():
            own[name].copy_(tensor)

    @property
    def backbone(self) -> Backbone:
        return self._backbone[0]

    def attached(self) -> AbstractContextManager[None]:
        """Keep LoRA's hooks on the base model's layers; see `ProbeLoRAs.attached`."""
        return self.adapters.attached()

    # -- the ProbeColumn that the engine takes ----------------------------------------------------------

    @property
    def embeddings(self) -> Tensor:
        token = self.probe.token
        return token if token.dim() == 2 else token.expand(self.shape.tokens, -1)

    def probing(self, columns: int) -> AbstractContextManager[None]:
        """LoRA acts on the last ``columns`` query columns of every forward pass within."""
        return self.adapters.probing(columns)

    def recomputing(self) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        """The ``context_fn`` that gradient checkpointing needs; see `ProbeLoRAs.recomputing`."""
        return self.adapters.recomputing()

    def read(self, hidden: Tensor) -> Tensor:
        """Final hidden states [..., M, H] of probes → scores [...] in [0, 1]."""
        return torch.sigmoid(self.logits(hidden))

    def logits(self, hidden: Tensor) -> Tensor:
        """Final hidden states [..., M, H] of probes → logits of the scores [...], float32."""
        return self.probe((hidden.float() - self.center) / self.spread)

    @torch.no_grad()
    def standardise(self, hidden: Tensor) -> None:
        """Let the head see states as far as they differ from what these [..., H] are on average, each number by its own spread.

        Final hidden states are large and nearly alike: of a 0.5B model 5.1 a number, with a standard deviation over traces of
        0.6. A head that reads them as they are learns to cancel what they share, and little else.
        """
        hidden = hidden.float().flatten(0, -2)
        self.center.copy_(hidden.mean(0))
        self.spread.copy_(hidden.std(0) + SMALLEST)

    @torch.no_grad()
    def fold(self) -> None:
        """Make the head read plain states, with the same scores."""
        head = self.probe.head
        head.weight.div_(self.spread)
        head.bias.sub_(head.weight @ self.center)
        self.center.zero_()
        self.spread.fill_(1.0)

    @property
    def fingerprint(self) -> str:
        """A name for the verifier's weights: a hash of all of them in float32."""
        if self._fingerprint:
            return self._fingerprint
        digest = hashlib.blake2b(digest_size=12)
        if self.shape.repeated:  # nothing else in the weights tells how often
            digest.update(str(self.shape.tokens).encode())
        for name, tensor in sorted(self.tensors().items()):
            digest.update(name.encode() + tensor.detach().to("cpu", torch.float32).numpy().tobytes())
        return digest.hexdigest()

    # -- the folder -------------------------------------------------------------------------------

    def tensors(self) -> dict[str, Tensor]:
        """The weights under the names that PEFT reads."""
        named: dict[str, Tensor] = {}
        for key, adapter in self.adapters.items():
            for part in ("lora_A", "lora_B"):
                named[f"{PREFIX}{key.replace('/', '.')}.{part}.weight"] = getattr(adapter, part)
        for key, parameter in self.probe.named_parameters():
            named[f"{PREFIX}probe.{key}"] = parameter
        return named

    def save(self, folder: str | Path, card: dict[str, Any] | None = None) -> None:
        """Write the folder, with what ``card`` adds to its card; files appear whole or not at all.

        Raises:
            VerifierError: a weight is not finite; nothing is written then.
        """
        own = {
            "kind": "one-token-verifier", "rank": self.rank, "alpha": self.alpha, "targets": self.targets,
            "base": self.backbone.name, "base_fingerprint": self.backbone.fingerprint,
            **({"probe": asdict(self.shape)} if self.shape.tokens > 1 else {}), **(card or {}),
        }  # fmt: skip
        files.write(Path(folder), self.tensors(), own)
        self.card = own

    @classmethod
    def load(cls, folder: str | Path, backbone: Backbone) -> OneTokenVerifier:
        """The verifier of a folder, ready to score: its weights take no gradient.

        It is kept beside the backbone for as long as that lives, and shared: who loads the same files for the same
        backbone again gets the same object.

        Raises:
            VerifierError: there is no verifier there, it cannot be read, its weights are not finite, or it was trained
                for another base model.
        """
        folder = Path(folder)
        key, version = ("verifier", folder.resolve()), files.version(folder)
        with _LOADING:
            known, verifier = backbone.kept.get(key, (None, None))
            if verifier is None or known != version:
                verifier = cls._read(folder, backbone)
                backbone.kept[key] = version, verifier
        return verifier

    @classmethod
    def _read(cls, folder: Path, backbone: Backbone) -> OneTokenVerifier:
        stored = files.read(folder)
        card = stored.card
        if not is_named(card.base_fingerprint, backbone.fingerprint, backbone.former_fingerprint, folder):
            raise VerifierError(
                f"the verifier in {folder} was trained for base model {card.base!r} ({card.base_fingerprint}), not for "
                f"{backbone.name!r} ({backbone.fingerprint}). Try: --verifier none, or train one for this model"
            )
        differs = VerifierError(
            f"the layers of the verifier in {folder} are not those of this base model. Try: train it again"
        )
        try:
            verifier = cls(backbone, card.rank, card.alpha, card.targets, ProbeShape(**card.probe))
        except (OptionError, TypeError) as error:
            raise differs from error
        own = verifier.tensors()
        if own.keys() != stored.tensors.keys() or any(own[k].shape != stored.tensors[k].shape for k in own):
            raise differs
        with torch.no_grad():
            for name, tensor in own.items():
                tensor.copy_(stored.tensors[name])
        verifier.card, verifier._fingerprint = stored.told, verifier.fingerprint
        return verifier.eval().requires_grad_(False)  # it scores; who trains makes a new one


def linear_names(backbone: Backbone, ends: Sequence[str] = ()) -> list[str]:
    """The linear layers of the transformer's blocks, all but the output head, as PEFT's ``all-linear``; or those named.

    Raises:
        OptionError: no layer's name ends so.
    """
    head = backbone.model.get_output_embeddings()
    linear = ((name, m) for name, m in backbone.model.named_modules() if isinstance(m, nn.Linear) and m is not head)
    names = [name for name, m in linear if "Router" not in type(m).__name__]  # Llama 4's give a pair
    for end in ends:
        if not any(name.endswith(end) for name in names):
            known = sorted({name.rpartition(".")[2] for name in names})
            raise OptionError(f"no linear layer is called {end!r}. Try: some of {', '.join(known)}")
    return [name for name in names if not ends or name.endswith(tuple(ends))]
