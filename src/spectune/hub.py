"""What the hub's own library raises, as the half of a line that says what to do. The library comes when needed."""

from __future__ import annotations

from spectune.errors import first_line

LOG_IN = "a private or gated one needs a token: run `hf auth login`, or set HF_TOKEN"


def hub_trouble(error: Exception, kind: str) -> str:
    """Why the hub gave nothing; `kind` is what was asked for (`model`, `adapter`)."""
    from huggingface_hub import errors

    if isinstance(error, errors.RevisionNotFoundError):
        return f"the hub knows the {kind}, but not this revision"
    if isinstance(error, errors.RepositoryNotFoundError | errors.HFValidationError):  # a gated one is such, too
        return f"there is no {kind} of that name on the hub; {LOG_IN}"
    if isinstance(error, errors.OfflineModeIsEnabled | errors.LocalEntryNotFoundError):
        return "it is not in the hub's cache, and the hub is out of reach (no network, or HF_HUB_OFFLINE is set)"
    return f"the hub cannot be asked for it ({first_line(error)}); check the network, or name a directory"
