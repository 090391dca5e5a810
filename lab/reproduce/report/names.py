"""What models are called in the report."""

from __future__ import annotations

from ....fill.task import Task
from ....training.policy.config import DYNAMIC, FIXED
from ..config import ReproduceConfig
from ..judges import BUNDLED, NAIVE
from ..measure import BASE, BEST
from ..policies import HACKED, SUPERVISED

EACH = f"{SUPERVISED}-each"
"""Not a model of its own: every scene's image is that of its task's supervised model."""
JUDGES = {BUNDLED: "the judge", NAIVE: "the naive judge"}
_LABELS = {
    BASE: "base",
    FIXED: "alg. 1",
    DYNAMIC: "alg. 2",
    SUPERVISED: "supervised, one for all",
    EACH: "supervised, every task by its own model",
    BEST: "best of {n} by the judge",
    **{f"{SUPERVISED}-{task.value}": f"supervised, {task.value} only" for task in Task},
    **{run: f"against {JUDGES[judge]} (section 5)" for judge, run in HACKED.items()},
}


def label(config: ReproduceConfig, name: str) -> str:
    """Return what a model is called."""
    return _LABELS[name].format(n=config.best_of)
