"""What people are asked: a sentence per dimension, in the words of the judge's own question."""

from __future__ import annotations

from ...fill.task import Dimension

BEST = {
    Dimension.TEXT_ALIGNMENT: "Which one shows best what the prompt says?",
    Dimension.CONSISTENCY: "Where do colour, texture and light continue best across the edit?",
    Dimension.STRUCTURE: "Where are shapes and layout most plausible?",
    Dimension.AESTHETICS: "Which one looks cleanest and best?",
    Dimension.REMOVAL_QUALITY: "Where is the object gone, and the patch cleanest?",
}
WORST = {
    Dimension.TEXT_ALIGNMENT: "And which one shows it worst?",
    Dimension.CONSISTENCY: "And where do they continue worst?",
    Dimension.STRUCTURE: "And where are they least plausible?",
    Dimension.AESTHETICS: "And which one looks worst?",
    Dimension.REMOVAL_QUALITY: "And where is the removal worst?",
}
"""Asked of three and more candidates, when the best one is known."""
