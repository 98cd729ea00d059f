"""What rows of each format mean, and what is said about rows that fit none."""

from typing import Any

import pytest
from data_helpers import chat

from bit_axon.data.formats import FORMATS, check_format, formatted, pair_of
from bit_axon.data.reading import Row, rows_of_list
from bit_axon.data.samples import PairSample, Sample
from bit_axon.errors import ConfigError, DataError

TALK = chat(("user", "Hi"), ("assistant", "Yes"))


def samples(*rows: Any, format: str = "auto") -> list[Sample]:
    return [f.sample(row) for row, f in formatted(rows_of_list(rows, "f"), format)]


def sample(row: Any) -> Sample:
    return samples(row)[0]


def pair(row: Any) -> PairSample:
    return next(pair_of(*both) for both in formatted(rows_of_list([row], "f"), "auto"))


def test_messages() -> None:
    assert sample({"messages": list(TALK), "id": 3}) == Sample("f:1", TALK)


def test_sharegpt_names() -> None:
    row = {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Yes"}]}
    assert sample(row) == Sample("f:1", TALK)


def test_completion_as_texts_and_as_messages() -> None:
    expected = Sample("f:1", TALK, 1, plain=True)
    assert sample({"prompt": "Hi", "completion": "Yes"}) == expected
    lists = {"prompt": [TALK[0]], "completion": [TALK[1]]}
    assert sample(lists) == Sample("f:1", TALK, 1)


@pytest.mark.parametrize(
    ("extra", "question"), [({"input": "x"}, "Do\n\nx"), ({"input": ""}, "Do"), ({}, "Do")]
)
def test_alpaca(extra: dict[str, str], question: str) -> None:
    row = {"instruction": "Do", "output": "Yes", **extra}
    assert sample(row) == Sample("f:1", chat(("user", question), ("assistant", "Yes")), 1)


def test_text() -> None:
    assert sample({"text": "words"}) == Sample("f:1", text="words")


def test_preference_layouts_mean_the_same() -> None:
    no = {"role": "assistant", "content": "No"}
    texts = pair({"prompt": "Hi", "chosen": "Yes", "rejected": "No"})
    assert texts.chosen == Sample("f:1", TALK, 1, plain=True)
    assert texts.rejected.messages == (TALK[0], no)
    whole = {"chosen": [*TALK], "rejected": [TALK[0], no]}
    for row in (
        {"prompt": [TALK[0]], "chosen": [TALK[1]], "rejected": [no]},
        {"prompt": "Hi", **whole},
        whole,
    ):
        assert pair(row) == PairSample(Sample("f:1", TALK, 1), Sample("f:1", (TALK[0], no), 1))


def test_preference_prompt_with_several_turns() -> None:
    prompt = chat(("system", "S"), ("user", "a"), ("assistant", "b"), ("user", "c"))
    found = pair({"prompt": list(prompt), "chosen": "d", "rejected": "e"})
    assert found.chosen.messages[:4] == found.rejected.messages[:4] == prompt
    assert found.chosen.answers_from == 4


def test_preference_serves_single_sequences() -> None:
    assert sample({"prompt": "Hi", "chosen": "Yes", "rejected": "No"}).messages == TALK


def test_equal_answers_leave_an_answer_on_both_sides() -> None:
    found = pair({"chosen": [*TALK], "rejected": [*TALK]})
    assert found.chosen == found.rejected == Sample("f:1", TALK, 1)


def test_tools_as_list_or_text() -> None:
    schema = {"name": "add"}
    for tools in ([schema], '[{"name": "add"}]'):
        assert sample({"messages": list(TALK), "tools": tools}).tools == (schema,)


def test_nulls_of_column_files_are_absent() -> None:
    row = {"messages": [{**m, "tool_calls": None, "name": None} for m in TALK], "text": None, "prompt": None}
    assert sample(row) == Sample("f:1", TALK)


def test_tool_call_without_content() -> None:
    call = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f"}}]}
    found = sample({"messages": [TALK[0], call]})
    assert found.messages[1] == {"role": "assistant", "content": "", "tool_calls": call["tool_calls"]}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"messages": []}, r"f:1: wanted at least one message in 'messages'; got an empty list"),
        ({"messages": "Hi"}, r"'messages' as a list of messages; got 'Hi'"),
        ({"messages": [3]}, r"messages\[0\] as an object.*got int 3"),
        ({"messages": [{"role": "user", "content": None}]}, r"text in messages\[0\]\.content; got null"),
        ({"messages": [{"role": "user", "content": ["a"]}]}, r"text in messages\[0\]\.content; got list"),
        ({"messages": [{"role": "user"}]}, r"text in messages\[0\]\.content"),
        (
            {"messages": [{"role": "usr", "content": "a"}]},
            r"role system, .* in messages\[0\].*Did you mean 'user'",
        ),
        ({"messages": [{"content": "a"}]}, r"role system, user, assistant, tool in messages\[0\]; got null"),
        ({"messages": [TALK[0]]}, r"f:1: wanted an assistant turn.*a row without an answer: user"),
        ({"messages": chat(("user", "a"), ("assistant", " \n"))}, r"turns are blank"),
        ({"prompt": "a", "completion": ""}, r"f:1: .*a row without an answer"),
        ({"prompt": 3, "completion": "a"}, r"'prompt' as a list of messages; got int 3"),
        ({"instruction": "a", "output": ""}, r"a row without an answer"),
        ({"instruction": "a", "output": 4}, r"text in 'output'; got int 4"),
        ({"text": ""}, r"text in 'text'; got an empty text"),
        ({"prompt": "a", "chosen": "", "rejected": "b"}, r"a row without an answer"),
        ({"prompt": "a", "chosen": [TALK[0]], "rejected": "b"}, r"without an answer"),
        ({"chosen": "a", "rejected": "b"}, r"f:1: wanted 'prompt', or conversations"),
        ({"question": "a"}, r"f:1: wanted a known row layout \(preference: .*; got keys question"),
        ({}, r"got keys none"),
        ({"messages": list(TALK), "tools": "["}, r"JSON in 'tools'"),
        ({"messages": list(TALK), "tools": 3}, r"'tools' as a list of schemas; got 3"),
    ],
)
def test_wrong_rows(row: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        sample(row)


def test_a_later_row_of_another_layout_is_named() -> None:
    with pytest.raises(DataError, match=r"f:3: wanted keys messages; got keys text"):
        samples({"messages": list(TALK)}, {"messages": list(TALK)}, {"text": "x"})


def test_a_given_format_holds_from_the_first_row() -> None:
    assert samples({"text": "a", "messages": list(TALK)}, format="text")[0].text == "a"
    with pytest.raises(DataError, match=r"f:1: wanted keys text; got keys messages"):
        samples({"messages": list(TALK)}, format="text")


def test_unknown_format() -> None:
    with pytest.raises(ConfigError, match=r"'alpacca'\. Did you mean 'alpaca'"):
        check_format("alpacca")
    for name in (*FORMATS, "auto"):
        check_format(name)


def test_pairs_need_preference_rows() -> None:
    with pytest.raises(DataError, match=r"f:1: wanted preference rows .*got keys text"):
        pair_of(Row({"text": "a"}, "f", 1), FORMATS["text"])
