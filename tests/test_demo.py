"""What the embedded model and data are for: an effect that a person sees."""

import pytest
from conftest import Runner

pytestmark = pytest.mark.slow


def test_sft_teaches_the_form_and_keeps_the_content(run: Runner) -> None:
    result = run("tracking=none").result
    assert result["task_accuracy_before"] <= 0.2
    assert result["task_accuracy"] >= 0.8


def test_orpo_prefers_the_chosen_answers(run: Runner) -> None:
    result = run("method=orpo", "tracking=none").result
    assert result["reward_accuracy"] >= 0.9
    assert result["reward_margin"] > result["reward_margin_before"]
