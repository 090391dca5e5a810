"""Loader nodes: a fill model, an adapter on top of it, a judge."""

from __future__ import annotations

import weakref
from collections.abc import Hashable
from pathlib import Path
from typing import Any

from comfy_api.latest import io

from ..fill.checkpoint.lora_file import PEFT_CONFIG, left_out
from ..fill.config import COMPONENTS, ModelConfig
from ..fill.demo_model import describe_demo
from ..fill.memory.plan import summary
from ..fill.models import FillModels, load_fill_models
from ..reward.cards.card_judge import CardJudge, local_judge
from ..reward.judge import JudgeConfig
from ..reward.vlm.qwen_vl import FolderJudge
from .comfy_host import FILL_MODEL, JUDGE, ComfyHost, held, hold
from .inputs import advanced, config_inputs, output, search_aliases
from .node import OneRewardNode
from .paths import folders, hub, model_choice, model_files
from .socket_types import FillModelSocket, JudgeSocket

FIRST_SETTINGS = ("recipe", "precision")
LAST_SETTINGS = ("kernels", "offload", "memory_limit")
_MODELS: weakref.WeakValueDictionary[Hashable, FillModels] = weakref.WeakValueDictionary()
"""Models in use, by settings and files: a loader that runs again must not make a second copy of a
large model. Weak, so that a model goes when its last user does; the last one is held besides."""
_JUDGES: weakref.WeakValueDictionary[Hashable, FolderJudge] = weakref.WeakValueDictionary()


class OneRewardLoadModel(OneRewardNode):
    """Loads the model of the four edits."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node; the lists are read from the disk at every call."""
        model, transformer = model_choice.default_choice()
        return io.Schema(
            node_id="OneRewardLoadModel",
            display_name="OneReward Load Model",
            category="OneReward/loaders",
            description="Loads a FLUX.1 Fill or OneReward model for inpainting, outpainting, "
            "object removal and text rendering. Weights are read at the first edit.",
            **search_aliases("FLUX.1 Fill", "inpainting model", "load checkpoint", "diffusers"),
            inputs=[
                io.Combo.Input(
                    "model",
                    options=folders.model_names(),
                    default=model,
                    tooltip="Folder in diffusers format (with model_index.json) in "
                    "models/diffusers or models/onereward; none where every part is a file; or "
                    "the tiny bundled model, a demo for toy scenes of 64 x 64 pixels.",
                ),
                io.Combo.Input(
                    "transformer",
                    options=folders.transformer_names(),
                    default=transformer,
                    tooltip="Separate transformer that replaces the model's own: a folder, as "
                    "OneReward is published, or a file in models/diffusion_models or "
                    "models/checkpoints (bf16, fp16, fp8, GGUF).",
                ),
                *config_inputs(ModelConfig, FIRST_SETTINGS),
                *advanced(*_hub_inputs()),
                *_file_inputs(),
                *advanced(*config_inputs(ModelConfig, LAST_SETTINGS)),
            ],
            outputs=[output(FillModelSocket, "fill_model", "For the edits and adapters.", "model")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def fingerprint_inputs(cls, **values: Any) -> Hashable:
        """Change when a file of the chosen folders changes."""
        paths = model_choice.model_paths
        return folders.stamps(lambda: [Path(path) for path in paths(values).values() if path])

    @classmethod
    def validate_inputs(
        cls,
        model: str | None = None,
        transformer: str | None = None,
        hub_id: str | None = "",
        allow_download: bool | None = False,
        vae: str | None = folders.FROM_MODEL,
        clip: str | None = folders.FROM_MODEL,
        t5: str | None = folders.FROM_MODEL,
    ) -> bool:
        """Raise before the queue if a file is missing; a linked value is None and not known yet.

        Raised, because ComfyUI repeats a sentence that is returned for each of the inputs.
        """
        values = {"model": model, "transformer": transformer, "hub_id": hub_id}
        values |= {"vae": vae, "clip": clip, "t5": t5}
        if None in (*values.values(), allow_download):
            return True
        if (hub_id or "").strip():
            hub.check_download((hub_id or "").strip(), bool(allow_download))
        model_choice.model_paths(values)
        return True

    @classmethod
    def execute(
        cls,
        model: str,
        transformer: str = folders.FROM_MODEL,
        hub_id: str = "",
        allow_download: bool = False,
        **values: Any,
    ) -> io.NodeOutput:
        """Check folder and files and return the model."""
        names = (*FIRST_SETTINGS, *LAST_SETTINGS)
        settings = {name: values.pop(name) for name in names if name in values}
        host = ComfyHost(cls.hidden.unique_id)
        hub_id = hub_id.strip()
        if hub_id:
            hub.check_download(hub_id, allow_download)
        choices = {"model": model, "transformer": transformer, "hub_id": hub_id, **values}
        paths = model_choice.model_paths(choices)
        clip, t5 = model_files.tokenizer_folders()
        config = ModelConfig(**paths, tokenizer=str(clip), tokenizer_2=str(t5), **settings)
        if hub_id:
            hub.download(hub_id, host)
        models = _load(config, host)
        if note := model_choice.found_note(choices, paths):
            host.notify(note)
        host.notify(summary(models, host))
        if models.recipe.demo_side:
            host.notify(describe_demo(models.recipe))
        return io.NodeOutput(models)


class OneRewardLoadAdapter(OneRewardNode):
    """Adds a LoRA adapter to a model."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node; the list is read from the disk at every call."""
        return io.Schema(
            node_id="OneRewardLoadAdapter",
            display_name="OneReward Load Adapter",
            category="OneReward/loaders",
            description="Adds a LoRA adapter to a model, for example the published one for object "
            "removal. Several can be chained; the input model is not changed.",
            **search_aliases("LoRA", "LoRA loader", "load LoRA"),
            inputs=[
                FillModelSocket.Input(
                    "model",
                    tooltip="From the loader, or from another adapter.",
                ),
                io.Combo.Input(
                    "adapter",
                    options=folders.adapter_names(),
                    tooltip="LoRA file (.safetensors) in models/loras, made for Fill or "
                    "FLUX.1-dev by any common trainer; or one of the bundled model's own.",
                ),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=-10.0,
                    max=10.0,
                    step=0.05,
                    tooltip="Factor on the adapter's effect; 1 = as trained, 0 = off.",
                ),
            ],
            outputs=[
                output(FillModelSocket, "adapted_model", "The model with the adapter.", "model")
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def fingerprint_inputs(cls, **values: Any) -> Hashable:
        """Change when the file changes, or PEFT's config beside it."""

        def files() -> list[Path]:
            file = folders.adapter_file(values.get("adapter") or "")
            return [file, file.with_name(PEFT_CONFIG)]

        return folders.stamps(files)

    @classmethod
    def execute(cls, model: FillModels, adapter: str, strength: float) -> io.NodeOutput:
        """Check the file and return the model with it."""
        file = folders.adapter_file(adapter)
        adapted = model.with_adapter(file, strength)
        if note := left_out(file):
            ComfyHost(cls.hidden.unique_id).notify(note)
        return io.NodeOutput(adapted)


class OneRewardLoadJudge(OneRewardNode):
    """Loads the judge."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node; the list is read from the disk at every call."""
        judges = folders.judge_names()
        return io.Schema(
            node_id="OneRewardLoadJudge",
            display_name="OneReward Load Judge",
            category="OneReward/loaders",
            description="Loads the judge: a reward model, made from a vision-language model "
            "(Qwen2.5-VL, Qwen3-VL, Qwen3.5), that compares images. Public ones are asked as "
            "their cards say. Weights are read at first use.",
            **search_aliases(
                *("reward model", "VLM", "Qwen2.5-VL", "Qwen3-VL", "vision-language model"),
                *("EditScore", "EditReward", "UnifiedReward", "FIRM", "RationalRewards"),
            ),
            inputs=[
                io.Combo.Input(
                    "judge",
                    options=judges,
                    default=judges[0],
                    tooltip="The bundled judge, or the folder of a Qwen-VL model in transformers "
                    "format, in models/onereward or models/LLM; a judge_card.json in it says how "
                    "it is asked.",
                ),
                *config_inputs(JudgeConfig, ("precision",)),
                *advanced(*config_inputs(JudgeConfig, ("max_pixels",))),
                io.Combo.Input(
                    "adapter",
                    options=folders.judge_adapter_names(),
                    default=folders.NO_JUDGE_ADAPTER,
                    optional=True,
                    tooltip="LoRA adapter in PEFT format for this judge: a folder in "
                    "models/onereward, or one trained by OneReward Train Judge.",
                ),
                *advanced(*config_inputs(JudgeConfig, ("liger_kernel",))),
            ],
            outputs=[
                output(
                    JudgeSocket,
                    "loaded_judge",
                    "For the nodes of OneReward/judge, data and training.",
                    "judge",
                )
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def fingerprint_inputs(cls, **values: Any) -> Hashable:
        """Change when a file of the judge or its adapter changes."""
        adapter = values.get("adapter") or folders.NO_JUDGE_ADAPTER
        return folders.stamps(
            lambda: [folders.judge_folder(values["judge"]), folders.judge_adapter_folder(adapter)]
        )

    @classmethod
    def execute(
        cls, judge: str, adapter: str = folders.NO_JUDGE_ADAPTER, **settings: Any
    ) -> io.NodeOutput:
        """Check the folders and return the judge."""
        host = ComfyHost(cls.hidden.unique_id)
        folder, adapter_folder = folders.judge_folder(judge), folders.judge_adapter_folder(adapter)
        config = JudgeConfig(folder=str(folder), adapter=str(adapter_folder or ""), **settings)
        key = (config, folders.stamp(folder), folders.stamp(adapter_folder))
        loaded = _JUDGES.get(key)
        if loaded is None:
            loaded = _JUDGES[key] = local_judge(config, host.device, host.check_cancelled)
        if isinstance(loaded, CardJudge):
            evidence = loaded.card.evidence.partition(".")[0]
            host.notify(f"asked as card {loaded.card.name} says ({evidence})")
        hold(JUDGE, loaded)
        return io.NodeOutput(loaded)


def _hub_inputs() -> list[io.Input]:
    return [
        io.String.Input(
            "hub_id",
            default="",
            optional=True,
            tooltip="owner/name of a model on the Hugging Face Hub, used instead of "
            "`model`; needs allow_download. Empty: use `model`.",
        ),
        io.Boolean.Input(
            "allow_download",
            default=False,
            optional=True,
            tooltip="Allow hub_id to be downloaded into models/onereward; FLUX.1-Fill-dev "
            "takes about 34 GB of disk.",
        ),
    ]


def _file_inputs() -> list[io.Input]:
    return [
        model_files.file_input(
            "vae",
            "VAE file in models/vae, for example ae.safetensors, instead of the model folder's. "
            "Without a folder that has one, a file that fits is found by itself.",
        ),
        model_files.file_input(
            "clip",
            "CLIP-L file in models/text_encoders, for example clip_l.safetensors; else as for vae.",
        ),
        model_files.file_input(
            "t5",
            "T5 file in models/text_encoders, for example t5xxl_fp8_e4m3fn_scaled.safetensors, or "
            "GGUF; else as for vae.",
        ),
    ]


def _load(config: ModelConfig, host: ComfyHost) -> FillModels:
    paths = [getattr(config, name) for name in ("folder", *COMPONENTS)]
    key = (config, tuple(folders.stamp(Path(path)) for path in paths if path))
    models = _MODELS.get(key)
    if models is None:
        models = _MODELS[key] = load_fill_models(config, host.device)
    if held(FILL_MODEL)[0] is not models:
        hold(FILL_MODEL, models)
    return models
