"""One-Token Verification (arXiv 2603.01025): a LoRA, one learnable probe token, a small head.

At step t the ToT, the "token of truth", stands at position t + 1 and reads the base model's KV of
positions ≤ t; LoRA acts on the ToT alone (see `lora`), and its last hidden state goes through the head to a
score in [0, 1]. The base model is frozen and, whenever no probe is being read, exactly itself.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from trueplex.errors import OptionError, VerifierError
from trueplex.models import placement
from trueplex.models.backbone import Backbone
from trueplex.verify import folder as files
from trueplex.verify.lora import ProbeLoRAs

PREFIX = "base_model.model."  # PEFT's names are seen from its own wrapper
_LOADING = threading.Lock()  # two threads that ask for one verifier at once get one object


class Probe(nn.Module):
    """The ToT embedding and the regression head."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.empty(hidden_size))
        self.head = nn.Linear(hidden_size, 1)

    def forward(self, hidden: Tensor) -> Tensor:
        """Final hidden states [..., H] → logits of the score [...], float32."""
        return self.head(hidden.to(self.head.weight.dtype)).squeeze(-1).float()


class OneTokenVerifier(nn.Module):
    """A verifier of a backbone; also the `ProbeColumn` that scores live traces while they decode.

    It is on the base model's layers only while `attached` or `probing` is open, so any number may share one base.

    Args:
        rank: LoRA rank on every linear layer of the transformer, shared experts included; 0 trains the token and head
            only. Routed experts whose weights are one tensor for all of them get none (see `lora.left_out`).
        alpha: LoRA alpha; the scale is alpha / rank.
        targets: ends of the names of the layers that get LoRA, such as ``q_proj``; empty for all.

    Raises:
        OptionError: the rank is negative, or no layer has such a name.
    """

    def __init__(self, backbone: Backbone, rank: int = 16, alpha: float | None = None,
                 targets: Sequence[str] = ()) -> None:  # fmt: skip
        super().__init__()
        if placement.shared(backbone.model):
            raise OptionError("a verifier cannot read a model that processes share. Try: --verifier none")
        if rank < 0:
            raise OptionError(f"LoRA rank is {rank}. Try: 0 (head only) or a positive rank")
        self._backbone = (backbone,)  # a tuple, so that the base is no submodule of the verifier
        self.rank, self.alpha = rank, float(2 * rank if alpha is None else alpha)
        self.probe = Probe(backbone.hidden_size)
        with torch.no_grad():
            embeddings = backbone.model.get_input_embeddings().weight
            self.probe.token.copy_(embeddings[: backbone.vocabulary].float().mean(0))
        self.card: dict[str, Any] = {}
        self.targets = linear_names(backbone, targets) if rank else []
        layers = {name: backbone.model.get_submodule(name) for name in self.targets}
        self.adapters = ProbeLoRAs(backbone.model.base_model, layers, rank, self.alpha / rank if rank else 0.0)
        self.to(backbone.device)
        for adapter, layer in zip(self.adapters.values(), layers.values(), strict=True):
            adapter.to(layer.weight.device)  # layers may be on several
        self._fingerprint: str | None = None

    @property
    def backbone(self) -> Backbone:
        return self._backbone[0]

    def attached(self) -> AbstractContextManager[None]:
        """Keep LoRA's hooks on the base model's layers; see `ProbeLoRAs.attached`."""
        return self.adapters.attached()

    # -- the ProbeColumn that the engine takes ----------------------------------------------------------

    @property
    def embedding(self) -> Tensor:
        return self.probe.token

    def probing(self, columns: int) -> AbstractContextManager[None]:
        """LoRA acts on the last ``columns`` query columns of every forward pass within."""
        return self.adapters.probing(columns)

    def recomputing(self) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        """The ``context_fn`` that gradient checkpointing needs; see `ProbeLoRAs.recomputing`."""
        return self.adapters.recomputing()

    def read(self, hidden: Tensor) -> Tensor:
        """Final hidden states [..., H] of probes → scores [...] in [0, 1]."""
        return torch.sigmoid(self.probe(hidden))

    @property
    def fingerprint(self) -> str:
        """A name for the verifier's weights: a hash of all of them in float32."""
        if self._fingerprint:
            return self._fingerprint
        digest = hashlib.blake2b(digest_size=12)
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
            "base": self.backbone.name, "base_fingerprint": self.backbone.fingerprint, **(card or {}),
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
        if stored.base != backbone.fingerprint:
            raise VerifierError(
                f"the verifier in {folder} was trained for base model {stored.card.get('base')!r} ({stored.base}), not for "
                f"{backbone.name!r} ({backbone.fingerprint}). Try: --verifier none, or train one for this model"
            )
        differs = VerifierError(
            f"the layers of the verifier in {folder} are not those of this base model. Try: train it again"
        )
        try:
            verifier = cls(backbone, stored.rank, stored.alpha, stored.targets)
        except OptionError as error:
            raise differs from error
        own = verifier.tensors()
        if own.keys() != stored.tensors.keys() or any(own[k].shape != stored.tensors[k].shape for k in own):
            raise differs
        with torch.no_grad():
            for name, tensor in own.items():
                tensor.copy_(stored.tensors[name])
        verifier.card, verifier._fingerprint = stored.card, verifier.fingerprint
        return verifier.eval().requires_grad_(False)  # it scores; who trains makes a new one


def linear_names(backbone: Backbone, ends: Sequence[str] = ()) -> list[str]:
    """The linear layers of the transformer's blocks, all but the output head, as PEFT's ``all-linear``; or those named.

    Raises:
        OptionError: no layer's name ends so.
    """
    head = backbone.model.get_output_embeddings()
    names = [name for name, m in backbone.model.named_modules() if isinstance(m, nn.Linear) and m is not head]
    for end in ends:
        if not any(name.endswith(end) for name in names):
            known = sorted({name.rpartition(".")[2] for name in names})
            raise OptionError(f"no linear layer is called {end!r}. Try: some of {', '.join(known)}")
    return [name for name in names if not ends or name.endswith(tuple(ends))]
