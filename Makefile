# These set everything up by themselves: `make demo`, `make check` and `make test`. `make help` lists the rest.
PYTHON ?= $(shell for one in python3.11 python3 python3.12 python3.13; do \
	$$one -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null && echo $$one && break; done)
PORT ?= 8000
DURATION ?= 60
SEED ?= 1
PAIRS ?= 5
SECONDS ?= 6
WORKERS ?= 3
COVERAGE ?=
NEWEST ?=
BASE_URL ?= http://127.0.0.1:$(PORT)
STYLE ?= broker
STANDBY ?=
BROKERS ?=
VENV := .venv
BIN := $(VENV)/bin
export PORT STYLE STANDBY BROKERS

.DEFAULT_GOAL := help
.PHONY: help needs-stack needs-test needs-model needs-bench needs-screenshots demo run stack shell check test test-long test-styles faults mutants model bench compare scale lint style types postman openapi asyncapi idl pins sbom advisories diagrams screenshots docs clean

help:  ## list the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/run  ## play the assignment's eight steps and print them (the first thing to try)
	@$(BIN)/nameko-hw demo

run: $(VENV)/run  ## serve everything in one process on http://127.0.0.1:8000 (PORT=...)
	@$(BIN)/nameko-hw run

stack: needs-stack $(VENV)/run  ## serve with one process a service, RabbitMQ and PostgreSQL (PORT=..., STANDBY=1, BROKERS=3)
	@$(BIN)/nameko-hw stack

shell: $(VENV)/run  ## open `nameko shell` against the running stack
	@$(BIN)/nameko-hw shell

check: $(VENV)/test  ## lint, and run every test that needs no server: under a minute
	@$(MAKE) --no-print-directory --jobs=2 lint
	@$(pytest) -n 2 -m "not server"

test: needs-test  ## set up whatever is missing, lint and run all tests (WORKERS=3; COVERAGE=1 measures it)
	@$(MAKE) --no-print-directory --jobs=3 $(VENV)/test postman/node_modules docs/lint/node_modules tests/page/node_modules tests/clients/node_modules
	@$(MAKE) --no-print-directory --jobs=2 lint
	@$(pytest) -n $(WORKERS) $(if $(COVERAGE),--cov --cov-report=term)
	@$(in_other_styles)

test-long: needs-test $(VENV)/test  ## run what `make test` leaves out: upgrades, failovers, restores (WORKERS=3)
	@$(pytest) -n $(WORKERS) --long

test-styles: needs-test $(VENV)/test  ## run the tests of servers and faults in all three styles in full (WORKERS=3)
	@$(pytest) -n $(WORKERS) --styles tests/integration tests/faults
	@$(in_other_styles)

faults: needs-stack $(VENV)/test  ## kill, freeze, cut and lock at random under load (DURATION=60 SEED=1), then audit
	@$(BIN)/python -m tests.faults.chaos --duration $(DURATION) --seed $(SEED)

mutants: needs-stack $(VENV)/test  ## do small harm to a copy of the code, one change at a time, and see that the tests notice
	@$(BIN)/python -m tests.mutants $(NAMES)

model: needs-model $(VENV)/run  ## check the protocol of an order in all its states (BROKEN=inbox: without that safeguard)
	@$(BIN)/python -m tests.model.spin --broken="$(BROKEN)"

bench: needs-bench $(VENV)/bench  ## measure it, and peers on other frameworks, for half an hour (PAIRS=5 SECONDS=6)
	@$(BIN)/python -m bench --pairs $(PAIRS) --seconds $(SECONDS)

compare: needs-bench $(VENV)/bench  ## measure the three styles against each other for half an hour, for docs/comparison.md
	@$(BIN)/python -m bench.compare

scale: needs-bench $(VENV)/bench  ## measure one process of each service, and compute larger deployments, for docs/scale.md
	@$(BIN)/python -m bench.scale

lint: style types  ## ruff and mypy

style: $(VENV)/test
	@echo "Checking the style..."
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --check --quiet .

types: $(VENV)/test
	@echo "Checking the types..."
	@$(BIN)/mypy

postman: postman/node_modules  ## run the Postman suite against BASE_URL=... and write postman/report.html
	@cd postman && npx --no-install newman run nameko-hw.postman_collection.json --env-var baseUrl=$(BASE_URL) \
		--reporters cli,htmlextra --reporter-htmlextra-export report.html

openapi: $(VENV)/run  ## write docs/openapi.json and docs/internal.openapi.json anew
	@$(BIN)/nameko-hw openapi > docs/openapi.json.new && mv docs/openapi.json.new docs/openapi.json
	@$(BIN)/nameko-hw openapi --internal > docs/openapi.json.new && mv docs/openapi.json.new docs/internal.openapi.json

asyncapi: $(VENV)/run  ## write docs/asyncapi.json and docs/events.asyncapi.json anew
	@STYLE=broker $(BIN)/nameko-hw asyncapi > docs/asyncapi.json.new && mv docs/asyncapi.json.new docs/asyncapi.json
	@STYLE=events $(BIN)/nameko-hw asyncapi > docs/asyncapi.json.new && mv docs/asyncapi.json.new docs/events.asyncapi.json

idl: docs/lint/node_modules  ## lint the OpenAPI and AsyncAPI documents in docs/
	@cd docs/lint && npm run --silent openapi -- ../openapi.json ../internal.openapi.json
	@cd docs/lint && npm run --silent asyncapi -- ../asyncapi.json ../events.asyncapi.json

screenshots: needs-screenshots $(VENV)/test  ## take docs/page/*.png anew, of the page with an order, a kill and a lesson
	@$(BIN)/python -m tests.page.screenshots

diagrams: docs/tools/node_modules  ## draw docs/diagrams/*.mmd anew (needs Chromium: CHROMIUM=/usr/bin/chromium)
	@cd docs/tools && npm run --silent draw

pins: $(VENV)/supply  ## write requirements/ anew after a change of setup.cfg (NEWEST=1: in the newest versions that fit)
	@$(BIN)/python -m tests.packages pins $(if $(NEWEST),all)

sbom: $(VENV)/supply  ## list what the image and npm bring, with versions and hashes, in build/sbom (CycloneDX)
	@$(BIN)/python -m tests.packages sbom

advisories: $(VENV)/supply  ## ask PyPI and npm whether a flaw is known of what is installed
	@$(BIN)/python -m tests.packages advisories

docs: $(VENV)/test  ## build the documentation as a site, build/site/index.html
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

clean:  ## remove the virtual environment and all data of the local modes
	rm -rf $(VENV) bench/peers/fastapi/.venv bench/peers/node/node_modules .run build *.egg-info postman/node_modules docs/tools/node_modules docs/lint/node_modules tests/page/node_modules tests/clients/node_modules postman/report.html

# A file of tests shares its servers, so it stays in one process.
pytest = $(BIN)/python -m pytest --dist loadfile --no-loadscope-reorder

# What each style is tried by besides its own tests: the demo, the scenario, the Postman suite and the contract.
of_all_styles = tests/integration/test_http_contract.py tests/integration/test_feed.py \
	$(addprefix tests/acceptance/test_scenario.py::,test_the_demo_prints_every_step_and_leaves_nothing_behind \
	test_the_scenario_holds test_the_postman_suite_passes_and_prints_what_it_sends_and_gets)
in_other_styles = for style in http events; do echo "In the style $$style..."; \
	STYLE=$$style $(pytest) -n 2 $(of_all_styles) || exit 1; done

# What the system must have is found, and where we may installed, before anything else.
needs = [ -n "$(PYTHON)" ] || { echo "Python 3.11, 3.12 or 3.13 is missing: sudo apt-get install python3"; exit 1; }; \
	$(PYTHON) -m services.local.needs

needs-stack needs-test needs-model needs-bench needs-screenshots:
	@$(needs) $(@:needs-%=%)

$(VENV)/bin/python:
	@$(needs) run
	@echo "Making $(VENV) with $$($(PYTHON) --version)..."
	@$(PYTHON) -m venv $(VENV)

$(VENV)/run: $(VENV)/bin/python setup.cfg requirements/build.txt requirements/image.txt requirements/local.txt
	@$(BIN)/python -m services.local.installing pip local
	@touch $@

$(VENV)/test: $(VENV)/run requirements/test.txt
	@$(BIN)/python -m services.local.installing pip test
	@touch $@

$(VENV)/bench: $(VENV)/run requirements/bench.txt
	@$(BIN)/python -m services.local.installing pip bench
	@touch $@

$(VENV)/supply: $(VENV)/run requirements/supply.txt
	@$(BIN)/python -m services.local.installing pip supply
	@touch $@

%/node_modules: %/package-lock.json
	@$(needs) npm
	@$(PYTHON) -m services.local.installing npm $*
	@touch $@
