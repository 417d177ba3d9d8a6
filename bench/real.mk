# Both papers on a real model: make real MODEL=Qwen/Qwen2.5-Coder-0.5B-Instruct, or one study of it at a time. Every target is
# resumed by the same command, does the sampling and training that it lacks, and ends in results/real/STUDY.json, which `make pages`
# reads. QUICK=1 is a handful of everything on easy problems, to see that it runs. What is data is a suite by name or a file.
ifdef QUICK
REAL_TRAIN ?= chain-easy
REAL_TEST ?= chain-easy
REAL_MATH ?= remainder-easy
REAL_N ?= 40
REAL_SAMPLES ?= 4
TEST_N ?= 8
MATH_N ?= 3
TEST_SAMPLES ?= 10
REAL_TOKENS ?= 96
MATH_TOKENS ?= 96
MODES_N ?= 4
MODES_SAMPLES ?= 3
MORE_N ?= 2
MORE_SAMPLES ?= 2
MODES_TOKENS ?= 96
REAL_RECIPE ?= --rank 4 --positions 8 --batch 8 --loss bce --lr 2e-4 --epochs 1 --every 50 --keep-base $(REAL)/base
RIVAL_RECIPE_REAL ?= --rank 4 --batch 8 --lr 2e-4 --epochs 1
REAL_VALUES ?= --n 2 --traces 2 --prefixes 2 --samples 2
REAL_JUDGED ?= --n 3 --samples 4
CURVE ?= 8 16
LINEAR_CURVE ?= 60
LIVE_N ?= 2
LIVE_PATHS ?= 4 10
LEARN_SIZE ?= --problems 24 --steps 1 --prompts 2 --samples 4 --every 1 --val-problems 2 --val-samples 1 --max-tokens 96
LEARN_TEST ?= --n 2 --samples 2 --max-tokens 96
TAGGED_SIZE := --n 12 --samples 2
TAGGED_RECIPE := --examples 8 --epochs 1 --batch 4 --rank 4
else
REAL_TRAIN ?= gsm8k-train
REAL_TEST ?= gsm8k
REAL_MATH ?= math500
REAL_N ?= 800
REAL_SAMPLES ?= 8
TEST_N ?= 200
MATH_N ?= 100
TEST_SAMPLES ?= 32
REAL_TOKENS ?= 400
MATH_TOKENS ?= 640
MODES_N ?= 100
MODES_SAMPLES ?= 16
MORE_N ?= 50
MORE_SAMPLES ?= 8
MODES_TOKENS ?= 640
REAL_RECIPE ?= --rank 16 --positions 32 --batch 16 --loss bce --lr 2e-4 --epochs 4 --patience 3 --every 50 --keep-base $(REAL)/base
RIVAL_RECIPE_REAL ?= --rank 16 --batch 16 --lr 2e-4 --epochs 2 --patience 3 --every 50
REAL_VALUES ?= --n 200 --traces 4 --prefixes 3 --samples 4
REAL_JUDGED ?= --n 100 --samples 16
CURVE ?= 400 800 1600 3200
LINEAR_CURVE ?= 200 400 800 1600
LIVE_N ?= 20
LIVE_PATHS ?= 4 8 16 32
LEARN_SIZE ?= --problems 2000 --steps 30 --prompts 8 --samples 8 --every 10 --val-problems 40 --val-samples 2 --max-tokens 300
LEARN_TEST ?= --n 100 --samples 8 --max-tokens 300
endif
REAL_TEMPERATURE ?= 0.6
# What a machine needs of its own, of everything that decodes: ON='--max-batch-size 1024 --compile off'.
ON ?=
MODEL_NAME ?= $(notdir $(MODEL))
REAL := $(RUNS)/real
REAL_RESULTS := $(RESULTS)/real
TRAINED := m1 m4
REAL_VERIFIERS := linear $(TRAINED)
REAL_m1 :=
REAL_m4 := --probe-tokens 4
comma := ,
space := $(subst ,, )
commas = $(subst $(space),$(comma),$(strip $(1)))
FREE_SCORES := deepconf:mean,deepconf:tail@64,deepconf:bottom@64,deepconf:lowest@64,logprob,entropy
suite_folder = $(notdir $(basename $(1)))
TRUEPLEX = $(BIN)/trueplex
TIMED = $(BIN)/python bench/timed.py --out $(REAL)/times
BUNDLE = $(BIN)/python bench/real_bundle.py --model $(MODEL) --name "$(MODEL_NAME)" --under $(REAL)

real: real-main real-modes real-modes-tagged real-linear real-curve real-ablations real-learning  ## both papers on a real model: make real MODEL=…; days on 2 cores for 0.5 B

real-model: $(STAMP)
	$(if $(MODEL),,$(error this needs MODEL. Try: make real MODEL=Qwen/Qwen2.5-Coder-0.5B-Instruct))

# -- what everything is computed from: rollouts to learn from, and traces of test problems ---------------------------

real-rollouts: real-model
	$(TRUEPLEX) rollout --model $(MODEL) --data $(REAL_TRAIN) --n $(REAL_N) --samples $(REAL_SAMPLES) \
		--thinking discrete --temperature $(REAL_TEMPERATURE) --max-tokens $(REAL_TOKENS) $(ON) --out $(REAL)/rollouts

REAL_SETS := test math
SUITE_test = $(REAL_TEST)
SUITE_math = $(REAL_MATH)
SIZE_test = --n $(TEST_N) --max-tokens $(REAL_TOKENS)
SIZE_math = --n $(MATH_N) --max-tokens $(MATH_TOKENS)
real_eval = $(TRUEPLEX) eval --model $(MODEL) --suite $(SUITE_$(1)) $(SIZE_$(1)) --temperature $(REAL_TEMPERATURE) $(ON) --samples
real_traces = $(REAL)/$(1)/$(call suite_folder,$(SUITE_$(1)))
# The votes that need no verifier, and pruning by what the engine has for nothing.
FREE_VOTES := majority majority~auto majority~consensus:0.6 $(foreach s,$(subst $(comma),$(space),$(FREE_SCORES)),weighted:$s best:$s) \
	weighted:entropy~half:16/4 weighted:entropy~half:32/4 weighted:entropy~half:64/4

$(REAL_SETS:%=real-%-traces): real-%-traces: real-model
	$(call real_eval,$*) $(TEST_SAMPLES) --thinking discrete --verifier none --methods $(call commas,$(FREE_VOTES)) --out $(REAL)/$*

# -- the main table: votes, scores, pruning, calibration, seconds ----------------------------------------------------

fit_linear = test -f $(REAL)/$(1)/linear.json || $(TIMED)/$(1).json \
	train linear --model $(MODEL) --data $(REAL)/rollouts $(2) --keep-base $(REAL)/base --out $(REAL)/$(1)

real-verifier-linear: real-rollouts
	$(call fit_linear,verifier-linear)

$(TRAINED:%=real-verifier-%): real-verifier-%: real-rollouts
	test -f $(REAL)/verifier-$*/verifier.json || $(TIMED)/verifier-$*.json \
		train verifier --model $(MODEL) --data $(REAL)/rollouts $(REAL_RECIPE) $(REAL_$*) --out $(REAL)/verifier-$*

real-values: real-rollouts
	$(TRUEPLEX) train values --model $(MODEL) --data $(REAL)/rollouts $(REAL_VALUES) $(ON)

REAL_RIVALS := outcome process generative
$(REAL_RIVALS:%=real-rival-%): real-rival-%: real-values
	test -f $(REAL)/$*/reward.json || $(TIMED)/$*.json \
		train reward --kind $* --model $(MODEL) --data $(REAL)/rollouts $(RIVAL_RECIPE_REAL) --out $(REAL)/$*

# A verifier's scores along the test traces, as if they had been there live, and every policy on them. The looks are 16 tokens apart.
PRUNED := half:16 half:16/2 half:16/4 half:32 half:32/4 half:64/4 keep-top:8@64 keep-top:4@48 consensus:0.6 auto half:16/4+auto half:32/4+auto half:64/4+auto
PRUNED_FREE := half:32/4 deepconf:low@64/8 deepconf:high@64/8
VOTES := majority weighted best weighted:odds weighted:4 top:0.25 majority~auto majority~consensus:0.6 $(PRUNED:%=weighted~%) \
	$(foreach s,$(subst $(comma),$(space),$(FREE_SCORES)),weighted:$s best:$s) $(PRUNED_FREE:%=weighted:deepconf:lowest@64~%) weighted:entropy~half:32/4
REAL_SCORED := $(foreach v,$(REAL_VERIFIERS),$(REAL_SETS:%=real-scored-$v-%))
scored_v = $(word 1,$(subst -, ,$*))
scored_s = $(word 2,$(subst -, ,$*))

$(foreach v,$(REAL_VERIFIERS),real-scored-$v-test): real-test-traces
$(foreach v,$(REAL_VERIFIERS),real-scored-$v-math): real-math-traces
$(foreach v,$(REAL_VERIFIERS),$(eval $(REAL_SETS:%=real-scored-$v-%): real-verifier-$v))
$(REAL_SCORED): real-scored-%:
	$(TRUEPLEX) score $(call real_traces,$(scored_s)) --model $(MODEL) --verifier $(REAL)/verifier-$(scored_v) --probe-every 16 \
		--out $(REAL)/scored-$(scored_v)-$(scored_s)/$(call suite_folder,$(SUITE_$(scored_s)))
	$(call real_eval,$(scored_s)) $(TEST_SAMPLES) --thinking discrete --verifier $(REAL)/verifier-$(scored_v) --probe-every 16 --methods $(call commas,$(VOTES)) \
		--out $(REAL)/scored-$(scored_v)-$(scored_s)

# Every score on the same traces, rivals included; they reread texts, so on fewer traces.
JUDGED_BY = $(call commas,$(REAL_VERIFIERS:%=$(REAL)/verifier-%)),$(FREE_SCORES),orm:$(REAL)/outcome,prm:math-shepherd:$(REAL)/process,genrm:$(MODEL),genrm:$(REAL)/generative

$(REAL_SETS:%=real-judged-%): real-judged-%: real-%-traces $(REAL_VERIFIERS:%=real-verifier-%) $(REAL_RIVALS:%=real-rival-%)
	$(TRUEPLEX) eval-verifier $(call real_traces,$*) --model $(MODEL) $(REAL_JUDGED) --scorers $(JUDGED_BY) --out $(REAL)/judged-$*

# What a confidence means, fitted on half of the test problems, none of which a verifier has seen, and judged on the other half.
real-calibrated-%: real-scored-%-test
	$(TRUEPLEX) calibrate $(REAL)/scored-$*-test/$(call suite_folder,$(REAL_TEST)) --model $(MODEL) --verifier $(REAL)/verifier-$* \
		--paths $(TEST_SAMPLES) --select weighted --prune none --prune half:16/4 --prune half:32/4 --error 0.1 --out $(REAL)/calibrated-$* \
		|| echo "verifier-$*: not calibrated; the table goes without"

# Accuracy against seconds: whole runs, a problem at a time; wants an idle machine.
real-live: $(REAL_VERIFIERS:%=real-verifier-%)
	$(BIN)/python bench/real_live.py --model $(MODEL) --name "$(MODEL_NAME)" --verifier $(REAL)/verifier-m1 --suite $(REAL_TEST) --n $(LIVE_N) --paths $(LIVE_PATHS) \
		--temperature $(REAL_TEMPERATURE) --max-tokens $(REAL_TOKENS) --runs $(REAL)/live --out $(REAL_RESULTS)/live.json

MAIN_PARTS = $(foreach s,$(REAL_SETS),sampled-$s=$(REAL)/$s/results.json sampled-$s-time=$(REAL)/$s/timing.json judged-$s=$(REAL)/judged-$s/results.json \
	$(foreach v,$(REAL_VERIFIERS),scored-$v-$s=$(REAL)/scored-$v-$s/results.json)) \
	$(foreach v,$(REAL_VERIFIERS),verifier-$v=$(REAL)/verifier-$v/$(if $(filter linear,$v),$v,verifier).json verifier-$v-time=$(REAL)/times/verifier-$v.json calibrated-$v=$(REAL)/calibrated-$v/results.json) \
	$(foreach r,$(REAL_RIVALS),$r=$(REAL)/$r/reward.json $r-time=$(REAL)/times/$r.json)

real-main: real-votes $(REAL_SETS:%=real-judged-%)  ## the main table of a real model, and its report page: make real-main MODEL=…
	$(BUNDLE) --out $(REAL_RESULTS)/main.json $(MAIN_PARTS)
	$(TRUEPLEX) report $(REAL)/scored-m1-test $(REAL)/judged-test --out $(REAL)/report.html --figures $(FIGURES)/real --title "trueplex: $(MODEL_NAME)"

# Votes and policies of the verifiers, before any rival is trained.
real-votes: $(REAL_SCORED) $(REAL_VERIFIERS:%=real-calibrated-%)
	$(BUNDLE) --out $(REAL_RESULTS)/main.json $(MAIN_PARTS)

# -- ways to think, untrained: three temperatures, then the other modes at the one that is best for K = 3 -------------

MODES := modes
MODE_greedy := --greedy
HEATS ?= $(if $(QUICK),0.6 1.0,0.4 0.6 1.0)
MODES_FIRST := greedy $(foreach m,discrete multiplex3,$(HEATS:%=$m-%))
MODES_MORE := multiplex2 soft $(if $(QUICK),,multiplex6 multiplex3mean gumbel)
mode_of = $(word 1,$(subst -, ,$*))
heat_of = $(word 2,$(subst -, ,$*))

real-mode-%: real-model
	$(TRUEPLEX) eval --model $(MODEL) --suite $(REAL_TEST) --n $(MODES_N) $(if $(filter greedy soft,$(mode_of)),--samples 1,--samples $(MODES_SAMPLES)) $(MODE_$(mode_of)) \
		$(if $(heat_of),--temperature $(heat_of)) --max-tokens $(MODES_TOKENS) $(ON) --verifier none --methods majority --out $(REAL)/$(MODES)/$*

real-modes-more: $(MODES_FIRST:%=real-mode-%)
	heat=$$($(BIN)/python bench/real_modes.py --runs $(REAL)/$(MODES) --best multiplex3) && for mode in $(MODES_MORE); do \
		$(MAKE) --no-print-directory real-mode-$$mode-$$heat MODES_N=$(MORE_N) MODES_SAMPLES=$(MORE_SAMPLES) || exit $$?; done

real-modes: real-modes-more  ## thinking modes of an untrained real model: make real-modes MODEL=…
	$(BIN)/python bench/real_modes.py --runs $(REAL)/$(MODES) --name "$(MODEL_NAME)" --out $(REAL_RESULTS)/$(MODES).json

# The same on the fine-tune with thinking tags that `make tagged` makes of MODEL.
real-tags: real-model
	test -f $(TAGGED)/model/config.json || $(MAKE) tagged TRAIN_DATA=$(REAL_TRAIN)

real-modes-tagged: real-tags  ## thinking modes of the model with tags: make real-modes-tagged MODEL=…
	$(MAKE) real-modes MODEL=$(TAGGED)/model MODEL_NAME="$(MODEL_NAME), tagged" MODES=modes-tagged

# -- how much data a verifier needs, what it needs of its recipe, and how far it carries -------------------------------

# Judged on the same test traces; each learns from the first so many traces that the whole recipe learns from.
real-curve-%: real-rollouts
	test -f $(REAL)/curve-$*/verifier.json || $(TIMED)/curve-$*.json \
		train verifier --model $(MODEL) --data $(REAL)/rollouts --traces $* $(REAL_RECIPE) --out $(REAL)/curve-$*

real-curve: real-test-traces real-verifier-m1 $(CURVE:%=real-curve-%)  ## a verifier by the number of traces that it learned from: make real-curve MODEL=…
	$(TRUEPLEX) eval-verifier $(call real_traces,test) --model $(MODEL) $(REAL_JUDGED) \
		--scorers $(call commas,$(REAL)/verifier-m1 $(CURVE:%=$(REAL)/curve-%)) --out $(REAL)/judged-curve
	$(BUNDLE) --out $(REAL_RESULTS)/curve.json judged=$(REAL)/judged-curve/results.json whole=$(REAL)/verifier-m1/verifier.json \
		$(foreach n,$(CURVE),curve-$n=$(REAL)/curve-$n/verifier.json curve-$n-time=$(REAL)/times/curve-$n.json)

# The same of the linear one, which needs no other judge than what it prints: problems that did not fit it.
real-linear-%: real-rollouts
	$(call fit_linear,linear-$*,--traces $*)

real-linear: real-verifier-linear $(LINEAR_CURVE:%=real-linear-%)  ## a linear verifier by the number of traces that it learned from: make real-linear MODEL=…
	$(BUNDLE) --out $(REAL_RESULTS)/linear.json whole=$(REAL)/verifier-linear/linear.json $(foreach n,$(LINEAR_CURVE),$n=$(REAL)/linear-$n/linear.json)

# One thing changed at a time. `measured` learns from the values that the process model learned from.
REAL_ABLATIONS := rank0 measured $(if $(QUICK),,rank4 rank64 constant final power mse)
ABLATION_rank0 := --rank 0
ABLATION_rank4 := --rank 4
ABLATION_rank64 := --rank 64
ABLATION_constant := --labels constant
ABLATION_final := --labels final --positions 1
ABLATION_power := --labels power
ABLATION_mse := --loss mse
ABLATION_measured := --labels measured

real-ablation-measured: real-values
real-ablation-%: real-rollouts
	test -f $(REAL)/ablation-$*/verifier.json || $(TIMED)/ablation-$*.json \
		train verifier --model $(MODEL) --data $(REAL)/rollouts $(REAL_RECIPE) $(ABLATION_$*) --out $(REAL)/ablation-$*

# Transfer: judged on problems of another kind, and on multiplex traces, of which it has seen none.
real-multiplex-traces: real-model
	$(call real_eval,test) $(MODES_SAMPLES) --width 3 --verifier none --methods majority --out $(REAL)/multiplex

real-ablations: real-test-traces real-math-traces real-multiplex-traces $(REAL_VERIFIERS:%=real-verifier-%) $(REAL_ABLATIONS:%=real-ablation-%)  ## ablations and transfer of a verifier: make real-ablations MODEL=…
	for set in test math multiplex; do \
		$(TRUEPLEX) eval-verifier $(REAL)/$$set/$$(if [ $$set = math ]; then echo $(call suite_folder,$(REAL_MATH)); else echo $(call suite_folder,$(REAL_TEST)); fi) \
			--model $(MODEL) $(REAL_JUDGED) --scorers $(call commas,$(REAL_VERIFIERS:%=$(REAL)/verifier-%) $(REAL_ABLATIONS:%=$(REAL)/ablation-%)),entropy \
			--out $(REAL)/ablated-$$set || exit $$?; done
	$(BIN)/python bench/perturb.py --model $(MODEL) --verifier $(REAL)/verifier-m1 --stored $(REAL)/test --suites $(call suite_folder,$(REAL_TEST)) \
		--out $(REAL)/perturb.json
	$(BUNDLE) --out $(REAL_RESULTS)/ablations.json $(foreach s,test math multiplex,judged-$s=$(REAL)/ablated-$s/results.json) perturb=$(REAL)/perturb.json

# The recipe unchanged on another model, such as a base model without a chat template: make real-other MODEL=… OTHER=…
real-other:  ## the same recipe on another model: make real-other OTHER=…
	$(if $(OTHER),,$(error real-other needs OTHER. Try: make real-other OTHER=HuggingFaceTB/SmolLM2-135M-Instruct))
	$(MAKE) --no-print-directory real-other-judged MODEL=$(OTHER) MODEL_NAME="$(notdir $(OTHER))" REAL=$(REAL)/other-$(notdir $(OTHER))

real-other-judged: real-test-traces real-verifier-m1
	$(TRUEPLEX) eval-verifier $(call real_traces,test) --model $(MODEL) $(REAL_JUDGED) --scorers $(REAL)/verifier-m1,$(FREE_SCORES) --out $(REAL)/judged
	$(BUNDLE) --out $(REAL_RESULTS)/other-$(MODEL_NAME).json sampled=$(REAL)/test/results.json judged=$(REAL)/judged/results.json \
		verifier=$(REAL)/verifier-m1/verifier.json verifier-time=$(REAL)/times/verifier-m1.json

# -- learning: GRPO with LoRA, discrete and K = 3, same budget, on the model with thinking tags ------------------------

LEARNED := k1 k3
LEARN_k1 := --thinking discrete
LEARN_k3 := --width 3
LEARN_RECIPE ?= --rank 16 --lr 2e-5 --micro-tokens 1024

real-learn-%:
	test -d $(REAL)/learning/$*/adapter || $(TIMED)/learn-$*.json train policy --model $(MODEL) --data $(REAL_TRAIN) $(LEARN_$*) $(LEARN_SIZE) $(LEARN_RECIPE) $(ON) --quiet --out $(REAL)/learning/$*
	$(TRUEPLEX) eval --model $(MODEL) --suite $(REAL_TEST) $(LEARN_$*) $(LEARN_TEST) $(ON) --verifier none --methods majority --out $(REAL)/learning/start-$*
	$(TRUEPLEX) eval --model $(REAL)/learning/$*/adapter --suite $(REAL_TEST) $(LEARN_$*) $(LEARN_TEST) $(ON) --verifier none --methods majority --out $(REAL)/learning/$*/test
	$(BIN)/python bench/learning.py --run $(REAL)/learning/$* --into $(REAL)/learning/results

real-learning-of: $(LEARNED:%=real-learn-%)
	$(BUNDLE) --out $(REAL_RESULTS)/learning.json $(foreach k,$(LEARNED),start-$k=$(REAL)/learning/start-$k/results.json $k=$(REAL)/learning/results/$k.json $k-time=$(REAL)/times/learn-$k.json)

real-learning: real-tags  ## GRPO of a real model with thinking tags, discrete and multiplex: make real-learning MODEL=…
	$(MAKE) --no-print-directory real-learning-of MODEL=$(TAGGED)/model MODEL_NAME="$(MODEL_NAME), tagged"
