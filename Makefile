# Two commands do everything, on a bare Debian or Ubuntu machine as root, or wherever a Docker
# Engine answers:
#   make run    set up what is missing, then run the examples
#   make test   set up what is missing, then lint, types and the test suite on the real engine; it
#               names what is left out
# make setup is their common part, and quick when nothing is missing; make clean removes what they
# made here. Two tests take longer:
#   make soak RUNS=5000    that many runs, benign and hostile, and a report; make test has 500 of them
#   make fuzz SECONDS=600  the properties with new examples; then coverage-guided fuzzing of each decoder for
#                          that long
# WORKERS=4 runs four files of tests on the engine side by side, in place of two; tests that are
# marked `alone` run one after the other.
# BASE=python:3.13-slim builds the runner image from an image instead of Debian's packages.

VENV := .venv
BIN := $(VENV)/bin
BUILD = $(BIN)/dayfly image build
PIP = $(BIN)/pip install --quiet --disable-pip-version-check
LEFT_OUT = build/left-out.txt
KERNEL_MEMORY = tests/attacks/test_kernel_memory.py
say = @printf '\033[1m[make]\033[0m %s\n'

.PHONY: run test lint test-pure test-page test-haproxy test-crun setup clean soak test-pythons test-lowest end-tests attacks-kernel attacks-vm fuzz conformance conformance-matrix conformance-vm cpython-tests bench docs dist

run: setup
	@PATH="$(CURDIR)/$(BIN):$$PATH" examples/run

test: setup $(VENV)/frameworks
	@$(if $(CI),tools/host chromium haproxy)
	@mkdir -p build && : >$(LEFT_OUT)
	$(say) "the image with Python 2.7, which some tests need"
	@$(BUILD) --python2 >/dev/null
	@$(MAKE) --no-print-directory lint test-pure
	$(say) "tests with frameworks, which leave threads behind: in a process of their own"
	@DAYFLY_TEST_LEFT_OUT=$(LEFT_OUT) $(BIN)/pytest tests/adapters
	$(say) "tests on the real engine, with each runtime"
	@missing=$$(tools/host missing) && runtimes=$$(tools/runtimes test) && \
		export DAYFLY_TEST_LEFT_OUT=$(LEFT_OUT) DAYFLY_TEST_RUNTIMES="$$runtimes" && \
		engine="--ignore tests/pure --ignore tests/adapters $$(for part in $$missing; do echo --ignore tests/server/test_$$part.py; done)" && \
		$(BIN)/pytest -m 'not alone' -n $(or $(WORKERS),2) --dist loadfile --no-loadscope-reorder $$engine && \
		$(BIN)/pytest -m alone $$engine --deselect '$(KERNEL_MEMORY)::test_what_the_kernel_holds_is_charged[crun' && \
		for part in $$missing; do echo "make test-$$part, which installs what it needs" >>$(LEFT_OUT); done && \
		case " $$runtimes " in *' crun '*) ;; *) echo "make test-crun, which gives the engine a second runtime" >>$(LEFT_OUT) ;; esac
	@$(MAKE) --no-print-directory soak RUNS=500
	@if [ -s $(LEFT_OUT) ]; then sed 's/^/[make] left out: /' $(LEFT_OUT); else echo '[make] left out: nothing'; fi

# What needs more than an engine. `make test` has these tests where it is here, and in CI (CI=1),
# which installs it. crun is in it where the engine has it, or is one that tools/host has installed.
test-page: setup
	@tools/host chromium
	@$(BIN)/pytest tests/server/test_page.py

test-haproxy: setup
	@tools/host haproxy
	@$(BIN)/pytest tests/server/test_haproxy.py

test-crun: setup
	@tools/runtimes
	@DAYFLY_TEST_RUNTIMES=crun $(BIN)/pytest tests/attacks tests/engine/test_runtimes.py -k crun

lint: $(VENV)/installed
	$(say) "lint and types"
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

test-pure: $(VENV)/installed
	$(say) "tests of the modules without I/O, which must cover every branch"
	@$(BIN)/coverage run -m pytest tests/pure
	@$(BIN)/coverage report

soak: setup
	$(say) "soak: $(or $(RUNS),500) runs"
	@$(BIN)/python -m tests.soak --runs $(or $(RUNS),500) $(if $(RUNTIME),--runtime $(RUNTIME)) $(if $(BLOCK),--block $(BLOCK)) $(if $(REPORT),--report $(REPORT))

# What a program can make the kernel hold, and what its container is charged: the table in
# SECURITY.md. `make test` has it with runc: the kernel is the same under crun, which takes minutes
# more.
attacks-kernel: setup
	@$(BIN)/pytest $(KERNEL_MEMORY) -q -s --durations=0 --durations-min=60

# The same, and the attacks, on cgroup v2, in a virtual machine that qemu emulates: an hour and a
# half.
VM_TESTS = $(KERNEL_MEMORY) tests/attacks/test_attacks.py
attacks-vm: setup $(VENV)/conformance
	@conformance/engines/prepare qemu-system-x86_64 mmdebstrap
	@$(BIN)/python -m conformance.engines.vm env DAYFLY_TEST_PATIENCE=10 DAYFLY_TEST_RUNTIMES='$(or $(RUNTIME),runc)' \
		python3 -m pytest -p no:cacheprovider -q -s --timeout 3000 $(VM_TESTS)

# The host's tests on each installed Python from 3.10 to 3.14, of which 3.14 may come from Debian;
# and on the lowest declared dependencies.
test-pythons: setup
	@tools/pythons

test-lowest: setup
	@tools/pythons lowest

# Programs that look for a difference between the short end and a plain one, on each Python from 3.8
# to 3.14 that is here.
end-tests: $(VENV)/installed
	@tools/pythons ends

fuzz: $(VENV)/installed
	@DAYFLY_TEST_EXAMPLES=search $(BIN)/pytest tests/pure tests/runner/test_codec.py
	@$(PIP) atheris
	@for target in host stdcopy runner; do \
		$(BIN)/python tests/fuzz/codecs.py $$target build/fuzz/$$target -max_total_time=$(or $(SECONDS),60) || exit 1; done

setup:
	@tools/host
	@$(BIN)/python -c '' 2>/dev/null || rm -rf $(VENV)
	@$(MAKE) --silent --no-print-directory $(VENV)/installed
	@$(BUILD) $(if $(BASE),--base $(BASE)) >/dev/null

$(VENV)/installed: pyproject.toml engine/dayfly/_version.py
	$(say) "virtual environment and package, in $(VENV)"
	@python3 -m venv $(VENV)
	@$(PIP) --upgrade 'pip>=25.1' # knows dependency groups
	@$(PIP) --editable '.[mcp,otel,server]' --group dev --group reach
	@touch $@

$(VENV)/frameworks: pyproject.toml
	$(say) "frameworks that dayfly.adapters is tested with"
	@$(PIP) --group frameworks
	@touch $@

# CPython's own test modules, in a plain container and in dayfly: lists each test that differs. Half
# an hour; MODULES="test_io test_os" chooses.
cpython-tests: setup
	@$(BUILD) --tag dayfly/cpython-tests:3.11 --base debian:bookworm --apt libpython3.11-testsuite >/dev/null
	@$(BIN)/python -m tests.cpython $(MODULES)

# Speed, compared with other projects, which come from the package index: a quarter of an hour on an
# idle machine.
bench: setup $(VENV)/bench
	@$(BIN)/python -m benchmarks

$(VENV)/bench: pyproject.toml
	@$(PIP) --group bench
	@touch $@

# The documented behaviour, judged from outside: conformance/README.md. RUNTIME=crun and DOCKER_HOST
# choose what is judged.
JUDGE = $(BIN)/python -m pytest -c conformance/pytest.toml

conformance: setup $(VENV)/conformance
	@$(BUILD) --python2 >/dev/null
	@conformance/engines/prepare docker-compose mmdebstrap
	@! command -v mmdebstrap >/dev/null || $(BIN)/python -m conformance.engines.images host:bookworm
	@$(JUDGE) conformance -q --report build/conformance/$(or $(RUNTIME),local) --column "local$(if $(RUNTIME), $(RUNTIME))" $(if $(RUNTIME),--runtime $(RUNTIME) --engine-only)

conformance-matrix: setup $(VENV)/conformance
	@$(BUILD) --python2 >/dev/null
	@conformance/engines/prepare docker-compose mmdebstrap
	@$(BIN)/python -m conformance.engines.images
	@$(JUDGE) --noconftest conformance/engines/test_matrix.py -s

conformance-vm: setup $(VENV)/conformance
	@$(BUILD) --python2 >/dev/null
	@conformance/engines/prepare qemu-system-x86_64 mmdebstrap
	@$(BIN)/python -m conformance.engines.vm

$(VENV)/conformance: pyproject.toml
	@$(PIP) --group conformance
	@touch $@

# The documentation site, in build/site. A broken link is an error.
docs: $(VENV)/installed
	@$(PIP) --group docs
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

# The sdist and the wheel, checked as a package index checks them, and installed into clean
# environments.
dist: $(VENV)/installed
	@$(PIP) --group release
	@rm -rf dist
	@$(BIN)/python -m build --quiet
	@$(BIN)/twine check --strict dist/*
	@tools/dist-check dist

# Images stay: another checkout may use them. `docker image rm` removes them, `dayfly clean`
# orphans.
clean:
	rm -rf $(VENV) dist build .coverage .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
