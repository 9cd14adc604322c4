"""The operating system's account for a part that refuses to run as root (PostgreSQL does)."""

from __future__ import annotations

import os
import pwd
import shutil
import stat
import subprocess
from dataclasses import dataclass
from pathlib import Path

_NAME = "guildmesh"


@dataclass(frozen=True)
class Account:
    """An account of the operating system."""

    name: str
    uid: int
    gid: int


def unprivileged_account() -> Account | None:
    """The account for parts that must not run as root; None when we are not root ourselves.

    It is the system account `guildmesh`, made on first use; where accounts cannot be made it is `nobody`.
    """
    if os.geteuid() != 0:
        return None
    for attempt in range(2):
        try:
            entry = pwd.getpwnam(_NAME)
        except KeyError:
            if attempt == 0 and shutil.which("useradd"):
                subprocess.run(
                    ["useradd", "--system", "--user-group", "--no-create-home", "--shell", "/usr/sbin/nologin", _NAME],
                    capture_output=True,
                    check=False,
                )
        else:
            return Account(entry.pw_name, entry.pw_uid, entry.pw_gid)
    entry = pwd.getpwnam("nobody")
    return Account(entry.pw_name, entry.pw_uid, entry.pw_gid)


def can_reach(account: Account, path: Path) -> bool:
    """Whether the account may enter every folder on the way to `path` (which need not be its own)."""
    for folder in path.resolve().parents:
        try:
            status = folder.stat()
        except OSError:
            return False
        if status.st_uid == account.uid:
            bit = stat.S_IXUSR
        elif status.st_gid == account.gid:
            bit = stat.S_IXGRP
        else:
            bit = stat.S_IXOTH
        if not status.st_mode & bit:
            return False
    return True


def give(folder: Path, account: Account | None) -> None:
    """Makes `folder` with mode 0700 and gives it to the account."""
    folder.mkdir(parents=True, exist_ok=True)
    if account is not None:
        os.chown(folder, account.uid, account.gid)
    folder.chmod(0o700)
