PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-fast lint prove faults bench peers clean

demo: .venv/ready
	$(BIN)/fuxian demo

test: .venv/ready
	$(BIN)/python tests/run.py --minutes 30 tests

test-fast: .venv/ready
	$(BIN)/python tests/run.py --minutes 3 -m "not slow and not kill" tests

prove: .venv/ready
	$(BIN)/python tests/run.py --minutes 30 --prove tests/parity tests/contract

faults: .venv/ready
	$(BIN)/python -m tests.faults

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

bench: .venv/bench
	-test -f .venv-timm/ready || $(MAKE) .venv-timm/ready
	-$(MAKE) peers
	$(BIN)/python benchmarks/run.py

peers: .venv/ready
	$(BIN)/python -m benchmarks.authors

.venv/ready: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[test,parity]"
	touch $@

.venv/bench: .venv/ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[bench]"
	touch $@

# An environment of its own: torchvision's wheel breaks others beside a build of torch that is not its own.
.venv-timm/ready: constraints.txt
	test -x .venv-timm/bin/python || $(PYTHON) -m venv .venv-timm
	.venv-timm/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch numpy safetensors huggingface_hub pyyaml pillow
	.venv-timm/bin/python -m pip install --quiet --disable-pip-version-check --no-deps torchvision==0.28.0 timm==1.0.31
	touch $@

clean:
	rm -rf .venv .venv-timm .peers dist build .ruff_cache .hypothesis
