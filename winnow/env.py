"""Typed environment variables: the only place that reads `os.environ` for settings.

`VARIABLES` is the complete list; `.env.example` shows each of them (a test compares the two), and a value that cannot
be read stops the start with the name and the value.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

BASE_DIR = Path(__file__).resolve().parent.parent


class EnvironmentError_(ValueError):
    """A variable that cannot be used; the message names it, its value and what is expected."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Variable:
    """One environment variable: its name, how it reads when unset, and what it does."""

    name: str
    default: str
    help: str


VARIABLES: tuple[Variable, ...] = (
    Variable(
        name="WINNOW_DATA_DIR", default="var", help="Directory of everything Winnow writes: database, models, runs."
    ),
    Variable(name="WINNOW_DATABASE_URL", default="", help="postgresql://user:password@host:5432/name; unset: SQLite."),
    Variable(
        name="WINNOW_DATABASE_POOLED", default="false", help="A pooler in transaction mode (pgbouncer) is in between."
    ),
    Variable(name="WINNOW_REDIS_URL", default="", help="redis://:password@host:6379/0; unset: a directory as broker."),
    Variable(
        name="WINNOW_SECRET_KEY", default="", help="At least 32 characters; unset: made once in the data directory."
    ),
    Variable(name="WINNOW_DEBUG", default="false", help="Error pages with details; never on a shared server."),
    Variable(name="WINNOW_HOSTS", default="localhost,127.0.0.1,[::1]", help="Host names that are answered."),
    Variable(
        name="WINNOW_TRUSTED_PROXIES", default="0", help="Reverse proxies in front, whose X-Forwarded-For is believed."
    ),
    Variable(name="WINNOW_TLS", default="false", help="Served over HTTPS: secure cookies, HSTS, redirect."),
    Variable(name="WINNOW_ADMIN", default="false", help="Serve Django's admin (operators only) under /admin/."),
    Variable(name="WINNOW_PORT", default="8000", help="Port of `make run`."),
    Variable(name="WINNOW_BIND", default="127.0.0.1", help="Address of `make run`."),
    Variable(name="WINNOW_LOG_LEVEL", default="INFO", help="DEBUG, INFO, WARNING or ERROR."),
    Variable(name="WINNOW_LOG_FORMAT", default="auto", help="json, text, or auto (text on a terminal)."),
    Variable(name="WINNOW_THREADS", default="0", help="Threads of one training process; 0: all cores."),
    Variable(
        name="WINNOW_MODEL_ROOTS", default="", help="Comma-separated directories whose models an operator may register."
    ),
    Variable(
        name="WINNOW_BASE_MODEL",
        default="",
        help="A local wheel or GGUF file of the base model, where there is no network.",
    ),
    Variable(
        name="WINNOW_OUTBOUND",
        default="",
        help="Comma-separated: public (https to public addresses), host:port of private servers; unset: nothing.",
    ),
    Variable(
        name="WINNOW_SAMPLER_URL",
        default="",
        help="OpenAI-compatible server for chats, such as http://gpu-1:8000/v1; WINNOW_OUTBOUND must allow it.",
    ),
    Variable(name="WINNOW_SAMPLER_MODEL", default="", help="The model that this server is asked for."),
    Variable(name="WINNOW_SAMPLER_KEY", default="", help="Its API key, if it wants one."),
    Variable(
        name="WINNOW_JUDGE_URL",
        default="",
        help="OpenAI-compatible server that judges evaluations; WINNOW_OUTBOUND must allow it.",
    ),
    Variable(name="WINNOW_JUDGE_MODEL", default="", help="The model that this judge is asked for."),
    Variable(name="WINNOW_JUDGE_KEY_FILE", default="", help="File with its API key, readable by the workers."),
    Variable(
        name="WINNOW_MAIL_URL",
        default="",
        help="Mail server: smtp+starttls://user:password@host:587, smtps:// or smtp://; unset: no e-mail.",
    ),
    Variable(
        name="WINNOW_MAIL_FROM", default="", help="The address that e-mails come from; needed with a mail server."
    ),
    Variable(
        name="WINNOW_SITE_URL", default="", help="Address of this site in e-mails, such as https://winnow.example."
    ),
)
_DEFAULTS = {variable.name: variable.default for variable in VARIABLES}
_ENDPOINT = re.compile(r"public|(?:[a-z0-9._-]+|\[[0-9a-f:.]+\]):[0-9]{1,5}")
_MAIL_PORTS = {"smtp": 25, "smtp+starttls": 587, "smtps": 465}
_LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")


@dataclass(frozen=True, kw_only=True, slots=True)
class MailServer:
    """Where e-mails are handed over."""

    host: str
    port: int
    user: str
    password: str
    scheme: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Environment:
    """All settings that a deployment may choose, parsed and checked."""

    data_dir: Path
    database_url: str
    database_pooled: bool
    redis_url: str
    secret_key: str
    debug: bool
    hosts: tuple[str, ...]
    trusted_proxies: int
    tls: bool
    admin: bool
    port: int
    bind: str
    log_level: str
    log_format: str
    threads: int
    model_roots: tuple[Path, ...]
    base_model: Path | None
    outbound: tuple[str, ...]
    sampler_url: str
    sampler_model: str
    sampler_key: str
    judge_url: str
    judge_model: str
    judge_key_file: str
    mail_server: MailServer | None
    mail_from: str
    site_url: str


def read_environment(environ: Mapping[str, str] = os.environ) -> Environment:
    """Parse the variables of `VARIABLES`.

    Raises:
        EnvironmentError_: naming variable, value and what is expected.
    """

    def text(name: str) -> str:
        return environ.get(name, "").strip() or _DEFAULTS[name]

    def boolean(name: str) -> bool:
        value = text(name).lower()
        if value not in {"true", "false", "1", "0", "yes", "no"}:
            raise EnvironmentError_(f"{name} must be true or false, got {value!r}")
        return value in {"true", "1", "yes"}

    def integer(name: str, *, low: int, high: int) -> int:
        value = text(name)
        if not value.isdecimal() or not low <= int(value) <= high:
            raise EnvironmentError_(f"{name} must be a whole number from {low} to {high}, got {value!r}")
        return int(value)

    def choice(name: str, allowed: tuple[str, ...]) -> str:
        value = text(name)
        if value not in allowed:
            raise EnvironmentError_(f"{name} must be one of {', '.join(allowed)}, got {value!r}")
        return value

    def items(name: str) -> tuple[str, ...]:
        return tuple(part.strip() for part in text(name).split(",") if part.strip())

    outbound = tuple(item.lower() for item in items("WINNOW_OUTBOUND"))
    for item in outbound:
        if not _ENDPOINT.fullmatch(item):
            raise EnvironmentError_(f"WINNOW_OUTBOUND must hold public and host:port, got {item!r}")
    secret_key = text("WINNOW_SECRET_KEY")
    if secret_key and (len(secret_key) < 32 or "change-me" in secret_key):
        raise EnvironmentError_("WINNOW_SECRET_KEY must be at least 32 random characters and not the example's value")
    sampler_url = text("WINNOW_SAMPLER_URL").rstrip("/")
    if sampler_url and not sampler_url.startswith(("http://", "https://")):
        raise EnvironmentError_(f"WINNOW_SAMPLER_URL must look like https://host/v1, got {sampler_url!r}")
    if sampler_url and not text("WINNOW_SAMPLER_MODEL"):
        raise EnvironmentError_("WINNOW_SAMPLER_MODEL must name the model that WINNOW_SAMPLER_URL is asked for")
    mail_server = _mail_server(text("WINNOW_MAIL_URL"))
    if mail_server is not None and "@" not in text("WINNOW_MAIL_FROM"):
        raise EnvironmentError_(
            f"WINNOW_MAIL_FROM must be the address that e-mails come from, got {text('WINNOW_MAIL_FROM')!r}"
        )
    site_url = text("WINNOW_SITE_URL").rstrip("/")
    if site_url and not site_url.startswith(("http://", "https://")):
        raise EnvironmentError_(f"WINNOW_SITE_URL must look like https://winnow.example, got {site_url!r}")
    judge_url = text("WINNOW_JUDGE_URL").rstrip("/")
    if judge_url and not judge_url.startswith(("http://", "https://")):
        raise EnvironmentError_(f"WINNOW_JUDGE_URL must look like https://host/v1, got {judge_url!r}")
    data_dir = Path(text("WINNOW_DATA_DIR"))
    base_model = text("WINNOW_BASE_MODEL")
    return Environment(
        data_dir=(data_dir if data_dir.is_absolute() else BASE_DIR / data_dir).resolve(),
        database_url=text("WINNOW_DATABASE_URL"),
        database_pooled=boolean("WINNOW_DATABASE_POOLED"),
        redis_url=text("WINNOW_REDIS_URL"),
        secret_key=secret_key,
        debug=boolean("WINNOW_DEBUG"),
        hosts=items("WINNOW_HOSTS"),
        trusted_proxies=integer("WINNOW_TRUSTED_PROXIES", low=0, high=9),
        tls=boolean("WINNOW_TLS"),
        admin=boolean("WINNOW_ADMIN"),
        port=integer("WINNOW_PORT", low=1, high=65535),
        bind=text("WINNOW_BIND"),
        log_level=choice("WINNOW_LOG_LEVEL", _LOG_LEVELS),
        log_format=choice("WINNOW_LOG_FORMAT", ("auto", "json", "text")),
        threads=integer("WINNOW_THREADS", low=0, high=1024),
        model_roots=tuple(Path(item).resolve() for item in items("WINNOW_MODEL_ROOTS")),
        base_model=Path(base_model).resolve() if base_model else None,
        outbound=outbound,
        sampler_url=sampler_url,
        sampler_model=text("WINNOW_SAMPLER_MODEL"),
        sampler_key=text("WINNOW_SAMPLER_KEY"),
        judge_url=judge_url,
        judge_model=text("WINNOW_JUDGE_MODEL"),
        judge_key_file=text("WINNOW_JUDGE_KEY_FILE"),
        mail_server=mail_server,
        mail_from=text("WINNOW_MAIL_FROM"),
        site_url=site_url,
    )


def _mail_server(url: str) -> MailServer | None:
    """The server that a URL names. The message of a refusal shows no password."""
    if not url:
        return None
    parts = urlsplit(url)
    try:
        port = parts.port
    except ValueError:
        port = 0
    if parts.scheme not in _MAIL_PORTS or not parts.hostname or port == 0:
        raise EnvironmentError_(
            "WINNOW_MAIL_URL must look like smtp+starttls://user:password@host:587, smtps://… or smtp://…, got scheme "
            f"{parts.scheme!r}"
        )
    return MailServer(
        host=parts.hostname,
        port=port or _MAIL_PORTS[parts.scheme],
        user=unquote(parts.username or ""),
        password=unquote(parts.password or ""),
        scheme=parts.scheme,
    )


def database_settings(url: str, data_dir: Path, *, pooled: bool) -> dict[str, object]:
    """Django's DATABASES entry: SQLite under the data directory, or PostgreSQL from a URL.

    With a pooler in transaction mode nothing may outlive a transaction: no connection is kept, no cursor is held on the
    server, and the limits of a session are set by the pooler (deploy/pgbouncer.ini), which drops them from what we ask.

    SQLite runs IMMEDIATE (a lock upgrade inside a deferred transaction fails instead of waiting), WAL, and
    `synchronous=FULL`, because NORMAL may roll back acknowledged votes after a power loss.
    """
    if not url:
        return {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": str(data_dir / "winnow.sqlite3"),
            "OPTIONS": {
                "transaction_mode": "IMMEDIATE",
                "timeout": 20,
                "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA foreign_keys=ON; "
                "PRAGMA journal_size_limit=67108864;",
            },
        }
    parts = urlsplit(url)
    if parts.scheme not in {"postgres", "postgresql"} or not parts.path.strip("/"):
        raise EnvironmentError_(
            f"WINNOW_DATABASE_URL must look like postgresql://user:password@host:5432/name, got scheme {parts.scheme!r}"
        )
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": parts.path.strip("/"),
        "USER": unquote(parts.username or ""),
        "PASSWORD": unquote(parts.password or ""),
        "HOST": parts.hostname or "",
        "PORT": str(parts.port or ""),
        "CONN_MAX_AGE": 0 if pooled else 60,
        "CONN_HEALTH_CHECKS": True,
        "DISABLE_SERVER_SIDE_CURSORS": pooled,
        "OPTIONS": {
            "options": "-c lock_timeout=3000 -c idle_in_transaction_session_timeout=30000",
            # A server that went away without a word is noticed in seconds, and not when TCP gives up.
            "connect_timeout": 5,
            "tcp_user_timeout": 20_000,
            "keepalives_idle": 10,
            "keepalives_interval": 5,
        },
    }
