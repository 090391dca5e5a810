"""The preference pairs that objective dpo learns from, by the condition they are of."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from ...fill.fingerprint import fingerprint
from ...fill.host import Host
from ...fill.models import FillModels
from ...reward.label_choice import choose_labels
from ...reward.preference import PreferenceSet
from ..data.conditions import EditDataset, image_size
from .config import DPO, PolicyTrainConfig

PairsByCondition = Mapping[str, list[tuple[Path, Path]]]
"""The files of winner and loser."""


def learned_pairs(config: PolicyTrainConfig, models: FillModels, host: Host) -> PairsByCondition:
    """Return the pairs of the data set's conditions; empty for another objective.

    Notifies the host of pairs whose condition the data set lacks, and of candidates by another
    model than the one that learns.

    Raises:
        ValueError: No pair is of a condition in the data set, or an image is missing, damaged or of
            another size than the condition's; names it.
    """
    if config.objective != DPO:
        return {}
    data = PreferenceSet(Path(config.preferences_folder))
    dataset = EditDataset(Path(config.dataset_folder))
    conditions = {condition.name: condition for condition in dataset.conditions}
    pairs: dict[str, list[tuple[Path, Path]]] = defaultdict(list)
    num_strangers = 0
    choice = choose_labels(data.pairs(), config.labels_by, config.contradictions)
    if note := choice.note():
        host.notify(note)
    for pair in choice.pairs:
        condition = conditions.get(pair.condition)
        if condition is None:
            num_strangers += 1
            continue
        files = (data.image(pair.winner_file_name), data.image(pair.loser_file_name))
        expected = image_size(dataset.folder / condition.image_file_name)
        for file in files:
            if image_size(file) != expected:
                raise ValueError(
                    f"{file.name} is {image_size(file)[0]}x{image_size(file)[1]} pixels but its "
                    f"condition {condition.name} is {expected[0]}x{expected[1]}; choose the data "
                    "set that the candidates were made from"
                )
        pairs[pair.condition].append(files)
    if not pairs:
        raise ValueError(
            f"no pair in {data.folder} is of a condition in {dataset.folder}; choose the data set "
            "that its candidates were made from, or label some"
        )
    if num_strangers:
        host.notify(f"{num_strangers} pairs are left out: the data set lacks their condition")
    makers = {group.made_by for group in data.groups() if group.made_by}
    if makers and fingerprint(models) not in makers:
        host.notify(
            "the candidates were made by another model than the one that learns; dpo works best on "
            "its own"
        )
    return pairs
