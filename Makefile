PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-fast lint prove faults bench clean

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

bench: .venv/ready
	$(BIN)/python benchmarks/overhead.py
	$(BIN)/python benchmarks/data.py

.venv/ready: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[test,parity]"
	touch $@

clean:
	rm -rf .venv dist build .ruff_cache .hypothesis
