"""Each benchmark's rule for reading an answer out of a response, its slips included.

A published number is the number its own scoring gives, so where that has a slip (two prefixes run
together for want of a comma), it is here too.
"""

from __future__ import annotations

import re

# Video-MME's evaluation script, in its order. In it, adjacent strings without a comma between make one:
# neither "The best option is" nor "Best answer:" alone is ever removed.
VIDEOMME_PREFIXES = (
    "The best answer is",
    "The correct answer is",
    "The answer is",
    "The answer",
    "The best option isThe correct option is",
    "Best answer:Best option:",
    "Answer:",
    "Option:",
    "The correct answer",
    "The correct option",
)


def extract_videomme_letter(response: str) -> str:
    """The first of A, B, C, D after the known prefixes are taken out; "" is no answer.

    The removal matters to capitals only: "Because" answers B, and "The Cat" would answer C.
    """
    text = response.strip()
    for prefix in VIDEOMME_PREFIXES:
        text = text.replace(prefix, "")
    found = re.search(r"[ABCD]", text)
    return found[0] if found else ""


def extract_first_letter(response: str) -> str:
    """The response's first character: LiveCC's rule for MVBench and LiveSports-3K QA."""
    return response[:1]


def response_starts_with_answer(response: str, answer: str) -> bool:
    """LiveCC's rule for OVO-Bench: the response begins with the answer."""
    return response[: len(answer)] == answer


def ovo_letter_matches(response: str, answer: str) -> bool:
    """OVO-Bench's own rule for options: the letter occurs anywhere in the response."""
    return answer in response


def ovo_count_matches(response: str, count: int) -> bool:
    """OVO-Bench's own rule for counting: all digits of the response, run together, are the number."""
    return "".join(re.findall(r"\d+", response)) == str(count)


def ovo_yes_no_matches(response: str, yes: bool) -> bool:
    """OVO-Bench's own rule for steps and clues: "Y" or "N", or the word anywhere in the response."""
    return response == ("Y" if yes else "N") or ("Yes" if yes else "No") in response
