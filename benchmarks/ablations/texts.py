"""The texts of a match: clean and noisy commentaries by styles, previous commentary, questions."""


def make_text(match, true, kind, style_name, seed, introduced=False):
    """Returns (timed words, previous commentary) of one draw of a commentator.

    Args:
        match: The match.
        true: What is true of it.
        kind: `clean` or `noisy`.
        style_name: Name of the commentator's style.
        seed: Seed of the draw.
        introduced: Whether the previous commentary introduces the players who begin.
    """
    from livecc_jax.world.captions import noisy
    from livecc_jax.world.commentary import Style, commentate, lineup, style
    from livecc_jax.world.drill import PLAYERS, introduce

    # `plain` says what happens and nothing else: scores and counts have no words beyond twenty.
    manner = Style("calm", remarks=0.0) if style_name == "plain" else style(style_name)
    words = commentate(match, manner, seed, introduced=introduced, true=true).words
    is_drill = len(match.context.names) == len(PLAYERS)
    before = introduce(match, manner.register) if is_drill else lineup(match, manner, seed)
    previous = " ".join(before) if introduced else ""
    if kind == "noisy":
        words = noisy(words, seed=1000 * match.seed + seed, seconds=match.seconds).words
    return words, previous


def make_questions(match, true):
    """Returns (question with its options, right letter, second at which it is asked)."""
    from livecc_jax.evaluate.benchmarks.questions import format_question, with_letters
    from livecc_jax.world.questions import questions

    return [
        (format_question(q.text, with_letters(q.options)), q.letter, q.end) for q in questions(true, 0)
    ]
