"""Who may log in to the proxy: `python -m crucible_dagster.service.logins FOLDER` makes the logins of a deployment.

`htpasswd` has names and hashes of passwords in nginx's format; `roles` says which users are operators. All others may
only look. Passwords are random, shown once, and stored nowhere.
"""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from pathlib import Path

from crucible_core import CrucibleError

__all__ = ["main", "make_logins"]

USERS = {"operator": "operator", "viewer": "viewer"}
"""Name -> role."""


def make_logins(folder: Path) -> dict[str, str]:
    """Make both files if they do not exist. Returns name -> password for new ones; empty if they existed.

    Raises CrucibleError if there is no openssl to hash with, or the folder cannot be written.
    """
    logins, roles = folder / "htpasswd", folder / "roles"
    if logins.exists() and roles.exists():
        return {}
    passwords = {name: secrets.token_urlsafe(18) for name in USERS}
    _write(roles, "".join(f"{name} {role};\n" for name, role in USERS.items()))
    _write(logins, "".join(f"{name}:{_hashed(password)}\n" for name, password in passwords.items()))
    return passwords


def main() -> None:
    """Make the logins and print their passwords."""
    try:
        made = make_logins(Path(sys.argv[1]))
    except CrucibleError as error:
        sys.exit(str(error))
    for name, password in made.items():
        sys.stdout.write(f"{name}: {password}\n")
    if not made:
        sys.stdout.write(f"{sys.argv[1]} has logins already; remove `htpasswd` there to make new ones\n")


def _hashed(password: str) -> str:
    """A hash for the system's crypt(3), which nginx calls: SHA-512 with a salt and 5,000 rounds."""
    try:
        hashed = subprocess.run(
            ["openssl", "passwd", "-6", "-stdin"],  # noqa: S607  # wherever it is installed
            input=password,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError) as error:
        raise CrucibleError(
            f"passwords are hashed by `openssl passwd`, which failed: {error}. Install openssl"
        ) from error
    return hashed.stdout.strip()


def _write(path: Path, text: str) -> None:
    new = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        # Its group is nginx's, where that is another user.
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o640), "w") as file:
            file.write(text)
        new.replace(path)
    except OSError as error:
        raise CrucibleError(f"the logins cannot be written to {path}: {error.strerror}") from error


if __name__ == "__main__":
    main()
