"""Which implementation runs, what is refused and how that is explained."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys

import pytest
import torch

from onereward import kernels
from onereward.kernels import dispatch, reference
from onereward.kernels.constraints import TABLE
from support.kernel_cases import DEVICE
from support.machine import ROOT


def ones(*shape: int) -> torch.Tensor:
    return torch.ones(shape, device=DEVICE)


X, VECTOR = ones(1, 2, 6), ones(1, 6)
HEADS, WEIGHT, ANGLE = ones(1, 2, 3, 4), ones(4), ones(2, 2)


class Subclass(torch.Tensor):
    pass


def _modulate(**overrides: torch.Tensor) -> dict[str, torch.Tensor | None]:
    return {"x": X, "scale": VECTOR, "shift": VECTOR, **overrides}


def _rope(**overrides: torch.Tensor) -> dict[str, torch.Tensor | None]:
    tensors = {"q": HEADS, "k": HEADS, "q_weight": WEIGHT, "k_weight": WEIGHT}
    return {**tensors, "cos": ANGLE, "sin": ANGLE, **overrides}


def _joint(**overrides: torch.Tensor) -> dict[str, torch.Tensor | None]:
    tensors = {f"{stream}_{name}": HEADS for stream in ("text", "image") for name in "qkv"}
    tensors |= {f"{stream}_{name}_weight": WEIGHT for stream in ("text", "image") for name in "qk"}
    return {**tensors, "cos": ones(4, 2), "sin": ones(4, 2), **overrides}


def _step(**overrides: torch.Tensor) -> dict[str, torch.Tensor | None]:
    tensors = {"latents": ones(2, 2, 6), "velocity": ones(4, 2, 6), "keep": ones(2, 2, 3)}
    return {**tensors, "source": ones(2, 2, 6), "noise": ones(2, 2, 6), **overrides}


@pytest.mark.parametrize(
    ("operation", "tensors", "reason"),
    [
        ("adaln_modulate", _modulate(x=X.int()), r"x is torch\.int32, but one of float32"),
        ("adaln_modulate", _modulate(x=X[0]), "x has 2 axes, but 3 are expected"),
        ("adaln_modulate", _modulate(x=ones(1, 1, 9000)), "x is 9000 wide, but 1 to 8192"),
        ("adaln_modulate", _modulate(scale=ones(6, 1).T.expand(1, 6)), None),
        ("adaln_modulate", _modulate(shift=ones(1, 12)[:, ::2]), "shift has stride 2"),
        ("adaln_modulate", _modulate(x=X.as_subclass(Subclass)), "x is a Subclass"),
        ("adaln_modulate", _modulate(x=X.to("meta")), f"tensors are on {DEVICE.type}.* and meta"),
        ("qk_norm_rope", _rope(q=ones(1, 2, 3, 6)), "q is 6 wide, but a power of two"),
        ("qk_norm_rope", _rope(k=ones(1, 2, 3, 512)), "k is 512 wide, but 1 to 256"),
        ("qk_norm_rope", _rope(cos=ANGLE.half()), r"cos is torch\.float16"),
        ("qk_norm_rope", _rope(sin=ones(2, 4)[:, ::2]), None),
        ("adaln_modulate", _modulate(x=ones(2, 2, 6)), r"scale is \[1, 6\], but \[2, 6\]"),
        ("adaln_modulate", _modulate(shift=ones(1, 5)), r"shift is \[1, 5\], but \[1, 6\]"),
        ("qk_norm_rope", _rope(k=ones(1, 2, 1, 4)), r"k is \[1, 2, 1, 4\], but \[1, 2, 3, 4\]"),
        ("qk_norm_rope", _rope(cos=ones(1, 2)), r"cos is \[1, 2\], but \[2, 2\]"),
        ("qk_norm_rope", _rope(sin=ones(2, 4)), r"sin is \[2, 4\], but \[2, 2\]"),
        ("joint_qkv_norm_rope", _joint(), None),
        ("joint_qkv_norm_rope", _joint(cos=ANGLE), r"cos is \[2, 2\], but \[4, 2\]"),
        ("joint_qkv_norm_rope", _joint(text_v=HEADS.half()), r"text_v is torch\.float16, but"),
        ("concat_gelu", {"attention": X, "mlp": ones(1, 2, 9)}, None),
        ("concat_gelu", {"attention": X, "mlp": ones(1, 3, 9)}, r"mlp is \[1, 3, 9\], but \[1, 2"),
        ("concat_gelu", {"attention": X, "mlp": X.half()}, r"attention is torch\.float32, but mlp"),
        ("cfg_euler_step", _step(keep=ones(1, 2, 3)), r"keep is \[1, 2, 3\], but \[2, 2, 3\]"),
        ("cfg_euler_step", _step(source=X), r"source is \[1, 2, 6\], but \[2, 2, 6\]"),
    ],
    ids=str,
)
def test_refusals(operation: str, tensors: dict[str, torch.Tensor | None], reason: str | None):
    with kernels.use_backend("triton"):
        if reason is None:
            assert dispatch.find(operation, tensors) is not getattr(reference, operation)
            return
        with pytest.raises(kernels.KernelUnavailable, match=f"{operation} cannot run.*{reason}"):
            dispatch.find(operation, tensors)
    assert dispatch.find(operation, tensors) is getattr(reference, operation)


def test_every_operation_has_rules_and_a_definition():
    assert set(TABLE) == {name for name in kernels.__all__ if hasattr(reference, name)}


def test_a_refusal_is_logged_once(caplog: pytest.LogCaptureFixture):
    dispatch._log_once.cache_clear()
    with caplog.at_level(logging.INFO, "onereward.kernels"), torch.device("meta"):
        for _ in range(3):
            kernels.adaln_modulate(torch.ones(1, 1, 9000), torch.ones(1, 9000), torch.ones(1, 9000))
    assert len(caplog.records) == 1
    assert "adaln_modulate runs in plain PyTorch: x is 9000 wide" in caplog.text


def test_all_reasons_are_given():
    tensors = _modulate(x=X.int(), shift=ones(1, 12)[:, ::2])
    with (
        kernels.use_backend("triton"),
        pytest.raises(kernels.KernelUnavailable, match=r"x is .*; shift has"),
    ):
        dispatch.find("adaln_modulate", tensors)


def test_unknown_backend_is_refused():
    with pytest.raises(ValueError, match="choose one of: auto, triton, reference"):
        kernels.use_backend("cuda").__enter__()


def _broken(*_: object) -> torch.Tensor:
    from triton.runtime.errors import PTXASError

    raise PTXASError("no such GPU")


@pytest.mark.parametrize(
    ("kernel", "reason"),
    [
        (_broken, r"a trial kernel did not compile \(PTXASError: .*no such GPU"),
        (torch.zeros_like, "a trial kernel gave a wrong result"),
        (reference.gelu_tanh, None),
    ],
    ids=["fails", "wrong", "right"],
)
def test_one_kernel_is_tried_first(
    kernel: object, reason: str | None, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(dispatch, "_kernel", lambda _: kernel)
    refusal = dispatch._trial(str(DEVICE))
    if reason is None:
        assert refusal is None
    else:
        assert re.match(reason, refusal or "")


LOAD = f"import sys; sys.path.insert(0, {str(ROOT / 'tests')!r}); import conftest\n"
"""The package need not be installed."""
WITHOUT_TRITON = """
sys.modules["triton"] = None  # importing it now fails
import torch
from onereward import kernels
x, v = torch.ones(1, 2, 6), torch.ones(1, 6)
print(kernels.adaln_modulate(x, v, v).sum().item())
with kernels.use_backend("triton"):
    try:
        kernels.gelu_tanh(x)
    except kernels.KernelUnavailable as error:
        print(error)
"""


def test_works_without_triton():
    command = [sys.executable, "-c", LOAD + WITHOUT_TRITON]
    environment = os.environ | {"TRITON_INTERPRET": "1"}  # else a CPU is refused before
    process = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
    assert process.returncode == 0, process.stderr
    value, message = process.stdout.splitlines()
    assert float(value) == 12.0
    assert message.startswith("gelu_tanh cannot run as a Triton kernel: Triton is not installed")


def test_triton_is_imported_at_the_first_use_only():
    code = LOAD + "import onereward.kernels; print('triton' in sys.modules)"
    process = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    )
    assert process.stdout.strip() == "False"
