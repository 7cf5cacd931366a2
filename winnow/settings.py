"""Django settings, read from the typed environment of `winnow.env`.

The embedded default (SQLite, a directory as broker, files under `var/`) needs no variable at all; production sets
WINNOW_DATABASE_URL, WINNOW_REDIS_URL, WINNOW_SECRET_KEY and WINNOW_HOSTS, and nothing in the code differs.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import sys
from pathlib import Path

from csp.constants import NONE, SELF, UNSAFE_INLINE

from winnow.env import BASE_DIR, database_settings, read_environment
from winnow.logs import logging_config

ENV = read_environment()
DATA_DIR = ENV.data_dir
DATA_DIR.mkdir(mode=0o700, parents=True, exist_ok=True)


def _own_secret_key(file: Path) -> str:
    """The random key of this installation, made on the first start (0600); two starts at once end with one key."""
    if not file.exists():
        draft = file.with_name(f"{file.name}.{secrets.token_hex(4)}")
        draft.touch(mode=0o600)
        draft.write_text(secrets.token_urlsafe(50))
        with contextlib.suppress(FileExistsError):  # the other start was first: its key holds
            os.link(draft, file)
        draft.unlink()
    return file.read_text().strip()


SECRET_KEY = ENV.secret_key or _own_secret_key(DATA_DIR / "secret_key")
DEBUG = ENV.debug
ALLOWED_HOSTS = list(ENV.hosts)
CSRF_TRUSTED_ORIGINS = [f"https://{host}" for host in ENV.hosts] if ENV.tls else []
EMBEDDED = not ENV.database_url

INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    *(["django.contrib.admin"] if ENV.admin else []),
    "rest_framework",
    "drf_spectacular",
    "axes",
    "csp",
    "annotation",
    "training",
    "winnow",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "winnow.logs.RequestLogMiddleware",
    "csp.middleware.CSPMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    *(["django.contrib.messages.middleware.MessageMiddleware"] if ENV.admin else []),
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "axes.middleware.AxesMiddleware",
]
ROOT_URLCONF = "winnow.urls"
WSGI_APPLICATION = "winnow.wsgi.application"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]

DATABASES = {"default": database_settings(ENV.database_url, DATA_DIR, pooled=ENV.database_pooled)}
if EMBEDDED:
    DATABASES["default"]["TEST"] = {"NAME": str(DATA_DIR / "test.sqlite3")}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

AUTH_USER_MODEL = "annotation.User"
AUTHENTICATION_BACKENDS = ["axes.backends.AxesStandaloneBackend", "django.contrib.auth.backends.ModelBackend"]
PASSWORD_HASHERS = [
    "django.contrib.auth.hashers.Argon2PasswordHasher",
    "django.contrib.auth.hashers.PBKDF2PasswordHasher",
]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator", "OPTIONS": {"min_length": 10}},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
]
# Five failures of one user from one address lock that pair for 15 minutes.
AXES_FAILURE_LIMIT = 5
AXES_COOLOFF_TIME = 0.25  # hours
AXES_LOCKOUT_PARAMETERS = [["username", "ip_address"]]
AXES_RESET_ON_SUCCESS = True
AXES_ENABLE_ACCESS_FAILURE_LOG = False
AXES_DISABLE_ACCESS_LOG = True
AXES_IPWARE_PROXY_COUNT = ENV.trusted_proxies or None
AXES_SENSITIVE_PARAMETERS = ["password"]
AXES_VERBOSE = False

SESSION_COOKIE_HTTPONLY = True
SESSION_COOKIE_SAMESITE = "Lax"
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = SECURE_SSL_REDIRECT = ENV.tls
SESSION_COOKIE_AGE = 60 * 60 * 24 * 14
CSRF_COOKIE_SAMESITE = "Lax"
CSRF_FAILURE_VIEW = "winnow.errors.csrf_failure"
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https") if ENV.tls and ENV.trusted_proxies else None
SECURE_HSTS_SECONDS = 60 * 60 * 24 * 365 if ENV.tls else 0
SECURE_HSTS_INCLUDE_SUBDOMAINS = SECURE_HSTS_PRELOAD = ENV.tls
SECURE_REDIRECT_EXEMPT = [r"^healthz$", r"^readyz$"]  # asked inside the cluster, without TLS
SECURE_REFERRER_POLICY = "same-origin"
SECURE_CONTENT_TYPE_NOSNIFF = True
X_FRAME_OPTIONS = "DENY"
CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": [SELF],
        "script-src": [SELF],
        "style-src": [SELF, UNSAFE_INLINE],  # KaTeX and charts set style attributes
        "img-src": [SELF, "data:"],
        "connect-src": [SELF],
        "frame-ancestors": [NONE],
        "base-uri": [NONE],
        "object-src": [NONE],
        "form-action": [SELF],
    }
}
DATA_UPLOAD_MAX_MEMORY_SIZE = 2_621_440
SILENCED_SYSTEM_CHECKS = ["security.W008", "security.W004"] if not ENV.tls else []

LANGUAGE_CODE = "en"
TIME_ZONE = "UTC"
USE_TZ = True
USE_I18N = False

STATIC_URL = "/static/"
STATIC_ROOT = DATA_DIR / "static"
STATIC_ROOT.mkdir(mode=0o700, exist_ok=True)  # WhiteNoise warns where it is missing
FRONTEND_DIST = BASE_DIR / "frontend" / "dist"
STATICFILES_DIRS = [("app", FRONTEND_DIST)] if FRONTEND_DIST.is_dir() else []
WHITENOISE_USE_FINDERS = True
WHITENOISE_ALLOW_ALL_ORIGINS = False  # no CORS at all
# WhiteNoise does not know Vite's file hashes; without this every asset is asked for again after 60 s.
WHITENOISE_IMMUTABLE_FILE_TEST = r"^/static/app/assets/.+-[0-9A-Za-z_-]{8}\.\w+$"

CACHES = {
    "default": (
        {"BACKEND": "django.core.cache.backends.redis.RedisCache", "LOCATION": ENV.redis_url}
        if ENV.redis_url
        else {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}
    )
}

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": [
        "annotation.api.authentication.TokenAuthentication",
        "rest_framework.authentication.SessionAuthentication",
    ],
    "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.IsAuthenticated"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_PARSER_CLASSES": ["annotation.api.parsing.StrictJSONParser"],
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
    "EXCEPTION_HANDLER": "winnow.errors.exception_handler",
    "UNAUTHENTICATED_USER": "django.contrib.auth.models.AnonymousUser",
    "TEST_REQUEST_DEFAULT_FORMAT": "json",
}
SPECTACULAR_SETTINGS = {
    "TITLE": "Winnow",
    "DESCRIPTION": "Human preference annotation with integrated training: comparisons, votes, snapshots, jobs, models.",
    "VERSION": "1",
    "OAS_VERSION": "3.1.0",
    "SERVE_INCLUDE_SCHEMA": False,
    "COMPONENT_SPLIT_REQUEST": True,
    "SCHEMA_PATH_PREFIX": r"/api/v1",
    "ENUM_GENERATE_CHOICE_DESCRIPTION": False,
    # Names for sets of choices that share a field's name with another set, else they are told apart by a hash.
    "ENUM_NAME_OVERRIDES": {
        "RoleEnum": "annotation.models.Role",
        "SideEnum": "annotation.feedback.SIDES",
        "LetterEnum": "annotation.tally.CLASSES",
        "FeedbackKindEnum": "annotation.feedback.KINDS",
        "FlagKindEnum": "annotation.models.FlagKind",
        "SourceKindEnum": "annotation.models.SourceKind",
        "AdjudicationKindEnum": "annotation.models.AdjudicationKind",
        "ConsensusStateEnum": "annotation.models.ConsensusState",
        "UndefinedEnum": "annotation.api.projects.REASONS",
        "GoldOriginEnum": "annotation.models.GoldOrigin",
        "JudgeKindEnum": "training.models.JudgeKind",
        "ModelKindEnum": "training.models.ModelKind",
        "RoundPurposeEnum": "training.models.RoundPurpose",
        "AlarmActionEnum": "training.api.alarms.ACTIONS",
        "RoundStrategyEnum": "training.api.rounds.OPEN",
        "VotePurposeEnum": "annotation.models.Purpose",
        "MarkKindEnum": "training.api.curves.MARKS",
        "LineChangeEnum": "annotation.api.projects.LINE_CHANGES",
        "PreferenceChangeEnum": "training.api.snapshots.CHANGES",
        "ExperimentOriginEnum": "training.api.experiments.ORIGINS",
        "ExperimentSettingEnum": "training.api.experiments.SETTINGS",
        "SeriesKindEnum": "training.api.experiments.KINDS",
    },
    "POSTPROCESSING_HOOKS": ["drf_spectacular.hooks.postprocess_schema_enums"],
}

LOGGING_CONFIG = None
logging_config(level=ENV.log_level, style=ENV.log_format, tty=sys.stderr.isatty())

# Leases are shorter in the embedded set-up, where a restart of the database is no matter of minutes.
JOB_LEASE_SECONDS, JOB_HEARTBEAT_SECONDS, TICK_SECONDS = (15, 3, 2) if EMBEDDED else (60, 10, 10)
JOB_THREADS = ENV.threads
MODELS_DIR = DATA_DIR / "models"
RUNS_DIR = DATA_DIR / "runs"
SNAPSHOTS_DIR = DATA_DIR / "snapshots"
CACHE_DIR = DATA_DIR / "cache"
# Results that come with the code, and those of experiments that were run here.
SHIPPED_EXPERIMENTS_DIR = BASE_DIR / "benchmarks" / "loop" / "results"
EXPERIMENTS_DIR = DATA_DIR / "experiments"
MODEL_ROOTS = ENV.model_roots
OUTBOUND = ENV.outbound
SAMPLER_URL, SAMPLER_MODEL, SAMPLER_KEY = ENV.sampler_url, ENV.sampler_model, ENV.sampler_key
JUDGE_URL, JUDGE_MODEL, JUDGE_KEY_FILE = ENV.judge_url, ENV.judge_model, ENV.judge_key_file

# Without a mail server nothing is written down for it either (`annotation.mailing`).
MAIL_IS_ON = ENV.mail_server is not None
SITE_URL = ENV.site_url
if ENV.mail_server is not None:
    EMAIL_HOST, EMAIL_PORT = ENV.mail_server.host, ENV.mail_server.port
    EMAIL_HOST_USER, EMAIL_HOST_PASSWORD = ENV.mail_server.user, ENV.mail_server.password
    EMAIL_USE_TLS, EMAIL_USE_SSL = ENV.mail_server.scheme == "smtp+starttls", ENV.mail_server.scheme == "smtps"
    DEFAULT_FROM_EMAIL = ENV.mail_from
EMAIL_TIMEOUT = 10
