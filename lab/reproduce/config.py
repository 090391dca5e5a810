"""What a reproduction does: seeds, splits and budgets, fixed before it runs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from ...fill.io.files import write_text
from ...fill.json_config import JsonConfig
from ...fill.task import Task
from ...training.judge.config import JudgeTrainConfig
from ...training.policy.config import PolicyTrainConfig
from ...training.runs.config import require
from ..judge.config import CompareConfig, VqaConfig
from ..judge.pairs.candidate_pool import CandidatePoolConfig

T = TypeVar("T", bound=JsonConfig)
VQA, COMPARE = "vqa", "compare"
_MAY_CHANGE = ("report", "note", "workers", "stage_minutes", "hours")
PREVIOUS = "previous"
"""As ``init_from`` of a judge's stage: the checkpoint of the stage before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReproduceConfig(JsonConfig):
    """A whole reproduction.

    Example: ``ReproduceConfig.load("lab/reproduce/plans/quick.json").workers``.
    """

    run_folder: str
    """Where everything but the report goes."""
    report: str
    """The report in Markdown; ``numbers.json`` and ``images/`` go beside it."""
    note: str = ""
    """First line of the report, for a run that proves nothing."""
    fill_folder: str = "assets/fill"
    """The base model."""
    judge_start: str = ""
    """A judge that the first stage continues from; empty: the first stages are VQA stages."""
    seed: int = 0
    """Of conditions, policies and evaluation; the judge's stages have their own."""
    workers: int = 2
    """Stages that run side by side, each in a process of one thread (Linux and macOS); 0: one by
    one in this one."""
    stage_minutes: float = 60.0
    """A stage that takes longer stops with a checkpoint and is taken up again."""
    hours: float = 8.0
    """The run stops after this time; the same command goes on from there."""

    pool: dict[str, Any] = field(default_factory=dict)
    """Candidates that the judge learns from: fields of ``judge.pairs.candidate_pool``'s config."""
    judge: tuple[dict[str, Any], ...] = ()
    """Stages of the judge: ``{"stage": "vqa" or "compare"}`` and fields of that stage's config."""
    naive: dict[str, Any] = field(default_factory=dict)
    """Fields that are different for the naive judge: no adversarial pairs."""
    per_dimension: dict[str, Any] = field(default_factory=dict)
    """One judge against one per dimension: fields of ``judge.train``'s config; its ``steps`` are
    those of the one judge and those of all others together."""
    max_pairs: int = 4000
    """Pairs that these learn from, at most."""
    conditions: int = 2000
    """Scenes of the train split that policies learn from."""
    policy: dict[str, Any] = field(default_factory=dict)
    """Fields of ``policy``'s config, for all policies."""
    supervised: dict[str, Any] = field(default_factory=dict)
    """Fields that are different for supervised fine-tuning."""
    hack: dict[str, Any] = field(default_factory=dict)
    """Fields that are different for the runs that are meant to be hacked."""
    ablations: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Name to the fields that are varied."""
    ablation_share: float = 0.25
    """Share of the policy's steps."""
    ablation_seeds: tuple[int, ...] = (0, 1)
    """Seeds of each ablation, at least one."""
    best_of: int = 8
    """Candidates of the base model among which the judge chooses."""
    test_scenes: int = 200
    """Scenes of the test split per task."""
    ablation_scenes: int = 100
    """Scenes of the dev split per task for ablations; test is for the main results."""
    hack_scenes: int = 50
    """Scenes of the dev split per task and saved step of the hacked runs."""
    sheet_scenes: int = 8
    """Test scenes per task on a contact sheet: the first ones."""
    margin: float = 0.05
    """Nearer to one half than this the judge's vote is *same*."""
    photo_crops: int = 20
    """Crops of photographs, each edited by remove and extend."""

    def __post_init__(self) -> None:
        """Refuse a plan that could not be completed."""
        for name in ("run_folder", "report", "fill_folder"):
            require(bool(getattr(self, name)), f"{name} is empty; name a file or folder")
        require(
            0 < self.ablation_share <= 1, f"ablation_share is {self.ablation_share}; use 0 to 1"
        )
        for name in ("conditions", "best_of", "test_scenes", "ablation_scenes", "hack_scenes"):
            require(getattr(self, name) >= 1, f"{name} is {getattr(self, name)}; use at least 1")
        require(bool(self.ablation_seeds), "ablation_seeds is empty; give at least one")
        kinds = [str(stage.get("stage")) for stage in self.judge]
        require(bool(kinds), "judge has no stages; name at least one that compares")
        require(
            kinds == sorted(kinds, reverse=True) and set(kinds) <= {VQA, COMPARE},
            f"judge's stages are {kinds}; {VQA} comes first, then {COMPARE}",
        )
        require(kinds[-1] == COMPARE, "judge has no stage that compares; name one")
        require(
            (kinds[0] == VQA) != bool(self.judge_start),
            f"a judge starts either with a stage {VQA} or from judge_start; give one of them",
        )
        self._check_configs()

    def _check_configs(self) -> None:
        """Parse the config of every stage, so that each refuses unknown settings now."""
        self.pool_config(60.0)
        for index in range(len(self.judge)):
            self.judge_config(index, Path("run"), None, 60.0)
        self.pair_config("all", 1, Path("run"), Path("judge"), 60.0)
        judge = Path("judge")
        for changes in ({}, self.hack, *self.ablations.values()):
            self.policy_config("any", judge, 60.0, changes)
        self.policy_config("any", None, 60.0, self.supervised | {"objective": "supervised"})

    def claim_folder(self) -> None:
        """Note the plan in the run's folder.

        Raises:
            ValueError: It holds another plan's work; names what differs.
        """
        path, now = self.folder / "config.json", json.loads(self.to_json())
        before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else now
        different = [k for k in now if before.get(k) != now[k] and k not in _MAY_CHANGE]
        require(
            not different,
            f"{self.folder} holds the work of a plan with other {', '.join(different)}; choose "
            "another run_folder, or restore them",
        )
        self.folder.mkdir(parents=True, exist_ok=True)
        write_text(path, self.to_json() + "\n")

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return Path(self.run_folder)

    def fewer_steps(self, share: float) -> dict[str, int]:
        """Return a policy's steps and warm-up shortened alike: the same course, in less time.

        With the whole warm-up a short run would be little else.
        """
        whole = self.policy_config("any", Path("judge"), 60.0, {})
        return {
            "steps": max(round(share * whole.steps), 1),
            "warmup_steps": round(share * whole.warmup_steps),
        }

    def pool_config(self, minutes: float) -> CandidatePoolConfig:
        """Return how candidates are made."""
        folders = {"pool_folder": str(self.folder / "pool"), "fill_folder": self.fill_folder}
        return _parse(CandidatePoolConfig, self.pool | folders | {"max_minutes": minutes})

    def judge_config(
        self, index: int, run: Path, before: Path | None, minutes: float, is_naive: bool = False
    ) -> VqaConfig | CompareConfig:
        """Return a stage of the judge.

        Args:
            index: Which stage.
            run: Its run folder.
            before: The run folder of the stage before; None: it starts from ``judge_start``.
            minutes: It stops after this time.
            is_naive: The naive judge's.
        """
        values = {**self.judge[index], "run_folder": str(run), "max_minutes": minutes}
        kind = values.pop("stage")
        if values.get("init_from") == PREVIOUS:
            values["init_from"] = str((before or run) / "checkpoint")
        if kind == VQA:
            return _parse(VqaConfig, values)
        start = str(before / "judge") if before else self.judge_start or "none"
        values |= {"judge_folder": start, "pool_folder": str(self.folder / "pool")}
        return _parse(CompareConfig, values | (self.naive if is_naive else {}))

    def pair_config(
        self, name: str, steps: int, run: Path, start: Path, minutes: float
    ) -> JudgeTrainConfig:
        """Return eq. 3 on the pairs of one dimension, or of all."""
        values = self.per_dimension | {"steps": steps, "eval_every": steps, "max_minutes": minutes}
        values |= {"run_folder": str(run), "judge_folder": str(start)}
        return _parse(
            JudgeTrainConfig, values | {"preferences_folder": str(self.folder / "pairs" / name)}
        )

    def policy_config(
        self, name: str, judge: Path | None, minutes: float, changes: dict[str, Any]
    ) -> PolicyTrainConfig:
        """Return a policy's run."""
        judges = ({"folder": str(judge), "precision": "fp32"},) if judge else ()
        values: dict[str, Any] = {
            "run_folder": str(self.folder / "policies" / name),
            "model": {"folder": self.fill_folder, "precision": "fp32"},
            "dataset_folder": str(self.folder / "conditions"),
            "judges": judges,
            "seed": self.seed,
            "max_minutes": minutes,
        }
        return _parse(PolicyTrainConfig, values | self.policy | changes)

    def sampling(self, changes: Mapping[str, Any] = MappingProxyType({})) -> dict[str, Any]:
        """Return steps and guidance of every measurement: those that a policy is trained with.

        Args:
            changes: Fields that are different for that policy.
        """
        policy = self.policy_config("any", Path("judge"), 60.0, dict(changes))
        return {"steps": policy.sampling_steps, "true_cfg": policy.true_cfg}

    def task_weights(self, task: Task) -> dict[str, float]:
        """Return the weights of a policy that learns one task."""
        return {f"weight_{item.value}": float(item is task) for item in Task}


def _parse(cls: type[T], values: dict[str, Any]) -> T:
    """Parse a stage's config as from its file; unknown settings are refused by name."""
    return cls.from_json(json.dumps(values))
