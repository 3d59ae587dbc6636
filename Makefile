# make demo    install, process 50 sample exports and verify every row
# make test    install, lint and run the whole test suite, on services of its own
# make check   lint and run the unit tests, in about a minute: for use while you work
# make chaos   test every fault in every stage (make test: those that could lose data, in one stage)
# make soak    MINUTES=60 of load by inbox and bot and of random faults, then verify that nothing was lost
# make hosts   test three hosts in network namespaces, one of them disconnected (root, iproute2, redis-server)
# make fuzz    fuzz the readers, MINUTES=10 for each (atheris; Linux)
# make bot-contract  let aiogram's types parse the requests that our bot sends
# make bench   compare with alternatives, 20 minutes: prints one table, writes .bench/results.json
# make pictures  take the pictures of the README from a real run (Chromium)
# make lint    run ruff, mypy and the spelling check only
# make lock    resolve requirements.lock again
.PHONY: demo test suite check chaos soak hosts fuzz bot-contract bench pictures lint format lock install clean

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
INSTALLED := .venv/.installed

# The first interpreter of a supported version that can create a venv.
FITS := import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	"$$p" -c '$(FITS)' 2>/dev/null && { echo "$$p"; break; }; done)

demo: $(INSTALLED)
	.venv/bin/tdp demo $(ARGS)

# Half of the suite's time is waiting: more processes than cores. tests/conftest.py shares the work among them.
WORKERS = 4
PARALLEL = --numprocesses $(WORKERS) --durations 10

# A test that fails is run once more by itself, and both results are printed: of 1,600 tests with processes that are
# killed at random moments, a busy machine may fail one. Whatever fails again, or ends otherwise, fails the command.
# While processes start and wait, there is time for the lint.
test: $(INSTALLED)
	$(MAKE) --no-print-directory --jobs 2 lint suite

suite: $(INSTALLED)
	.venv/bin/pytest $(PARALLEL) $(ARGS) || { test $$? = 1 && .venv/bin/pytest --last-failed --last-failed-no-failures none $(ARGS); }

check: lint
	.venv/bin/pytest $(PARALLEL) tests/unit $(ARGS)

# Every fault in every stage, and an installation of the services as the systemd units start them.
chaos: $(INSTALLED)
	.venv/bin/pytest tests/chaos tests/bot tests/integration/test_fan_out.py tests/integration/test_services.py \
		tests/integration/test_split_services.py tests/unit/test_corpus.py -m "matrix or not matrix" $(ARGS)

soak: MINUTES = 60
soak: $(INSTALLED)
	PYTHONPATH=tests/programs:tests/corpus .venv/bin/python tests/chaos/soak.py --minutes $(MINUTES) $(ARGS)

# atheris has no wheels for some supported platforms, so it is not in the lock file.
fuzz: MINUTES = 10
fuzz: $(INSTALLED)
	.venv/bin/python -m pip install --quiet --disable-pip-version-check "atheris>=3"
	for target in archives json html; do \
		.venv/bin/python tests/fuzz/fuzz.py $$target -max_total_time=$$(($(MINUTES) * 60)) -print_final_stats=1; \
	done

# Only these servers need prefect-redis, so it is installed into a separate directory.
hosts: $(INSTALLED)
	.venv/bin/python -m pip install --quiet --no-deps --upgrade --target .venv/hosts prefect-redis==0.3.0
	.venv/bin/pytest tests/hosts -m matrix -s $(ARGS)

# aiogram needs another pydantic than Prefect, so it has an environment of its own.
bot-contract: $(INSTALLED)
	rm -f .venv/bot-requests.jsonl
	TDP_BOT_REQUESTS=$(CURDIR)/.venv/bot-requests.jsonl .venv/bin/pytest tests/bot/test_announcing.py \
		tests/bot/test_commands.py tests/bot/test_receiving.py -q $(ARGS)
	test -x .venv/aiogram/bin/python || .venv/bin/python -m venv .venv/aiogram
	.venv/aiogram/bin/python -m pip install --quiet --disable-pip-version-check aiogram==3.31.0
	.venv/aiogram/bin/python tests/bot/contract.py .venv/bot-requests.jsonl

# ARGS="--full" runs all in full size, for an hour; ARGS="--quick convert store" takes a few minutes; ARGS="--keep
# convert" keeps the results in tests/bench/RESULTS.md. bench.py --help lists the parts. The alternatives that are compared are not dependencies of the project.
bench: $(INSTALLED)
	.venv/bin/python -m pip install --quiet --disable-pip-version-check beautifulsoup4==4.15.0 chatpack==0.1.0
	.venv/bin/python tests/bench/bench.py $(ARGS)

pictures: $(INSTALLED)
	.venv/bin/python tests/pictures/make_pictures.py deployments/images

lint: $(INSTALLED)
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/codespell

format: $(INSTALLED)
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

install: $(INSTALLED)

# The lock file is complete, so pip does not resolve dependencies.
$(INSTALLED): requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11, 3.12 or 3.13 with venv is required (Debian: python3-venv). \
	To select an interpreter: make PYTHON=/path/to/python" >&2; exit 1; }
	test -x .venv/bin/python || "$(PYTHON)" -m venv .venv
	.venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r requirements.lock
	.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

# For every supported Python version and platform; names, versions and hashes only, no index addresses.
lock:
	test -x .venv/bin/uv || .venv/bin/python -m pip install --quiet uv
	.venv/bin/uv pip compile pyproject.toml --group dev --universal --python-version 3.11 --generate-hashes \
		--no-emit-index-url --no-emit-find-links --custom-compile-command "make lock" --quiet \
		--output-file requirements.lock $(ARGS)

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info
