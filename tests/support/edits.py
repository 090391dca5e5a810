"""Builds graphs of edits; what a test does not name has a cheap default."""

from __future__ import annotations

from typing import Any

from support.graph import GraphBuilder, Link, output

BUNDLED = "bundled (tiny)"
FROM_MODEL = "from the model folder"
FAST = {"steps": 2}
TOY_TRAIN = "toy-train [bundled]"
TOY_TEST = "toy-test [bundled]"
TOY_PREFERENCES = "toy-preferences [bundled]"
"""Bundled examples, as the nodes' lists name them."""
TOY_TRAIN_SIZE = 24
TASK_INPUTS: dict[str, dict[str, Any]] = {
    "Fill": {"prompt": "a red circle"},
    "Extend": {
        "prompt": "",
        **{"left": 16, "top": 0, "right": 8, "bottom": 0},
        **{"aspect": "by_pixels", "anchor": "center"},
    },
    "Remove": {},
    "Text": {"text": "AB", "text_style": ""},
}


class EditGraph(GraphBuilder):
    """A graph with a loader, one edit and its results.

    ``add_edit`` returns the edit's first output; ``show`` puts a preview behind a link.

    Example: ``g = EditGraph(); g.show(g.add_edit("Remove", g.add("LoadImage", image=name)))``.
    """

    def add_model(self, **inputs: Any) -> Link:
        """Add the loader; the bundled model if nothing is said."""
        return self.add(
            "OneRewardLoadModel", **{"model": BUNDLED, "transformer": FROM_MODEL} | inputs
        )

    def add_edit(
        self,
        task: str,
        image: Link,
        mask: Link | None = None,
        *,
        model: Link | None = None,
        settings: dict[str, Any] | None = None,
        **inputs: Any,
    ) -> Link:
        """Add an edit; ``settings`` are those of the settings node, two steps by default."""
        model = model or self.add_model()
        config = self.add("OneRewardSettings", **FAST | (settings or {}))
        links = {"model": model, "image": image, "settings": config}
        if task != "Extend":
            links["mask"] = mask if mask is not None else output(image, 1)
        return self.add(f"OneReward{task}", **links, **{"seed": 0} | TASK_INPUTS[task] | inputs)

    def add_dataset(self, images: str = TOY_TRAIN, name: str = "scenes") -> Link:
        """Add the data set of an image folder, or of a bundled example as it is."""
        return self.add("OneRewardEditDataset", name=name, images=images, task="all")

    def add_mask(self, width: int = 64, height: int = 64, value: float = 1.0) -> Link:
        """Add a mask of one value."""
        return self.add("SolidMask", width=width, height=height, value=value)

    def show(self, image: Link) -> str:
        """Add a preview; return its node id."""
        return self.add("PreviewImage", images=image)[0]
