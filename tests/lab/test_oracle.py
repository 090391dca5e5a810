"""The oracle on the truth, on injected artifacts, and on closed forms."""

import pytest
import torch

from onereward.lab.oracle import DIMENSIONS, composite, judge
from onereward.lab.world.artifacts import ARTIFACTS, inject_artifact
from onereward.lab.world.conditions import TASKS, Conditions, sample_conditions
from onereward.lab.world.measure import measure_residual
from onereward.lab.world.reading import read_words
from onereward.lab.world.splits import Split

PER_TASK = 60
# Truth is usable at least this often, and each injected artifact at most this often.
MIN_TRUE, MAX_FALSE = 0.99, 0.05


@pytest.fixture(scope="module", params=[Split.DEV, Split.TEST], ids=["dev", "test"])
def scenes(request: pytest.FixtureRequest) -> Conditions:
    return sample_conditions(request.param, 77, torch.arange(4).repeat_interleave(PER_TASK))


def test_truth_is_usable(scenes: Conditions):
    usable = judge(scenes.target, scenes).usable.float()
    for task in range(len(TASKS)):
        assert float(usable[scenes.task == task].mean()) >= MIN_TRUE, TASKS[task]


@pytest.mark.parametrize("artifact", sorted(ARTIFACTS))
def test_results_with_artifacts_are_not_usable(artifact: str, scenes: Conditions):
    damaged = inject_artifact(artifact, scenes, torch.Generator().manual_seed(4))
    usable = judge(damaged.images, scenes).usable
    num_tasks = 0
    for task in range(len(TASKS)):
        rows = (scenes.task == task) & damaged.applies
        if int(rows.sum()) >= 20:
            num_tasks += 1
            assert float(usable[rows].float().mean()) <= MAX_FALSE, TASKS[task]
    assert num_tasks > 0, "the artifact applies to no task"


def test_each_task_is_scored_on_its_own_dimensions(scenes: Conditions):
    scores = judge(scenes.target, scenes).scores
    assert tuple(scores) == DIMENSIONS
    removal = scenes.task == TASKS.index("remove")
    assert torch.equal(scores["removal_quality"].isnan(), ~removal)
    assert torch.equal(scores["consistency"].isnan(), removal)
    unprompted = (scenes.task == TASKS.index("extend")) & (scenes.shape < 0)
    assert torch.equal(scores["text_alignment"].isnan(), removal | unprompted)
    for name, score in scores.items():
        values = score[~score.isnan()]
        assert 0 <= float(values.min()) <= float(values.max()) <= 1, name


def test_scores_fall_as_noise_grows(scenes: Conditions):
    noise = torch.randn(scenes.target.shape, generator=torch.Generator().manual_seed(0))
    means = []
    for level in (0.0, 0.03, 0.1, 0.3):
        scores = judge((scenes.target + level * noise).clamp(0, 1), scenes).scores
        means.append([float(s.nanmean()) for s in scores.values()])
    falls = torch.tensor(means).diff(dim=0)
    assert (falls < 0).all()


def test_outside_the_mask_nothing_is_judged(scenes: Conditions):
    garbage = torch.rand(scenes.target.shape, generator=torch.Generator().manual_seed(0))
    images = torch.where(scenes.mask[:, None] > 0.5, scenes.target, garbage)
    first, second = judge(scenes.target, scenes), judge(images, scenes)
    assert torch.equal(first.usable, second.usable)
    assert torch.equal(composite(images, scenes), composite(scenes.target, scenes))


def test_reading_finds_the_words_wherever_they_shift_by_a_pixel_or_two(scenes: Conditions):
    texts = scenes.select((scenes.task == TASKS.index("text")).nonzero()[:, 0])
    for shift in ((0, 0), (1, -1), (-2, 2)):
        shifted = torch.roll(texts.coverage, shift, (1, 2))
        # A rolled letter would come back on the other side; words at the frame stay out.
        inner = (texts.box[:, :2] >= 2).all(1) & (texts.box[:, 2:] <= 62).all(1)
        reading = read_words(shifted, texts.letters, texts.box)
        right = (reading.letters == texts.letters).all(1) | ~inner
        assert float(right.float().mean()) >= MIN_TRUE


def test_measurements_of_a_known_offset():
    flat = torch.full((1, 3, 64, 64), 0.5)
    mask = torch.zeros(1, 64, 64)
    mask[:, 16:48, 16:48] = 1
    image = flat + 0.1 * mask[:, None]
    measured = measure_residual(image, flat, mask, torch.zeros_like(mask))
    for name in ("tone", "worst", "seam"):
        assert float(getattr(measured, name)) == pytest.approx(0.1, abs=1e-4), name
    assert float(measured.blur) == 0
    no_error = measure_residual(flat, flat, mask, torch.zeros_like(mask))
    assert float(no_error.worst) == 0


def test_wrong_size_is_one_sentence(scenes: Conditions):
    with pytest.raises(ValueError, match="judge one image per scene"):
        judge(torch.zeros(3, 3, 64, 64), scenes)


def test_unknown_artifact_is_named(scenes: Conditions):
    with pytest.raises(ValueError, match="no artifact 'melted'"):
        inject_artifact("melted", scenes, torch.Generator())
