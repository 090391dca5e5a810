"""From a server's answer to a probability: the likeliest tokens at the place of the answer.

A server tells the log-probabilities of some 20 tokens only. All spellings of a word are added up
("Yes", " yes", "YES"). A word that is not among them is less likely than the least likely one that
is, and than all that is left of 1; it counts as the smaller of these two bounds. So P lies nearer
to one half than the truth, by at most that bound, and

    P = P(Yes) / (P(Yes) + P(No))

is that between the two words, which is also that among all tokens where a judge was trained to say
nothing else. If both words are missing there is no answer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...fill.io.json_text import quote
from ..judge import JudgeError

END_OF_REASONING = "</think>"
_IGNORED = " \t\r\n\"'`*_.,:;!()[]▁Ġ"
"""Around a word: blanks, punctuation, and what tokenizers write for a blank."""
_LEAST = -200.0
"""Logarithm of a probability that is as good as 0; servers write -9999 for it."""


@dataclass(frozen=True, slots=True)
class TopTokens:
    """The likeliest tokens at one place. Example: ``TopTokens({"Yes": -0.1, "No": -2.4})``."""

    logprobs: Mapping[str, float]
    """Logarithms of their probabilities, by their text."""

    def probability(self, words: Sequence[str]) -> float:
        """Return what all spellings of some words have together, 0 if none is there."""
        spellings = {_bare(word) for word in words}
        return sum(math.exp(p) for token, p in self.logprobs.items() if _bare(token) in spellings)

    @property
    def bound(self) -> float:
        """The most that a token may have that is not among them."""
        left = 1.0 - sum(math.exp(p) for p in self.logprobs.values())
        return min(max(left, 0.0), math.exp(min(self.logprobs.values())))

    def between(self, first: Sequence[str], second: Sequence[str]) -> float:
        """Return P(first) between two words, 0..1; see the module for a word that is missing.

        Raises:
            JudgeError: Neither is there.
        """
        a, b = self.probability(first), self.probability(second)
        if a == b == 0:
            likeliest = max(self.logprobs, key=lambda token: self.logprobs[token])
            raise JudgeError(
                f"the judge's server answers {quote(likeliest)} and neither {first[0]} nor "
                f"{second[0]}; choose an instruction-tuned vision-language model, or raise "
                "max_tokens for one that reasons first"
            )
        a, b = a or self.bound, b or self.bound
        return a / (a + b) if a + b else 0.5


def _bare(token: str) -> str:
    return token.strip(_IGNORED).casefold()


def read_places(reply: Mapping[str, Any]) -> list[tuple[str, TopTokens]]:
    """Return every token that a server wrote, with the likeliest ones at its place.

    Raises:
        JudgeError: There is no answer, or none with log-probabilities.
    """
    try:
        choice = reply["choices"][0]
        entries = (choice.get("logprobs") or {}).get("content") or []
        places = [_place(entry) for entry in entries]
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        raise JudgeError(
            "the judge's server answers, but not with the choices and log-probabilities of a chat "
            f"completion ({type(error).__name__}); choose an OpenAI-compatible server"
        ) from error
    if not places:
        raise JudgeError(
            "the judge's server answers without log-probabilities; choose one that gives them "
            "(vLLM, SGLang, llama.cpp), or a model that does"
        )
    return places


def _place(entry: Mapping[str, Any]) -> tuple[str, TopTokens]:
    token, top = str(entry["token"]), entry.get("top_logprobs") or []
    # The token that was written may not be among the likeliest.
    pairs = [(token, entry["logprob"]), *((e["token"], e["logprob"]) for e in top)]
    logprobs = {str(text): max(float(p), _LEAST) for text, p in pairs}
    if not all(p < 0.01 for p in logprobs.values()):  # NaN fails, too
        raise ValueError("no logarithm of a probability")
    return token, TopTokens(logprobs)


def answer_place(reply: Mapping[str, Any], words: Sequence[str], max_tokens: int) -> TopTokens:
    """Return the tokens at the place of the answer.

    With one token that is its place. With more, a model may reason first: the answer is the first
    or the last word after its reasoning.

    Args:
        reply: What the server sent.
        words: What the answer may be.
        max_tokens: What the server was allowed to write.

    Raises:
        JudgeError: There is no answer, or it is not clear.
    """
    places = read_places(reply)
    if max_tokens == 1:
        return places[0][1]
    if reply["choices"][0].get("finish_reason") == "length":
        raise JudgeError(
            f"the judge's server was cut off after {max_tokens} tokens, before its answer; raise "
            "max_tokens"
        )
    ends = [i for i, (token, _) in enumerate(places) if token.strip() == END_OF_REASONING]
    places = places[ends[-1] + 1 :] if ends else places
    spoken = [place for place in places if _bare(place[0])]
    candidates = [spoken[0], spoken[-1]] if spoken else []
    spellings = {_bare(word) for word in words}
    answers = {_bare(token): top for token, top in candidates if _bare(token) in spellings}
    if len(answers) != 1:
        text = "".join(token for token, _ in places)
        raise JudgeError(
            f"the judge's server answers {quote(text)}, which neither begins nor ends with one of "
            f"{', '.join(words)}; choose another model"
        )
    return next(iter(answers.values()))
