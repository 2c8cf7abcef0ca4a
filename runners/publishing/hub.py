"""Upload of a run's policy to the Hugging Face hub, model and card in one commit."""

from __future__ import annotations

import re

from runners.publishing.model_card import SETTINGS, SavedPolicy, settings_file

_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


def require_repository(name: str) -> None:
    """Raises if a name is not OWNER/NAME.

    Raises:
        ValueError: with an example.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(f"the repository must be OWNER/NAME, such as my-lab/sppo-tiny, got '{name}'")


def upload(saved: SavedPolicy, card: str, repository: str, private: bool) -> str:
    """Makes the repository if it is not there, and replaces its files; returns the address.

    Args:
        saved: the policy.
        card: the README.md.
        repository: OWNER/NAME on the hub, or on the one that HF_ENDPOINT names.
        private: whether a new repository is private.

    Raises:
        ValueError: if there is no token.
        OSError: if the hub can't be reached, or refuses.
    """
    from huggingface_hub import CommitOperationAdd, HfApi, constants, get_token
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HTTPError,  # pyright: ignore[reportPrivateImportUsage] - httpx's, or httpx2's
        OfflineModeIsEnabled,
    )

    if get_token() is None:
        raise ValueError(
            "no token of the hub: log in with `hf auth login`, or set HF_TOKEN to a token that may write (its "
            "settings page makes one)"
        )
    contents = {"README.md": card.encode(), SETTINGS: settings_file(saved).encode()}
    files = {path.relative_to(saved.folder).as_posix(): path for path in saved.folder.rglob("*") if path.is_file()}
    adds = [CommitOperationAdd(name, content) for name, content in sorted((files | contents).items())]
    api = HfApi()
    try:
        api.create_repo(repository, private=private or None, exist_ok=True)
        api.create_commit(repository, adds, commit_message=f"Policy after {saved.step} updates")
    except OfflineModeIsEnabled as error:
        raise OSError(f"offline: HF_HUB_OFFLINE is set, and {repository} was not changed; unset it") from error
    except HfHubHTTPError as error:
        said = error.server_message or error.response.reason_phrase
        raise OSError(
            f"{constants.ENDPOINT} refuses {repository} with {error.response.status_code}: {said}; may this token "
            f"write there (`hf auth whoami`)?"
        ) from error
    except HTTPError as error:
        raise OSError(
            f"{constants.ENDPOINT} can't be reached ({type(error).__name__}: {error}); {repository} may lack the "
            f"upload: call again"
        ) from error
    return f"{constants.ENDPOINT}/{repository}"
