"""What the templates name and users have: a folder of images, single files of a model.

The files are those of the bundled model, tiny, under the names of the published ones.
"""

from __future__ import annotations

from pathlib import Path

from support import machine

BATCH = "batch"
IMAGES = 2
MODEL = machine.ROOT / "assets" / "fill"
FILES = {
    "transformer": "diffusion_models/flux1-fill-dev-OneReward-fp8.safetensors",
    "vae": "vae/ae.safetensors",
    "text_encoder": "text_encoders/clip_l.safetensors",
    "text_encoder_2": "text_encoders/t5xxl_fp8_e4m3fn.safetensors",
}
FP8 = ("transformer", "text_encoder_2")


def write_template_files(base: Path) -> None:
    """Write them below a base directory of ComfyUI, if they are not there."""
    folder = base / "input" / BATCH
    if not folder.exists():
        _write_images(folder)
    for component, name in FILES.items():
        path = base / "models" / name
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            _write_component(component, path)


def _write_images(folder: Path) -> None:
    from support.workflows import example_image

    folder.mkdir(parents=True)
    for index in range(IMAGES):
        example_image().rotate(90 * index).save(folder / f"image-{index}.png")


def _write_component(component: str, path: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    tensors = load_file(next((MODEL / component).glob("*.safetensors")))
    if component in FP8:
        tensors = {key: value.to(torch.float8_e4m3fn) for key, value in tensors.items()}
    save_file(tensors, path)
