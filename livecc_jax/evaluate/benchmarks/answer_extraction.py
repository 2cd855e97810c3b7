"""Extract the answer from a response by each benchmark's own rule, known bugs of the rule included.

A published number is what the benchmark's own scoring gives. Where that has a bug, such as two prefixes
joined because a comma is missing, the same bug is here.
"""

from __future__ import annotations

import re

# From Video-MME's evaluation script, in its order. The script lacks two commas, so that Python joins
# adjacent strings: neither "The best option is" nor "Best answer:" alone is ever removed.
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
    """Returns the first of A, B, C, D after the known prefixes are removed, or "" if there is none.

    Only capital letters count: "Because" is the answer B, and "The Cat" is the answer C.
    """
    text = response.strip()
    for prefix in VIDEOMME_PREFIXES:
        text = text.replace(prefix, "")
    match = re.search(r"[ABCD]", text)
    return match[0] if match else ""


def extract_first_letter(response: str) -> str:
    """Returns the first character of the response: LiveCC's rule for MVBench and LiveSports-3K QA."""
    return response[:1]


def response_starts_with_answer(response: str, answer: str) -> bool:
    """LiveCC's rule for OVO-Bench: whether the response begins with the answer."""
    return response[: len(answer)] == answer


def ovo_letter_matches(response: str, answer: str) -> bool:
    """OVO-Bench's own rule for options: whether the letter occurs anywhere in the response."""
    return answer in response


def ovo_count_matches(response: str, count: int) -> bool:
    """OVO-Bench's own rule for counting: whether all digits of the response, joined, are the number."""
    return "".join(re.findall(r"\d+", response)) == str(count)


def ovo_yes_no_matches(response: str, yes: bool) -> bool:
    """OVO-Bench's own rule for steps and clues: whether the response is "Y" or "N" as it should be, or
    has the word "Yes" or "No" anywhere."""
    return response == ("Y" if yes else "N") or ("Yes" if yes else "No") in response
