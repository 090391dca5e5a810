"""Tokenizers of the bundled model, built from a word list and needing no download."""

import itertools
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from ..world.conditions import EXTEND_PROMPT, REMOVE_PROMPT
from ..world.lettering import LETTERS
from ..world.shapes import COLOUR_NAMES, SHAPE_NAMES

if TYPE_CHECKING:
    from transformers import CLIPTokenizer, T5Tokenizer

MAX_TOKENS = 12
"""Longest prompt, the end token included; `the words "ABCD"` has nine tokens."""

NEGATIVE_PROMPTS = ("", "nsfw", "blurry", "low quality")
"""What candidates of preference data are steered away from (OneReward, sec. 4.2)."""

_WORDS = (
    *("a", "an", "the", "text", "word", "with", "and", "in", "on", "of"),
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
    """Build a T5 tokenizer: whole words for the world's prompts, single characters otherwise."""
    from transformers import T5Tokenizer

    scores = {"<pad>": 0.0, "</s>": 0.0, "<unk>": 0.0, "▁": -4.0}
    scores |= {"▁" + word: -3.0 for word in _WORDS}
    # Letters between the quotes must stay single: the model spells from them.
    scores |= {'▁"': -3.5, '"': -4.0} | dict.fromkeys(LETTERS, -6.0)
    scores |= dict.fromkeys(LETTERS.lower() + _DIGITS + _PUNCTUATION, -9.0)
    return T5Tokenizer(vocab=list(scores.items()), extra_ids=0, model_max_length=MAX_TOKENS)


def _apply_merges(symbols: list[str], ranks: dict[tuple[str, str], int]) -> list[str]:
    """Join the pair of lowest rank until no known pair is left: byte-pair encoding."""
    while len(symbols) > 1:
        pairs = list(itertools.pairwise(symbols))
        best = min(pairs, key=lambda pair: ranks.get(pair, len(ranks)))
        if best not in ranks:
            break
        index = pairs.index(best)
        symbols = [*symbols[:index], best[0] + best[1], *symbols[index + 2 :]]
    return symbols


def make_merges(words: Iterable[list[str]]) -> list[tuple[str, str]]:
    """Return merges that make one token of every word, given as its symbols.

    A trainer would break ties by hash order and so number the vocabulary anew in every process.
    Merges added for a word never undo those of an earlier one, because earlier ranks go first.
    """
    ranks: dict[tuple[str, str], int] = {}
    for word in words:
        symbols = _apply_merges(word, ranks)
        while len(symbols) > 1:
            ranks[(symbols[0], symbols[1])] = len(ranks)
            symbols = _apply_merges(symbols, ranks)
    return list(ranks)


def build_clip_tokenizer() -> "CLIPTokenizer":
    """Build byte-level BPE with a token for every word of the world; lower-cases like any CLIP."""
    from tokenizers import pre_tokenizers
    from transformers import CLIPTokenizer

    words = [part for word in _WORDS for part in re.findall(r"[a-z]+|[^a-z]", word)]
    merges = make_merges([*word[:-1], word[-1] + "</w>"] for word in dict.fromkeys(words))
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = ["<|startoftext|>", "<|endoftext|>", *alphabet, *(c + "</w>" for c in alphabet)]
    tokens += [first + second for first, second in merges]
    vocabulary = {token: index for index, token in enumerate(dict.fromkeys(tokens))}
    kind: Any = CLIPTokenizer  # its annotation lacks the list of pairs that it takes
    return kind(vocab=vocabulary, merges=merges, model_max_length=MAX_TOKENS)


def tokenize(tokenizer: "T5Tokenizer | CLIPTokenizer", prompts: list[str]) -> list[list[int]]:
    """Return the padded ids, `MAX_TOKENS` per prompt."""
    encoded = tokenizer(prompts, padding="max_length", max_length=MAX_TOKENS, truncation=True)
    return encoded.input_ids
