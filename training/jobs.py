"""Whole jobs as JSON: what a node does, and what the command line does again.

A node writes the file of its job beside the results, so that the same job runs without ComfyUI and
on several GPUs. ``label.json``, for example::

    {"format": 1, "preferences_folder": "output/onereward/preferences/my-data",
     "judge": {"folder": "models/onereward/Qwen2.5-VL-7B", "precision": "auto", ...},
     "settings": {"labeller": "judge", "margin": 0.2, "view": "full_image"}, "threads": 8}
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from ..fill.config import FillConfig, ModelConfig
from ..fill.host import Host
from ..fill.io.folder_lock import folder_lock
from ..fill.io.writing import write_text
from ..fill.json_config import JsonConfig
from ..fill.models import FillModels, load_fill_models
from ..reward.judge import BUNDLED, BUNDLED_FOLDER, Judge
from ..reward.load_judge import load_judge
from ..reward.preference import PreferenceSet
from ..reward.report import JudgeReport, write_report
from .data.conditions import EditDataset
from .data.generate import GenerateConfig, generate_candidates
from .data.label import LABELLERS, LabelConfig, LabelReport, label
from .evaluation.config import EvalConfig
from .evaluation.report import Report
from .evaluation.run import EvalModels, evaluate
from .judge.report import ReportConfig, report_on_judge, save_report
from .runs.distributed import Distributed


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateJob(JsonConfig):
    """Make candidates of an edit data set.

    Example: ``GenerateJob.load(Path("generate.json")).run(host)``.
    """

    model: dict[str, Any]
    """The fill model: fields of :class:`~..fill.config.ModelConfig`."""
    dataset_folder: str
    """What edits are made from."""
    preferences_folder: str
    """Where candidates go."""
    adapters: tuple[str, ...] = ()
    """LoRA files on the model."""
    strengths: tuple[float, ...] = ()
    """Their strengths."""
    settings: GenerateConfig = field(default_factory=GenerateConfig)
    """How candidates vary."""
    threads: int = 1
    """CPU threads of the command line."""

    def run(
        self,
        host: Host,
        processes: Distributed | None = None,
        models: FillModels | None = None,
    ) -> PreferenceSet:
        """Generate the candidates that are missing.

        Args:
            host: Memory, progress, cancel.
            processes: Share the conditions out; None: those of the environment.
            models: What a node has loaded already; None: load as the job says.
        """
        conditions = EditDataset(Path(self.dataset_folder))
        with _opened(self.preferences_folder, "generate.json", self, processes) as data:
            model = {"model": self.model, "adapters": self.adapters, "strengths": self.strengths}
            models = models or _load_models(model, host.device)
            generate_candidates(conditions, models, data, self.settings, host, processes)
        return data


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelJob(JsonConfig):
    """Label the candidates of preference data.

    Example: ``LabelJob(preferences_folder="data").run(host).text()``.
    """

    preferences_folder: str
    """The data set."""
    judge: dict[str, Any] = field(default_factory=lambda: {"folder": BUNDLED})
    """The judge: fields of :class:`~..reward.judge.JudgeConfig`; empty: none is needed."""
    settings: LabelConfig = field(default_factory=LabelConfig)
    """Who labels and when."""
    threads: int = 1
    """CPU threads of the command line."""

    def run(
        self,
        host: Host,
        processes: Distributed | None = None,
        judge: Judge | None = None,
    ) -> LabelReport:
        """Label what is not labelled; arguments as for :meth:`GenerateJob.run`."""
        from .data.labellers import make_labeller

        if judge is None and self.judge and self.settings.labeller == LABELLERS[0]:
            judge = load_judge(self.judge, host.device, host.check_cancelled)
        labeller = make_labeller(self.settings, judge)
        with _opened(self.preferences_folder, "label.json", self, processes) as data:
            return label(data, labeller, self.settings.margin, host, processes)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportJob(JsonConfig):
    """Report on a judge.

    Example: ``ReportJob(preferences_folder="data", report_folder="report").run(host)``.
    """

    preferences_folder: str
    """Preference data."""
    report_folder: str
    """Where report.json, report.md and report.png go."""
    judge: dict[str, Any] = field(default_factory=lambda: {"folder": BUNDLED})
    """The judge: fields of :class:`~..reward.judge.JudgeConfig`."""
    settings: ReportConfig = field(default_factory=ReportConfig)
    """Which pairs."""
    threads: int = 1
    """CPU threads of the command line."""

    def run(
        self,
        host: Host,
        processes: Distributed | None = None,
        judge: Judge | None = None,
    ) -> JudgeReport:
        """Ask the judge and write the report, beside the judge too, where training looks for it."""
        judge = judge or load_judge(self.judge, host.device, host.check_cancelled)
        data = PreferenceSet(Path(self.preferences_folder))
        report = report_on_judge(judge, data, self.settings, host, processes)
        if processes is None or processes.is_main:
            folder = Path(self.report_folder)
            save_report(folder, report, judge.label)
            write_text(folder / "config.json", self.to_json())
            _write_beside(judge, report, host)
        return report


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateJob(JsonConfig):
    """Evaluate a model on an edit data set, alone or against a baseline.

    Example: ``EvaluateJob.load(Path("config.json")).run(host).text()``.
    """

    model: dict[str, Any]
    """As :func:`describe_models` says: ``model``, ``adapters``, ``strengths``."""
    dataset_folder: str
    """What edits are made from."""
    evaluation_folder: str
    """Where images, results and the report go."""
    baseline: dict[str, Any] = field(default_factory=dict)
    """Like the model; empty: none."""
    judge: dict[str, Any] = field(default_factory=lambda: {"folder": BUNDLED})
    """The judge: fields of :class:`~..reward.judge.JudgeConfig`; empty: none."""
    settings: EvalConfig = field(default_factory=EvalConfig)
    """Which conditions, how many."""
    sampling: FillConfig = field(default_factory=FillConfig)
    """How both models sample."""
    threads: int = 1
    """CPU threads of the command line."""

    def run(self, host: Host, eval_models: EvalModels | None = None) -> Report:
        """Make what is missing and write the report.

        Args:
            host: Memory, progress, cancel.
            eval_models: What a node has loaded already; None: load as the job says.
        """
        folder = Path(self.evaluation_folder)
        conditions = EditDataset(Path(self.dataset_folder))
        eval_models = eval_models or self._load(host)
        report = evaluate(eval_models, conditions, self.settings, folder, host, self.sampling)
        write_text(folder / "config.json", self.to_json())
        return report

    def _load(self, host: Host) -> EvalModels:
        """Check all files; no weight is read yet."""
        device, poll = host.device, host.check_cancelled
        return EvalModels(
            model=_load_models(self.model, device),
            baseline=_load_models(self.baseline, device) if self.baseline else None,
            judge=load_judge(self.judge, device, poll) if self.judge else None,
        )


def _load_models(values: dict[str, Any], device: torch.device) -> FillModels:
    """Load what :func:`describe_models` described, no weight yet; ValueError for no model."""
    if not values.get("model"):
        raise ValueError("the job names no model; give it as the file of a node's run does")
    models = load_fill_models(ModelConfig.from_values(values["model"]), device)
    adapters, strengths = values.get("adapters", ()), values.get("strengths", ())
    for path, strength in zip(adapters, strengths, strict=True):
        models = models.with_adapter(Path(path), strength)
    return models


def describe_models(models: FillModels) -> dict[str, Any]:
    """Return the fields of a job that load the same fill model again.

    Raises:
        ValueError: It was put together by hand.
    """
    if models.config is None:
        raise ValueError("this fill model was not loaded from files; use a loader node")
    return {
        "model": asdict(models.config),
        "adapters": tuple(str(adapter.path) for adapter in models.adapters),
        "strengths": tuple(adapter.strength for adapter in models.adapters),
    }


def describe_judge(judge: Judge | None) -> dict[str, Any]:
    """Return the fields of a job that load the same judge again; empty for none."""
    return judge.to_values() if judge is not None else {}


def _write_beside(judge: Judge, report: JudgeReport, host: Host) -> None:
    """Write a report where training looks for it, unless the judge is part of this pack."""
    if judge.folder is None:
        return
    if judge.folder.resolve() == BUNDLED_FOLDER:
        host.notify("the bundled judge keeps the report that it came with")
        return
    try:
        write_report(judge.folder, report)
    except OSError as error:
        host.notify(f"the report is not beside the judge ({error.strerror or error})")


@contextmanager
def _opened(
    folder: str, name: str, job: JsonConfig, processes: Distributed | None
) -> Iterator[PreferenceSet]:
    """Open a data set to write to, and note the job in it; the first process keeps others out."""
    is_main = processes is None or processes.is_main
    with folder_lock(Path(folder)) if is_main else nullcontext():
        if is_main:
            data = PreferenceSet(Path(folder))
            write_text(data.folder / name, job.to_json())
        if processes is not None:
            processes.wait()
        yield PreferenceSet(Path(folder))
