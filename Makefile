PYTHON ?= python3
BIN := .venv/bin
export MLFLOW_DISABLE_TELEMETRY ?= true

.PHONY: train test clients soak soak-cluster serve ui check audit bench bench-quick pins clean

train: .venv/ready
	$(BIN)/python train.py

test: .venv/ready
	$(BIN)/python -m pytest $(ARGS)

# Needs npm, and fetches what generates clients.
clients: .venv/ready
	$(BIN)/python -m pytest -n 0 -m clients tests/soak/test_clients.py $(ARGS)

# First what kills and counts, two at once, then what measures. 5: ARGS chose none of these.
soak: .venv/ready
	$(BIN)/python -m pytest -n 2 -m 'soak and not alone' -s --durations=0 $(ARGS) || [ $$? = 5 ]
	$(BIN)/python -m pytest -n 0 -m 'soak and alone' -s --durations=0 $(ARGS) || [ $$? = 5 ]

soak-cluster: .venv/ready
	$(BIN)/python -m pytest -n 2 --dist worksteal -m cluster -s --durations=0 $(ARGS)

ui: .venv/ready
	$(BIN)/mlflow ui --port 5001

serve: .venv/ready
	$(BIN)/python -m serve $(ARGS)

check: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# Known vulnerabilities of every package in .venv; --strict fails where one cannot be asked about.
audit: .venv/ready
	$(BIN)/uv tool run pip-audit==2.10.1 --strict \
		--path $$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')

bench: .venv/ready
	$(BIN)/python -m benchmarks $(ARGS)

bench-quick: .venv/ready
	$(BIN)/python -m benchmarks --quick $(ARGS)

pins:
	sed -i "1s/sha256 .*/sha256 $$(sha256sum requirements.txt | cut -d' ' -f1)/" conda.yaml

.venv/ready: requirements.txt requirements-cluster.txt requirements-dev.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet uv==$$(sed -n 's/^uv==//p' requirements-dev.txt)
	VIRTUAL_ENV=$(CURDIR)/.venv $(BIN)/uv pip install --quiet --compile-bytecode -r requirements-dev.txt
	touch $@

clean:
	rm -rf .venv .pytest_cache .ruff_cache .hypothesis
