"""Addresses that may hold a password, made fit for messages and files.

A password may hold anything, also `/`, `?`, `@`, `[`, a quote or a space, and an address with one may be none
that a parser can read: so nothing here parses. All up to the last @ counts as user and password.
"""

import re
from itertools import combinations
from typing import Final
from urllib.parse import unquote

_FILES: Final = ("sqlite", "file")
_DATABASE: Final = r"(?:postgres|mysql|mariadb|mssql|oracle|cockroach)[\w+.-]*"
_ANY_BUT_FILES: Final = r"(?<![\w+.-])(?!sqlite|file)[A-Za-z][\w+.-]*://"
_PORT: Final = r"\d{1,5}(?:[/?#\s'\"]|$)"
_SECRETS: Final = (
    re.compile(rf"({_DATABASE}:/{{0,3}}).*@", re.DOTALL),
    # Elsewhere a path may have an @ in it: `https://host:80/model@v2` has no password.
    re.compile(rf"({_ANY_BUT_FILES})[^/?#\s:@]*:(?!{_PORT}).*@", re.DOTALL),
    re.compile(rf"({_ANY_BUT_FILES})[^/?#\s'\"]*@"),
)
# Of an address, and of the words `host=... password=...` that PostgreSQL takes in its place.
_OPTION: Final = re.compile(
    r"(?<![\w.-])((?:(?:ssl)?password|passwd|pwd)=).*?(?=&[a-z_]+=|['\"]?$)", re.DOTALL | re.IGNORECASE
)
# The study's storage among a command's overrides: an address there is one, whatever it looks like.
_STORAGE: Final = re.compile(r"hydra\.sweeper\.storage=['\"]?")
_STORAGE_IN_A_DICT: Final = re.compile(r"(hydra(?:\.sweeper)?=.*storage['\"]?\s*:\s*).*", re.DOTALL)
_WITHOUT_SCHEME: Final = re.compile(r"(?!sqlite|file)[^\s=/:@]+:(?!//|\s).*@", re.DOTALL)
_WITHOUT_PLACE: Final = re.compile(
    rf"([A-Za-z][\w+.-]*://)?[^/?#:@\[]*:(?!//|{_PORT}|['\"]?$)[^@]*", re.DOTALL
)
_NAMING_OPTION: Final = re.compile(
    r"[?&](?:user|(?:ssl)?password|passwd|pwd|host|hostaddr)=([^&]*)", re.DOTALL | re.IGNORECASE
)
_CUTS: Final = re.compile(r"([@:/?#\[\]])")  # where a parser may cut an address


def without_secrets(text: str) -> str:
    """A text, such as a word of a command, with the users and passwords of its addresses blotted out."""
    if storage := _STORAGE.search(text):
        return text[: storage.end()] + redacted_storage(text[storage.end() :])
    text = _STORAGE_IN_A_DICT.sub(r"\1***", text)
    text = f"***@{text[bare.end() :]}" if (bare := _WITHOUT_SCHEME.match(text)) else text
    for pattern in _SECRETS:
        text = pattern.sub(r"\1***@", text)
    return _OPTION.sub(r"\1***", text)


def redacted(uri: str) -> str:
    """An address without user and password; it need not be one that anything can read."""
    user, _, place = uri.rpartition("@")
    if user and not uri.startswith(_FILES):
        scheme = re.match(r"[A-Za-z][\w+.-]*://", user)
        uri = f"{scheme.group() if scheme else ''}***@{place}"
    elif not uri.startswith(_FILES) and (odd := _WITHOUT_PLACE.fullmatch(uri)):
        return f"{odd[1] or ''}***"
    return without_secrets(uri)


def redacted_storage(value: str) -> str:
    """What was given as a study's storage: hidden as a whole where it is nothing like an address."""
    plain, shown = value.strip("'\""), redacted(value)
    is_known = plain in ("", "null") or plain.startswith(_FILES) or "://" in plain or shown != value
    return shown if is_known else "***"


def without_address(text: str, uri: str) -> str:
    """What a driver said, without anything that the address says of user, password and host.

    A driver that has cut a password in two shows the second part as the host.
    """
    if uri.startswith(_FILES):
        return text
    for part in sorted(_parts(uri), key=len, reverse=True):
        text = re.sub(rf"(?<!\w){re.escape(part)}(?!\w)", "***", text)
    return without_secrets(text)


def _parts(uri: str) -> set[str]:
    """Every piece of the address that a driver may have taken for a user, a password or a host."""
    rest = uri.partition("://")[2]
    user, _, place = rest.rpartition("@")
    user = rest if not user and _WITHOUT_PLACE.fullmatch(uri) else user
    host = re.match(r"\[[^\]]*\]|[^:/?#]*", place)
    atoms = _CUTS.split(rest)
    begins = len(_CUTS.split(user)) + 1 if user else 0
    pieces = {"".join(atoms[i:j]) for i, j in combinations(range(len(atoms) + 1), 2) if i < begins}
    pieces |= {host.group().strip("[]")} if host else set()
    pieces |= set(_NAMING_OPTION.findall(uri)) | {uri}
    return {form for piece in pieces for form in (piece, unquote(piece)) if re.search(r"\w", form)}
