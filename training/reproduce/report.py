"""The report: every number read from what the run has measured, beside the published ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from ...fill.task import Task
from ...world.oracle import DIMENSIONS
from ..benchmark.report import markdown
from ..judge.bundle import PUBLISHED
from ..policy.config import DYNAMIC, FIXED
from ..pretrain.run import write_text
from .config import ReproduceConfig
from .figures import draw_calibration, draw_hacked, draw_hacking, draw_rewards, draw_sheets
from .judges import BUNDLED, NAIVE, gate_of
from .measure import BASE, BEST, VOTED, tested_models
from .policies import HACKED, SUPERVISED, ablation_name
from .stage import Context, Stage, records

PUBLISHED_USABILITY = {
    "fill": ("52.11", "69.04"),
    "extend, prompted": ("63.13", "64.72"),
    "extend, unprompted": ("73.71", "87.54"),
    "remove": ("73.98", "82.22"),
}
"""In %, of the best rival and of the trained model (OneReward, table 2)."""
_LABELS = {
    BASE: "base",
    FIXED: "alg. 1 (fixed reference)",
    DYNAMIC: "alg. 2 (dynamic reference)",
    SUPERVISED: "supervised, one for all",
    BEST: "best of {n} by the judge",
    **{f"{SUPERVISED}-{task.value}": f"supervised, {task.value} only" for task in Task},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Writer:
    """Turns measurements into sections."""

    context: Context
    stages: Sequence[Stage]

    @property
    def config(self) -> ReproduceConfig:
        """The plan that was carried out."""
        return self.context.config

    def tables(self) -> dict[str, str]:
        """Return every table in Markdown: what measuring again has to give bit for bit."""
        return {
            "judge": self._judge(),
            "usability": self._usability(),
            "votes": self._votes(),
            "ablations": self._ablations(),
            "hacking": self._hacking(),
            "photos": self._photos(),
        }

    def text(self, pictures: Mapping[str, str]) -> str:
        """Return the whole report; pictures by name, as written in its text."""
        tables = self.tables()
        note = f"**{self.config.note}**\n\n" if self.config.note else ""
        values = {f"table_{name}": table for name, table in tables.items()}
        values |= {name: pictures.get(name, "") for name in _PICTURES}
        return note + _REPORT.format(budget=self._budget(), **values)

    def _judge(self) -> str:
        main, naive = self.context.read(BUNDLED), self.context.read(NAIVE)
        rows = [["task", "dimension", "right", "95 %", "pairs", "swaps", "naive", "published"]]
        for cell, found in main["report"]["cells"].items():
            task, _, dimension = cell.partition(".")
            published = PUBLISHED.get(task, {}).get(dimension)
            other = naive["report"]["cells"].get(cell)
            rows.append(
                [
                    *(task, dimension.replace("_", " "), _percent(found["accuracy"])),
                    f"{_percent(found['low'])}-{_percent(found['high'])}",
                    *(str(found["num_pairs"]), _percent(found["swap_consistency"])),
                    _percent(other["accuracy"]) if other else "-",
                    f"{published:.2f}" if published else "-",
                ]
            )
        return "\n\n".join([markdown(rows), self._kinds(), self._calibration(), self._dimensions()])

    def _kinds(self) -> str:
        main, naive = (self.context.read(name)["kinds_of_pairs"] for name in (BUNDLED, NAIVE))
        rows = [["pairs", "judge", "naive", "questions"]]
        for kind, found in main.items():
            other = naive.get(kind, {}).get("accuracy")
            row = [_percent(found["accuracy"]), "-" if other is None else _percent(other)]
            rows.append([kind.replace("_", " "), *row, str(found["questions"])])
        return markdown(rows)

    def _calibration(self) -> str:
        rows = [["confidence", "pairs", "mean confidence", "right"]]
        for one in self.context.read(BUNDLED)["report"]["calibration"]:
            span = f"{one['low']:.2f}-{one['high']:.2f}"
            shares = (f"{one['mean_score']:.3f}", f"{one['accuracy']:.3f}")
            rows.append([span, str(one["num_pairs"]), *shares])
        return markdown(rows)

    def _dimensions(self) -> str:
        found = self.context.read("dimensions")
        rows = [["dimension", "pairs", "one judge", "steps", "own judge", "steps"]]
        for name in DIMENSIONS:
            if name in found:
                both = [found[name][kind] for kind in ("one judge", "own judge")]
                values = [v for b in both for v in (_percent(b["accuracy"]), str(b["steps"]))]
                rows.append([name.replace("_", " "), str(found[name]["pairs"]), *values])
        return "One judge for all dimensions and one per dimension, eq. 3 alone:\n\n" + markdown(
            rows
        )

    def _usability(self) -> str:
        found = self.context.read("usability")
        groups = list(found[BASE])
        rows = [["model", *groups, "won / lost", "p"]]
        for name in tested_models(self.config):
            shares = []
            for group in groups:
                one = found[name][group]
                low, high = one["interval"]
                shares.append(f"{_percent(one['share'])} ({_percent(low)}-{_percent(high)})")
            whole = found[name]["all"]
            tested = [f"{whole['won']} / {whole['lost']}", f"{whole['p']:.4f}"]
            rows.append([self._label(name), *shares, *(tested if name != BASE else ["-", "-"])])
        head = [["task", "best rival", "OneReward"]]
        published = [[task, *values] for task, values in PUBLISHED_USABILITY.items()]
        return f"{markdown(rows)}\n\nPublished (table 2):\n\n{markdown(head + published)}"

    def _votes(self) -> str:
        found = self.context.read("votes")
        rows = [["model", "task", "by", "good", "same", "bad", "good of decided, 95 %", "p"]]
        for name in VOTED:
            for task, voters in found[name].items():
                for voter, v in voters.items():
                    span = "{:.2f}-{:.2f}".format(*v["interval"]) if v["interval"] else "-"
                    p = f"{v['p']:.4f}" if v["p"] is not None else "-"
                    counts = [str(v[kind]) for kind in ("good", "same", "bad")]
                    rows.append([self._label(name), task, voter, *counts, span, p])
        return markdown(rows)

    def _ablations(self) -> str:
        found = self.context.read("ablations")
        groups = list(found[BASE]["tasks"])
        rows = [["varied", "seeds", *groups, "won / lost"]]
        single = [f"only {task.value}" for task in Task]
        for name in ("as configured", *self.config.ablations, *single):
            seeds = [ablation_name(name, seed) for seed in self.config.ablation_seeds]
            tasks = [found[one]["tasks"] for one in seeds]
            shares = [_percent(fmean(t[group]["share"] for t in tasks)) for group in groups]
            won, lost = (sum(t["all"][k] for t in tasks) for k in ("won", "lost"))
            rows.append([name, str(len(seeds)), *shares, f"{won} / {lost}"])
        base = [_percent(found[BASE]["tasks"][group]["share"]) for group in groups]
        rows.insert(1, ["base", "-", *base, "-"])
        return markdown(rows)

    def _hacking(self) -> str:
        parts = []
        for judge, name in HACKED.items():
            found = self.context.read(name)
            rows = [["step", "reward", "usable", "won / lost", "p", "monitors"]]
            for point in found["points"]:
                reward = point.get("reward")
                said = (point.get("complaint") or "-") if "complaint" in point else "did not look"
                rows.append(
                    [
                        *(str(point["step"]), "-" if reward is None else f"{reward:.3f}"),
                        *(_percent(point["usable"]), f"{point['won']} / {point['lost']}"),
                        *(f"{point['p']:.4f}", said),
                    ]
                )
            parting = found["parting"]
            says = (
                f"Reward and oracle part at step {parting['step']}; the monitors there: "
                f"{parting.get('complaint') or 'nothing to complain about'}."
                if parting
                else "Reward and oracle do not part significantly in this run."
            )
            label = "the judge" if judge == BUNDLED else "the naive judge"
            parts.append(f"Against {label}:\n\n{markdown(rows)}\n\n{says}")
        return "\n\n".join(parts)

    def _photos(self) -> str:
        found = self.context.read("photos")
        if not found["crops"]:
            return "Left out: no folder of photographs was given (`make reproduce PHOTOS=FOLDER`)."
        rows = [["task", "model", "edits", "sound", "seam", "tone", "texture"]]
        models = {name: numbers["sides"] for name, numbers in found["models"].items()}
        for task, sides in models[FIXED].items():
            # The base is the rival of both, with the same pictures.
            each = {BASE: sides["rival"]} | {n: s[task]["model"] for n, s in models.items()}
            for name, one in each.items():
                values = [f"{one[key]:.3f}" for key in ("seam", "tone", "texture")]
                counts = [str(one["edits"]), _percent(one["sound"]["share"])]
                rows.append([task, self._label(name), *counts, *values])
        return f"{found['crops']} crops of {len(found['files'])} photographs.\n\n{markdown(rows)}"

    def _label(self, name: str) -> str:
        return _LABELS[name].format(n=self.config.best_of)

    def _budget(self) -> str:
        config, known = self.config, records(self.stages, self.config)
        hours, cpu_hours = (
            sum(record[clock] for record in known.values()) / 3600
            for clock in ("seconds", "cpu_seconds")
        )
        policy = config.policy_config("any", Path("judge"), 60.0, {})
        longest = max(known, key=lambda name: known[name]["seconds"])
        gate = gate_of(self.context, BUNDLED)["cells"]
        passed = [cell for cell, one in gate.items() if one["accuracy"] >= policy.gate]
        lines = [
            f"- Commit: {', '.join(sorted({r['commit'] for r in known.values()}))}.",
            f"- {len(known)} stages, each on one core: {cpu_hours:.2f} hours of computing in "
            f"{hours:.2f} hours; the longest, `{longest}`, took "
            f"{known[longest]['seconds'] / 60:.1f} minutes.",
            f"- Policies: {policy.steps} steps of {policy.batch} edits, rank {policy.rank}, rate "
            f"{policy.learning_rate:g}, lambda {policy.reward_cap:g}, t from {policy.t1:g} to "
            f"{policy.t2:g}; supervised rivals take as many steps. Ablations: "
            f"{config.fewer_steps(config.ablation_share)['steps']} steps.",
            f"- Sampled as trained, {_setting(policy.sampling_steps)} steps at true_cfg "
            f"{_setting(policy.true_cfg)}.",
            f"- Learned from {config.conditions} scenes; judge's gate {policy.gate:g} on the dev "
            f"split lets in {len(passed)} of {len(gate)} cells: "
            f"{', '.join(sorted(passed)) or 'none'}.",
            f"- Test: {config.test_scenes} scenes per task, looked at once by each model. "
            f"Ablations: {config.ablation_scenes}, hacking: {config.hack_scenes} dev scenes per "
            "task.",
        ]
        return "\n".join(lines)


def write_report(context: Context, stages: Sequence[Stage]) -> Path:
    """Draw the pictures and write the report; return its file."""
    path = Path(context.config.report)
    folder = path.with_suffix("")
    named: dict[str, str] = {
        "calibration": draw_calibration(context.read(BUNDLED)["report"]["calibration"], folder),
        "hacked": draw_hacked(context, folder),
    }
    named |= {f"reward_{name}": file for name, file in draw_rewards(context, folder).items()}
    named |= {f"sheet_{task}": file for task, file in draw_sheets(context, folder).items()}
    for judge, name in HACKED.items():
        points = context.read(name)["points"]
        named[f"hacking_{judge}"] = draw_hacking(name, points, folder)
    shown = {name: f"![{name.replace('_', ' ')}]({file})" for name, file in named.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, Writer(context=context, stages=stages).text(shown))
    return path


def _setting(value: float) -> str:
    return "the recipe's" if value == -1 else f"{value:g}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


_PICTURES = (
    *("calibration", "hacked", f"reward_{FIXED}", f"reward_{DYNAMIC}"),
    *(f"sheet_{task.value}" for task in Task),
    *(f"hacking_{judge}" for judge in HACKED),
)
_REPORT = """# The paper's findings in the small

Written by `make reproduce` (`python -m onereward.training.reproduce`); every number below is
produced by that run, but those marked as published (arXiv 2508.21066). Everything happens in a
procedural world of 64x64 px (`world/`) whose oracle knows the truth.

{budget}

The oracle labels pairs of the train split for the judge and scores the test split once. No loss of
reinforcement learning, no choice of a checkpoint and no early stop reads it.

## 1. The judge

Right answers in % on best against worst of four candidates, scenes of the test split (form of
table 1); *swaps*: swapping the pictures swaps the answer. *naive*: trained without adversarial
pairs. Published: a 7B judge and people's preferences.

{table_judge}

{calibration}

## 2. Usable pictures

Share of pictures that the oracle accepts as they are, in % (95 % interval), the same scenes and
noises for every model; won / lost and p (sign test) against the base. Supervised models that learn
one task are measured on all.

{table_usability}

## 3. Good, same, bad against the base

By the oracle (usable or not) and by the judge (form of fig. 7). The judge is the one that the
policies were trained against, so its votes show that training worked, not that pictures are better.

{table_votes}

Reward curves (form of fig. 6), smoothed:

{reward_fixed}

{reward_dynamic}

## 4. One thing at a time

Usable pictures in % on the dev split, mean over seeds; won / lost against the base summed over
seeds. *only ...*: a policy for one task, with a quarter of the steps, so that all four together see
as many edits as the one for all.

{table_ablations}

## 5. Reward hacking

The same settings, meant to be hacked, against both judges; the run is not stopped. Neither judge
was shown pictures of a policy; the naive one lacks patterns and attacks. *reward*: the mean of the
last steps; *usable*: the oracle on the dev split.

{table_hacking}

{hacking_judge}

{hacking_naive}

Source with its mask, base, against the judge, against the naive judge:

{hacked}

## 6. Pictures

The first test scenes of every task, seeds fixed before looking: source with its mask, base, alg. 1,
alg. 2; two scenes a row.

{sheet_fill}

{sheet_extend}

{sheet_remove}

{sheet_text}

## 7. Photographs

Crops of photographs that nothing was trained on, masked at random; measures need no truth: *seam*,
the step across the border, *tone*, the difference of the colours on its two sides, *texture*, how
much busier or emptier the inside is (in powers of two). Smaller is better for all three.

{table_photos}

## What does not carry over to FLUX

- The oracle. On photographs nobody knows the truth, so neither labels nor usability are exact.
- The judge is trained from scratch on this world; a 7B model comes with knowledge of pictures, and
  people's preferences are noisier than an oracle's.
- The base paints flat shapes and four letters. What a policy can gain, how fast it is hacked and
  how it looks then depend on that.
- Steps, rates and lambda are chosen for a model of three million parameters and a batch of a few
  edits; the paper trains for about 8000 iterations.
- Differences of a few percent between settings are within the noise of so few scenes and seeds; the
  intervals say how much.
"""
