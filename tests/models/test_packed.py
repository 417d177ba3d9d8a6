"""Packed weights of linear layers: the same products as plain ones, and never those of a weight that has changed since."""

from __future__ import annotations

import copy

import psutil
import pytest
import torch
from torch import nn

from trueplex.models.load import load
from trueplex.models.packed import PackedLinear, pack
from trueplex.models.precision import has_bfloat16

pytestmark = pytest.mark.skipif(not has_bfloat16("cpu"), reason="this CPU does not multiply bfloat16")


def packed(bias: bool = True) -> tuple[PackedLinear, nn.Linear]:
    """A packed layer, and the plain one that it was."""
    torch.manual_seed(0)
    plain = nn.Linear(896, 512, bias=bias, dtype=torch.bfloat16)
    model = nn.Sequential(copy.deepcopy(plain))
    pack(model)
    assert isinstance(model[0], PackedLinear) and isinstance(model[0], nn.Linear)
    return model[0], plain


@pytest.mark.parametrize("shape", [(1,), (64, 1), (3, 70)])
@pytest.mark.parametrize("bias", [True, False])
@torch.inference_mode()
def test_packed_weights_give_the_same_products(shape: tuple[int, ...], bias: bool) -> None:
    with torch.inference_mode(False):
        layer, plain = packed(bias)
    x = torch.randn(*shape, 896, dtype=torch.bfloat16)
    assert layer.packed is not None
    layer.weight.detach().zero_()  # seen by no version counter here: only what was packed can give the right products
    layer.of = layer._now()
    exact = nn.functional.linear(x.double(), plain.weight.double(), plain.bias.double() if bias else None)
    error, own = ((y.double() - exact).abs().max() for y in (layer(x), plain(x)))
    assert layer(x).shape == exact.shape and 0 < error <= 1.5 * own


def test_a_weight_that_changed_is_read_as_it_is() -> None:
    layer, plain = packed()
    x = torch.randn(2, 896, dtype=torch.bfloat16)
    for change in (
        lambda: torch.optim.SGD([layer.weight], lr=1.0).step(),
        lambda: setattr(layer, "weight", nn.Parameter(layer.weight.detach() * 2, requires_grad=False)),
    ):
        layer.weight.grad = torch.ones_like(layer.weight)
        change()
        with torch.no_grad():
            assert torch.equal(layer(x), nn.functional.linear(x, layer.weight, layer.bias))
            assert not torch.allclose(layer(x), plain(x))
            layer.pack()
            assert torch.allclose(
                layer(x).float(), nn.functional.linear(x, layer.weight, layer.bias).float(), rtol=0.02
            )


def test_gradients_and_copies() -> None:
    layer, plain = packed()
    x = torch.randn(4, 896, dtype=torch.bfloat16, requires_grad=True)
    layer.requires_grad_(False)(x).sum().backward()
    assert x.grad is not None and torch.allclose(x.grad, plain.weight.sum(0).expand(4, -1), rtol=0.02, atol=0.1)
    twin = copy.deepcopy(layer)
    with torch.no_grad():
        assert twin.packed is None and torch.allclose(twin(x), plain(x))
    assert layer.packed is not None


def test_what_is_packed_when_a_model_is_loaded(folder, monkeypatch: pytest.MonkeyPatch) -> None:
    def count(dtype: str) -> int:
        return sum(isinstance(m, PackedLinear) for m in load(str(folder("qwen3")), dtype=dtype).model.modules())

    assert count("bfloat16") > 7 and count("float32") == 0
    monkeypatch.setattr(psutil, "virtual_memory", lambda: type("Memory", (), {"available": 10_000}))
    assert count("bfloat16") == 0  # a second copy of the weights has no room
