"""Puts the report together: measured tables, what they come to, images, and words between."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ....training.policy.config import DYNAMIC, FIXED
from ....training.runs.files import write_text
from ...world.conditions import TASKS
from ..config import ReproduceConfig
from ..figures import (
    copy_photo_sheets,
    draw_calibration,
    draw_hacked,
    draw_hacking,
    draw_rewards,
    draw_sheets,
)
from ..judges import BUNDLED
from ..policies import HACKED
from ..stage import Context, Stage, records
from . import ablations, budget, hacking, judges, models, photographs
from .claims import claims_text
from .settings import settings_of
from .text import REPORT


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
        """Return everything measured, in Markdown: measuring again has to give it bit for bit."""
        context = self.context
        return {
            "claims": claims_text(context),
            "judge": judges.judge_table(context),
            "kinds": judges.kinds_table(context),
            "calibration": judges.calibration_table(context),
            "dimensions": judges.dimensions_table(context),
            "usability": models.usability_table(context),
            "adversarial_pairs": models.adversarial_pairs_table(context),
            "votes": models.votes_table(context),
            "ablations": ablations.shares_table(context),
            "tests": ablations.tests_table(context),
            "single": ablations.single_table(context),
            "hacking": hacking.hacking_tables(context),
            "photos": photographs.photos_table(context),
        }

    def text(self, images: Mapping[str, str]) -> str:
        """Return the whole report; images by name, as written in its text."""
        known = records(self.stages, self.config)
        gate = budget.gate_of_policies(self.context)
        settings = settings_of(self.context)
        values = {f"table_{name}": table for name, table in self.tables().items()}
        values |= {name: images.get(name, "") for name in _IMAGES}
        values |= {
            "overview": budget.overview(self.config, known),
            "models_spent": budget.models_table(self.context, known),
            "others_spent": budget.others_table(self.context, known),
            "earlier_spent": budget.earlier_table(self.context, known),
            "gate": budget.gate_text(gate, settings.policy.min_judge_accuracy),
            "table_rewards": models.rewards_table(self.context),
            "table_published": models.published_table(),
            "sheets": "\n\n".join(
                f"{task}:\n\n{images[f'sheet_{task}']}"
                for task in TASKS
                if f"sheet_{task}" in images
            ),
            "hacked_at": hacking.shown_text(self.context),
            "files": photographs.files_text(self.context),
        }
        note = f"**{self.config.note}**\n\n" if self.config.note else ""
        text = REPORT.format(**settings.values(), **values)
        return note + _BLANK_LINES.sub("\n\n", text)


def write_report(context: Context, stages: Sequence[Stage]) -> Path:
    """Draw the images and write the report; return its file."""
    path = Path(context.config.report)
    folder = path.with_suffix("")
    named: dict[str, str] = {
        "calibration": draw_calibration(context.read(BUNDLED)["report"]["calibration"], folder),
        "hacked": draw_hacked(context, folder),
    }
    named |= {f"reward_{name}": file for name, file in draw_rewards(context, folder).items()}
    named |= {f"sheet_{task}": file for task, file in draw_sheets(context, folder).items()}
    named |= {f"photos_{name}": file for name, file in copy_photo_sheets(context, folder).items()}
    for judge, name in HACKED.items():
        points = context.read(name)["points"]
        named[f"hacking_{judge}"] = draw_hacking(name, points, folder)
    shown = {name: f"![{name.replace('_', ' ')}]({file})" for name, file in named.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, Writer(context=context, stages=stages).text(shown))
    return path


_BLANK_LINES = re.compile(r"\n{3,}")
"""Where an image is missing."""
_IMAGES = (
    *("calibration", "hacked", f"reward_{FIXED}", f"reward_{DYNAMIC}"),
    *(f"photos_{name}" for name in (FIXED, DYNAMIC)),
    *(f"hacking_{judge}" for judge in HACKED),
)
