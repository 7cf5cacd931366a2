# syntax=docker/dockerfile:1
# Images from one file: `web` (API, pages, tick, CPU worker; no torch), `worker` (adds the training extra), and the
# pooler of a profile. Which command runs in which, docker-compose.yml alone says.

FROM node:24-slim AS frontend
WORKDIR /app/frontend
COPY frontend/package.json frontend/package-lock.json frontend/.npmrc ./
RUN npm ci --ignore-scripts --no-audit --no-fund
COPY frontend/ ./
RUN npm run build

FROM python:3.11-slim AS base
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 \
    DJANGO_SETTINGS_MODULE=winnow.settings WINNOW_DATA_DIR=/data WINNOW_LOG_FORMAT=json HOME=/tmp
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin winnow && install -d -o winnow -g winnow -m 0700 /data
WORKDIR /app
COPY pyproject.toml requirements.lock README.md LICENSE manage.py ./
COPY winnow winnow
COPY annotation annotation
COPY training training
COPY benchmarks/loop/results benchmarks/loop/results

FROM base AS web
RUN pip install -c requirements.lock -e .
COPY --from=frontend /app/frontend/dist frontend/dist
RUN python -m whitenoise.compress --quiet frontend/dist
USER 10001:10001
VOLUME /data
EXPOSE 8000

FROM base AS worker
# torch first and alone: which build of it fits the GPUs is the index's business, not the lock file's.
RUN pip install torch==2.13.0 && pip install -c requirements.lock -e '.[train]'
USER 10001:10001
VOLUME /data

FROM debian:bookworm-slim AS pgbouncer
RUN apt-get update && apt-get install -y --no-install-recommends pgbouncer postgresql-client && rm -rf /var/lib/apt/lists/*
USER 10001:10001
EXPOSE 6432
