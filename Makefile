# Two commands set everything up by themselves: `make demo` and `make test`. `make help` lists the rest.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
PORT ?= 8000
DURATION ?= 60
SEED ?= 1
PAIRS ?= 5
SECONDS ?= 6
BASE_URL ?= http://127.0.0.1:$(PORT)
VENV := .venv
BIN := $(VENV)/bin
export PORT

.DEFAULT_GOAL := help
.PHONY: help demo run stack shell test faults model bench lint style types postman openapi asyncapi idl diagrams docs clean

help:  ## list the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/run  ## play the assignment's eight steps and print them (the first thing to try)
	@$(BIN)/nameko-hw demo

run: $(VENV)/run  ## serve everything in one process on http://127.0.0.1:8000 (PORT=...)
	@$(BIN)/nameko-hw run

stack: $(VENV)/run  ## serve with one process a service, RabbitMQ and PostgreSQL (PORT=...)
	@$(BIN)/nameko-hw stack

shell: $(VENV)/run  ## open `nameko shell` against the running stack
	@$(BIN)/nameko-hw shell

test:  ## set up whatever is missing, lint, and run all tests
	@$(MAKE) --no-print-directory --jobs=3 --output-sync=target lint postman/node_modules docs/lint/node_modules
	@$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

faults: $(VENV)/test  ## kill and freeze everything at random under load (DURATION=60 SEED=1), then audit
	@$(BIN)/python -m tests.faults.chaos --duration $(DURATION) --seed $(SEED)

model: $(VENV)/run  ## check the protocol of an order in all its states (BROKEN=inbox: without that safeguard)
	@$(BIN)/python -m tests.model.spin --broken="$(BROKEN)"

bench: $(VENV)/bench  ## measure it, and a peer on other frameworks, for 15 minutes (PAIRS=5 SECONDS=6)
	@$(BIN)/python -m bench --pairs $(PAIRS) --seconds $(SECONDS)

lint: style types  ## flake8, isort and mypy

style: $(VENV)/test
	@$(BIN)/flake8 services tests bench
	@$(BIN)/isort --check-only --quiet services tests bench

types: $(VENV)/test
	@$(BIN)/mypy

postman: postman/node_modules  ## run the Postman suite against BASE_URL=... and write postman/report.html
	@cd postman && npx --no-install newman run nameko-hw.postman_collection.json --env-var baseUrl=$(BASE_URL) \
		--reporters cli,htmlextra --reporter-htmlextra-export report.html

openapi: $(VENV)/run  ## write docs/openapi.json anew
	@$(BIN)/nameko-hw openapi > docs/openapi.json.new && mv docs/openapi.json.new docs/openapi.json

asyncapi: $(VENV)/run  ## write docs/asyncapi.json anew
	@$(BIN)/nameko-hw asyncapi > docs/asyncapi.json.new && mv docs/asyncapi.json.new docs/asyncapi.json

idl: docs/lint/node_modules  ## lint the OpenAPI and AsyncAPI documents in docs/
	@cd docs/lint && npm run --silent openapi -- ../openapi.json ../idl/*.openapi.yaml
	@cd docs/lint && npm run --silent asyncapi -- ../asyncapi.json ../idl/*.asyncapi.yaml

diagrams: docs/tools/node_modules  ## draw docs/diagrams/*.mmd anew (needs Chromium: CHROMIUM=/usr/bin/chromium)
	@cd docs/tools && npm run --silent draw

docs: $(VENV)/test  ## build the documentation as a site, build/site/index.html
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

clean:  ## remove the virtual environment and all data of the local modes
	rm -rf $(VENV) bench/.venv .run build *.egg-info postman/node_modules docs/tools/node_modules docs/lint/node_modules postman/report.html

# Debian splits venv off Python; where we may, we add it.
$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11, 3.12 or 3.13 is needed, this is " + sys.version) if not (3, 11) <= sys.version_info < (3, 14) else 0'
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { apt-get -qq update && apt-get -qq install -y python3-venv; }
	@$(PYTHON) -m venv $(VENV)

$(VENV)/run: $(VENV)/bin/python setup.cfg constraints.txt
	@echo "Installing the packages..."
	@$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[local]'
	@touch $@

$(VENV)/test: $(VENV)/run
	@echo "Installing the packages for the tests..."
	@$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	@touch $@

$(VENV)/bench: $(VENV)/run
	@echo "Installing the packages for the benchmark..."
	@$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[bench]'
	@touch $@

%/node_modules: %/package-lock.json
	@command -v npm >/dev/null || { echo "npm is needed: sudo apt-get install npm"; exit 1; }
	@cd $* && PUPPETEER_SKIP_DOWNLOAD=1 npm ci --no-audit --no-fund --loglevel=error
	@touch $@
