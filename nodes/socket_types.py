"""Socket types for the objects that travel between our nodes."""

from __future__ import annotations

from comfy_api.latest import io

FillModelSocket = io.Custom("ONEREWARD_FILL_MODEL")
"""Carries :class:`~..fill.models.FillModels`."""
SettingsSocket = io.Custom("ONEREWARD_SETTINGS")
"""Carries :class:`~..fill.config.FillConfig`."""
JudgeSocket = io.Custom("ONEREWARD_JUDGE")
"""Carries :class:`~..reward.judge.Judge`."""
DatasetSocket = io.Custom("ONEREWARD_DATASET")
"""Carries :class:`~..training.data.conditions.EditDataset`."""
StitchSocket = io.Custom("ONEREWARD_STITCH")
"""Carries :class:`~..fill.native.NativeEdit`."""
PreferencesSocket = io.Custom("ONEREWARD_PREFERENCES")
"""Carries :class:`~..reward.preference.PreferenceSet`."""
TrainSettingsSocket = io.Custom("ONEREWARD_TRAIN_SETTINGS")
"""Carries fields of :class:`~..training.policy.config.PolicyTrainConfig`, by name."""
