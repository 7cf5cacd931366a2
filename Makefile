# Two commands matter to a newcomer: `make run` and `make demo`. `make help` lists the others.
SHELL := /bin/sh
PYTHON ?= $(shell command -v python3.11 || command -v python3)
PY := .venv/bin/python
MODEL := $(CURDIR)/var/models/smollm2-135m-instruct
TORCH := torch==2.13.0
CODE := winnow annotation training tests benchmarks tools manage.py
# What a production server sets, for `manage.py check --deploy`; nothing connects to it.
DEPLOY := WINNOW_SECRET_KEY=$$($(PY) -c 'import secrets; print(secrets.token_urlsafe(50))') WINNOW_TLS=true \
	WINNOW_TRUSTED_PROXIES=1 WINNOW_HOSTS=winnow.example.org WINNOW_DATABASE_URL=postgresql://winnow@postgres/winnow

.PHONY: help run demo setup setup-dev frontend model test test-sqlite test-postgres check check-static check-frontend \
	check-api bench budgets load prove faults backup restore format api screens

help:  ## this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1|\2/' | column -t -s'|'

run: setup frontend  ## install what is missing, build the pages, and serve on http://127.0.0.1:8000
	@exec $(PY) -m winnow.supervisor $(ARGS)

demo: setup frontend model  ## the whole loop without a person; writes var/demo/report.json
	@exec $(PY) manage.py demo $(ARGS)

setup: .venv/.installed

setup-dev: .venv/.installed-dev

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Winnow needs Python 3.11 or newer; name it with: make run PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) -m venv .venv || { rm -rf .venv; echo "On Debian and Ubuntu: apt install python3-venv"; exit 1; }

# torch first and alone: which build of it fits this machine is the index's business, not the lock file's.
.venv/.installed: .venv/bin/python pyproject.toml requirements.lock
	$(PY) -m pip install --disable-pip-version-check $(TORCH)
	$(PY) -m pip install --disable-pip-version-check -c requirements.lock -e '.[train]'
	@touch $@

.venv/.installed-dev: .venv/bin/python pyproject.toml requirements.lock
	$(PY) -m pip install --disable-pip-version-check $(TORCH)
	$(PY) -m pip install --disable-pip-version-check -c requirements.lock -e '.[train,dev]'
	@touch .venv/.installed $@

frontend: setup
	@$(PY) tools/frontend.py

model: setup
	@WINNOW_DATA_DIR=var $(PY) manage.py fetch_base_model --files-only

test: test-sqlite test-postgres  ## all tests on SQLite, then those that touch the database again on PostgreSQL

# Two tests at a time, each process with a database of its own. Those that start whole sites and measure waits stay alone.
# Code 5: ARGS left none of a part.
TWO := --numprocesses 2 --dist worksteal
ALONE := tests/e2e tests/deployment tests/services
test-sqlite: setup-dev frontend model
	WINNOW_TEST_MODEL=$(MODEL) $(PY) -m pytest $(TWO) $(foreach part,$(ALONE),--ignore $(part)) $(ARGS) || test $$? -eq 5
	WINNOW_TEST_MODEL=$(MODEL) $(PY) -m pytest $(ALONE) $(ARGS) || test $$? -eq 5

test-postgres: setup-dev
	$(PY) -m tests.services.servers $(PY) -m pytest $(TWO) -m 'database and not e2e and not real_model' $(ARGS)

check: check-static check-api check-frontend test  ## everything that must hold before a commit

check-static: setup-dev
	$(PY) -m ruff format --check $(CODE)
	$(PY) -m ruff check $(CODE)
	$(PY) -m mypy winnow annotation training tools
	.venv/bin/lint-imports
	$(PY) manage.py makemigrations --check --dry-run
	$(DEPLOY) $(PY) manage.py check --deploy --fail-level WARNING

check-api: api
	git diff --exit-code -- frontend/openapi.json frontend/src/api/schema.d.ts

check-frontend: setup-dev frontend
	$(PY) tools/frontend.py run lint
	$(PY) tools/frontend.py run typecheck
	$(PY) tools/frontend.py run test
	$(PY) tools/frontend.py run size

api: setup-dev  ## the API's schema and the browser's types, from the code
	$(PY) manage.py spectacular --format openapi-json --fail-on-warn --file frontend/openapi.json
	$(PY) tools/frontend.py run types

format: setup-dev  ## ruff and biome, in place
	$(PY) -m ruff format $(CODE)
	$(PY) -m ruff check --fix $(CODE)
	$(PY) tools/frontend.py run format

screens: setup-dev frontend  ## pictures of every page into docs/screens, with their list
	$(PY) tools/screens.py $(ARGS)

prove: setup-dev  ## 50 clients vote through 2,000 comparisons while the web is killed; prints what was lost (nothing)
	$(PY) -m tests.services.hammer prove $(ARGS)

faults: setup-dev  ## kills, restarts, lost and doubled messages, a frozen worker: every job ends once, with the same weights
	$(PY) -m benchmarks.faults --json $(ARGS)

budgets: setup-dev frontend  ## what the pages weigh and how fast they answer, beside their budgets (ARGS=--small)
	$(PY) -m benchmarks.budgets --json $(ARGS)

load: setup-dev  ## votes a second and waiting times, with 10,000 and 1,000,000 comparisons
	$(PY) -m benchmarks.server --json $(ARGS)

backup: setup  ## database, snapshots, models and runs into a new directory below TO (var/backups), while all runs
	@$(PY) manage.py backup $(TO) $(ARGS)

restore: setup  ## bring FROM=DIRECTORY back into an empty database, and verify every hash (ARGS=--check: only look)
	@test -n "$(FROM)" || { echo "Say which backup: make restore FROM=var/backups/winnow-..."; exit 1; }
	@$(PY) manage.py restore $(FROM) $(ARGS)

BENCHMARKS := statistics labels refit imports server sampling training
bench: setup-dev model  ## ours beside its peers, one after the other (ARGS=--small where a module has it)
	@for name in $(BENCHMARKS); do $(PY) -m benchmarks.$$name --json $(ARGS) || exit 1; done