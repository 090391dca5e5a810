"""Let a torchvision built for CUDA import beside a torch built for the CPU.

Such a pair fails with "operator torchvision::nms does not exist", because torchvision's compiled
library needs CUDA libraries and is silently left out. Nothing here or in ComfyUI calls those
operators; they only have to be declared before torchvision is imported.

``scripts/setup_env.py`` copies this module into the virtual environment, beside a ``.pth`` file
that imports it in every process, and only for such a pair. It costs one import hook: torch itself
is imported no earlier than torchvision would import it.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:  # this module is imported by every process: it imports nothing it can avoid
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType

_LIBRARIES: list[object] = []
"""Keeps the declarations alive: torch drops an operator with its library object."""


class TorchvisionFinder:
    """Finds torchvision as usual, and declares its operators right before it is executed.

    Example: ``sys.meta_path.insert(0, TorchvisionFinder)``.
    """

    @staticmethod
    def find_spec(
        name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return torchvision's own spec with a loader that declares the operators first."""
        if name != "torchvision":
            return None
        from importlib.machinery import PathFinder, SourceFileLoader

        spec = PathFinder.find_spec(name, path, target)
        if spec is None or not isinstance(spec.loader, SourceFileLoader):
            return spec
        execute = spec.loader.exec_module
        init_file = spec.loader.path

        def exec_module(module: ModuleType) -> None:
            _declare_operators(init_file)
            execute(module)

        spec.loader.exec_module = exec_module
        return spec


def install() -> None:
    """Put the finder in front, once per process."""
    if TorchvisionFinder not in sys.meta_path:
        sys.meta_path.insert(0, TorchvisionFinder)


def is_cuda_build(init_file: str) -> bool:
    """Tell from the ``version.py`` beside ``torchvision/__init__.py`` whether it is for CUDA."""
    from pathlib import Path

    version_file = Path(init_file).with_name("version.py")
    return version_file.is_file() and "+cu" in version_file.read_text(encoding="utf-8")


def _declare_operators(init_file: str) -> None:
    import torch

    is_cpu_torch = torch.version.cuda is None and torch.version.hip is None
    if _LIBRARIES or not is_cpu_torch or not is_cuda_build(init_file):
        return
    library = torch.library.Library("torchvision", "DEF")
    _LIBRARIES.append(library)
    for name in ("nms", "qnms"):
        library.define(name + "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
