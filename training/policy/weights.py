"""The policy: one transformer that can stand for itself, for its reference, and for its average.

No second model is kept. A LoRA's fixed reference is the model with the adapter off; every other
stand-in is put into the same parameters for as long as it is needed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...fill.checkpoint.adapters import apply_adapters
from ...fill.checkpoint.modules import empty_module
from ...fill.models import FillModels
from ...fill.transformer.fused import apply_kernels, detach
from ...fill.transformer.modulation import return_modulation
from ...fill.transformer.recompute import checkpoint_blocks
from ..runs.directory import TrainState
from ..runs.distributed import Distributed
from ..runs.optimizer_state import flatten_optimizer, restore_optimizer
from .config import ADAM_8BIT, ATTENTION, DYNAMIC, KEEP_ATTENTION, LORA, OFF, PolicyTrainConfig
from .sharding import Sharding, local_share

NAME = "policy"
"""PEFT's name of the adapter in training."""
_ATTENTION = r"to_q|to_k|to_v|to_out\.0|add_q_proj|add_k_proj|add_v_proj|to_add_out"
_MLP = r"ff\.net\.0\.proj|ff\.net\.2|ff_context\.net\.0\.proj|ff_context\.net\.2|proj_mlp|proj_out"
_BLOCK = r"(single_)?transformer_blocks\.\d+\.(attn\.)?"


class Policy:
    """What is trained: parameters in the model's precision, and float32 copies that learn.

    Example: ``with policy.as_reference(): reference = trainer.rollout(batch, noise, steps)``.

    Attributes:
        models: The fill model it is of.
        module: The transformer.
        parameters: What is trained, by name.
        masters: The same in float32: what the optimiser changes.
        ema: Their moving average, ``decay * ema + (1 - decay) * masters`` after every step.
    """

    def __init__(
        self,
        models: FillModels,
        config: PolicyTrainConfig,
        device: torch.device,
        sharding: Sharding | None = None,
    ) -> None:
        """Attach a fresh adapter to the transformer, or let all its weights learn.

        Args:
            models: The fill model.
            config: What is trained and how.
            device: Where the copies that learn are kept.
            sharding: Spreads all weights over processes; None: each holds all of them.

        Raises:
            RuntimeError: The weights were made in inference mode and cannot be trained.
            ImportError: The 8-bit optimiser is not installed.
        """
        self._config = config
        self.models = models
        self._sharding = sharding
        self._start: dict[str, Tensor] | None = None
        self.module: Any = models.transformer.module
        apply_adapters(self.module, models.adapters)
        self._frozen = list({a.name: None for a in models.adapters})
        try:
            self._set_up(device)
        except BaseException:
            self.release()
            raise

    def _set_up(self, device: torch.device) -> None:
        config = self._config
        self.module.requires_grad_(False)
        self.parameters = self._make_trainable()
        if any(p.is_inference() for p in self.parameters.values()):
            raise RuntimeError(
                "the transformer's weights were made in inference mode; free the models in ComfyUI "
                "and run again"
            )
        self.masters = {
            name: nn.Parameter(local_share(p).to(device, torch.float32, copy=True))
            for name, p in self.parameters.items()
        }
        for master in self.masters.values():
            master.grad = torch.zeros_like(master)
        self.ema = {name: m.detach().clone() for name, m in self.masters.items()}
        if config.mode != LORA:
            self._start = {
                name: local_share(p).cpu().clone() for name, p in self.parameters.items()
            }
        self.optimizer = _make_optimizer(list(self.masters.values()), config)
        if config.gradient_checkpointing != OFF:
            checkpoint_blocks(self.module, config.gradient_checkpointing == KEEP_ATTENTION)
        # An edit may have left it in host memory.
        return_modulation(self.models.transformer)
        if self._sharding is None:
            apply_kernels(self.module, self.models.kernels, device)

    def as_reference(self) -> AbstractContextManager[None]:
        """Let the model be what the policy is compared with.

        Source: OneReward, alg. 1 (the start) and alg. 2 (the moving average).
        """
        is_dynamic = self._config.algorithm == DYNAMIC
        return self._swap(self.ema) if is_dynamic else self.as_start()

    def as_average(self) -> AbstractContextManager[None]:
        """Let the model be the policy's moving average."""
        return self._swap(self.ema)

    def as_result(self) -> AbstractContextManager[None]:
        """Let the model be what is saved: the policy or its moving average."""
        return self._swap(self.ema if self._config.saved_weights == "ema" else self.masters)

    def as_start(self) -> AbstractContextManager[None]:
        """Let the model be as it was before training."""
        return self._swap(self._start) if self._start is not None else self._without_adapter()

    @contextmanager
    def _without_adapter(self) -> Iterator[None]:
        self._activate(self._frozen)
        try:
            yield
        finally:
            self._activate([*self._frozen, NAME])

    def accumulate_gradients(self) -> None:
        """Add the parameters' gradients to the masters', in float32, and clear them.

        Half precision would lose small summands, so nothing is accumulated there.
        """
        for name, parameter in self.parameters.items():
            if parameter.grad is not None:
                grad = self.masters[name].grad
                assert grad is not None, "masters keep their gradients"
                gradient = self._sharding.gradient(parameter) if self._sharding else parameter.grad
                grad += gradient.to(grad.device, torch.float32)
                parameter.grad = None

    def gradients(self) -> list[Tensor]:
        """Return the gradients accumulated so far."""
        return [m.grad for m in self.masters.values() if m.grad is not None]

    def all_reduce_gradients(self, processes: Distributed) -> None:
        """Sum the gradients over the processes, where the backward pass has not done so."""
        if self._sharding is None:
            processes.sum(self.gradients())

    def clip_gradients(self, max_norm: float) -> float:
        """Return the norm of the gradient, and scale it down to ``max_norm`` if it is more."""
        norm = nn.utils.get_total_norm(self.gradients())
        if self._sharding is not None:
            norm = self._sharding.norm(norm)
        nn.utils.clip_grads_with_norm_(self.masters.values(), max_norm, norm)
        return float(norm)

    def clear_gradients(self) -> None:
        """Set the gradients to zero, those of a step that was not finished too."""
        for grad in self.gradients():
            grad.zero_()
        for parameter in self.parameters.values():
            parameter.grad = None

    @torch.no_grad()
    def update(self, learning_rate: float) -> None:
        """Do the optimiser's step and move the average."""
        self.optimizer.param_groups[0]["lr"] = learning_rate
        self.optimizer.step()
        decay = self._config.ema_decay
        for name, master in self.masters.items():
            self.ema[name].lerp_(master, 1 - decay)
        self._load(self.masters)

    def weights(self, which: str) -> dict[str, Tensor]:
        """Return ``policy``, ``ema`` or ``start`` weights of an adapter by name, float32.

        A start's adapter changes nothing: all its weights are 0.
        """
        tensors: Mapping[str, Tensor] = self.ema if which == "ema" else self.masters
        detached = {name: tensor.detach() for name, tensor in tensors.items()}
        if which == "start":
            return {name: torch.zeros_like(tensor) for name, tensor in detached.items()}
        return detached

    def tensors(self) -> dict[str, Tensor]:
        """Return everything a checkpoint needs, in one piece; for all processes to call."""
        tensors = {
            **{f"weights.{k}": v.detach() for k, v in self.masters.items()},
            **{f"ema.{k}": v for k, v in self.ema.items()},
            **flatten_optimizer(self.optimizer, "adam"),
        }
        return self._sharding.whole(tensors, self._shaped()) if self._sharding else tensors

    def save_module(self, path: Path, is_main: bool = True) -> None:
        """Write the transformer as it is now as a folder; for all processes to call.

        Args:
            path: The folder.
            is_main: Whether this process writes it.
        """
        if self._sharding is None:
            self.module.save_pretrained(path)
            return
        shares = {name: local_share(p) for name, p in self.parameters.items()}
        whole = self._sharding.whole(shares, self.parameters)
        if is_main:
            module: Any = empty_module("transformer", self.models.transformer_config)
            module.load_state_dict(whole, assign=True)
            module.save_pretrained(path)

    @torch.no_grad()
    def restore(self, state: TrainState) -> None:
        """Go on from a checkpoint.

        Raises:
            ValueError: It is of another model or adapter.
        """
        tensors = state.tensors
        for prefix in ("weights", "ema"):
            _check_same(tensors, prefix, self.parameters)
        if self._sharding is not None:
            shaped, share = self._shaped(), self._sharding.share
            tensors = {k: share(t) if k in shaped else t for k, t in tensors.items()}
        for prefix, own_tensors in (("weights", self.masters), ("ema", self.ema)):
            for name, tensor in own_tensors.items():
                tensor.copy_(tensors[f"{prefix}.{name}"])
        restore_optimizer(self.optimizer, tensors, "adam")
        self._load(self.masters)

    @torch.no_grad()
    def release(self) -> None:
        """Leave the transformer as it was found."""
        if self._config.gradient_checkpointing != OFF:
            self.module.disable_gradient_checkpointing()
        if self._start is not None:
            self._load(self._start)
        self.module.requires_grad_(False)
        # Those of a step that did not end are as large as the model.
        self.module.zero_grad(set_to_none=True)
        if NAME in (getattr(self.module, "peft_config", None) or {}):
            self.module.delete_adapters(NAME)
            apply_adapters(self.module, self.models.adapters)
            if not self._frozen:
                self.module.unload_lora()

    def _make_trainable(self) -> dict[str, nn.Parameter]:
        if self._config.mode != LORA:
            self.module.requires_grad_(True)
            if self._sharding is not None:
                detach(self.module)  # the fused forwards go by classes that FSDP replaces
                self._sharding.spread(self.module)
            return dict(self.module.named_parameters())
        from peft import LoraConfig

        targets = lora_targets(self.module, self._config.layers)
        with torch.random.fork_rng(devices=[]):
            torch.random.default_generator.manual_seed(self._config.seed)
            self.module.add_adapter(LoraConfig(**self._config.lora(targets)), adapter_name=NAME)
        for name, parameter in self.module.named_parameters():
            if f".{NAME}." in name:
                # PEFT makes adapters float32, but a user's model runs them in its own precision.
                parameter.data = parameter.data.to(self.models.transformer.dtype)
        self._activate([*self._frozen, NAME])
        return {k: p for k, p in self.module.named_parameters() if f".{NAME}." in k}

    def _activate(self, names: list[str]) -> None:
        """Make exactly these adapters take part; PEFT then asks for gradients, most not ours."""
        if names:
            self.module.enable_adapters()
            self.module.set_adapter(names)
        else:
            self.module.disable_adapters()
        for name, parameter in self.module.named_parameters():
            parameter.requires_grad_(f".{NAME}." in name)

    def _shaped(self) -> dict[str, nn.Parameter]:
        """Return the parameter whose shape a checkpoint's tensor has, by the tensor's name."""
        shaped: dict[str, nn.Parameter] = {}
        for index, (name, parameter) in enumerate(self.parameters.items()):
            averages = (f"adam.{index}.exp_avg", f"adam.{index}.exp_avg_sq")
            for key in (f"weights.{name}", f"ema.{name}", *averages):
                shaped[key] = parameter
        return shaped

    @contextmanager
    def _swap(self, weights: Mapping[str, Tensor]) -> Iterator[None]:
        self._load(weights)
        try:
            yield
        finally:
            self._load(self.masters)

    @torch.no_grad()
    def _load(self, weights: Mapping[str, Tensor]) -> None:
        for name, parameter in self.parameters.items():
            local_share(parameter).copy_(weights[name])


def lora_targets(module: nn.Module, layers: str) -> list[str]:
    """Return the full names of the block layers an adapter goes on."""
    pattern = target_pattern(layers)
    plain = (
        name.removesuffix(".base_layer")
        for name, m in module.named_modules()
        if isinstance(m, nn.Linear) and ".lora_" not in name
    )
    return [name for name in plain if pattern.fullmatch(name)]


def target_pattern(layers: str) -> re.Pattern[str]:
    """Return what the full name of a block layer with an adapter matches."""
    leaf = _ATTENTION if layers == ATTENTION else f"{_ATTENTION}|{_MLP}"
    return re.compile(f"{_BLOCK}({leaf})")


def _make_optimizer(masters: list[nn.Parameter], config: PolicyTrainConfig) -> Any:
    if config.optimizer != ADAM_8BIT:
        return torch.optim.AdamW(masters, lr=0.0, weight_decay=0.0)
    try:
        from bitsandbytes.optim import AdamW8bit  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError(
            "the 8-bit optimiser needs the package bitsandbytes; install it with: pip install "
            "bitsandbytes, or choose adamw"
        ) from error
    return AdamW8bit(masters, lr=0.0, weight_decay=0.0)


def _check_same(
    tensors: Mapping[str, Tensor], prefix: str, parameters: Mapping[str, Tensor]
) -> None:
    stored = {
        key.removeprefix(prefix + "."): tuple(tensor.shape)
        for key, tensor in tensors.items()
        if key.startswith(prefix + ".")
    }
    expected = {name: tuple(tensor.shape) for name, tensor in parameters.items()}
    if stored != expected:
        names = sorted(k for k in stored.keys() | expected if stored.get(k) != expected.get(k))
        raise ValueError(
            f"the checkpoint is of another model or adapter ({names[0]} and {len(names) - 1} more "
            "differ); choose another run_folder"
        )
