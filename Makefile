# make                       this list: what each target does and how long it takes on two cores without GPU
# make repro        10 min   regenerate every result that is out of date; less, if few are
# make verify       seconds  are the results here those in git? row by row, after make repro
# make test         24 min   unit tests, and every notebook run again and compared with its stored output
# make app          seconds  open the playground as an application: results, live training, clips; nothing to run first
# make lab          seconds  the same in JupyterLab, as a notebook to go on with
# make experiments  seconds  what `dvc exp run` tried, in a table: name, changed parameters, last, forgetting
# make smoke        4 min    all that learns, small, in build/smoke: the workspace is untouched
# make field        hours    every method in every setting, other worlds too (three or more): `rows: all`, then as before
# make search       60 min   score every row and its trials again, on validation clips of other worlds
# make beyond       270 min  past the paper's limits: 200 tasks, a sense missing, few tokens, damage, more streams; goes on where it stopped
# make prior        90 min   train the released priors again, into build/prior; nothing else needs it
# make corpus       2 min    render the clips of the embedded benchmark again
# make notebooks    minutes  execute the notebooks in place and normalise them (after a change of code)
# make faults       hours    kill all that writes and damage all that is read, many times over; it goes on where it stopped
# make lock         minutes  choose the exact version of every package again (after a change of pyproject.toml's ranges)
# make setup        2 min    make .venv, which every target does first, or says in one line why it cannot (.ci/setup)
# make clean        seconds  delete .venv and build
export PATH := $(CURDIR)/.venv/bin:$(PATH)
export DVC_NO_ANALYTICS := 1

.PHONY: help setup repro experiments verify field smoke test faults app lab search beyond prior corpus notebooks lock clean
.DEFAULT_GOAL := help

help:
	@sed -n 's/^# \(make .*\)/\1/p' Makefile

setup:
	@sh .ci/setup

repro:
	@sh .ci/setup repro
	.venv/bin/python -m avcil.workshop.repro

verify: setup
	.venv/bin/python -m avcil.workshop.verify

# `rows` is a parameter like any other: the tables keep what all rows gave when it is headline again
field: setup
	mkdir -p build && cp params.yaml build/params.yaml
	trap 'cp build/params.yaml params.yaml' EXIT; sed -i -E '/^rows:/,/^[^- ]/{/^(rows:|- )/d}' params.yaml && \
	  echo 'rows: all' >> params.yaml && .venv/bin/python -m avcil.workshop.repro
	.venv/bin/python -m avcil.workshop.repro

smoke: setup
	.venv/bin/python -m avcil.workshop.smoke

test: setup
	.venv/bin/pytest -n auto --dist loadfile --no-loadscope-reorder -m "" $(PYTEST)

faults: setup
	PYTHONPATH=tests:tests/faults:. TQDM_DISABLE=1 .venv/bin/python tests/faults/campaign.py $(FAULTS)

# clips of one's own reach the kernel as one message; of more than this, the servers close the connection
UPLOADS := '{"websocket_max_message_size": 210000000}'

app: setup
	JUPYTER_PATH=avcil/workshop/app .venv/bin/python -m avcil.base.portable voila --template=avcil \
	  --progressive_rendering=True --Voila.tornado_settings=$(UPLOADS) $(APP) notebooks/explore.ipynb

lab: setup
	JUPYTER_PATH=avcil/workshop/app .venv/bin/python -m avcil.base.portable jupyter lab \
	  --LabApp.default_url=/lab/tree/explore.ipynb --ServerApp.tornado_settings=$(UPLOADS) \
	  $(LAB) notebooks/explore.ipynb

# deps, which have a slash in their names, are no result, and all experiments have a `rows` of their own
experiments: setup
	.venv/bin/dvc exp show --only-changed --hide-workspace --no-pager \
	  --drop 'Created|Executor|(params\.yaml:)?rows|[^:]*/[^:]*$$' $(EXPERIMENTS)

search: setup
	mkdir -p build
	.venv/bin/papermill --engine plain --log-level WARNING -p workdir . notebooks/08_search.ipynb build/08_search.ipynb

beyond: setup
	mkdir -p build
	.venv/bin/papermill --engine plain --log-level WARNING -p learn True notebooks/13_beyond.ipynb build/13_beyond.ipynb

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
