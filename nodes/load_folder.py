"""Loads a folder of images with their masks, one by one."""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path

import torch
from comfy_api.latest import io

from ..fill.io.image_file import unread_images
from ..fill.io.photo import Photo, list_photos, read_photo
from .comfy_host import ComfyHost
from .inputs import search_aliases
from .node import OneRewardNode, refusal
from .paths import folders, work_folders


class OneRewardLoadFolder(OneRewardNode):
    """Loads images and masks of a folder."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node; the list is read from the disk at every call."""
        names = work_folders.image_folders()
        return io.Schema(
            node_id="OneRewardLoadFolder",
            display_name="OneReward Load Folder",
            category="OneReward/loaders",
            description="Loads a folder of images with their masks for batch editing: the nodes "
            "that follow run once per image.",
            **search_aliases("batch", "load images", "image folder", "load directory"),
            inputs=[
                io.Combo.Input(
                    "folder",
                    options=names,
                    default=names[0],
                    tooltip="Folder below ComfyUI's input or output folder. A mask is "
                    "<name>_mask.png beside its image, masks/<name>.png, or the erased area.",
                ),
                io.Int.Input(
                    "first",
                    default=0,
                    min=0,
                    max=1_000_000,
                    optional=True,
                    tooltip="Number of images to skip, in the order of their names.",
                ),
                io.Int.Input(
                    "count",
                    default=16,
                    min=1,
                    max=1024,
                    optional=True,
                    tooltip="Most images to take; all of them are in memory during the job.",
                ),
                io.Boolean.Input(
                    "needs_mask",
                    default=True,
                    optional=True,
                    tooltip="Leave out images without a mask; off = give them an empty one, as "
                    "OneReward Extend ignores it.",
                ),
            ],
            outputs=_outputs(),
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def fingerprint_inputs(cls, folder: str | None = None, **_: object) -> Hashable:
        """Change when a file in the folder changes."""
        return folders.stamps(lambda: [work_folders.image_folder(folder or "")])

    @classmethod
    def validate_inputs(cls, folder: str | None = None) -> bool:
        """Refuse a folder that is not there before the queue."""
        return refusal(lambda: folder is None or work_folders.image_folder(folder))

    @classmethod
    def execute(
        cls, folder: str, first: int = 0, count: int = 16, needs_mask: bool = True
    ) -> io.NodeOutput:
        """Read the images."""
        path = work_folders.image_folder(folder)
        files, photos = list_photos(path), []
        host = ComfyHost(cls.hidden.unique_id)
        for file in files[first : first + count]:
            host.check_cancelled()
            photos.append(read_photo(file))
        usable = [photo for photo in photos if photo.mask is not None or not needs_mask]
        if not usable:
            raise ValueError(_no_images(path, len(files), first, len(photos)))
        host.notify(f"{len(usable)} of {len(files)} images in {path.name}")
        for name, advice in unread_images(path).items():
            host.notify(f"left out: {name} ({advice})")
        if len(usable) < len(photos):
            host.notify(f"{len(photos) - len(usable)} have no mask and are left out")
        return io.NodeOutput(
            [photo.pixels[None] for photo in usable],
            [_mask(photo)[None] for photo in usable],
            [f"onereward/{path.name}/{photo.path.stem}" for photo in usable],
            [photo.text for photo in usable],
        )


def _outputs() -> list[io.Output]:
    return [
        io.Image.Output("images", display_name="image", is_output_list=True, tooltip="The images."),
        io.Mask.Output("masks", display_name="mask", is_output_list=True, tooltip="1 = repaint."),
        io.String.Output(
            "names",
            display_name="name",
            is_output_list=True,
            tooltip="onereward/<folder>/<name>, for filename_prefix of Save Image.",
        ),
        io.String.Output(
            "texts",
            display_name="text",
            is_output_list=True,
            tooltip="What <name>.txt beside the image says, for a prompt.",
        ),
    ]


def _mask(photo: Photo) -> torch.Tensor:
    return torch.zeros(photo.pixels.shape[:2]) if photo.mask is None else photo.mask


def _no_images(path: Path, total: int, first: int, num_read: int) -> str:
    """Return why no image is left."""
    if not num_read:
        return f"{path.name} holds {total} images, but first is {first}; lower it"
    return (
        f"none of {num_read} images in {path.name} has a mask; save one as <name>_mask.png beside "
        "each, or erase the area"
    )
