# make demo    install, then do the whole job on 50 sample exports and check every row
# make test    install, then lint and the whole test suite, on services of its own
# make check   lint and the unit tests: a minute, for while one works
# make chaos   every fault in every stage (make test has most of them in one)
# make soak    MINUTES=60 of steady load and random faults, then proof that nothing was lost or done twice
# make hosts   three hosts in network namespaces, one cut off in mid-extract (root, iproute2, redis-server)
# make fuzz    hostile bytes for the readers, MINUTES=10 for each (atheris; Linux)
# make bench   measure beside what one would otherwise use: one table at the end, .bench/results.json
# make lint    ruff and mypy alone
# make lock    resolve requirements.lock anew
.PHONY: demo test check chaos soak hosts fuzz bench lint format lock install clean

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
INSTALLED := .venv/.installed

# The first one that fits the versions we support and can make a venv.
FITS := import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	"$$p" -c '$(FITS)' 2>/dev/null && { echo "$$p"; break; }; done)

demo: $(INSTALLED)
	.venv/bin/tdp demo $(ARGS)

# Half of the suite's time is waiting: more processes than cores. tests/conftest.py shares the work among them.
WORKERS = 4
PARALLEL = --numprocesses $(WORKERS) --durations 10

test: lint
	.venv/bin/pytest $(PARALLEL) $(ARGS)

check: lint
	.venv/bin/pytest $(PARALLEL) tests/unit $(ARGS)

# Every fault in every stage, and the services of systemd's units as an installation of their own.
chaos: $(INSTALLED)
	.venv/bin/pytest tests/chaos tests/integration/test_fan_out.py tests/integration/test_services.py \
		tests/integration/test_split_services.py tests/unit/test_corpus.py -m "matrix or not matrix" $(ARGS)

soak: MINUTES = 60
soak: $(INSTALLED)
	.venv/bin/python tests/chaos/soak.py --minutes $(MINUTES) $(ARGS)

# atheris has no wheels for some platforms we support, so it is in no group of the lock.
fuzz: MINUTES = 10
fuzz: $(INSTALLED)
	.venv/bin/python -m pip install --quiet --disable-pip-version-check "atheris>=3"
	for target in archives json html; do \
		.venv/bin/python tests/fuzz/fuzz.py $$target -max_total_time=$$(($(MINUTES) * 60)) -print_final_stats=1; \
	done

# prefect-redis is for these servers alone: apart from what everybody has.
hosts: $(INSTALLED)
	.venv/bin/python -m pip install --quiet --no-deps --upgrade --target .venv/hosts prefect-redis==0.3.0
	.venv/bin/pytest tests/hosts -m matrix -s $(ARGS)

# All of it takes 40 minutes or more; a few minutes: make bench ARGS="--quick convert store". The parts: bench.py --help.
# The competitors are no dependencies of ours.
bench: $(INSTALLED)
	.venv/bin/python -m pip install --quiet --disable-pip-version-check beautifulsoup4==4.15.0 chatpack==0.1.0
	.venv/bin/python tests/bench/bench.py $(ARGS)

lint: $(INSTALLED)
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

format: $(INSTALLED)
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

install: $(INSTALLED)

# The lock is whole, so pip has nothing to resolve.
$(INSTALLED): requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11, 3.12 or 3.13 with venv is needed (Debian: python3-venv); \
	or name one: make PYTHON=/path/to/python" >&2; exit 1; }
	test -x .venv/bin/python || "$(PYTHON)" -m venv .venv
	.venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r requirements.lock
	.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

# For every Python and platform we support; only names, versions and hashes are kept, no addresses.
lock:
	test -x .venv/bin/uv || .venv/bin/python -m pip install --quiet uv
	.venv/bin/uv pip compile pyproject.toml --group dev --universal --python-version 3.11 --generate-hashes \
		--no-emit-index-url --no-emit-find-links --custom-compile-command "make lock" --quiet \
		--output-file requirements.lock $(ARGS)

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info
