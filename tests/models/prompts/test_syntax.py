"""What people type, and what is read in it."""

from __future__ import annotations

import math
import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.models.prompts.syntax import MAX_WEIGHT, Prompt, Segment, parse

SPECIAL = "()[]\\: .-+19 BREAK\n"
ANY_TEXT = st.one_of(st.text(max_size=200), st.text(SPECIAL, max_size=200), st.lists(st.sampled_from(
    ["(", ")", "[", "]", "\\", ":1.3)", ":-.5)", "BREAK", " ", "word", "(((", ":1..2)"]
), max_size=60).map("".join))  # fmt: skip


def read(text: str) -> list[list[tuple[str, float]]]:
    return [[(segment.text, round(segment.weight, 6)) for segment in part] for part in parse(text).parts]


@pytest.mark.parametrize(
    ("text", "segments"),
    [
        ("", []),
        ("a red circle", [("a red circle", 1)]),
        ("a (red) circle", [("a ", 1), ("red", 1.1), (" circle", 1)]),
        ("a (red:1.3) circle", [("a ", 1), ("red", 1.3), (" circle", 1)]),
        ("((red))", [("red", 1.21)]),
        ("((red:1.5) circle:2)", [("red", 3), (" circle", 2)]),
        ("[red]", [("red", 0.909091)]),
        ("[[red]]", [("red", 0.826446)]),
        ("[(red)]", [("red", 1)]),
        ("(a)(b)", [("ab", 1.1)]),
        ("(red:0)", [("red", 0)]),
        ("(red:-1.5)", [("red", -1.5)]),
        ("(red:+.5)", [("red", 0.5)]),
        ("(red: 1.5 )", [("red", 1.5)]),
        ("(red, blue:1.2)", [("red, blue", 1.2)]),
        ("(a: b)", [("a: b", 1.1)]),
        ("a:1.2", [("a:1.2", 1)]),
        ("[red:0.5]", [("red:0.5", 0.909091)]),
        ("()", []),
        ("(:1.3)", []),
    ],
)
def test_weights(text: str, segments: list[tuple[str, float]]) -> None:
    assert read(text) == [segments]


@pytest.mark.parametrize(
    ("text", "segments"),
    [
        (r"saber \(fate\)", [("saber (fate)", 1)]),
        (r"(saber \(fate\):1.2)", [("saber (fate)", 1.2)]),
        (r"\[a\] \(b\)", [("[a] (b)", 1)]),
        (r"a\\(b)", [("a\\", 1), ("b", 1.1)]),
        (r"a\\\(b", [(r"a\(b", 1)]),
        (r"C:\new\\x", [(r"C:\new\\x", 1)]),
        (r"(a:1.3\)", [(r"(a:1.3)", 1)]),
    ],
)
def test_a_backslash_makes_a_bracket_an_ordinary_character(text: str, segments: list[tuple[str, float]]) -> None:
    assert read(text) == [segments]


@pytest.mark.parametrize(
    ("text", "segments"),
    [
        ("(red", [("(red", 1)]),
        ("red)", [("red)", 1)]),
        ("a smile :) and (red:1.3)", [("a smile :) and ", 1), ("red", 1.3)]),
        ("red:1.3)", [("red:1.3)", 1)]),
        ("((red)", [("(", 1), ("red", 1.1)]),
        ("(red))", [("red", 1.1), (")", 1)]),
        ("[red", [("[red", 1)]),
        ("(a [b) c]", [("a [b", 1.1), (" c]", 1)]),
        ("[a (b] c:1.3)", [("a (b", 0.909091), (" c:1.3)", 1)]),
        ("(red:1.2.3)", [("red:1.2.3", 1.1)]),
        ("(red:١)", [("red:١", 1.1)]),
    ],
)
def test_a_bracket_without_a_partner_is_an_ordinary_character(text: str, segments: list[tuple[str, float]]) -> None:
    assert read(text) == [segments]


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("a BREAK b", [[("a", 1)], [("b", 1)]]),
        ("a,BREAK,b", [[("a,", 1)], [(",b", 1)]]),
        ("(a BREAK b:1.5) c", [[("a", 1.5)], [("b", 1.5), (" c", 1)]]),
        ("BREAK a", [[], [("a", 1)]]),
        ("a\nBREAK\nb", [[("a", 1)], [("b", 1)]]),
        ("BREAKFAST, a break, DAYBREAK", [[("BREAKFAST, a break, DAYBREAK", 1)]]),
    ],
)
def test_break_ends_a_part(text: str, parts: list[list[tuple[str, float]]]) -> None:
    assert read(text) == parts


@pytest.mark.parametrize("text", ["(a:11)", "(a:-1e)(a:-999999)", "(" * 30 + "a" + ")" * 30, f"((a:{'9' * 400}):0.1)"])
def test_a_weight_beyond_all_reason_is_bounded_and_that_is_told(text: str) -> None:
    prompt = parse(text)
    assert prompt.bounded
    assert max(abs(segment.weight) for segment in prompt.parts[0]) == MAX_WEIGHT


def test_zero_times_infinity_is_a_number() -> None:
    nested = f"(({'9' * 400}:{'9' * 400}):0)"
    assert [segment.weight for segment in parse(nested).parts[0]] == [0.0]


def test_the_words_alone() -> None:
    prompt = parse(r"a (red:1.3) circle\) BREAK [on] blue")
    assert prompt.text == "a red circle) on blue"
    assert prompt.weighted
    assert not parse("a [(red)] circle").weighted


@pytest.mark.parametrize(
    "text", ["(" * 2000 + ")" * 2000, "[" * 2000 + ")" * 2000, "\\" * 4000, ": " * 2000, ":" * 4000, ":" + "1" * 3999]
)
def test_no_text_takes_long(text: str) -> None:
    def took() -> float:
        started = time.thread_time()
        parse(text)
        return time.thread_time() - started

    assert min(took() for _ in range(10)) < 0.1, "one of them may be held up by what others leave to collect"


@given(ANY_TEXT)
def test_no_text_raises_and_every_weight_is_a_number(text: str) -> None:
    prompt = parse(text)
    for segment in (segment for part in prompt.parts for segment in part):
        assert segment.text
        assert math.isfinite(segment.weight)
        assert abs(segment.weight) <= MAX_WEIGHT


@given(st.text(max_size=300).filter(lambda text: text and not re.search(r"[()\[\]]|\bBREAK\b", text)))
def test_text_without_brackets_is_itself_with_weight_one(text: str) -> None:
    assert parse(text) == Prompt(((Segment(text),),))


def escaped(text: str) -> str:
    """`text` as it is typed so that it means itself."""
    return re.sub(r"(\\*)([()\[\]])", r"\1\1\\\2", text)


def written(part: list[Segment]) -> str:
    """As it is typed with a weight on every segment."""
    return "".join(f"({escaped(segment.text)}:{segment.weight:f})" for segment in part)


WORDS = st.text(st.sampled_from("ab ,:1.()[]\\ué"), min_size=1, max_size=12).map(str.strip).filter(bool)
WEIGHTS = st.decimals(-10, 10, places=3, allow_nan=False, allow_infinity=False).map(float)


@st.composite
def parts(draw: st.DrawFn) -> list[Segment]:
    made: list[Segment] = []
    for text, weight in draw(st.lists(st.tuples(WORDS, WEIGHTS), min_size=1, max_size=5)):
        if not made or made[-1].weight != weight:
            made.append(Segment(text, weight))
    return made


@given(st.lists(parts(), min_size=1, max_size=4))
def test_what_is_written_is_what_is_read(several: list[list[Segment]]) -> None:
    text = " BREAK ".join(written(part) for part in several)
    assert parse(text) == Prompt(tuple(tuple(part) for part in several))
