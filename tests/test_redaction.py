"""No password gets into a message or a file, whatever characters it has."""

import pytest
from optuna.pruners import NopPruner
from optuna.samplers import RandomSampler
from study_worker import STUDY, settings

from bit_axon.composition import without_secrets
from bit_axon.errors import BitAxonError, ConfigError
from bit_axon.sweep.studies.storage import Patience
from bit_axon.sweep.studies.study import open_study
from bit_axon.tracking.redaction import redacted, without_address

PASSWORDS = (
    "se/cret",
    "se?cret",
    "se#cret",
    "se cret",
    "se'cret",
    'se"cret',
    "se[cret",
    "se]cret",
    "se@cret",
    "se:cret",
    "se%40cret",
    "a@se:b/cret@c",
    "12/cret",
)


@pytest.mark.parametrize("scheme", ["postgresql", "postgresql+psycopg", "mysql", "https"])
@pytest.mark.parametrize("password", PASSWORDS)
def test_no_part_of_a_password_is_shown(scheme: str, password: str) -> None:
    address = f"{scheme}://mary:{password}@server:5432/studies"
    assert redacted(address) == f"{scheme}://***@server:5432/studies"
    if scheme != "https" or not password.startswith("12"):  # that is a port, and a path with an @
        override = f"hydra.sweeper.storage='{address}'"
        assert without_secrets(override) == f"hydra.sweeper.storage='{scheme}://***@server:5432/studies'"


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("https://token@host/x", "https://***@host/x"),
        ("postgresql:mary:secret@host/x", "***@host/x"),
        ("mary:secret@host/x", "***@host/x"),
        ("postgresql://host/x?password=secret&user=me", "postgresql://host/x?password=***&user=me"),
        ("sqlite:////a/b@c.db", "sqlite:////a/b@c.db"),
        ("http://host:5000", "http://host:5000"),
        ("", ""),
    ],
)
def test_addresses_that_are_odd(text: str, kept: str) -> None:
    assert redacted(text) == kept


@pytest.mark.parametrize(
    "text",
    [
        "sqlite:////a/b@c.db",
        "tags.x=a@b",
        "http://host/path@1",
        "https://host:80/path@1",
        "model.path=hf://team/model@v2",
        "tags.x='see http://host and ask a@b'",
    ],
)
def test_what_has_no_password_stays(text: str) -> None:
    assert without_secrets(text) == text


@pytest.mark.parametrize(
    ("address", "said", "kept"),
    [
        (
            "postgresql://mary:se@cret@far.away/studies",
            'could not resolve "cret@far.away" for "mary" and "studies"',
            'could not resolve "***" for "***" and "studies"',
        ),
        ("postgresql://me:p@se:cret@host/x", "no number: 'cret@host'", "no number: '***'"),
        ("postgresql://me:se%2Fcret@h/x", 'wrong: "se/cret"', 'wrong: "***"'),
        ("postgresql://10.0.0.1:5432/x", 'at "10.0.0.1", port 5432', 'at "***", port 5432'),
        ("postgresql://me:s@[::1]/x", 'at "::1" failed', 'at "***" failed'),
        ("sqlite:////a/study.db", "study is locked", "study is locked"),
    ],
)
def test_a_drivers_message_loses_what_the_address_says(address: str, said: str, kept: str) -> None:
    assert without_address(said, address) == kept


@pytest.mark.parametrize("password", PASSWORDS)
def test_a_storage_that_cannot_be_opened_shows_no_password(password: str) -> None:
    pytest.importorskip("psycopg")
    address = f"postgresql+psycopg://mary:{password}@127.0.0.1:1/studies"
    said: list[str] = []
    patience = Patience(address, 0.0, say=said.append)
    with pytest.raises(BitAxonError) as caught:
        open_study(STUDY, address, settings(), lambda n: RandomSampler(), NopPruner(), patience)
    assert "cret" not in str(caught.value) and "mary" not in str(caught.value)
    assert "postgresql+psycopg://***@127.0.0.1:1/studies" in str(caught.value) and not said


def test_an_address_that_cannot_be_read_is_a_config_error() -> None:
    pytest.importorskip("psycopg")
    for address in ("postgresql:mary:secret@host/x", "postgresql://mary:a@b:secret@host/x"):
        with pytest.raises(ConfigError, match="to open the study storage") as caught:
            open_study(STUDY, address, settings(), lambda n: RandomSampler(), NopPruner())
        assert "secret" not in str(caught.value) and "%40" in str(caught.value)
        assert caught.value.keys == ("hydra.sweeper.storage",)
