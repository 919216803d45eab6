# Everything from a fresh Debian or Ubuntu machine: set-up, build, demo, tests.
.PHONY: setup configure build demo test test-long test-asan test-tsan dist gpu-check fuzz format clean

BUILD := build
DEMO_TEXT := $(BUILD)/king-james-bible.txt

setup:
	@tools/setup.sh

configure: setup
	@test -f $(BUILD)/build.ninja || cmake --preset release

# The program and all tests.
build: configure
	@cmake --build $(BUILD)

demo: configure $(DEMO_TEXT)
	@cmake --build $(BUILD) --target rehearse
	@$(BUILD)/rehearse demo --data $(DEMO_TEXT)

# The King James Bible, 4.4 MB of English in the public domain, from the package bible-kjv.
$(DEMO_TEXT): | setup
	@mkdir -p $(BUILD)
	@bible -f -l80 gen1:1-rev22:21 > $@.part && test -s $@.part && mv $@.part $@

test: build
	@ctest --test-dir $(BUILD) --output-on-failure --parallel 2

# What takes longer than a test should: the same tests with more cases, where they have more.
test-long: build
	@REHEARSE_LONG_TESTS=1 ctest --test-dir $(BUILD) --output-on-failure --parallel 2 --timeout 3600

# A tarball for a machine that has a card and nothing of ours.
dist: $(DEMO_TEXT)
	@tools/dist.sh --text $(DEMO_TEXT)

test-asan test-tsan: test-%: setup
	@cmake --preset $* && cmake --build --preset $* && ctest --preset $*

# Checks and times of the GPU kernels, on a machine that has such a GPU.
gpu-check:
	@tools/gpu_check.sh

# Ten minutes each of mutated topologies, traces and checkpoints; new ones that reach new code join the corpus.
fuzz: configure
	@cmake --build $(BUILD) --target topology_fuzz trace_fuzz checkpoint_fuzz routing_fuzz
	@$(BUILD)/tests/topology_fuzz tests/corpus/topology $${SECONDS_TO_FUZZ:-600} $${SEED:-1}
	@$(BUILD)/tests/trace_fuzz tests/corpus/trace $${SECONDS_TO_FUZZ:-600} $${SEED:-1}
	@$(BUILD)/tests/checkpoint_fuzz tests/corpus/checkpoint $${SECONDS_TO_FUZZ:-600} $${SEED:-1}
	@$(BUILD)/tests/routing_fuzz tests/corpus/routing $${SECONDS_TO_FUZZ:-600} $${SEED:-1}

format:
	@git ls-files '*.h' '*.cpp' '*.cu' '*.cuh' | xargs clang-format -i

clean:
	@rm -rf $(BUILD) build-*
