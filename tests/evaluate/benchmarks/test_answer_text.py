"""What results files say in words, for people to read: never an error, whatever a record holds."""

from hypothesis import given, settings
from hypothesis import strategies as st

from livecc_jax.evaluate.benchmarks.answer_text import answer_text
from livecc_jax.evaluate.benchmarks.questions import format_question, with_letters

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


def test_options_of_the_record():
    text = answer_text({"question": "Who?", "options": ["a", "B. b"], "answer": "A", "response": "B"})
    assert text.question == "Who?"
    assert text.options == ("A. a", "B. b")
    assert (text.answer, text.response) == ("A", "B")


def test_options_within_the_prompt_are_taken_out_of_it():
    options = with_letters(["a cat", "a dog", "a cow"])
    text = answer_text({"question": format_question("What is it?", options), "answer": "C"})
    assert text.options == options
    assert text.question == "What is it?"


def test_a_list_that_does_not_begin_at_a_is_no_list_of_options():
    question = "Which is right?\nB. this\nC. that"
    text = answer_text({"question": question})
    assert text.options == ()
    assert text.question == question


def test_given_options_and_answer():
    text = answer_text({"question": "Now?", "response": "Yes"}, "No", ("No", "Yes"))
    assert text.options == ("No", "Yes")
    assert text.answer == "No"


@given(
    st.fixed_dictionaries(
        {}, optional=dict.fromkeys(("question", "options", "answer", "response"), JSON)
    )
)
@settings(max_examples=80, deadline=None)
def test_any_record_is_read(record):
    text = answer_text(record)
    assert all(isinstance(v, str) for v in (text.question, text.answer, text.response, *text.options))
