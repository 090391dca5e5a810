"""Tokenizers of the bundled model, built from a word list and needing no download."""

import json
from typing import TYPE_CHECKING, Any

from ...world.conditions import EXTEND_PROMPT, REMOVE_PROMPT
from ...world.lettering import LETTERS
from ...world.shapes import COLOUR_NAMES, SHAPE_NAMES

if TYPE_CHECKING:
    from transformers import CLIPTokenizer, T5Tokenizer

MAX_TOKENS = 12
"""Longest prompt, the end token included; `the words "ABCD"` has nine tokens."""

NEGATIVE_PROMPTS = ("", "nsfw", "blurry", "low quality")
"""What candidates of preference data are steered away from (OneReward, sec. 4.2)."""

_WORDS = (
    *("a", "an", "the", "words", "word", "with", "and", "in", "on", "of"),
    *("next", "line", "text", "sign", "object", "background"),
    *EXTEND_PROMPT.replace(",", " ,").split(),
    REMOVE_PROMPT,
    *" ".join(NEGATIVE_PROMPTS).split(),
    *COLOUR_NAMES,
    *SHAPE_NAMES,
)
_PUNCTUATION = "-.,!?:;'()"
_DIGITS = "0123456789"


def build_t5_tokenizer() -> "T5Tokenizer":
    """Whole words for what the world says, single characters for everything else."""
    from transformers import T5Tokenizer

    scores = {"<pad>": 0.0, "</s>": 0.0, "<unk>": 0.0, "▁": -4.0}
    scores |= {"▁" + word: -3.0 for word in _WORDS}
    # Letters between the quotes must stay single: the model spells from them.
    scores |= {'▁"': -3.5, '"': -4.0} | dict.fromkeys(LETTERS, -6.0)
    scores |= dict.fromkeys(LETTERS.lower() + _DIGITS + _PUNCTUATION, -9.0)
    return T5Tokenizer(vocab=list(scores.items()), extra_ids=0, model_max_length=MAX_TOKENS)


def build_clip_tokenizer() -> "CLIPTokenizer":
    """Byte-level BPE over the same words; like every CLIP it lower-cases."""
    from tokenizers import pre_tokenizers, trainers
    from transformers import CLIPTokenizer

    backend = CLIPTokenizer(model_max_length=MAX_TOKENS)._tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=800,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        end_of_word_suffix="</w>",
        special_tokens=["<|startoftext|>", "<|endoftext|>"],
        min_frequency=1,
        show_progress=False,
    )
    # Single letters are in the text so that each has an end-of-word form.
    backend.train_from_iterator([*_WORDS, *LETTERS.lower(), *_DIGITS, *_PUNCTUATION], trainer)
    model = json.loads(backend.to_str())["model"]
    merges = [tuple(m.split(" ")) if isinstance(m, str) else tuple(m) for m in model["merges"]]
    kind: Any = CLIPTokenizer  # its annotation lacks the list of pairs that it takes
    return kind(vocab=model["vocab"], merges=merges, model_max_length=MAX_TOKENS)


def tokenize(tokenizer: "T5Tokenizer | CLIPTokenizer", prompts: list[str]) -> list[list[int]]:
    """Return the padded ids, `MAX_TOKENS` per prompt."""
    encoded = tokenizer(prompts, padding="max_length", max_length=MAX_TOKENS, truncation=True)
    return encoded.input_ids
