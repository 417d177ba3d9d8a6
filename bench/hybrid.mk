# Can a probe read a recurrent state? Siblings of the embedded model, one with linear attention in every other layer and its twin with
# full attention there, pre-trained, rolled out, verified and judged in the same way. Both begin with the embedded model but for
# those layers. The sizes fit into 45 minutes of one idle core; from scratch and as long as the embedded model:
# HYBRID_STEPS="--steps 3800 --decay 1050" HYBRID_ROLLOUTS="--n 600 --samples 32".
HYBRIDS ?= hybrid attention
HYBRID := $(RUNS)/hybrid
HYBRID_STEPS ?= --begun --steps 600 --decay 200 --warmup 20 --rows 32 --lr 1e-3
HYBRID_ROLLOUTS ?= --n 160 --samples 8
HYBRID_RECIPE ?= --epochs 4 --batch 16
HYBRID_TEST ?= --n 20 --samples 12
HYBRID_RUN := OMP_NUM_THREADS=1 $(BIN)

hybrid: $(HYBRIDS:%=hybrid-%)  ## a verifier of a model with recurrent layers, and of its attention twin; resumable, 45 minutes of one core
	$(BIN)/python bench/hybrid.py $(HYBRID)/*/test/results.json --out $(RESULTS)/hybrid.json

hybrid-%: $(STAMP)
	test -f $(HYBRID)/$*/model/config.json || { \
		$(HYBRID_RUN)/python -m trueplex.reference.pretrain --layers $* $(HYBRID_STEPS) --save-every 25 --out $(HYBRID)/$*/base && \
		$(HYBRID_RUN)/python -m trueplex.reference.build --base $(HYBRID)/$*/base --out $(HYBRID)/$*/model; }
	$(HYBRID_RUN)/trueplex rollout --model $(HYBRID)/$*/model --thinking discrete --data reference --split practice $(HYBRID_ROLLOUTS) \
		--max-batch-size 256 --quiet --out $(HYBRID)/$*/rollouts
	$(HYBRID_RUN)/trueplex train verifier --model $(HYBRID)/$*/model --data $(HYBRID)/$*/rollouts $(HYBRID_RECIPE) --out $(HYBRID)/$*/verifier
	$(HYBRID_RUN)/trueplex eval --model $(HYBRID)/$*/model --verifier $(HYBRID)/$*/verifier --thinking discrete --suite $(ALL) \
		$(HYBRID_TEST) --probe-every 8 --max-batch-size 256 --quiet --out $(HYBRID)/$*/test

# Wants an idle machine: the engine against `generate`, 64 rows of the hybrid, which is a tiny Qwen3.5.
hybrid-speed: $(STAMP)  ## decoding a tiny Qwen3.5 against generate, after `make hybrid`; wants an idle machine
	OMP_NUM_THREADS=1 $(BIN)/trueplex bench decode probe --model $(HYBRID)/hybrid/model --batch-size 64 --against generate \
		--out $(RESULTS)/hybrid-speed.json
