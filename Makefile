# make repro       regenerate every result that is out of date
# make verify      are the results here those in git? row by row, after make repro
# make test        unit tests, and every notebook run again and compared with its stored output
# make faults     kill all that writes and damage all that is read, many times over (hours; it goes on where it stopped)
# make app         open the playground as an application: results, live training, clips; nothing to run first
# make lab         the same in JupyterLab, as a notebook to go on with
# make smoke       all that learns, small, in build/smoke: the workspace is untouched
# make field       every method in every setting, other worlds too (two hours or more): `rows: all`, then as before
# make search      score the trials of search.yaml again, on validation clips (twenty minutes)
# make prior       train the released priors again, into build/prior (an hour and a half); nothing else needs it
# make corpus      render the clips of the embedded benchmark again
# make notebooks   execute the notebooks in place and normalise them (after a change of code)
# make lock        choose the exact version of every package again (after a change of pyproject.toml's ranges)
# Each target first makes .venv, or says in one line why it cannot (.ci/setup, which also runs without make).
export PATH := $(CURDIR)/.venv/bin:$(PATH)
export DVC_NO_ANALYTICS := 1

.PHONY: setup repro verify field smoke test faults app lab search prior corpus notebooks lock clean
.DEFAULT_GOAL := repro

setup:
	@sh .ci/setup

repro:
	@sh .ci/setup repro
	.venv/bin/python -m avcil.workshop.repro

verify: setup
	.venv/bin/python -m avcil.workshop.verify

# `rows` is a parameter like any other: the tables keep what all rows gave when it is headline again
field: setup
	sed -i 's/^rows: .*/rows: all/' params.yaml
	trap "sed -i 's/^rows: .*/rows: headline/' params.yaml" EXIT; .venv/bin/python -m avcil.workshop.repro
	.venv/bin/python -m avcil.workshop.repro

smoke: setup
	.venv/bin/python -m avcil.workshop.smoke

test: setup
	.venv/bin/pytest -n auto --dist loadfile --no-loadscope-reorder -m "" $(PYTEST)

faults: setup
	PYTHONPATH=tests:tests/faults:. TQDM_DISABLE=1 .venv/bin/python tests/faults/campaign.py $(FAULTS)

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
