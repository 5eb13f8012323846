# make repro       regenerate every result that is out of date
# make verify      are the results here those in git? row by row, after make repro
# make test        unit tests, and every notebook run again and compared with its stored output
# make app         open the playground as an application: results, live training, clips; nothing to run first
# make lab         the same in JupyterLab, as a notebook to go on with
# make smoke       the whole pipeline, small, in a temporary copy: the workspace is untouched
# make field       every method under one protocol, and in harder settings (half an hour or more), after make repro
# make search      score the trials of params.yaml again, on validation clips (twenty minutes)
# make prior       train the released priors again, into build/prior (an hour and a half); nothing else needs it
# make corpus      render the clips of the embedded benchmark again
# make notebooks   execute the notebooks in place and normalise them (after a change of code)
# make lock        choose the exact version of every package again (after a change of pyproject.toml's ranges)
# Each target first makes .venv, or says in one line why it cannot (.ci/setup, which also runs without make).
export PATH := $(CURDIR)/.venv/bin:$(PATH)
export DVC_NO_ANALYTICS := 1

.PHONY: setup repro verify field smoke test app lab search prior corpus notebooks lock clean
.DEFAULT_GOAL := repro

setup:
	@sh .ci/setup

repro:
	@sh .ci/setup repro
	.venv/bin/dvc repro

verify: setup
	.venv/bin/python -m avcil.workshop.verify

field: setup
	.venv/bin/dvc repro benchmarks/dvc.yaml

smoke: setup
	.venv/bin/python -m avcil.workshop.smoke

test: setup
	.venv/bin/pytest -n auto --dist loadfile --no-loadscope-reorder -m "" $(PYTEST)

app: setup
	.venv/bin/python -m avcil.base.portable voila --progressive_rendering=True $(APP) notebooks/explore.ipynb

lab: setup
	.venv/bin/python -m avcil.base.portable jupyter lab --LabApp.default_url=/lab/tree/explore.ipynb $(LAB) notebooks/explore.ipynb

search: setup
	mkdir -p build
	.venv/bin/papermill --engine plain --log-level WARNING -p workdir . notebooks/08_search.ipynb build/08_search.ipynb

prior: setup
	.venv/bin/python -m avcil.world.pretraining

corpus: setup
	.venv/bin/python -m avcil.world.sounding_objects corpus

notebooks: setup
	.venv/bin/python -m avcil.workshop.nbtools notebooks/*.ipynb

lock: setup
	.venv/bin/python .ci/lock.py $(LOCK)

clean:
	rm -rf .venv build
