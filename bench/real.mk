# Both papers on a model that people use: make real MODEL=Qwen/Qwen2.5-Coder-0.5B-Instruct. Every part is resumed by the same
# command. REAL_TRAIN and REAL_TEST: problems by name, or FILE.jsonl; N, SAMPLES and so on below may be given, too.
REAL_TRAIN ?= gsm8k
REAL_TEST ?= gsm8k
REAL_N ?= 300
REAL_SAMPLES ?= 8
TEST_N ?= 200
TEST_SAMPLES ?= 32
REAL_LIMIT ?= 400
REAL := $(RUNS)/real
REAL_THINKING := --thinking discrete --temperature 0.6 --max-tokens $(REAL_LIMIT)
# One factor at a time, chosen on problems that are neither learned from nor tested on.
REAL_VERIFIERS := m1 m4
REAL_RECIPE := --rank 16 --positions 32 --batch 16 --lr 5e-4
REAL_m1 :=
REAL_m4 := --probe-tokens 4

real: real-scores  ## rollouts, verifiers, votes and scores on a real model: make real MODEL=…; hours

real-model: $(STAMP)
	$(if $(MODEL),,$(error this needs MODEL. Try: make real MODEL=Qwen/Qwen2.5-Coder-0.5B-Instruct))

real-rollouts: real-model
	$(BIN)/trueplex rollout --model $(MODEL) --data $(REAL_TRAIN) --split train --n $(REAL_N) --samples $(REAL_SAMPLES) $(REAL_THINKING) \
		--out $(REAL)/rollouts

real-verifier-%: real-rollouts
	$(BIN)/trueplex train verifier --model $(MODEL) --data $(REAL)/rollouts $(REAL_RECIPE) $(REAL_$*) --out $(REAL)/verifier-$*

real-test: real-model
	$(BIN)/trueplex eval --model $(MODEL) --suite $(REAL_TEST) --n $(TEST_N) --samples $(TEST_SAMPLES) $(REAL_THINKING) --verifier none \
		--out $(REAL)/test
