"""What saved workflows and API clients rely on: node ids, their inputs in order, their outputs."""

from __future__ import annotations

COMMON = ["seed", "settings", "stitch_mask", "context_mask"]
# Workflow files store widget values by position: rows of this table only ever grow at their ends.
PROMISED: dict[str, list[str]] = {
    "OneRewardLoadModel": [
        *("model", "transformer", "recipe", "precision", "hub_id", "allow_download"),
        *("vae", "clip", "t5", "kernels", "offload", "memory_limit"),
    ],
    "OneRewardLoadAdapter": ["model", "adapter", "strength"],
    "OneRewardFill": ["model", "image", "mask", "prompt", *COMMON],
    "OneRewardExtend": [
        *("model", "image", "prompt", "left", "top", "right", "bottom", "aspect", "anchor"),
        *COMMON,
    ],
    "OneRewardRemove": ["model", "image", "mask", *COMMON],
    "OneRewardText": ["model", "image", "mask", "text", "text_style", *COMMON],
    "OneRewardSettings": [
        *("steps", "true_cfg", "guidance", "negative_prompt", "num_candidates", "denoise"),
        *("shift", "cfg_mode", "crop_to_context", "context_factor", "target_size", "grow"),
        *("feather", "fill_holes", "colour_correction", "preserve_unmasked"),
    ],
    "OneRewardLoadJudge": ["judge", "precision", "max_pixels", "adapter", "liger_kernel"],
    "OneRewardScore": [
        *("judge", "image_a", "image_b", "task", "prompt", "swap", "view", "mask", "source"),
    ],
    "OneRewardPickBest": [
        *("judge", "candidates", "task", "prompt", "method"),
        *("text_alignment", "consistency", "structure", "aesthetics", "removal_quality"),
        *("view", "mask", "source", "save_as"),
    ],
    "OneRewardNativeInputs": [
        *("clip", "vae", "image", "task", "prompt", "recipe", "text"),
        *("left", "top", "right", "bottom", "mask", "model", "settings"),
        *("stitch_mask", "context_mask"),
    ],
    "OneRewardStitch": ["image", "stitch"],
    "OneRewardToNative": ["fill_model"],
    "OneRewardFromNative": ["model", "clip", "vae", "recipe"],
    "OneRewardLoadFolder": ["folder", "first", "count", "needs_mask"],
    "OneRewardEditDataset": [
        *("name", "images", "task", "masks", "prompt", "text"),
        *("num_conditions", "max_side", "seed"),
    ],
    "OneRewardGenerateCandidates": [
        *("model", "dataset", "name", "num_candidates", "seed", "steps_min", "steps_max"),
        *("true_cfg_min", "true_cfg_max", "denoise_min", "denoise_max"),
        *("guidance_min", "guidance_max", "negative_prompts", "max_conditions"),
    ],
    "OneRewardLabelPreferences": ["preferences", "labeller", "margin", "view", "judge"],
    "OneRewardLoadPreferences": ["folder"],
    "OneRewardTrainJudge": [
        *("judge", "preferences", "name", "mode", "rank", "alpha", "steps", "warmup_steps"),
        *("batch_size", "learning_rate", "weight_decay", "max_grad_norm", "shift", "blur", "noise"),
        *("eval_every", "eval_pairs", "view", "precision", "micro_batch_size"),
        *("gradient_checkpointing", "liger_kernel", "seed", "max_minutes"),
    ],
    "OneRewardJudgeReport": ["judge", "preferences", "name", "split", "max_pairs", "view"],
    "OneRewardTrain": [
        *(
            "model",
            "dataset",
            "name",
            "judge",
            "steps",
            "algorithm",
            "mode",
            "rank",
            "batch_size",
        ),
        *(
            "micro_batch_size",
            "learning_rate",
            "reward_cap",
            "target_size",
            "min_judge_accuracy",
            "gradient_checkpointing",
        ),
        *("objective", "seed", "max_minutes", "second_judge", "eval_judge", "settings"),
    ],
    "OneRewardTrainSettings": [
        *("alpha", "layers", "warmup_steps", "max_grad_norm", "ema_decay", "saved_weights"),
        *("sampling_steps", "true_cfg", "guidance", "t1", "t2", "weight_fill", "weight_extend"),
        *("weight_remove", "weight_text", "ensemble", "paste_back", "shift", "blur", "noise"),
        *("kl_weight", "reference_pool", "optimizer", "eval_every", "eval_conditions", "patience"),
        *("stop_on_drift", "save_total_limit", "grow", "feather", "tensorboard"),
    ],
    "OneRewardSaveAdapter": ["model", "name", "precision", "overwrite"],
    "OneRewardEvaluate": [
        *("model", "dataset", "baseline", "judge", "name", "split", "num_conditions", "num_seeds"),
        *("seed", "best_of", "margin", "max_seam", "max_tone", "read_text", "settings"),
    ],
}
OUTPUTS: dict[str, list[tuple[str, str]]] = {
    "OneRewardNativeInputs": [
        *(("positive", "positive"), ("negative", "negative"), ("latent", "latent")),
        *(("stitch", "stitch"), ("shifted_model", "model"), ("steps", "steps")),
        *(("cfg", "cfg"), ("sigmas", "sigmas")),
    ],
    "OneRewardStitch": [("result", "image"), ("result_mask", "mask")],
    "OneRewardToNative": [("model", "MODEL"), ("clip", "CLIP"), ("vae", "VAE")],
    "OneRewardFromNative": [("fill_model", "model")],
    "OneRewardLoadFolder": [
        *(("images", "image"), ("masks", "mask"), ("names", "name"), ("texts", "text")),
    ],
    "OneRewardLoadModel": [("fill_model", "model")],
    "OneRewardLoadAdapter": [("adapted_model", "model")],
    "OneRewardSettings": [("settings", "settings")],
    "OneRewardLoadJudge": [("loaded_judge", "judge")],
    "OneRewardScore": [
        *(("mean", "mean"), ("table", "table")),
        *(("report", "report"), ("metrics", "metrics")),
    ],
    "OneRewardPickBest": [
        *(("best", "best"), ("ranked", "ranked")),
        *(("table", "table"), ("report", "report")),
    ],
    "OneRewardEditDataset": [("edit_dataset", "dataset"), ("sheet", "sheet")],
    "OneRewardGenerateCandidates": [("candidate_data", "preferences"), ("sheet", "sheet")],
    "OneRewardLabelPreferences": [("labelled_data", "preferences"), ("report", "report")],
    "OneRewardLoadPreferences": [("loaded_data", "preferences")],
    "OneRewardTrainJudge": [("trained_judge", "judge"), ("dashboard", "dashboard"), ("result", "folder")],
    "OneRewardJudgeReport": [
        *(("image", "image"), ("text", "text")),
        *(("report", "report"), ("reported_judge", "judge")),
    ],
    "OneRewardTrain": [
        *(("trained_model", "model"), ("dashboard", "dashboard")),
        *(("result", "file"), ("notes", "notes")),
    ],
    "OneRewardTrainSettings": [("train_settings", "settings")],
    "OneRewardSaveAdapter": [("saved", "file")],
    "OneRewardEvaluate": [("sheet", "sheet"), ("table", "table"), ("report", "report")],
} | {
    f"OneReward{task}": [("result", "image"), ("result_mask", "mask")]
    for task in ("Fill", "Extend", "Remove", "Text")
}
