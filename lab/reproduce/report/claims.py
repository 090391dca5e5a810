"""What came out, in words that rules choose from measured numbers and their tests."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ....reward.report import wilson_interval
from ....training.policy.config import DYNAMIC, FIXED
from ..judges import BUNDLED, NAIVE
from ..measure import BASE, BEST
from ..photos import PHOTOS
from ..policies import HACKED, SUPERVISED
from ..stage import Context
from .ablations import TOGETHER, read_grid, single_tasks
from .cells import chance, changed, counted, percent
from .hacking import monitors_said
from .judges import pooled_dimensions, pooled_judge
from .models import adversarial_pairs
from .names import EACH, JUDGES, label
from .photographs import sound_changes
from .signs import CLEAR, Change


def claims_text(context: Context) -> str:
    """Return the list of findings."""
    found = [
        *_model_claims(context),
        *_vote_claims(context),
        *_ablation_claims(context),
        *_judge_claims(context),
        *_hacking_claims(context),
        *_photo_claims(context),
    ]
    return "\n".join(f"- {one}" for one in found)


def oracle_scores(change: Change, noun: str = "scenes") -> str:
    """Say what paired scenes show: a difference where p is below the limit, else that they do not.

    Args:
        change: The comparison.
        noun: What is counted.
    """
    if not change.won + change.lost:
        return f"alike in every one of {change.scenes} {noun}"
    numbers = (
        f"{changed(change)} points, {change.won} {noun} won, {change.lost} lost, "
        f"p = {chance(change.p)}"
    )
    if change.is_clear:
        return f"{'better' if change.won > change.lost else 'worse'} ({numbers})"
    return f"no difference that {change.scenes} {noun} could show ({numbers})"


def apart(first: tuple[float, int], second: tuple[float, int], higher: str, lower: str) -> str:
    """Say how two shares of so many trials compare: a difference where their intervals are apart.

    Args:
        first: Share and trials.
        second: The same of the baseline.
        higher: The word for a larger first share.
        lower: The word for a smaller one.
    """
    one, other = (wilson_interval(*both) for both in (first, second))
    if one[0] > other[1]:
        return higher
    return lower if one[1] < other[0] else "no difference that so few pairs could show"


def _judge_claims(context: Context) -> Iterator[str]:
    reports = {name: context.read(name)["report"]["cells"] for name in (BUNDLED, NAIVE)}
    if all(reports.values()):
        (pairs, main), (_, naive) = (pooled_judge(cells) for cells in reports.values())
        said = apart((main, pairs), (naive, pairs), "the judge is better", "the judge is worse")
        yield (
            f"**Judge.** Right on {counted(main, pairs)} % of {pairs} test pairs; the naive judge "
            f"on {counted(naive, pairs)} %: {said}."
        )
    found = context.read("dimensions")
    if found:
        pairs, one, own = pooled_dimensions(found)
        said = apart((one, pairs), (own, pairs), "the one is better", "the one is worse")
        yield (
            f"**One judge for all dimensions, or one per dimension?** The one is right on "
            f"{counted(one, pairs)} %, the others on {counted(own, pairs)} % of the same {pairs} "
            f"pairs: {said}."
        )


def _model_claims(context: Context) -> Iterator[str]:
    config, found = context.config, adversarial_pairs(context)
    questions = {
        BASE: "Does reinforcement learning beat the base?",
        SUPERVISED: "Does it beat supervised learning of all tasks?",
        EACH: "Does it beat supervised learning of one task at a time?",
        BEST: f"Does it beat the best of {config.best_of} by the judge?",
    }
    for baseline, question in questions.items():
        said = [
            f"{label(config, own)}: {oracle_scores(found[own, baseline]['all'])}"
            for own in (FIXED, DYNAMIC)
        ]
        by_task = [_tasks(label(config, own), found[own, baseline]) for own in (FIXED, DYNAMIC)]
        extra = "".join(f" {one}" for one in by_task if one) if baseline == BASE else ""
        yield f"**{question}** {'; '.join(said)}.{extra}"
    baselines = [
        f"{label(config, name)}: {oracle_scores(found[name, BASE]['all'])}"
        for name in (SUPERVISED, BEST)
    ]
    yield f"**Do the baselines beat the base?** {'; '.join(baselines)}."
    yield f"**Alg. 2 or alg. 1?** Alg. 2: {oracle_scores(found[DYNAMIC, FIXED]['all'])}."
    yield (
        "**Supervised: all tasks in one, or every task by its own model?** The latter: "
        f"{oracle_scores(found[EACH, SUPERVISED]['all'])}."
    )


def _tasks(name: str, groups: Mapping[str, Change]) -> str:
    """Name the tasks that differ by themselves, with p below the limit shared by all."""
    tasks = {task: change for task, change in groups.items() if task != "all"}
    clear = {t: c for t, c in tasks.items() if c.p < CLEAR / len(tasks)}
    said = [f"{t} {'better' if c.won > c.lost else 'worse'}" for t, c in clear.items()]
    return f"By task (p < {CLEAR / len(tasks):g}), {name}: {', '.join(said)}." if said else ""


def _vote_claims(context: Context) -> Iterator[str]:
    votes = context.read("votes")
    said = []
    for name in (FIXED, DYNAMIC):
        voter = votes[name]["all"]["judge"]
        decisions = voter["good"] + voter["bad"]
        if decisions:
            share = counted(voter["good"] / decisions, decisions)
            said.append(
                f"{label(context.config, name)}: {share} % of {decisions} decided votes "
                f"(p = {chance(voter['p'])})"
            )
    if said:
        yield f"**Does the rewarding judge itself prefer them to the base?** {'; '.join(said)}."


def _ablation_claims(context: Context) -> Iterator[str]:
    grid = read_grid(context)
    whole = single_tasks(grid).get(TOGETHER)
    if whole:
        yield (
            "**One policy for all tasks, or one per task, with as many edits of each?** One per "
            f"task (dev split): {oracle_scores(whole)}."
        )
    tested = {name: one.against_usual for name, one in grid.varied.items() if one.against_usual}
    settings = {name: c for name, c in tested.items() if name in context.config.ablations}
    if settings:
        limit = CLEAR / len(settings)
        clear = [f"{name} {oracle_scores(c)}" for name, c in settings.items() if c.p < limit]
        yield (
            f"**Does any of {len(settings)} settings matter?** With p < {limit:.4f} for each: "
            f"{'; '.join(clear) or 'none that so few scenes could show'}."
        )


def _hacking_claims(context: Context) -> Iterator[str]:
    for judge, name in HACKED.items():
        found = context.read(name)
        points = found["points"]
        yield f"**Reward hacking against {JUDGES[judge]}?** {hacking_verdict(points, found)}"


def hacking_verdict(points: Sequence[Mapping[str, Any]], found: Mapping[str, Any]) -> str:
    """Say whether reward and oracle part, and what the end of the run is like."""
    end, parting = points[-1], found["parting"]
    start = (
        f"They part at step {parting['step']} (monitors there: {monitors_said(parting)})"
        if parting
        else "Reward and oracle do not part"
    )
    usable = f"usable {percent(points[0]['usable'])} % at the start, {percent(end['usable'])} %"
    return f"{start}. At the end, step {end['step']}: {usable} (p = {chance(end['p'])})."


def _photo_claims(context: Context) -> Iterator[str]:
    found = context.read(PHOTOS)
    if not found["crops"]:
        return
    said = []
    for name, numbers in found["models"].items():
        change = sound_changes(context, name, numbers).get("all")
        if change:
            said.append(f"{label(context.config, name)}: {oracle_scores(change, 'edits')}")
    if said:
        yield (f"**Photographs: are more results sound than the base's?** {'; '.join(said)}.")
