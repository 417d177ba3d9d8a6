"""One-Token Verification (arXiv 2603.01025): a LoRA role, one learnable probe token, a small head.

At step t the ToT, the "token of truth", stands at position t + 1 and reads the base model's KV of
positions ≤ t; LoRA acts on the ToT alone, and its last hidden state goes through the head to a
score in [0, 1]. The base model is frozen and, whenever no probe is being read, exactly itself.

A verifier is a folder in PEFT's format (adapter_config.json, adapter_model.safetensors; the probe's
token and head stand among the saved modules as ``probe``) beside a card, ``verifier.json``, that
names the base model it belongs to. PEFT's own layers are not used for computing: they adapt every
row, and cost more than the probe itself in a decode loop.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import linear

from trueplex.errors import OptionError, VerifierError
from trueplex.files import write_json, write_with
from trueplex.models.backbone import Backbone

WEIGHTS, CARD = "adapter_model.safetensors", "verifier.json"
PREFIX = "base_model.model."  # PEFT's names are seen from its own wrapper


class ProbeLoRA(nn.Module):
    """The LoRA pair of one linear layer: adds B A x · scale to the last columns when it is on."""

    def __init__(self, base: nn.Linear, rank: int, scale: float, switch: ProbeState) -> None:
        super().__init__()
        self.scale, self.switch = scale, switch
        self.lora_A = nn.Parameter(torch.empty(rank, base.in_features))
        self.lora_B = nn.Parameter(torch.zeros(base.out_features, rank))
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))

    def forward(self, inner: Any, x: Tensor) -> Tensor:
        """`inner` is the layer's own forward; x [B, q, in] → [B, q, out]."""
        out = inner(x)
        columns = self.switch.columns
        if not columns:
            return out
        if columns == 1 and out.dtype == self.lora_A.dtype and not torch.is_grad_enabled():
            last = out[:, -1]  # a decode step's one probe, with two small products and nothing else
            last.addmm_(linear(x[:, -1], self.lora_A), self.lora_B.t(), alpha=self.scale)
            return out
        probes = x[:, -columns:].to(self.lora_A.dtype)
        added = linear(linear(probes, self.lora_A), self.lora_B) * self.scale
        if columns == x.shape[1]:
            return out + added.to(out.dtype)
        out[:, -columns:] += added.to(out.dtype)
        return out


class ProbeState:
    """How many of the last query columns are probes; 0 leaves the base model exactly itself."""

    def __init__(self) -> None:
        self.columns = 0


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
    """A verifier attached to a backbone; also the `ProbeColumn` that scores live traces while they decode.

    Args:
        rank: LoRA rank on every linear layer of the transformer; 0 trains the token and head only.
        alpha: LoRA alpha; the scale is alpha / rank.
        targets: ends of the names of the layers that get LoRA, such as ``q_proj``; empty for all.

    Raises:
        OptionError: the rank is negative, or no layer has such a name.
    """

    def __init__(self, backbone: Backbone, rank: int = 16, alpha: float | None = None,
                 targets: Sequence[str] = ()) -> None:  # fmt: skip
        super().__init__()
        if rank < 0:
            raise OptionError(f"LoRA rank is {rank}. Try: 0 (head only) or a positive rank")
        self._backbone = (backbone,)  # a tuple, so that the base is no submodule of the verifier
        self.rank, self.alpha = rank, float(2 * rank if alpha is None else alpha)
        self.switch = ProbeState()
        self.probe = Probe(backbone.hidden_size)
        with torch.no_grad():
            embeddings = backbone.model.get_input_embeddings().weight
            self.probe.token.copy_(embeddings[: backbone.vocabulary].float().mean(0))
        self.card: dict[str, Any] = {}
        self.targets = linear_names(backbone, targets) if rank else []
        scale = self.alpha / rank if rank else 0.0
        layers = {name: backbone.model.get_submodule(name) for name in self.targets}
        self.roles = nn.ModuleDict(
            {name.replace(".", "/"): ProbeLoRA(layer, rank, scale, self.switch) for name, layer in layers.items()}
        )
        self.to(backbone.device)
        for role, layer in zip(self.roles.values(), layers.values(), strict=True):
            layer.forward = partial(role.forward, layer.forward)

    @property
    def backbone(self) -> Backbone:
        return self._backbone[0]

    def detach(self) -> None:
        """Give the base model back its own layers. The verifier cannot score afterwards.

        Several verifiers on one base must be detached last first.
        """
        for name in self.targets:
            layer = self.backbone.model.get_submodule(name)
            layer.forward = layer.forward.args[0]

    # -- the ProbeColumn that the engine takes ----------------------------------------------------------

    @property
    def embedding(self) -> Tensor:
        return self.probe.token

    @contextmanager
    def probing(self, columns: int) -> Iterator[None]:
        self.switch.columns = columns
        try:
            yield
        finally:
            self.switch.columns = 0

    def read(self, hidden: Tensor) -> Tensor:
        """Final hidden states [..., H] of probes → scores [...] in [0, 1]."""
        return torch.sigmoid(self.probe(hidden))

    @property
    def fingerprint(self) -> str:
        """A name for the verifier's weights."""
        digest = hashlib.blake2b(digest_size=12)
        for name, tensor in sorted(self.tensors().items()):
            digest.update(name.encode() + tensor.detach().to("cpu", torch.float32).numpy().tobytes())
        return digest.hexdigest()

    # -- the folder -------------------------------------------------------------------------------

    def tensors(self) -> dict[str, Tensor]:
        """The weights under the names that PEFT reads."""
        named = {}
        for key, role in self.roles.items():
            for part in ("lora_A", "lora_B"):
                named[f"{PREFIX}{key.replace('/', '.')}.{part}.weight"] = getattr(role, part)
        for key, parameter in self.probe.named_parameters():
            named[f"{PREFIX}probe.{key}"] = parameter
        return named

    def save(self, folder: str | Path, card: dict[str, Any] | None = None) -> None:
        """Write the folder; files appear whole or not at all."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {name: t.detach().to("cpu", torch.float32).contiguous() for name, t in self.tensors().items()}
        write_with(folder / WEIGHTS, lambda temporary: save_file(tensors, temporary, metadata={"format": "pt"}))
        LoraConfig(
            r=self.rank or 1, lora_alpha=self.alpha, target_modules=list(self.targets), modules_to_save=["probe"],  # type: ignore[arg-type]
            task_type="CAUSAL_LM", base_model_name_or_path=self.backbone.name, inference_mode=True,
        ).save_pretrained(str(folder))  # fmt: skip
        self.card = {
            "kind": "one-token-verifier", "rank": self.rank, "alpha": self.alpha, "targets": self.targets,
            "base": self.backbone.name, "base_fingerprint": self.backbone.fingerprint, **(card or {}),
        }  # fmt: skip
        write_json(folder / CARD, self.card, indent=1)
        (folder / "README.md").write_text(_readme(self.card))

    @classmethod
    def load(cls, folder: str | Path, backbone: Backbone) -> OneTokenVerifier:
        """Read a verifier folder and attach it, ready to score: its weights take no gradient.

        Raises:
            VerifierError: no verifier there, unreadable, or trained for another base model.
        """
        folder = Path(folder)
        try:
            card = json.loads((folder / CARD).read_text())
            stored = load_file(folder / WEIGHTS)
            rank, alpha, base = card["rank"], card["alpha"], card["base_fingerprint"]
            targets = card.get("targets", ())
        except FileNotFoundError as error:
            raise VerifierError(f"{folder} is no verifier: {Path(error.filename or '').name} is missing. "
                                "Try: give a folder that `trueplex train verifier` wrote") from error  # fmt: skip
        except (OSError, KeyError, TypeError, ValueError, SafetensorError) as error:
            raise VerifierError(
                f"the verifier in {folder} cannot be read: {error}. Try: copy or train it again"
            ) from error
        if base != backbone.fingerprint:
            raise VerifierError(
                f"the verifier in {folder} was trained for base model {card.get('base')!r} ({base}), not for "
                f"{backbone.name!r} ({backbone.fingerprint}). Try: --verifier none, or train one for this model"
            )
        verifier = cls(backbone, rank, alpha, targets)
        own = verifier.tensors()
        if own.keys() != stored.keys() or any(own[k].shape != stored[k].shape for k in own):
            verifier.detach()
            raise VerifierError(f"the verifier in {folder} has other layers than this base model. Try: train it again")
        with torch.no_grad():
            for name, tensor in own.items():
                tensor.copy_(stored[name])
        verifier.card = card
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


def _readme(card: dict[str, Any]) -> str:
    """The card for people, as the hub shows it."""
    lines = ["---", "library_name: peft", f"base_model: {card['base']}", "tags: [trueplex, one-token-verification]", "---", "",
             f"# A One-Token verifier of {card['base']}", "",
             "A LoRA adapter and one probe token that read a running trace's KV cache and score it (arXiv 2603.01025). It loads onto the "
             f"base with fingerprint `{card['base_fingerprint']}` alone:", "",
             f"    trueplex solve PROBLEM --model {card['base']} --verifier THIS_FOLDER", ""]  # fmt: skip
    if "validation" in card:
        lines += [
            f"Learned from {card['traces']} traces ({card['data'] or 'unnamed'}), rank {card['rank']}. On validation problems:",
            "",
        ]
        lines += [f"- {name}: {value:.3f}" for name, value in card["validation"].items()]
    return "\n".join(lines) + "\n"
