"""An address of the study's storage that is not what it should be: no password of it is shown or kept."""

import sys
from pathlib import Path

import pytest
from conftest import Runner

from bit_axon.composition import without_secrets
from bit_axon.tracking.redaction import redacted

KEY = "hydra.sweeper.storage="
ADDRESSES = {
    "postgresql+psycopg:user:s3cret@host/db": "***@host/db",
    "user:s3cret@host/db": "***@host/db",
    "user:s3#c!r@et@host/db": "***@host/db",
    "s3cret@host/db": "***@host/db",
    "user:s3cret": "***",
    "postgresql://user:s3cret/db": "postgresql://***",
    "postgresql://host/db?password=s3cret&sslmode=require": "postgresql://host/db?password=***&sslmode=require",
    "postgresql://host/db?PASSWORD=s3&cret&sslmode=require": "postgresql://host/db?PASSWORD=***&sslmode=require",
    "mysql://host/db?user=me&passwd=s3cret": "mysql://host/db?user=me&passwd=***",
    "host=far user=me password=s3cret": "host=far user=me password=***",
}


@pytest.mark.parametrize(("address", "kept"), ADDRESSES.items())
def test_as_an_override_and_alone(address: str, kept: str) -> None:
    assert redacted(address) == kept
    for sign in ("", "+", "++"):
        assert without_secrets(f"{sign}{KEY}{address}") == f"{sign}{KEY}{kept}"
    assert without_secrets(f"{KEY}'{address}'") in (f"{KEY}'{kept}'", f"{KEY}'{kept}")
    for word in (f"hydra.sweeper={{storage:{address}}}", f"hydra={{sweeper:{{storage: '{address}'}}}}"):
        shown = without_secrets(word)
        assert "s3" not in shown and "ret" not in shown and shown.endswith("***")


@pytest.mark.parametrize("given", ["s3cret", "'s3cret'", "postgresql//user:s3cret/db", "$s3cret{"])
def test_what_is_nothing_like_an_address_is_hidden_as_a_whole(given: str, run: Runner) -> None:
    assert without_secrets(KEY + given) in (f"{KEY}***", f"{KEY}'***")
    done = run("-m", "sweep=learning_rate", "tracking=none", KEY + given)
    assert done.code == 2 and not any(part in done.out + done.err for part in ("s3cret", "1234567"))


def test_a_number_that_is_no_port_is_a_password() -> None:
    assert redacted("postgresql://user:1234567") == "postgresql://***"


@pytest.mark.parametrize(
    "text",
    [
        f"{KEY}sqlite:////a/b@c.db",
        f"{KEY}'postgresql://host:5432/db'",
        f"{KEY}postgresql://[::1]:5432/db",
        f"{KEY}null",
        "--config-dir=/a:b@c",
        "tags.x='what: ask a@b'",
        "tags.storage=a@b",
    ],
)
def test_what_has_no_password_stays(text: str) -> None:
    assert without_secrets(text) == text


@pytest.mark.parametrize(
    "override",
    [
        *(f"{KEY}'{address}'" for address in ADDRESSES if "//host/" not in address),  # that would be tried
        f"{KEY}user:s3cret@host/db",
        f"{KEY}user:s3c,ret@host/db",
        f"{KEY}user:s3#cret@host/db",
        f"{KEY}[user:s3cret@host]",
        f"{KEY}{{a:user:s3cret@host}}",
        "hydra.sweeper={storage:user:s3cret@host}",
    ],
)
def test_a_search_that_is_refused_for_it(override: str, run: Runner, tmp_path: Path, outputs: Path) -> None:
    pytest.importorskip("psycopg")
    done = run("-m", "sweep=learning_rate", "tracking=none", override)
    assert done.code == 2 and done.err.startswith("bit_axon: ")
    assert not any(part in done.out + done.err for part in ("s3", "cret", "c!r"))
    assert not outputs.exists()


def test_one_value_that_is_several_is_told_without_its_password(run: Runner) -> None:
    done = run("hydra/sweeper=bit_axon", f"{KEY}user:s3c,ret@host/db")
    assert done.code == 2 and "***@host/db" in done.err and "s3c" not in done.err


@pytest.mark.parametrize("address", ["user:s3cret@host/db", "postgresql://host/db?password=s3cret"])
def test_in_no_file_of_a_run(
    address: str, run: Runner, small_run: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    override = f"{KEY}'{address}'"
    monkeypatch.setattr(sys, "argv", ["bit_axon"])
    done = run(*small_run, "hydra/sweeper=bit_axon", override, "training.max_steps=1")
    assert done.code == 0, done.err
    assert redacted(address) in (done.run_dir / "repro.json").read_text()
    assert redacted(address) in (done.run_dir / ".hydra" / "hydra.yaml").read_text()
    holding = [path for path in done.run_dir.rglob("*") if path.is_file() and b"s3cr" in path.read_bytes()]
    assert not holding and "s3cr" not in done.out + done.err
