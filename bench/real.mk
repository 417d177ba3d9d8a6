# A real model: rollouts, verifiers with one and with four probe tokens, and how their scores and votes compare with free ones.
# make real MODEL=Qwen/Qwen2.5-Coder-0.5B-Instruct; every part is resumed by the same command. REAL_TRAIN and REAL_TEST are
# suites by name or files; the sizes may be given, too.
REAL_TRAIN ?= gsm8k
REAL_TEST ?= gsm8k
REAL_N ?= 300
REAL_SAMPLES ?= 8
TEST_N ?= 200
TEST_SAMPLES ?= 32
REAL := $(RUNS)/real
REAL_THINKING := --thinking discrete --temperature 0.6 --max-tokens 400
REAL_RECIPE := --rank 16 --positions 32 --batch 16 --loss bce --lr 2e-4 --epochs 4 --patience 3 --every 50 --keep-base $(REAL)/base
REAL_VERIFIERS := m1 m4
REAL_m1 :=
REAL_m4 := --probe-tokens 4
FREE_SCORES := deepconf:mean,deepconf:tail@64,deepconf:lowest@64,logprob,entropy
REAL_STORED = $(wildcard $(REAL)/test/*/traces.arrow)

real: real-scores  ## a verifier for a real model against free scores: make real MODEL=…; hours on 2 cores for 0.5 B

real-model: $(STAMP)
	$(if $(MODEL),,$(error this needs MODEL. Try: make real MODEL=Qwen/Qwen2.5-Coder-0.5B-Instruct))

real-rollouts: real-model
	$(BIN)/trueplex rollout --model $(MODEL) --data $(REAL_TRAIN) --split train --n $(REAL_N) --samples $(REAL_SAMPLES) $(REAL_THINKING) \
		--out $(REAL)/rollouts

$(REAL_VERIFIERS:%=real-verifier-%): real-verifier-%: real-rollouts
	$(BIN)/trueplex train verifier --model $(MODEL) --data $(REAL)/rollouts $(REAL_RECIPE) $(REAL_$*) --out $(REAL)/verifier-$*

real-test: real-model
	$(BIN)/trueplex eval --model $(MODEL) --suite $(REAL_TEST) --n $(TEST_N) --samples $(TEST_SAMPLES) $(REAL_THINKING) --verifier none \
		--out $(REAL)/test
	mkdir -p results/real && cp $(REAL)/test/results.json results/real/test.json

real-scores: real-test $(REAL_VERIFIERS:%=real-verifier-%)
	$(BIN)/trueplex eval-verifier --model $(MODEL) $(dir $(firstword $(REAL_STORED))) \
		--scorers $(REAL)/verifier-m1,$(REAL)/verifier-m4,$(FREE_SCORES) --out $(REAL)/scores
	cp $(REAL)/scores/results.json results/real/scores.json
	for v in $(REAL_VERIFIERS); do cp $(REAL)/verifier-$$v/verifier.json results/real/verifier-$$v.json || exit $$?; done
