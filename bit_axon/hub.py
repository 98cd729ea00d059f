"""Why the Hugging Face hub did not give what was asked for, in words a person understands."""

from huggingface_hub import constants
from huggingface_hub.errors import (
    GatedRepoError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

_OFFLINE = "nothing in the local cache, and HF_HUB_OFFLINE forbids to ask the hub"
_UNREACHABLE = "nothing in the local cache, and the hub cannot be reached from here"
_GATED = "a gated repository: its owner has to let you in, and you have to log in"


def hub_reason(error: Exception) -> str:
    """What kept the hub from answering; else the first line of the error's text."""
    if isinstance(error, OfflineModeIsEnabled | LocalEntryNotFoundError | ConnectionError):
        return _OFFLINE if constants.HF_HUB_OFFLINE else _UNREACHABLE
    if isinstance(error, GatedRepoError):
        return _GATED
    if isinstance(error, RevisionNotFoundError):
        return "no such revision on the hub"
    if isinstance(error, RepositoryNotFoundError):
        return "nothing of that name on the hub that you may read"
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
