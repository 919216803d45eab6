// Event files, read back by a reader written from the format alone (tests/read_events.py).

#include <cstdlib>

#include <nlohmann/json.hpp>

#include "tests/command.h"

namespace rehearse {
namespace {

using Json = nlohmann::json;

class Tensorboard : public CommandTest {
 protected:
  std::vector<Json> lines_of(const std::string& file) {
    std::vector<Json> all;
    std::istringstream lines(read(file));
    for (std::string line; std::getline(lines, line);) all.push_back(Json::parse(line));
    return all;
  }
  std::vector<Json> events(const std::string& folder) {
    const std::string command = "cd '" + folder_.string() + "' && /usr/bin/python3 '" +
                                REHEARSE_SOURCE_DIR + "/tests/read_events.py' " + folder +
                                " > events.jsonl";
    EXPECT_EQ(std::system(command.c_str()), 0);
    return lines_of("events.jsonl");
  }
};

TEST_F(Tensorboard, HoldsTheLogsNumbers) {
  std::string text;
  while (text.size() < 5'000) text += "What is watched is trained with care. ";
  write("text.txt", text);
  write("plan.yaml",
        "model: tiny-v3.yaml\ncluster: localhost.yaml\nlayout: {pp: 2}\n"
        "training: {micro_batches: 2, micro_batch_size: 1, sequence_length: 32, steps: 4, "
        "ramp_from: 1, ramp_steps: 64 tokens, warmup_steps: 90 tokens}\n");
  const std::string train = "train plan.yaml --data text.txt -q --out run --tensorboard board";
  ASSERT_EQ(rehearse(train + " --until 2 --checkpoint-every 1").exit_code, 0);
  ASSERT_EQ(rehearse(train + " --resume").exit_code, 0);
  const std::vector<Json> log = lines_of("run/log.jsonl");
  ASSERT_EQ(log.size(), 4u);
  EXPECT_EQ(log[0]["sequences"], 1);
  EXPECT_EQ(log[3]["sequences"], 2);
  // 32 tokens, 32, then 64: the third is the last of the warm-up.
  EXPECT_LT(log[1]["learning_rate"], 1e-3);
  EXPECT_DOUBLE_EQ(log[2]["learning_rate"], 1e-3);
  size_t steps = 0;
  int versions = 0, starts = 0;
  for (const Json& e : events("board")) {
    if (e.contains("file_version")) {
      EXPECT_EQ(e["file_version"], "brain.Event:2");
      ++versions;
      continue;
    }
    if (e.contains("status")) {
      EXPECT_EQ(e["step"], 3);  // resumed behind the second
      ++starts;
      continue;
    }
    ASSERT_EQ(e["step"], log.at(steps)["step"]);
    const auto same = [&](const char* tag, const char* key) {
      EXPECT_FLOAT_EQ(e["values"].at(tag).get<float>(), log[steps].at(key).get<float>()) << tag;
    };
    same("loss/training", "loss");
    same("optimizer/gradient_norm", "gradient_norm");
    same("optimizer/learning_rate", "learning_rate");
    same("speed/tokens_per_s", "tokens_per_s");
    EXPECT_FLOAT_EQ(e["values"].at("expert_load/moe_layer_0_max").get<float>(),
                    log[steps]["expert_load"][0].get<float>());
    ++steps;
  }
  EXPECT_EQ(steps, 4u);
  EXPECT_EQ(versions, 2);
  EXPECT_EQ(starts, 1);
}

}  // namespace
}  // namespace rehearse
