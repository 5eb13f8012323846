# make repro       regenerate every result that is out of date; git status stays clean when it was reproduced
# make test        unit tests, and every notebook run again and compared with its stored output
# make lab         open the playground in JupyterLab: results, live training, clips
# make smoke       the whole pipeline, small, in a temporary copy: the workspace is untouched
# make field       every method under one protocol, and in harder settings (half an hour), after make repro
# make search      score the trials of params.yaml again, on validation clips (twenty minutes)
# make corpus      render the clips of the embedded benchmark again
# make notebooks   execute the notebooks in place and normalise them (after a change of code)
# make lock        choose the exact version of every package again (after a change of pyproject.toml's ranges)
# Each target first makes .venv, or says in one line why it cannot (.ci/setup, which also runs without make).
export PATH := $(CURDIR)/.venv/bin:$(PATH)
export DVC_NO_ANALYTICS := 1

.PHONY: setup repro field smoke test lab search corpus notebooks lock clean
.DEFAULT_GOAL := repro

setup:
	@sh .ci/setup

repro:
	@sh .ci/setup repro
	.venv/bin/dvc repro

field: setup
	.venv/bin/dvc repro benchmarks/dvc.yaml

smoke: setup
	.venv/bin/python -m avcil.workshop.smoke

test: setup
	.venv/bin/pytest

lab: setup
	.venv/bin/jupyter lab --LabApp.default_url=/lab/tree/explore.ipynb $(LAB) notebooks/explore.ipynb

search: setup
	mkdir -p build
	.venv/bin/papermill --engine plain --log-level WARNING -p workdir . notebooks/08_search.ipynb build/08_search.ipynb

corpus: setup
	.venv/bin/python -m avcil.world.sounding_objects corpus

notebooks: setup
	.venv/bin/python -m avcil.workshop.nbtools notebooks/*.ipynb

lock: setup
	.venv/bin/python .ci/lock.py $(LOCK)

clean:
	rm -rf .venv build
