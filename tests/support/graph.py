"""Builds workflows in API format."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

from support.client import Graph

Link = list[Any]
"""``[node id, output index]``, as the API format writes it."""


class GraphBuilder:
    """Collects nodes; ``add`` returns the node's first output, ``output`` any other.

    Example:
        g = GraphBuilder()
        image = g.add("LoadImage", image="example.png")
        g.add("PreviewImage", images=image)
        client.run(g.graph)
    """

    def __init__(self) -> None:
        self.graph: Graph = {}

    def add(self, class_type: str, **inputs: Any) -> Link:
        """Add a node with its inputs (values, or links to other nodes); return its output 0."""
        node_id = str(len(self.graph) + 1)
        self.graph[node_id] = {"class_type": class_type, "inputs": inputs}
        return [node_id, 0]


def output(link: Link, index: int) -> Link:
    """Return another output of the node that ``link`` comes from."""
    return [link[0], index]


def load_graph(path: Path) -> Graph:
    """Read a workflow in API format."""
    return json.loads(path.read_text(encoding="utf-8"))


def nodes_of(graph: Graph, class_type: str) -> list[str]:
    """Return the ids of all nodes of one class, in the graph's order."""
    return [node_id for node_id, node in graph.items() if node["class_type"] == class_type]


def with_inputs(graph: Graph, class_type: str, **inputs: Any) -> Graph:
    """Return a copy in which every node of one class has these input values."""
    copied = copy.deepcopy(graph)
    for node_id in nodes_of(copied, class_type):
        copied[node_id]["inputs"].update(inputs)
    return copied
