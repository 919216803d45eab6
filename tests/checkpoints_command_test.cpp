// rehearse train's checkpoints, by the command: resumed, killed, refused, without room on the disk;
// and logits and gradients for others.

#include <nlohmann/json.hpp>

#include "tests/command.h"

namespace rehearse {
namespace {

using Json = nlohmann::json;

class CheckpointsCommand : public CommandTest {
 protected:
  void SetUp() override {
    CommandTest::SetUp();
    std::string text;
    while (text.size() < 20'000) text += "a training that is killed goes on. ";
    write("text.txt", text);
    write("plan.yaml", plan("layout: {pp: 2, dp: 2, ep: 2, schedule: dualpipe}\n", 4));
  }
  static std::string plan(const std::string& layout, int micro_batches) {
    return "model: tiny-v3.yaml\ncluster: localhost.yaml\n" + layout +
           "training: {micro_batches: " + std::to_string(micro_batches) +
           ", micro_batch_size: 1, sequence_length: 32, steps: 12, learning_rate: 4e-3, "
           "warmup_steps: 2}\n";
  }
  CommandResult train(const std::string& options, const std::string& before = "") {
    return rehearse("train plan.yaml --data text.txt -q " + options, before);
  }
  std::vector<std::pair<int64_t, double>> losses(const std::string& folder) {
    std::vector<std::pair<int64_t, double>> all;
    std::istringstream lines(read(folder + "/log.jsonl"));
    for (std::string line; std::getline(lines, line);) {
      const Json j = Json::parse(line);
      all.emplace_back(j["step"], j["loss"]);
    }
    return all;
  }
};

TEST_F(CheckpointsCommand, AResumedRunIsTheWholeRun) {
  ASSERT_EQ(train("--out whole").exit_code, 0);
  ASSERT_EQ(train("--out run --until 5 --checkpoint-every 2").exit_code, 0);
  // Neither overwritten nor gone on with unless that is asked.
  EXPECT_NE(train("--out run").err.find("--resume goes on with it"), std::string::npos);
  ASSERT_EQ(train("--out run --checkpoint-every 2 --resume").exit_code, 0);
  EXPECT_EQ(losses("run"), losses("whole"));
  EXPECT_EQ(Json::parse(read("run/result.json"))["val_loss"],
            Json::parse(read("whole/result.json"))["val_loss"]);
  // At its end there is nothing to do.
  const CommandResult done = train("--out run --resume");
  EXPECT_EQ(done.exit_code, 0);
  EXPECT_NE(done.err.find("nothing is left to do"), std::string::npos);
  // In another layout.
  ASSERT_EQ(train("--out other --until 6 --checkpoint-every 3").exit_code, 0);
  write("plan.yaml", plan("layout: {pp: 1, dp: 1}\n", 8));
  ASSERT_EQ(train("--out other --resume").exit_code, 0);
  const auto whole = losses("whole");
  const auto other = losses("other");
  ASSERT_EQ(other.size(), whole.size());
  for (size_t i = 0; i < whole.size(); ++i) {
    EXPECT_NEAR(other[i].second, whole[i].second, 1e-4 * whole[i].second);
  }
}

TEST_F(CheckpointsCommand, KilledRunsGoOn) {
  ASSERT_EQ(train("--out whole").exit_code, 0);
  int kills = 0;
  for (int attempt = 0; attempt < 40; ++attempt) {
    const std::string seconds = "0." + std::to_string(15 + 7 * attempt % 60);
    const CommandResult r = train("--out run --checkpoint-every 1 --resume",
                                  attempt < 6 ? "timeout -s KILL " + seconds : "");
    if (r.exit_code == 0) break;
    ++kills;
  }
  EXPECT_GE(kills, 1);
  EXPECT_EQ(losses("run"), losses("whole"));
}

TEST_F(CheckpointsCommand, SignalsSave) {
  const CommandResult r =
      train("--out run --steps 100000 --checkpoint-every 1000000", "timeout -s TERM 4");
  EXPECT_EQ(r.exit_code, 124) << r.err;  // timeout's own
  const auto done = losses("run");
  ASSERT_FALSE(done.empty());
  char name[32];
  std::snprintf(name, sizeof(name), "step-%08d", static_cast<int>(done.size()));
  EXPECT_TRUE(exists(std::string("run/checkpoints/") + name + "/manifest.json")) << name;
}

// A loss that jumps ends the run; what was saved before stays.
TEST_F(CheckpointsCommand, ALossThatJumpsEndsTheRun) {
  std::string changed = read("plan.yaml");
  const auto put = [&](const std::string& what, const std::string& with) {
    changed.replace(changed.find(what), what.size(), with);
  };
  put("steps: 12", "steps: 60");
  put("learning_rate: 4e-3", "learning_rate: 3");
  put("warmup_steps: 2", "warmup_steps: 40");
  write("plan.yaml", changed);
  const CommandResult r = train("--out run --checkpoint-every 10 --stop-on-spike 1");
  EXPECT_EQ(r.exit_code, 1);
  EXPECT_NE(r.err.find("above the mean of the 20 before it"), std::string::npos) << r.err;
  EXPECT_TRUE(exists("run/checkpoints/step-00000020"));
}

// A disk that is full takes a checkpoint, not the training.
TEST_F(CheckpointsCommand, AFullDiskEndsNothingButTheSave) {
  const CommandResult r = train("--out run --steps 4 --checkpoint-every 2", "ulimit -f 2000;");
  EXPECT_EQ(r.exit_code, 1);
  EXPECT_NE(r.err.find("goes on without that checkpoint"), std::string::npos) << r.err;
  EXPECT_EQ(losses("run").size(), 4u);
  EXPECT_TRUE(exists("run/result.json"));
  EXPECT_FALSE(exists("run/checkpoints/step-00000002"));
}

TEST_F(CheckpointsCommand, AnotherTrainingIsRefused) {
  ASSERT_EQ(train("--out run --until 4 --checkpoint-every 2").exit_code, 0);
  const std::string right = read("plan.yaml");
  const auto refused = [&](const std::string& what, const std::string& with) {
    std::string changed = right;
    changed.replace(changed.find(what), what.size(), with);
    write("plan.yaml", changed);
    const CommandResult r = train("--out run --resume");
    EXPECT_EQ(r.exit_code, 1);
    return r.err;
  };
  EXPECT_NE(refused("sequence_length: 32", "sequence_length: 16")
                .find("training.sequence_length 32 there, 16 here"),
            std::string::npos);
  EXPECT_NE(refused("micro_batch_size: 1", "micro_batch_size: 2").find("sequences per step"),
            std::string::npos);
  EXPECT_NE(refused("steps: 12", "steps: 12, seed: 5").find("training.seed 1 there, 5 here"),
            std::string::npos);
  write("plan.yaml", right);
  write("text.txt", read("text.txt") + "another");
  EXPECT_NE(train("--out run --resume").err.find("bytes of text"), std::string::npos);
  EXPECT_EQ(losses("run").size(), 4u) << "what there was is lost";
  EXPECT_EQ(train("--out run --resume --from run/checkpoints/step-00000004").exit_code, 2);
}

// Weights of elsewhere: the loss they end with is the loss they begin with.
TEST_F(CheckpointsCommand, WeightsAndDumps) {
  ASSERT_EQ(train("--out run --checkpoint-every 6").exit_code, 0);
  const std::string saved = "run/checkpoints/step-00000012";
  for (const std::string& from : {saved, saved + "/model-00001-of-00001.safetensors"}) {
    const CommandResult r =
        train("--steps 0 --from " + from +
              " --dump-logits logits.safetensors --dump-gradients gradients.safetensors --json");
    ASSERT_EQ(r.exit_code, 0) << r.err;
    EXPECT_LT(Json::parse(r.out)["loss"], losses("run").front().second - 0.5);
    EXPECT_FALSE(exists("out"));
  }
  EXPECT_NE(train("--steps 0").err.find("--dump-logits"), std::string::npos);
  EXPECT_NE(train("--dump-logits x.safetensors").err.find("--steps 0"), std::string::npos);
  write("bad.safetensors", "nothing of the kind");
  const CommandResult bad = train("--steps 0 --from bad.safetensors --dump-logits l.safetensors");
  EXPECT_EQ(bad.exit_code, 1);
  EXPECT_NE(bad.err.find("bad.safetensors: is no safetensors file"), std::string::npos) << bad.err;
  EXPECT_FALSE(exists("l.safetensors"));
  const std::string model = saved + "/model-00001-of-00001.safetensors";
  EXPECT_NE(train("--steps 0 --from " + model + " --dump-logits " + model).err.find("is an input"),
            std::string::npos);
}

}  // namespace
}  // namespace rehearse
