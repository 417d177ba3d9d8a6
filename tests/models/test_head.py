"""Logits in chunks: log-probabilities and gradients are those of all logits at once, whatever a family adds to them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from trueplex.models import head
from trueplex.models.backbone import Backbone

IDS = torch.tensor([[5, 30, 7, 80, 9, 11, 12]])


def test_law_chunks_are_the_whole(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every family, caps and routers included: values, and gradients of the head, the embeddings and a layer."""
    model = backbone.model
    monkeypatch.setattr(head, "LOGITS", 2 * backbone.vocabulary + 1)
    drawn, temperatures = torch.randint(backbone.vocabulary, (7, 3)), torch.tensor([1.0, 0.7, 0.0, 2.0, 1.0, 1.0, 0.7])
    weights, at_once = torch.randn(7, 3), []
    learning = [
        model.get_input_embeddings().weight,
        model.get_output_embeddings().weight,
        next(model.base_model.layers[0].parameters()),
    ]
    for p in learning:
        p.requires_grad_(True)

    def gradients(found: torch.Tensor) -> list[torch.Tensor]:
        return list(torch.autograd.grad((found * weights).sum(), learning))

    def counted(hidden: torch.Tensor) -> torch.Tensor:
        at_once.append(len(hidden))
        return backbone.head(hidden)

    try:
        logits = model(IDS.to(backbone.device), use_cache=False).logits[0, :, : backbone.vocabulary].float()
        scales = temperatures.where(temperatures > 0, torch.ones(())).to(logits.device)
        whole = (logits / scales[:, None]).log_softmax(-1).gather(-1, drawn.to(logits.device)).cpu()
        wanted = gradients(whole)
        hidden = model.base_model(IDS.to(backbone.device), use_cache=False).last_hidden_state[0]
        chunked = head.log_probs(counted, hidden, drawn, temperatures, backbone.vocabulary, head.LOGITS).cpu()
        got = gradients(chunked)
    finally:
        model.requires_grad_(False)
    assert sorted(at_once) == [1, 1, 2, 2, 2, 2, 2, 2]  # and once more in the backward pass
    assert (whole - chunked).abs().max() < 1e-5
    for a, b in zip(wanted, got, strict=True):
        assert (a - b).abs().max() < 1e-5 * max(1.0, a.abs().max().item()) and a.abs().max() > 1e-4


@torch.inference_mode()
def test_the_head_leaves_the_model_as_it_was(backbones: Callable[[str], Backbone]) -> None:
    backbone = backbones("gemma2")
    before = backbone.model(IDS, use_cache=False).logits
    backbone.head(torch.randn(3, backbone.hidden_size))
    assert torch.equal(backbone.model(IDS, use_cache=False).logits, before)
    assert "forward" not in vars(backbone.model.base_model)
