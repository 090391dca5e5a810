"""The soak script finds what grows, and each of its jobs follows from its number."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from support.scripts import load_script

soak = load_script("soak")


def samples(**growth: float) -> list[Any]:
    """Return 400 samples, noisy upwards, in which something grows over the second half."""
    dice = random.Random(0)
    return [
        soak.Usage(
            job=job,
            rss_mb=900 * (1 + growth.get("rss_mb", 0) * max(0, job - 200) / 200 + dice.random()),
            files=8 + int(growth.get("files", 0) * (job > 300)) - job % 2,
            threads=9 + int(growth.get("threads", 0) * (job > 300)),
            seconds=1.0,
        )
        for job in range(400)
    ]


def test_what_stays_is_no_fault():
    assert soak.compare(samples(), warm=100) == []


@pytest.mark.parametrize(("name", "amount"), [("rss_mb", 0.2), ("files", 1), ("threads", 1)])
def test_what_grows_is_a_fault(name: str, amount: float):
    (fault,) = soak.compare(samples(**{name: amount}), warm=100)
    assert fault.startswith(f"{name} grew")


def test_too_few_jobs_prove_nothing():
    assert "too few" in soak.compare(samples()[:150], warm=100)[0]


def test_a_picture_follows_from_its_number_and_has_a_mask():
    first, again, different = (
        np.asarray(soak.draw(random.Random(f"0/{number}"), 64, 96)) for number in (1, 1, 2)
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, different)
    assert 0 < (first[..., 3] == 0).mean() < 1
