# `make` alone lists what can be made. `book`, `test` and `run` first make .venv if it is missing.

PYTHON   ?= python3# the interpreter that .venv is made from: 3.11, 3.12 or 3.13
SETTINGS ?= quick#   notebooks/settings/$(SETTINGS).yml
NAME      = celeba#  what `make data` fetches: celeba or mnist; an environment may have a NAME too
UV       ?= uv

STAMP         := .venv/.installed# touched only when an install has come to its end
NOTEBOOK       = $(wildcard notebooks/$(notdir $(basename $(NB)))*.ipynb)
SETTINGS_FILE  = $(wildcard notebooks/settings/$(notdir $(SETTINGS:.yml=)).yml)
# As they were typed: make would carry out what stands in $(…) in the name of a folder.
$(foreach name,NB SETTINGS DATA RESULTS SET NAME MIRROR,$(eval override $(name) := $$(value $(name))))
export NB SETTINGS DATA RESULTS SET NAME MIRROR

.DEFAULT_GOAL := help
.PHONY: help book test run status data check-run verify soak bench clean lock

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-7s %s\n", $$1, $$2}' Makefile
	@echo
	@echo "  for example: make run NB=02 SETTINGS=celeba_cpu DATA=/path/to/celeba"

book: $(STAMP) ## execute the notebooks and build the pages
	rm -rf runs/book  # the book's own runs, so that live cells run today's code
	MODLIB_RUNS=runs/book TQDM_DISABLE=1 .venv/bin/jupyter-book build . --all -W -n --keep-going
	@echo "The book is at _build/html/index.html"

# One thread each: the workers of a machine with two cores would wait for one another.
test: $(STAMP) ## run the tests
	OMP_NUM_THREADS=1 .venv/bin/python -m pytest -n auto --maxprocesses 4 --dist worksteal

data: $(STAMP) ## fetch CelebA (NAME=mnist: MNIST) into DATA, or data/; MIRROR: where else it lies
	@.venv/bin/python -m modlib.download "$$NAME" $(if $(DATA),"$$DATA","data/$$NAME") \
	    $(if $(MIRROR),--mirror "$$MIRROR")

run: check-run $(STAMP) ## run notebook NB, or all, with a settings file (SETTINGS, DATA, RESULTS, SET)
	@.venv/bin/python -m modlib.batch run "$$SETTINGS" $(if $(NB),--notebook "$(notdir $(NOTEBOOK:.ipynb=))") \
	    $(if $(DATA),--data "$$DATA") $(if $(RESULTS),--results "$$RESULTS") $(if $(SET),--set "$$SET")

status: $(STAMP) ## say what has come of the notebooks that were run
	@.venv/bin/python -m modlib.batch status

verify: $(STAMP) ## run a sample of the committed records again and compare them digit by digit
	.venv/bin/python -m modlib.verify

soak: $(STAMP) ## the long forms: hundreds of kills, thousands of random cases; figures to book/results/soak
	.venv/bin/python tools/soak.py

bench: $(STAMP) ## measure every speed claim (DATA: CelebA, for the rows that need it); needs idle cores
	.venv/bin/python benchmarks/run.py $(if $(DATA),--data "$$DATA")

# Before the environment is made, so that a slip of the pen is answered at once.
check-run:
	@if [ -n "$$NB" ] && [ $(words $(NOTEBOOK)) -ne 1 ]; then \
	    echo "make run: NB='$$NB' must begin the name of exactly one of these:" >&2; \
	    (cd notebooks && ls *.ipynb | sed 's/^/  /') >&2; exit 2; fi
	@if [ $(words $(SETTINGS_FILE)) -ne 1 ]; then \
	    echo "make run: SETTINGS='$$SETTINGS' must be one of these:" >&2; \
	    (cd notebooks/settings && ls *.yml | sed 's/^/  /; s/\.yml$$//') >&2; exit 2; fi
	@if [ -n "$$DATA" ] && [ ! -e "$$DATA" ]; then \
	    echo "make run: DATA='$$DATA' does not exist; give a folder or a zip archive" >&2; exit 2; fi

clean: ## remove what was built; .venv and runs/ stay
	rm -rf _build build .pytest_cache .ruff_cache *.egg-info
	find . \( -name .venv -o -name .git -o -name runs \) -prune -o \
	    -type d \( -name __pycache__ -o -name .ipynb_checkpoints \) -prune -exec rm -rf {} +

# An environment that someone made by hand is installed into, never deleted. A failed or killed install
# leaves no stamp, so that the next call goes on from where it stopped.
$(STAMP): requirements.lock pyproject.toml
	@rm -f $@
	@test -e .venv/bin/python || $(PYTHON) -c 'import sys; v = sys.version_info[:2]; (3, 11) <= v <= (3, 13) \
	    or sys.exit("$(PYTHON) is Python %d.%d, but 3.11, 3.12 or 3.13 is needed: try make PYTHON=python3.12" % v)'
	test -e .venv/bin/python || $(PYTHON) -m venv .venv
	@test -e .venv/bin/python || { echo ".venv/bin/python leads nowhere: remove .venv and try again" >&2; exit 1; }
	@.venv/bin/python -c 'import sys; v = sys.version_info[:2]; (3, 11) <= v <= (3, 13) \
	    or sys.exit(".venv has Python %d.%d, but 3.11, 3.12 or 3.13 is needed: remove .venv and try again" % v)'
	@.venv/bin/python -m pip --version >/dev/null 2>&1 || .venv/bin/python -m ensurepip
	.venv/bin/python -m pip install --require-hashes -r requirements.lock
	.venv/bin/python -m pip install --no-deps --no-build-isolation -e .
	@touch $@

# Not in `help`: for those who change a range in pyproject.toml. Pins that still fit are kept.
lock:
	$(UV) pip compile --quiet pyproject.toml --extra all --universal --python-version 3.11 \
	    --generate-hashes --no-annotate --no-header --output-file requirements.lock
