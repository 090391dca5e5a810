"""The report's words; everything in braces is filled in from the plan or from what was measured."""

REPORT = """# The paper's findings in the small

Written by `make reproduce` (`python -m onereward.lab.reproduce`). Every number is produced
by that run or read from its plan, but those that are said to be the paper's (OneReward, arXiv
2508.21066).

## What came out

Each line is chosen by a rule from numbers below. *Better* and *worse*: a two-sided sign test on
the scenes where two models differ gives p < {clear}; else the scenes show no difference, which
does not say that there is none. Judges differ if their 95 % intervals do not overlap. Intervals
and p are about the draw of scenes or pairs alone: alg. 1, alg. 2 and supervised models have one
training seed each ({seed}), and another seed may differ by more. They are not corrected for the
number of lines unless a line says so.

{table_claims}

## The world

Scenes are drawn by a program, {size}x{size} pixels: a plain or patterned background, coloured shapes
and short words. *fill* paints an asked shape in an asked colour, *text* asked letters; *extend*
continues an image outward, with or without a prompt that names a half-hidden shape; *remove*
erases a thing. In the paper *text* is a part of fill; here it is a task of its own.

The *oracle* (`lab/oracle.py`) knows the true scene. After what the mask keeps has been pasted
back, it compares a result with the nearest faultless image of what was asked, scores it from 0
to 1 in the paper's dimensions, and calls it *usable* if the asked shape, colour or letters are
right and no error of colour, noise, seam or blur is above a fixed limit. It stands for the
paper's people.

The base is the bundled fill model ({base_parameters} weights in its transformer), the judge a
small vision-language model ({judge_parameters} weights) that starts from {judge_origin}.

### Splits

- *train*: {pool_train} scenes with candidates for the judge, and fresh ones without end that
  teach it to see. {conditions} scenes for policies: they learn from {learned} of them, and
  {watched} are only looked at while training (*held-out*).
- *dev*: other scenes of the same look. {pool_dev} with candidates, for the gate;
  {ablation_scenes} per task for the ablations of section 4, {hack_scenes} per task for section 5.
- *test*: colours, layouts and fonts that train and dev lack. {pool_test} scenes with candidates
  for sections 1 and 4 (judges); {test_scenes} per task for sections 2, 3 and 6. Each finished
  model is measured on it once.

### What the oracle is used for

It scores the candidates; from the scores come the pairs that the judges learn from (train), that
the gate reads (dev) and that section 1 counts (test). Beside eq. 3 the judge learns, with a head
that is left behind, the oracle's scores of single images and maps of where they differ from the
truth: of candidates, of mixtures of them, and of true images that were deformed on purpose,
which also make pairs. Supervised learning is given the world's true images. The oracle says
what is usable on the test split in sections 2, 3 and 6, and on the dev split in sections 4 and 5.
No loss of reinforcement learning, no choice of a checkpoint and no early stop reads it; but which
tasks and dimensions are rewarded at all is decided by the gate, so by the oracle's labels of dev
pairs.

## What was done

{overview}

### Other than in the paper

{deviations}

{gate}

Images that are measured are sampled as the policy was trained, {sampling}, those of the base
and of best of {best_of} too; photographs likewise. The base's own recipe says {recipe}.

### Budgets

*steps*, *of*: done, and planned; policies of alg. 1 and 2 stop themselves if their images drift
from the start's, and then hand out the look that the judge liked best. *handed out*: the step of
the weights that were measured. *edits*: steps times edits per step. *kl_weight*: see above.

{models_spent}

All train for as many steps and edits, unless they stopped. They are not alike in this: supervised
models have their own rate and kl_weight and learn from true images, which no policy sees; a
supervised model for one task spends all its edits on that task, so that it sees about {num_tasks}
times as many of it as a model for all; policies need the judge, whose cost is in the next table;
best of {best_of} trains nothing and pays with every image.

{earlier_spent}

{others_spent}

## 1. The judge

Form of table 1. A pair is the best against the worst of {candidates} candidates of a scene in one
dimension. Candidates come from the base with {steps_drawn} steps, true_cfg {cfg_drawn}, strength
{strength_drawn} and the paper's negative prompts, drawn at random. A pair counts if the oracle's
scores are at least a *margin* apart: {margins}. The judge is right, in %, if P(Yes), averaged
over both orders, prefers the winner; *swaps*: how often, in %, its answer changes when the
images change places. *naive*: the same course without adversarial pairs, those under patterns
(see below) and those that a few gradient steps changed so that the judge errs ({naive_changes}).
*published*: a 7B judge, people's preferences.

{table_judge}

Pairs that are made to be difficult. *one step*: a finished image against a one-step prediction
from a noise level on the way, as alg. 1 and 2 judge them. *artifact*: the truth against itself with
one injected artifact. *pattern*: an image against itself under a lattice, waves, grain or a tint,
which counts as worse in every dimension. Several questions are asked about the same two images,
so these intervals are too narrow.

{table_kinds}

Calibration: how often the judge is right, in %, by how sure it is.

{table_calibration}

{calibration}

## 2. Usable images

Share of images that the oracle calls usable, in % (95 %, Wilson), the same test scenes and
noises for every model; those for one task are measured on all. *won / lost*: scenes where the
model's image is usable and the base's is not, and the other way round; p: sign test on them.
*best of {best_of}*: the judge chooses among as many images of the base, the one measured as
base among them.

{table_usability}

The paper's question, scene by scene: against supervised learning and against choosing.
*supervised, every task by its own model* takes every scene's image from the model for its task.
Change in points of %; per task won / lost and p.

{table_adversarial_pairs}

Published (table 2, people's oracle_scores on other models, so only the direction compares; extend with
and without a prompt are one task here):

{table_published}

## 3. Good, same, bad against the base

Form of fig. 7. *by oracle*: good if only the model's image is usable, bad if only the base's
is, else same. *by judge*: P(the model's image is better), mean over dimensions and both orders;
*same* if it is at most {margin} from one half. The judge is the one that rewarded the policies:
its votes show that training did what it was told, not that images are better.

{table_votes}

Rewards (form of fig. 6): mean P(Yes) of the edits of a step, over the first and over the last
quarter of the steps (at most {ends}), and smoothed curves. Alg. 1 is compared with the fixed
start. Alg. 2 is compared with its own moving average (decay {ema}), which gets better with it, so
its curve need not rise. Rewards above lambda ({lambda}) are no longer pursued.

{table_rewards}

{reward_fixed}

{reward_dynamic}

## 4. One thing at a time

### One judge, or one per dimension

All learn by eq. 3 alone, from the same judge that can see, from at most {max_pairs} pairs. The
one judge learns for {pair_steps} steps; the others share as many by their number of pairs. Right
answers in % on the same test pairs.

{table_dimensions}

### Settings and tasks

Usable images in % on the dev split, {few_steps} steps each, {algorithm} unless said otherwise,
mean over {num_seeds} seeds, and every seed by itself. A row that changes the sampling changes it
in training and measuring alike, and is set against a base that is sampled so, too, and against
nothing else; every such base has a row.

{table_ablations}

Change in points of %. A scene counts once, by the mean over the seeds, since seeds share their
scenes; no p is corrected for the number of rows. *only ...*: models for one task (see below),
here measured on all.

{table_tests}

### One policy for all tasks, or one per task

*only ...* learned one task for {single_steps} steps, so that all four together see as many edits
as the one for all (*as configured*). Each is measured here on its own task, in %.

{table_single}

## 5. Reward hacking

Training by {algorithm} with settings that invite it ({hack_settings}; nothing stops it), once
against the judge and once against the naive judge, which lacks patterns and attacks; neither was
shown images of a policy. *reward*: mean P(Yes) of the last {window} steps, at the start of the
first {first}. *look*: what the monitors see, the same judge's mean P(better than the start) of
finished images of {eval_conditions} held-out scenes. *usable*: the oracle on the dev split, in
%; won / lost against the start. *monitors*: what they say of the images' drift. Reward and
oracle *part* at the first look where the reward is above the start's, more scenes are lost than
won, and p is under {clear} divided by the number of looks.

{table_hacking}

{hacking_judge}

{hacking_naive}

Dev scenes, two in a row, each: source with its mask (grey, red border), base, the policy against
the judge, the policy against the naive judge; {hacked_at}. A green frame: the oracle calls the
image usable.

{hacked}

## 6. Images

The first {shown} test scenes of every task, chosen before looking, failures included; two in a
row, each: source with its mask (grey, red border), base, alg. 1, alg. 2. A green frame: the
oracle calls the image usable.

{sheets}

## 7. Photographs

Crops of photographs that no model here was trained on, masked at random, edited by remove and
extend. Measures need no truth: *seam*, the step across the border; *tone*, the difference of the
colours on its two sides; *texture*, how much busier or emptier the inside is (in powers of two).
Smaller is better. *sound*: seam at most {max_seam} and tone at most {max_tone}, in %; won / lost:
edits where only the model's, or only the base's, is sound. Crops of one photograph are alike, so
intervals and p are too sure of themselves.

{table_photos}

{files}

{photos_fixed}

{photos_dynamic}

## What does not carry over to FLUX

- The oracle. On photographs nobody knows the truth, so neither labels nor usability are exact.
- The judge knows this world alone; a 7B model comes with knowledge of images, and people's
  preferences are noisier than an oracle's.
- The base paints flat shapes and a few letters. What a policy can gain, how fast it is hacked and
  how that looks depend on it.
- Steps, rates, kl_weight and lambda are chosen for this small model.
- Differences of a few points between settings are within the noise of so few scenes and seeds;
  the intervals say how much.
"""
