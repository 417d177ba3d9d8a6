# The papers' own settings, for those who have the machines: make paper-otv MODEL=Qwen/Qwen3-4B DRY=1 prints every command and an
# estimate of the hours. PAPER_OPTIONS: see python bench/papers.py --help, e.g. PAPER_OPTIONS="--devices 1 --peak 312".
PAPERS := otv multiplex
PAPER_OPTIONS ?=

$(PAPERS:%=paper-%): paper-%: $(STAMP)
	$(if $(MODEL),,$(error paper-$* needs MODEL. Try: make paper-$* MODEL=$(if $(filter otv,$*),Qwen/Qwen3-4B,deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B) DRY=1))
	$(if $(DRY),,HF_HUB_OFFLINE=0 PATH="$(abspath $(BIN)):$$PATH") $(BIN)/python bench/papers.py $* --model $(MODEL) $(if $(DRY),--dry) $(PAPER_OPTIONS)
