"""A whole run: from a config to an adapter, through any number of stops."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import closing, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...fill.host import Host
from ...fill.io.folder_lock import folder_lock, put_right
from ...fill.io.json_text import label_of
from ...fill.io.writing import atomic_folder, make_folder, remove
from ...fill.memory.plan import explain_out_of_memory
from ...reward.preference import PAIRS
from ..charts.dashboard import draw_edits, plot_dashboard
from ..data.conditions import EditDataset, save_image
from ..runs.config import require
from ..runs.directory import TrainState
from ..runs.distributed import Distributed
from ..runs.files import replace_by_copy
from ..runs.loop import RunLoop
from ..runs.run_requests import EVALUATE
from ..runs.tensorboard import TensorBoard
from .adapter_file import write_adapter
from .config import BEST_OF_N, DPO, LORA, NFT, REWARD, SUPERVISED, PolicyTrainConfig
from .forecast import Forecast, make_forecast, memory_advice
from .loop import PolicyTrainer
from .monitoring.monitor import Monitor, last_scores
from .monitoring.samples_folder import save_samples
from .objectives.best_of_n import BestOfNTrainer
from .objectives.dpo import DpoTrainer
from .objectives.nft import NftTrainer
from .objectives.supervised import SupervisedTrainer
from .reward_cells import reward_cells_of
from .rewards import JudgeReward, Reward
from .run_models import ADAPTER as ADAPTER
from .run_models import (
    DASHBOARD,
    PolicyResult,
    RunModels,
    check_inputs,
    finished,
    input_digests,
    open_directory,
    result_name,
)
from .run_models import load as load
from .samples import SampleSource
from .sharding import make_sharding
from .weights import Policy

log = logging.getLogger("onereward.training")

TRAINERS: dict[str, type[PolicyTrainer]] = {
    REWARD: PolicyTrainer,
    SUPERVISED: SupervisedTrainer,
    DPO: DpoTrainer,
    NFT: NftTrainer,
    BEST_OF_N: BestOfNTrainer,
}
"""What a run learns by, per objective."""
_EDITS = "dashboard.edits"
"""In a checkpoint: the images among them."""


def train_policy(
    config: PolicyTrainConfig,
    host: Host,
    run_models: RunModels | None = None,
    processes: Distributed | None = None,
) -> PolicyResult:
    """Train until done, stopped or out of time, from the last checkpoint on.

    However it ends, the work so far is in the run folder: a checkpoint to go on from, and the
    weights at that step.

    Raises:
        ValueError: The config does not fit the folder, the models or the conditions.
        FolderInUse: Another process trains in this folder.
        NotEnoughMemory: It does not fit; says what to change.
        RuntimeError: The loss is not finite.
    """
    processes = processes or Distributed()
    run_folder = Path(config.run_folder)
    if processes.is_main:
        put_right(run_folder)
    if result := finished(config):
        if run_models:
            cells = reward_cells_of(config, run_models.judges)
            check_inputs(run_folder, input_digests(config, run_models, cells))
            result = replace(result, notes=cells.notes)
        host.notify(f"all {config.steps} steps are done; raise steps to go on")
        return result
    # ComfyUI's nodes run in inference mode; weights that were made there cannot learn.
    with (
        folder_lock(run_folder) if processes.is_main else nullcontext(),
        torch.inference_mode(False),
        torch.enable_grad(),
    ):
        run_models = run_models or load(config, host.device, host.check_cancelled)
        host.notify(check(config, host, run_models).text())
        with (
            explain_out_of_memory(memory_advice(config)),
            closing(PolicyRun(config, host, run_models, processes)) as run,
        ):
            run.run()
    return run.result()


def check(config: PolicyTrainConfig, host: Host, run_models: RunModels) -> Forecast:
    """Return how much memory a run takes and whether it fits; no weight is read.

    Raises:
        JudgeError: A judge cannot answer Yes and No.
        ValueError: All weights are to learn, but they are packed; or the reward is missing.
    """
    transformer = run_models.models.transformer_source
    if config.mode != LORA and transformer.is_quantised:
        raise ValueError(
            f"mode full trains all weights, but those of {transformer.path} are packed and frozen; "
            "set mode to lora, or choose a bf16 or fp16 file"
        )
    if config.external_reward and run_models.reward is None:
        raise ValueError(
            "external_reward is on, but no reward was handed in; start this run from the program "
            "that made it, or connect a judge"
        )
    if config.objective == DPO and not (Path(config.preferences_folder) / PAIRS).is_file():
        raise ValueError(
            f"{label_of(Path(config.preferences_folder))} holds no labelled pairs, which objective "
            "dpo learns from; label its candidates, or choose another folder"
        )
    for judge in run_models.all_judges:
        judge.check()
    for judge in run_models.judges if config.needs_gradient else ():
        if not judge.is_differentiable:
            raise ValueError(
                f"judge {judge.label} cannot train by objective reward: no gradient reaches the "
                "images through it; set objective to nft, or choose a judge in a folder whose card "
                "reads a probability (calibrated by temperature, if at all)"
            )
    return make_forecast(config, run_models.models, run_models.judges, host, run_models.eval_judge)


class PolicyRun(RunLoop[PolicyTrainer]):
    """A run in progress.

    Example: ``PolicyRun(config, host, load(config, host.device), Distributed()).run()``.
    """

    def __init__(
        self, config: PolicyTrainConfig, host: Host, run_models: RunModels, processes: Distributed
    ) -> None:
        """Check the inputs, encode the prompts, make the policy and go on where the run was.

        Raises:
            ValueError: Something does not fit, or has changed since the run began. The models are
                then as they were found.
        """
        self.config, self.host, self.run_models = config, host, run_models
        self.notes: list[str] = []
        self.edits: Tensor | None = None  # [H, W, 3], of the last evaluation
        self.log: TensorBoard | None = None
        models = run_models.models
        num_shares = config.batch_size // (config.group_size if config.has_groups else 1)
        require(
            num_shares >= processes.count,
            f"batch_size is {config.batch_size}, but {processes.count} processes share it; give at "
            "least one edit, or one group of candidates, to each",
        )
        self.sharding = make_sharding(config, processes)
        if self.sharding is not None:
            host.notify(f"all weights are spread over {processes.count} processes (FSDP2)")

        # What it learns from: judged cells, conditions, prompts. The first process writes files.
        conditions = EditDataset(Path(config.dataset_folder))
        self.reward_cells = reward_cells_of(config, run_models.judges)
        self.notify(*self.reward_cells.notes)
        if not processes.is_main:
            processes.wait()  # for the folder, and for prompts that are encoded once
        directory = open_directory(config, run_models, self.reward_cells, processes.is_main)
        source = SampleSource(config, conditions, models, self.reward_cells, host)
        if processes.is_main:
            processes.wait()

        # What it learns by: the reward, the policy, its trainer and its monitor.
        reward: Reward
        if run_models.reward is not None:
            reward = run_models.reward(config, models, host)
        else:
            reward = JudgeReward(config, models, run_models.judges, host)
        policy = Policy(models, config, host.device, self.sharding)
        try:
            trainer = TRAINERS[config.objective](config, policy, source, reward, host, processes)
            self.monitor = Monitor(trainer, run_models.judges, run_models.eval_judge)
            self.notify(*self.monitor.notes())
            super().__init__(directory, trainer, config.steps, processes)
            if config.tensorboard and processes.is_main:
                self.log = TensorBoard(directory.path, trainer.step)
        except BaseException:
            policy.release()
            raise

    def restore(self, state: TrainState) -> None:
        """Go on from a checkpoint; another run's says nothing about evaluations of this one."""
        super().restore(state)
        if state.step:
            self.monitor.restore(state.tensors)
            if _EDITS in state.tensors:
                self.edits = state.tensors[_EDITS].float() / 255

    def notify(self, *notes: str) -> None:
        """Tell the user now, and once more beside the result."""
        self.notes += notes
        for note in notes:
            self.host.notify(note)

    def close(self) -> None:
        """Leave the model as it was found."""
        self.trainer.policy.release()
        if self.log is not None:
            self.log.close()

    def run(self) -> None:
        """Do the steps, and say why they ended early."""
        super().run()
        self.explain_stop()
        step, steps = self.trainer.step, self.steps
        if step < steps and self.is_out_of_time:
            self.notify(f"the time is up after {step} of {steps} steps; run again to go on")
        elif step < steps and self.was_asked_to_stop:
            self.notify(f"stopped as asked after {step} of {steps} steps; run again to go on")

    def before_first_step(self) -> None:
        """Evaluate, where a stop has cut an evaluation short."""
        if self.is_eval_due():
            self.write_metrics(self.evaluate())

    def is_over(self) -> bool:
        """Whether all steps are done, the time is up, or the monitor has a reason to stop."""
        return super().is_over() or self.monitor.reason_to_stop() is not None

    def is_line_due(self) -> bool:
        """Every step has a line of the metrics."""
        return True

    def step_metrics(self) -> dict[str, float]:
        """Return loss, gradient norm and rewards of the step just done."""
        return _rounded(self.records[-1])

    @property
    def takes_part(self) -> bool:
        """Whether this process is needed for what the first one writes: it may hold a share."""
        return self.processes.is_main or self.sharding is not None

    def agree(self, flag: bool) -> bool:
        """Return a flag on which processes act alike if they have to."""
        return flag if self.sharding is None else self.processes.any(flag)

    def is_eval_due(self) -> bool:
        """Whether this process evaluates after the step just done."""
        return self.takes_part and self.monitor.is_due()

    def is_asked_to_evaluate(self) -> bool:
        """Whether somebody has asked for an evaluation, and there is something to evaluate on."""
        can_evaluate = self.takes_part and self.monitor.can_evaluate
        return can_evaluate and self.agree(self.takes_request(EVALUATE))

    def evaluate(self) -> dict[str, float]:
        """Evaluate on held-out conditions; an error makes it due again, for the next run."""
        before = self.monitor.tensors()
        try:
            return self._evaluate()
        except BaseException:
            self.monitor.restore(before)
            raise

    def _evaluate(self) -> dict[str, float]:
        """Measure; keep the weights, the best and the last few."""
        result = self.monitor.evaluate()
        self.edits = draw_edits(result.strips())
        results = self.directory.path / "results"
        make_folder(results)
        if self.agree(self.monitor.is_best(result)):
            self.export(self.best_path)
        self.export(results / f"step-{self.trainer.step:06d}{self.ending}")
        if self.processes.is_main:
            step, limit = self.trainer.step, self.config.save_total_limit
            save_samples(self.directory.path, step, result.pairs, limit)
            checkpoints = sorted(results.glob(f"step-*{self.ending}"))
            for path in checkpoints[: -self.config.save_total_limit]:
                remove(path)
            if self.log is not None:
                self.log.add_image(self.dashboard(), self.trainer.step)
        return _rounded(result.metrics())

    def report(self) -> None:
        """Show the metrics of the step just done, and the progress."""
        if self.log is not None:
            self.log.add(self.metrics[-1])
        if self.trainer.step % self.config.log_every == 0:
            super().report()
        self.host.progress(self.trainer.step, self.steps, self.dashboard)

    def dashboard(self) -> Tensor:
        """Return metrics and images so far, ``[H, W, 3]``, 0..1."""
        return plot_dashboard(self.metrics, edits=self.edits)

    def save(self) -> None:
        """Write the checkpoint and the weights."""
        if not self.takes_part:
            return
        state = self.trainer.train_state(self.seconds)
        edits = {} if self.edits is None else {_EDITS: (self.edits * 255).round().to(torch.uint8)}
        if self.processes.is_main:
            # Comes back at the end: without it the result may be an older checkpoint's.
            (self.directory.path / DASHBOARD).unlink(missing_ok=True)
            self.directory.save(
                replace(state, tensors=state.tensors | self.monitor.tensors() | edits)
            )
        self.write_result()
        # It marks the end, which has not come while the last evaluation is missing.
        is_end_missing = self.trainer.step >= self.steps and self.is_eval_due()
        if self.processes.is_main and not is_end_missing:
            save_image(self.directory.path / DASHBOARD, self.dashboard())

    @property
    def can_save_after_error(self) -> bool:
        """Whether the state is whole: no step is cut in half, and no share is in other hands."""
        return super().can_save_after_error and self.sharding is None

    def write_result(self) -> None:
        """Write the weights; of a run that stopped itself its best ones, and without any the start.

        Where the result is chosen: what came after the last mark of the end could get lost.
        """
        result = self.directory.path / self.name
        has_best = self.agree(self.best_path.exists())
        if self.agree(self.monitor.has_drifted) and not has_best:
            self.export(result, is_start=True)
        elif not (has_best and self.agree(self.monitor.reason_to_stop() is not None)):
            self.export(result)
        elif self.processes.is_main:
            replace_by_copy(self.best_path, result)

    def explain_stop(self) -> None:
        """Tell why a run stopped itself."""
        reason = self.monitor.reason_to_stop()
        if self.monitor.has_drifted and not self.best_path.exists():
            reason = f"{reason}; no evaluation was good, so the result is the start, unchanged"
        if reason is not None and self.processes.is_main:
            self.notify(reason)

    @property
    def best_path(self) -> Path:
        """The best weights so far, if an evaluation was good."""
        return self.directory.path / "results" / f"best{self.ending}"

    @property
    def ending(self) -> str:
        """Of every result's name: a file of a LoRA, a folder of a transformer."""
        return Path(self.name).suffix

    @property
    def name(self) -> str:
        """The result's name in the folder."""
        return result_name(self.config)

    def export(self, path: Path, is_start: bool = False) -> None:
        """Write the weights as others can load them, or those that the run started from."""
        policy, config = self.trainer.policy, self.config
        if config.mode == LORA:
            about = self.about() | ({"step": 0, "scores": {}} if is_start else {})
            weights = policy.weights("start" if is_start else config.saved_weights)
            write_adapter(path, weights, about, config.lora_scale)
            return
        is_main = self.processes.is_main
        with (
            policy.as_start() if is_start else policy.as_result(),
            atomic_folder(path) if is_main else nullcontext(path) as fresh,
        ):
            policy.save_module(fresh, is_main)

    def about(self) -> dict[str, Any]:
        """Return what goes into the file's metadata."""
        config, models = self.config, self.trainer.models
        return {
            "base": Path(config.model.get("folder") or config.model["transformer"]).name,
            "base_adapters": [adapter.label for adapter in models.adapters],
            "recipe": models.recipe.name,
            "objective": config.objective,
            "algorithm": config.algorithm,
            "step": self.trainer.step,
            "judges": [judge.label for judge in self.run_models.judges],
            "left_out": list(self.reward_cells.notes),
            "scores": last_scores(self.metrics),
        }

    def result(self) -> PolicyResult:
        """Return what the run has come to."""
        return PolicyResult(
            path=self.directory.path / self.name,
            step=self.trainer.step,
            notes=tuple(self.notes),
            dashboard=self.dashboard(),
            metrics=tuple(self.metrics),
        )


def _rounded(values: Mapping[str, float]) -> dict[str, float]:
    return {name: round(value, 6) for name, value in values.items()}
