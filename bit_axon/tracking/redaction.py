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
_PORT: Final = r"\d+(?:[/?#\s'\"]|$)"
_SECRETS: Final = (
    re.compile(rf"({_DATABASE}:/{{0,3}}).*@", re.DOTALL),
    # Elsewhere a path may have an @ in it: `https://host:80/model@v2` has no password.
    re.compile(rf"({_ANY_BUT_FILES})[^/?#\s:@]*:(?!{_PORT}).*@", re.DOTALL),
    re.compile(rf"({_ANY_BUT_FILES})[^/?#\s'\"]*@"),
)
_OPTION: Final = re.compile(r"([?&](?:ssl)?password=)[^&]*?(?=&|['\"]?$)", re.DOTALL)
_NAMING_OPTION: Final = re.compile(r"[?&](?:user|(?:ssl)?password|host|hostaddr)=([^&]*)", re.DOTALL)
_CUTS: Final = re.compile(r"([@:/?#\[\]])")  # where a parser may cut an address


def without_secrets(text: str) -> str:
    """A text with the users and passwords of its addresses blotted out."""
    for pattern in _SECRETS:
        text = pattern.sub(r"\1***@", text)
    return _OPTION.sub(r"\1***", text)


def redacted(uri: str) -> str:
    """An address without user and password; it need not be one that anything can read."""
    user, _, place = uri.rpartition("@")
    if user and not uri.startswith(_FILES):
        scheme = re.match(r"[A-Za-z][\w+.-]*://", user)
        uri = f"{scheme.group() if scheme else ''}***@{place}"
    return without_secrets(uri)


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
    host = re.match(r"\[[^\]]*\]|[^:/?#]*", place)
    atoms = _CUTS.split(rest)
    begins = len(_CUTS.split(user)) + 1 if user else 0
    pieces = {"".join(atoms[i:j]) for i, j in combinations(range(len(atoms) + 1), 2) if i < begins}
    pieces |= {host.group().strip("[]")} if host else set()
    pieces |= set(_NAMING_OPTION.findall(uri)) | {uri}
    return {form for piece in pieces for form in (piece, unquote(piece)) if re.search(r"\w", form)}
