// What a user gets for a slip: one screen that names the place and what would be right, exit code
// 1, and nothing written.

#include "tests/command.h"

namespace rehearse {
namespace {

class BadInput : public CommandTest {
 protected:
  void SetUp() override {
    CommandTest::SetUp();
    write("text.txt", std::string(5000, 'x'));
  }

  // A plan that is right; tests replace a part of it.
  static std::string plan() {
    return "model: tiny-v3.yaml\n"
           "cluster: localhost.yaml\n"
           "layout:\n"
           "  pp: 2\n"
           "  schedule: dualpipe\n"
           "training:\n"
           "  micro_batches: 4\n"
           "  micro_batch_size: 1\n"
           "  sequence_length: 32\n";
  }
  static std::string plan_with(const std::string& from, const std::string& to) {
    std::string text = plan();
    const size_t at = text.find(from);
    EXPECT_NE(at, std::string::npos);
    return text.replace(at, from.size(), to);
  }

  // The error of every verb that takes the plan must be this text.
  void expect_error(const std::string& plan_text, const std::string& error) {
    write("plan.yaml", plan_text);
    const auto before = listing();
    for (const std::string verb : {"inspect plan.yaml",
                                   "simulate plan.yaml --timeline t.json",
                                   "calibrate plan.yaml",
                                   "train plan.yaml --data text.txt --steps 1",
                                   "compare plan.yaml"}) {
      const CommandResult r = rehearse(verb);
      EXPECT_EQ(r.exit_code, 1) << verb;
      EXPECT_EQ(r.err, error + "\n") << verb;
      EXPECT_EQ(r.out, "") << verb;
    }
    EXPECT_EQ(listing(), before) << "something was written";
  }
};

TEST_F(BadInput, TheRightPlanIsRight) {
  write("plan.yaml", plan());
  EXPECT_EQ(rehearse("inspect plan.yaml").exit_code, 0);
}

TEST_F(BadInput, UnknownKey) {
  expect_error(plan_with("schedule:", "shedule:"),
               "plan.yaml:5:3: layout.shedule: unknown key; did you mean 'schedule'?\n"
               "      shedule: dualpipe\n"
               "      ^");
}

TEST_F(BadInput, DuplicateKey) {
  expect_error(plan_with("  pp: 2\n", "  pp: 2\n  pp: 4\n"),
               "plan.yaml:5:3: layout.pp: this key is given twice; keep one of them\n"
               "      pp: 4\n"
               "      ^");
}

TEST_F(BadInput, MissingUnit) {
  expect_error(plan_with("  micro_batches: 4\n", "  micro_batches: 4\n  tokens: 14.8\n"),
               "plan.yaml:8:11: training.tokens: expected a number of tokens with a unit, such as "
               "\"14.8T tokens\", found '14.8'\n"
               "      tokens: 14.8\n"
               "              ^");
}

TEST_F(BadInput, MissingFile) {
  write("plan.yaml", plan_with("tiny-v3.yaml", "huge-v9.yaml"));
  const CommandResult r = rehearse("simulate plan.yaml");
  EXPECT_EQ(r.exit_code, 1);
  const std::string share = REHEARSE_SOURCE_DIR;
  EXPECT_EQ(r.err,
            "plan.yaml:1:8: model: no file 'huge-v9.yaml'; looked for huge-v9.yaml, " + share +
                "/huge-v9.yaml, " + share +
                "/models/huge-v9.yaml\n"
                "    model: huge-v9.yaml\n"
                "           ^\n");
  EXPECT_EQ(rehearse("simulate nothing.yaml").err, "nothing.yaml: no such file\n");
  write("plan.yaml", plan());
  EXPECT_EQ(rehearse("train plan.yaml --data nothing.txt").err, "nothing.txt: no such file\n");
}

TEST_F(BadInput, FewerLayersThanStages) {
  expect_error(plan_with("pp: 2", "pp: 6"),
               "plan.yaml:4:7: layout.pp: 6 pipeline stages for a model of 4 layers: every stage "
               "needs at least one; use pp of at most 4\n"
               "      pp: 6\n"
               "          ^");
}

TEST_F(BadInput, OddRanksForDualPipe) {
  expect_error(
      plan_with("pp: 2", "pp: 3"),
      "plan.yaml:4:7: layout.pp: dualpipe needs an even number of pipeline ranks, found 3; "
      "use 2 or 4, or another schedule\n"
      "      pp: 3\n"
      "          ^");
}

TEST_F(BadInput, TooFewMicroBatches) {
  expect_error(plan_with("micro_batches: 4", "micro_batches: 2"),
               "plan.yaml:7:18: training.micro_batches: dualpipe on 2 pipeline ranks needs an even "
               "number of micro-batches, at least 4; found 2\n"
               "      micro_batches: 2\n"
               "                     ^");
}

TEST_F(BadInput, OctalLookalike) {
  expect_error(plan_with("sequence_length: 32", "sequence_length: 032"),
               "plan.yaml:9:20: training.sequence_length: expected an integer from 1 to 100000000, "
               "found '032'\n"
               "      sequence_length: 032\n"
               "                       ^");
}

TEST_F(BadInput, EmptyOrShortText) {
  write("plan.yaml", plan());
  write("empty.txt", "");
  write("short.txt", "too short");
  const auto before = listing();
  const CommandResult empty = rehearse("train plan.yaml --data empty.txt");
  EXPECT_EQ(empty.exit_code, 1);
  EXPECT_EQ(empty.err,
            "empty.txt:1:1: data: the text is empty; expected plain text of more than 33 bytes\n");
  EXPECT_EQ(
      rehearse("train plan.yaml --data short.txt").err,
      "short.txt:1:1: data: 9 bytes of text are too few: training and validation each need "
      "at least 33 bytes (sequence_length + 1), and validation_fraction 0.1 leaves 9 and 0\n");
  EXPECT_EQ(rehearse("train plan.yaml").err,
            "plan.yaml: no text to train on: give --data FILE, or the plan a key data.text\n");
  EXPECT_EQ(listing(), before);
}

TEST_F(BadInput, TruncatedCalibration) {
  write("plan.yaml", plan());
  ASSERT_EQ(rehearse("calibrate plan.yaml --no-grid --rounds 1 --out c.yaml -q").exit_code, 0);
  EXPECT_EQ(rehearse("simulate plan.yaml --calibration c.yaml").exit_code, 0);
  const std::string whole = read("c.yaml");
  // Cut between entries: only the count tells.
  const size_t line = whole.rfind("\n  - ");
  write("c.yaml", whole.substr(0, line + 1));
  const auto before = listing();
  const CommandResult cut = rehearse("simulate plan.yaml --calibration c.yaml --timeline t.json");
  EXPECT_EQ(cut.exit_code, 1);
  const auto number_at = whole.find("kernel_count: ") + 14;
  const size_t count = std::stoul(whole.substr(number_at));
  const auto line_number =
      1 + std::count(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(number_at), '\n');
  EXPECT_EQ(cut.err,
            "c.yaml:" + std::to_string(line_number) + ":15: kernel_count: " +
                std::to_string(count) + " kernels announced, " + std::to_string(count - 1) +
                " found: the file was cut off; run `rehearse calibrate` again\n"
                "    kernel_count: " +
                std::to_string(count) +
                "\n"
                "                  ^\n");
  // Cut inside an entry: not YAML any more.
  write("c.yaml", whole.substr(0, line + 30));
  const CommandResult torn = rehearse("simulate plan.yaml --calibration c.yaml --timeline t.json");
  EXPECT_EQ(torn.exit_code, 1);
  EXPECT_EQ(torn.err.substr(0, 7), "c.yaml:");
  EXPECT_NE(torn.err.find("not valid YAML"), std::string::npos) << torn.err;
  EXPECT_EQ(listing(), before);
}

TEST_F(BadInput, WhatCannotBeRunIsRefusedByName) {
  write("plan.yaml",
        plan_with("localhost.yaml", "h100-1024.yaml") + "  precision: bf16\n  recompute: full\n");
  for (const auto& [device, where] : {std::pair<std::string, std::string>{"", "a card a plan with"},
                                      {" --device cpu", "cores a plan with"}}) {
    const CommandResult r = rehearse("train plan.yaml --data text.txt" + device);
    EXPECT_EQ(r.exit_code, 1);
    EXPECT_EQ(r.err,
              "plan.yaml: this version cannot train on " + where +
                  " recomputation of whole layers or attention's core; `rehearse "
                  "inspect --capabilities` lists what it can\n");
  }
  write("plan.yaml", plan_with("  pp: 2\n", "  pp: 2\n  tp: 2\n"));
  EXPECT_EQ(
      rehearse("train plan.yaml --data text.txt").err,
      "plan.yaml:5:7: layout.tp: is simulated on clusters of GPUs alone, and 'localhost' is of "
      "cores\n      tp: 2\n          ^\n");
}

// What a plan says of FP8 is used, or refused: no key of it is read and dropped.
TEST_F(BadInput, ChoicesOfFp8GoWithFp8) {
  const auto error = [&](const std::string& precision, const std::string& choices) {
    write("plan.yaml",
          plan_with("training:\n", "training:\n  precision: " + precision + "\n") + "fp8: {" +
              choices + "}\n");
    const CommandResult r = rehearse("inspect plan.yaml");
    EXPECT_EQ(r.exit_code, r.err.empty() ? 0 : 1);
    const size_t at = r.err.find("fp8.");
    return at == std::string::npos ? r.err : r.err.substr(at, r.err.find('\n') - at);
  };
  EXPECT_EQ(error("bf16", "gradient_tiles: 128x128"),
            "fp8.gradient_tiles: is of training.precision: fp8, and here it is bf16");
  EXPECT_EQ(error("fp8", "promotion: 256"),
            "fp8.promotion: is of products: tensor_core, and here they are exact");
  EXPECT_EQ(error("fp8", "products: tensor_core, promotion: 48"),
            "fp8.promotion: 48 is no multiple of 32, the products of one instruction");
  EXPECT_EQ(error("fp8", "attention_cache: e4m3"),
            "fp8.attention_cache: expected one of e5m6, fp8, bf16, found 'e4m3'");
  EXPECT_EQ(error("bf16", "gradient_tiles: 1x128"), "") << "the report's own is of any precision";
  EXPECT_EQ(error("fp8", "products: tensor_core, promotion: 0, accumulator_bits: 14"), "");
}

TEST_F(BadInput, WrongUsageIsExitCodeTwo) {
  EXPECT_EQ(rehearse("").exit_code, 2);
  EXPECT_EQ(rehearse("simulat plan.yaml").exit_code, 2);
  EXPECT_EQ(rehearse("simulat plan.yaml").err,
            "rehearse: unknown verb 'simulat'; did you mean 'simulate'?\n");
  EXPECT_EQ(rehearse("simulate --nonsense").exit_code, 2);
  EXPECT_EQ(rehearse("simulate").err, "rehearse: simulate: a plan file is needed\n");
  for (const std::string verb :
       {"calibrate", "inspect", "simulate", "train", "compare", "validate", "demo"}) {
    const CommandResult help = rehearse(verb + " --help");
    EXPECT_EQ(help.exit_code, 0);
    EXPECT_NE(help.out.find("Examples:"), std::string::npos) << verb;
  }
}

TEST_F(BadInput, ExpertGroupsOnUnequallyManyNodes) {
  write(
      "six.yaml",
      "name: six\nnodes: 2\ndevices_per_node: 6\ndevice:\n  kind: gpu\n  peak: 1 TFLOP/s\n"
      "  memory_bandwidth: 1 TB/s\n  memory: 1 GB\nnode_link: {bandwidth: 9 GB/s, latency: 1 us}\n"
      "network: {bandwidth: 1 GB/s, latency: 1 us}\n");
  std::string text = plan_with("  pp: 2\n  schedule: dualpipe\n", "  dp: 12\n  ep: 4\n");
  text.replace(text.find("localhost.yaml"), 14, "six.yaml");
  expect_error(
      text,
      "plan.yaml:5:7: layout.ep: the expert-parallel group of ranks 4 to 7 stands on 2 nodes "
      "of 6 devices and that of ranks 0 to 3 on 1; all groups must stand on as many\n"
      "      ep: 4\n"
      "          ^");
}

TEST_F(BadInput, MoreChunksThanLayers) {
  expect_error(
      plan_with("  schedule: dualpipe\n", "  schedule: interleaved-1f1b\n  chunks: 20\n"),
      "plan.yaml:6:11: layout.chunks: a rank of this schedule holds 20 stages, and the model "
      "has 4 layers: every stage needs at least one\n"
      "      chunks: 20\n"
      "              ^");
}

}  // namespace
}  // namespace rehearse
