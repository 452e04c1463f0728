# All common tasks, in a fresh clone that needs only Python 3.11 to 3.15. The first target creates .venv and
# installs the packages of requirements.lock, with hashes checked. Later targets do this again only if the lock,
# pyproject.toml or PYTHON has changed. uv is used if it is on the PATH. The checkers of the JavaScript are npm packages;
# Node, which installs and runs them, is a Python package of the lock.

VENV := .venv
BIN := $(VENV)/bin
ARGS ?=
JOBS ?= 4
PYTHON ?=
CANDIDATES := $(or $(PYTHON),python3 python3.15 python3.14 python3.13 python3.12 python3.11)
NODE_MODULES := node_modules/.package-lock.json
INSTALLED := $(VENV)/.installed$(if $(PYTHON),-$(subst /,-,$(PYTHON)))
SUITS := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 16))
# Exits with 0 if .venv exists, works, and has the same Python as the one given.
SAME := import subprocess, sys; out = subprocess.run([sys.argv[1], "-c", "import sys; print(sys.version)"], capture_output=True, text=True).stdout; \
	sys.exit(out.strip() != sys.version.strip())

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo lab serve doctor test test-quick test-slow test-paced coverage check browser format lock clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo '  PYTHON=/path/to/python3.12 uses that Python; ARGS="--port 9000" is passed to serve (lab, demo, doctor), or to pytest by test;'
	@echo '  JOBS=1 runs the tests one after the other (default: 4 at a time)'

demo: $(INSTALLED) ## send one message over each transport and watch it expire; takes about ten seconds
	@$(BIN)/chatlab demo $(ARGS)

lab: $(INSTALLED) ## open your copy of the notebooks in JupyterLab
	@$(BIN)/chatlab lab $(ARGS)

serve: $(INSTALLED) ## run the service on http://127.0.0.1:8000
	@$(BIN)/chatlab serve $(ARGS)

doctor: $(INSTALLED) ## show what is installed, what is missing, and how to fix it
	@$(BIN)/chatlab doctor $(ARGS)

test: $(INSTALLED) browser ## run check, and all tests and notebooks except the slow ones
	@$(MAKE) --no-print-directory check & check=$$!; \
	$(BIN)/python -m pytest -n $(JOBS) $(ARGS); tests=$$?; \
	wait $$check || { echo 'make check failed: see above' >&2; exit 1; }; exit $$tests

test-quick: $(INSTALLED) ## run the tests that need no browser, no notebook, no servers of their own and little CPU; one minute
	@$(BIN)/python -m pytest -n $(JOBS) tests/unit tests/engine \
		--ignore=tests/engine/test_hostile.py --ignore=tests/engine/test_accounts.py $(ARGS)

test-slow: $(INSTALLED) browser ## run the tests that `make test` skips: every solution and wrong answer of the notebooks, every benchmark
	@$(BIN)/python -m pytest -n $(JOBS) -m slow $(ARGS)

test-paced: $(INSTALLED) ## run every notebook as people read it, with 10 seconds between its cells; a quarter of an hour
	@$(BIN)/python -m pytest -n 8 -m paced tests/notebook/test_pace.py $(ARGS)

coverage: $(INSTALLED) browser ## run the tests without the notebooks, and show which lines of chatlab they do not run; fails below 85 %
	@$(BIN)/coverage erase
	@$(BIN)/coverage run -m pytest -n $(JOBS) tests $(ARGS)
	@$(BIN)/coverage combine --quiet
	@$(BIN)/coverage report

check: $(INSTALLED) $(NODE_MODULES) ## check format, lint rules, spelling, types, and the layers of the package
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/node node_modules/.bin/biome ci --error-on-warnings
	@$(BIN)/node node_modules/.bin/tsc
	@$(BIN)/codespell
	@$(BIN)/lint-imports --no-cache --no-logo
	@$(BIN)/mypy

browser: $(INSTALLED)
	@$(BIN)/python tests/find_browser.py

format: $(INSTALLED) $(NODE_MODULES) ## format the code and apply the automatic fixes of ruff and biome
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .
	@$(BIN)/node node_modules/.bin/biome check --write

# The first lock has all dependencies. The second, for docker-compose.yml, has only those of the service, in the same
# versions. UPGRADE=1 updates to newer versions.
LOCK = uv pip compile --no-config --quiet --universal --generate-hashes --python-version 3.11 --custom-compile-command 'make lock' \
	--no-emit-index-url --no-emit-find-links --group build pyproject.toml
lock: ## pin all dependencies again, with hashes, for all platforms (needs uv)
	@command -v uv >/dev/null || { echo 'make lock needs uv: pip install uv' >&2; exit 1; }
	$(LOCK) --all-extras --output-file requirements.lock $(if $(UPGRADE),--upgrade)
	$(LOCK) --constraint requirements.lock --output-file requirements-service.lock --upgrade
	echo uv | $(subst --group build pyproject.toml,-,$(LOCK)) --output-file requirements-uv.lock $(if $(UPGRADE),--upgrade)

clean: ## remove .venv, node_modules and all caches; your messages stay, because they are in the data folder
	rm -rf $(VENV) node_modules build dist .coverage* .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find chatlab tests notebooks -name __pycache__ -prune -exec rm -rf {} +

# uv installs in a few seconds what takes pip more than a minute, so pip installs uv first. If uv cannot install, pip does.
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
$(INSTALLED): requirements.lock requirements-uv.lock pyproject.toml
	@rm -f $(VENV)/.installed*
	@for python in $(CANDIDATES); do "$$python" -c '$(SUITS)' 2>/dev/null && break; python=; done; \
	if [ -x $(BIN)/python ] && $(BIN)/python -c '$(if $(PYTHON),$(SAME),$(SUITS))' "$$python" 2>/dev/null; then exit 0; fi; \
	uv=$$(command -v uv); \
	if [ -z "$$python$$uv" ] || [ -z "$$python" -a -n "$(PYTHON)" ]; then \
		echo 'chatlab needs Python 3.11 to 3.15, but found none as: $(CANDIDATES). Install one, or run make PYTHON=/path/to/python' >&2; exit 1; fi; \
	rm -rf $(VENV); \
	if [ -n "$$uv" ]; then uv venv --quiet --python "$${python:->=3.11,<3.16}" $(VENV); exit; fi; \
	if ! "$$python" -c 'import ensurepip, venv' 2>/dev/null; then \
		echo "$$python cannot make virtual environments. Debian and Ubuntu: sudo apt-get install python3-venv; or install uv" >&2; exit 1; fi; \
	"$$python" -m venv $(VENV)
	@echo "chatlab: installing the packages of requirements.lock into $(VENV) ($$($(BIN)/python --version)); once, up to a minute" >&2
	@if command -v uv >/dev/null; then \
		uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements.lock && \
		uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .; \
	else \
		{ $(BIN)/python -m pip --version >/dev/null 2>&1 || $(BIN)/python -m ensurepip >/dev/null; } && \
		if $(PIP) --require-hashes -r requirements-uv.lock && \
			$(BIN)/uv pip install --quiet --system-certs --python $(BIN)/python --require-hashes -r requirements.lock; then :; \
		else $(PIP) --require-hashes -r requirements.lock; fi && \
		$(PIP) --no-deps --no-build-isolation --editable .; \
	fi
	@touch $@

$(NODE_MODULES): package-lock.json | $(INSTALLED)
	@echo 'chatlab: installing the JavaScript checkers of package-lock.json into node_modules; once, a few seconds' >&2
	@NODE_OPTIONS=--use-system-ca $(BIN)/npm ci --loglevel=error || { echo 'The checkers of the JavaScript could not be installed from the npm registry: see the error above.' \
		'Check the network, or name a mirror: make check npm_config_registry=https://HOST. The tests run without them: make test-quick' >&2; exit 1; }
	@touch $@
