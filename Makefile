# make repro       regenerate every result that is out of date; git status stays clean when it was reproduced
# make test        unit tests, and every notebook run again and compared with its stored output
# make lab         open the playground in JupyterLab: results, live training, clips
# make smoke       the whole pipeline, small, in a temporary copy: the workspace is untouched
# make field       every method under one protocol, and in harder settings (half an hour), after make repro
# make search      score the trials of params.yaml again, on validation clips (twenty minutes)
# make corpus      render the clips of the embedded benchmark again
# make notebooks   execute the notebooks in place and normalise them (after a change of code)
# Each target first creates .venv where it is missing.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(CURDIR)/$(VENV)/bin
export PATH := $(BIN):$(PATH)
export DVC_NO_ANALYTICS := 1

.PHONY: repro field smoke test lab search corpus notebooks clean
.DEFAULT_GOAL := repro

# uv installs the same pins several times faster; pip is the fallback where uv cannot reach its index.
$(VENV)/.installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14) and "avcil needs Python 3.11 to 3.13: make PYTHON=/path/to/python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv && \
	  $(BIN)/uv pip install --quiet --python $(BIN)/python -e '.[test]' || \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[test]'
	touch $@

repro: $(VENV)/.installed
	dvc repro

field: $(VENV)/.installed
	dvc repro benchmarks/dvc.yaml

smoke: $(VENV)/.installed
	python -m avcil.smoke

test: $(VENV)/.installed
	pytest

lab: $(VENV)/.installed
	jupyter lab notebooks/explore.ipynb

search: $(VENV)/.installed
	mkdir -p build
	papermill --engine plain --log-level WARNING -p workdir . notebooks/08_search.ipynb build/08_search.ipynb

corpus: $(VENV)/.installed
	python -m avcil.sounding_objects corpus

notebooks: $(VENV)/.installed
	python -m avcil.nbtools notebooks/*.ipynb

clean:
	rm -rf $(VENV) build
