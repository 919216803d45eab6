#include "runtime/checkpoints/checkpoint.h"

#include <filesystem>

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include "base/errors.h"
#include "base/file.h"
#include "plan/testing.h"
#include "runtime/checkpoints/safetensors.h"
#include "runtime/testing.h"

namespace rehearse {
namespace {

namespace fs = std::filesystem;

Plan of_layout(Layout layout) {
  Plan plan = small_plan(std::move(layout));
  plan.training.micro_batches = 16 / plan.layout.dp;
  plan.training.steps = 8;
  return plan;
}

class Checkpoints : public testing::Test {
 protected:
  void SetUp() override {
    const auto* info = testing::UnitTest::GetInstance()->current_test_info();
    folder_ = (fs::temp_directory_path() /
               fmt::format("rehearse_checkpoints_{}_{}", info->name(), ::getpid()))
                  .string();
    fs::remove_all(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }

  // The losses of steps `first` to `end`, and a checkpoint behind them.
  std::vector<double> steps(Trainer& trainer, int64_t first, int64_t end) {
    std::vector<double> losses;
    for (int64_t i = first; i < end; ++i) losses.push_back(trainer.step(i).loss);
    return losses;
  }
  void save(Trainer& trainer, int64_t step, int64_t keep = 3) {
    CheckpointSaver saver(folder_, keep);
    saver.save(trainer.ranks(), {.step = step, .model = "small"});
    EXPECT_EQ(saver.error(), "");
  }
  Checkpoint newest() {
    std::vector<std::string> passed_over;
    const auto found = newest_checkpoint(folder_, passed_over);
    EXPECT_TRUE(found);
    return found.value_or(Checkpoint{});
  }
  std::string folder_;
};

std::vector<Layout> saved_layouts() {
  return {{},
          {.pp = 2},
          {.dp = 2, .ep = 2},
          {.dp = 4, .ep = 2, .zero_stage = 0},
          {.pp = 2, .dp = 4, .ep = 2, .schedule = ScheduleKind::kZB1P},
          {.pp = 2, .dp = 2, .ep = 2, .schedule = ScheduleKind::kDualPipe},
          {.pp = 4, .dp = 2, .schedule = ScheduleKind::kDualPipe, .zero_stage = 0}};
}

// Four steps, saved, and four more of another process: in the same layout to the last bit, and
// within rounding in every other one.
TEST_F(Checkpoints, GoOnInAnyLayout) {
  for (const Layout& saved : saved_layouts()) {
    fs::remove_all(folder_);
    const Plan plan = of_layout(saved);
    std::vector<double> rest;
    {
      Trainer trainer(plan, test_text_path());
      steps(trainer, 0, 4);
      save(trainer, 4);
      rest = steps(trainer, 4, 8);
    }
    for (const Layout& resumed : saved_layouts()) {
      const Plan other = of_layout(resumed);
      Trainer trainer(other, test_text_path());
      load_state(newest(), trainer.ranks());
      const std::vector<double> again = steps(trainer, 4, 8);
      for (size_t i = 0; i < rest.size(); ++i) {
        if (saved.pp == resumed.pp && saved.dp == resumed.dp &&
            saved.schedule == resumed.schedule && saved.zero_stage == resumed.zero_stage &&
            saved.ep == resumed.ep) {
          EXPECT_EQ(again[i], rest[i]) << plan.layout.pp << " " << i;
        } else {
          EXPECT_NEAR(again[i], rest[i], 1e-4 * rest[i]) << ranks_text(other.layout) << " " << i;
        }
      }
    }
  }
}

// Masters and moments are in a checkpoint, not what they are rounded to.
TEST_F(Checkpoints, InBf16AndFp8GoOnBitForBit) {
  for (const Precision precision : {Precision::kBf16, Precision::kFp8}) {
    for (const Layout& layout : saved_layouts()) {
      fs::remove_all(folder_);
      Plan plan = of_layout(layout);
      plan.model.architecture.mtp_depth = 1;
      plan.training.ema = 0.9;
      plan.training.precision = precision;
      plan.training.moments = Moments::kBf16;
      Trainer trainer(plan, test_text_path());
      steps(trainer, 0, 4);
      save(trainer, 4);
      const std::vector<double> rest = steps(trainer, 4, 8);
      Trainer again(plan, test_text_path());
      load_state(newest(), again.ranks());
      EXPECT_EQ(steps(again, 4, 8), rest);
    }
  }
}

// Experts go on wherever the plan now has them; layers' maps differ.
TEST_F(Checkpoints, GoOnUnderAnotherPlacement) {
  Plan plan = of_layout({.dp = 4, .ep = 4});
  plan.model.architecture.mtp_depth = 1;
  Trainer trainer(plan, test_text_path());
  steps(trainer, 0, 4);
  save(trainer, 4);
  const std::vector<double> rest = steps(trainer, 4, 8);
  const std::string map = folder_ + "/map.json";
  write_file(map, "[[7,6,5,4,3,2,1,0], [0,2,4,6,1,3,5,7], [5,0,3,6,1,7,2,4]]");
  plan.expert_placement = map;
  Trainer placed(plan, test_text_path());
  load_state(newest(), placed.ranks());
  const Stage& s = placed.ranks().stage(0, 1, 0);
  const auto first_of = [&](size_t layer) {
    return s.where.list[static_cast<size_t>(s.where.layers[layer].experts[0].down)].name;
  };
  EXPECT_EQ(first_of(1), "model.layers.1.mlp.experts.5.down_proj");
  EXPECT_EQ(first_of(2), "model.layers.2.mlp.experts.4.down_proj");
  EXPECT_EQ(first_of(3), "model.layers.3.mlp.experts.3.down_proj");
  EXPECT_EQ(first_of(4), "model.layers.4.mlp.experts.3.down_proj") << "MTP's: as the last layer's";
  const std::vector<double> again = steps(placed, 4, 8);
  for (size_t i = 0; i < rest.size(); ++i) EXPECT_NEAR(again[i], rest[i], 1e-4 * rest[i]);
}

// A save that fails ends nothing, and the next one is whole.
TEST_F(Checkpoints, SaveAgainAfterOneThatFailed) {
  const Plan plan = of_layout({.pp = 2});
  Trainer trainer(plan, test_text_path());
  steps(trainer, 0, 2);
  write_file(folder_, "not a folder");
  CheckpointSaver saver(folder_, 2);
  saver.save(trainer.ranks(), {.step = 2});
  EXPECT_NE(saver.error(), "");
  fs::remove(folder_);
  steps(trainer, 2, 3);
  saver.save(trainer.ranks(), {.step = 3});
  EXPECT_EQ(saver.error(), "");
  const std::vector<double> rest = steps(trainer, 3, 6);
  Trainer again(plan, test_text_path());
  load_state(newest(), again.ranks());
  EXPECT_EQ(steps(again, 3, 6), rest);
}

// Of every parameter one tensor, of its HF name and shape; experts by themselves, biases too.
TEST_F(Checkpoints, HoldHuggingFacesNames) {
  const Plan plan = of_layout({.pp = 2, .dp = 4, .ep = 2, .schedule = ScheduleKind::kDualPipe});
  Trainer trainer(plan, test_text_path());
  trainer.step(0);
  save(trainer, 1);
  const SafetensorsFile file(newest().folder + "/model-00001-of-00001.safetensors");
  const Architecture& a = plan.model.architecture;
  const auto shape = [&](const std::string& name) { return file.entries().at(name).shape; };
  using Shape = std::vector<int64_t>;
  EXPECT_EQ(shape("model.embed_tokens.weight"), (Shape{a.vocabulary, a.hidden}));
  EXPECT_EQ(shape("lm_head.weight"), (Shape{a.vocabulary, a.hidden}));
  EXPECT_EQ(shape("model.norm.weight"), (Shape{a.hidden}));
  EXPECT_EQ(shape("model.layers.0.mlp.gate_proj.weight"), (Shape{a.dense_intermediate, a.hidden}));
  EXPECT_EQ(shape("model.layers.0.mlp.down_proj.weight"), (Shape{a.hidden, a.dense_intermediate}));
  EXPECT_EQ(shape("model.layers.1.self_attn.q_a_proj.weight"), (Shape{*a.q_lora, a.hidden}));
  EXPECT_EQ(shape("model.layers.1.self_attn.kv_a_proj_with_mqa.weight"),
            (Shape{a.kv_lora + a.qk_rope, a.hidden}));
  EXPECT_EQ(shape("model.layers.3.mlp.experts.7.up_proj.weight"),
            (Shape{a.expert_intermediate, a.hidden}));
  EXPECT_EQ(shape("model.layers.3.mlp.shared_experts.gate_proj.weight"),
            (Shape{a.shared_experts * a.expert_intermediate, a.hidden}));
  EXPECT_EQ(shape("model.layers.3.mlp.gate.weight"), (Shape{a.experts, a.hidden}));
  EXPECT_EQ(shape("model.layers.3.mlp.gate.e_score_correction_bias"), (Shape{a.experts}));
  int64_t elements = 0;
  for (const auto& [name, e] : file.entries()) {
    if (!name.ends_with("e_score_correction_bias")) elements += (e.end - e.begin) / 4;
  }
  EXPECT_EQ(elements, total_parameters(a));
}

// The moving average of the weights goes on where it was, in any layout.
TEST_F(Checkpoints, AveragesGoOn) {
  const auto averages = [](Trainer& trainer) {
    std::map<std::string, std::vector<float>> all;
    for (NamedTensor& t : trainer.ranks().state(StateKind::kAverages)) all[t.name] = t.values;
    return all;
  };
  Plan plan = of_layout({.pp = 2, .dp = 2, .ep = 2});
  plan.training.ema = 0.75;
  Trainer trainer(plan, test_text_path());
  // Of one weight by hand.
  Stage& s = trainer.ranks().stage(0, 0, 0);
  const auto weight = [&] { return s.weights.array(s.where.layers[0].kv_a).fp32()[7]; };
  double average = static_cast<double>(weight());
  for (int64_t step = 0; step < 4; ++step) {
    trainer.step(step);
    average = 0.75 * average + 0.25 * static_cast<double>(weight());
  }
  const std::string name = "model.layers.0.self_attn.kv_a_proj_with_mqa.weight";
  EXPECT_NEAR(averages(trainer).at(name)[7], average, 1e-7);
  {
    CheckpointSaver saver(folder_, 1);
    saver.save(trainer.ranks(), {.step = 4, .averages = true});
    EXPECT_EQ(saver.error(), "");
  }
  steps(trainer, 4, 6);
  Plan other = of_layout({.dp = 4, .zero_stage = 0});
  other.training.ema = 0.75;
  Trainer resumed(other, test_text_path());
  load_state(newest(), resumed.ranks());
  steps(resumed, 4, 6);
  const auto expected = averages(trainer);
  const auto found = averages(resumed);
  ASSERT_EQ(found.size(), expected.size());
  for (const auto& [tensor, values] : expected) {
    for (size_t i = 0; i < values.size(); ++i) {
      ASSERT_NEAR(found.at(tensor)[i], values[i], 2e-5) << tensor;
    }
  }
}

TEST_F(Checkpoints, TheLastKStay) {
  const Plan plan = of_layout({});
  Trainer trainer(plan, test_text_path());
  CheckpointSaver saver(folder_, 2);
  for (int64_t step = 1; step <= 4; ++step) {
    trainer.step(step - 1);
    saver.save(trainer.ranks(), {.step = step});
  }
  EXPECT_EQ(saver.error(), "");
  std::set<std::string> names;
  for (const auto& e : fs::directory_iterator(folder_)) names.insert(e.path().filename());
  EXPECT_EQ(names, (std::set<std::string>{"step-00000003", "step-00000004"}));
}

// What was cut off, changed or left half is passed over for the one before.
TEST_F(Checkpoints, OnlyWholeOnesAreTaken) {
  const Plan plan = of_layout({});
  Trainer trainer(plan, test_text_path());
  trainer.step(0);
  const std::string newest_path = folder_ + "/step-00000002";
  const auto broken = [&](const std::function<void()>& harm) {
    fs::remove_all(folder_);
    save(trainer, 1);
    save(trainer, 2);
    EXPECT_EQ(newest().info.step, 2);
    harm();
    std::vector<std::string> passed_over;
    const auto found = newest_checkpoint(folder_, passed_over);
    EXPECT_EQ(found.value().info.step, 1);
    EXPECT_EQ(passed_over.size(), 1u);
    return passed_over.front();
  };
  const std::string model = newest_path + "/model-00001-of-00001.safetensors";
  EXPECT_NE(broken([&] { fs::resize_file(model, fs::file_size(model) - 1); }).find("cut off"),
            std::string::npos);
  EXPECT_NE(broken([&] {
              std::string bytes = read_file(model);
              bytes[bytes.size() / 2] ^= 1;
              write_file(model, bytes);
            }).find("corrupt"),
            std::string::npos);
  EXPECT_NE(broken([&] { fs::remove(model); }).find("is missing"), std::string::npos);
  EXPECT_NE(broken([&] { fs::remove(newest_path + "/manifest.json"); }).find("no such file"),
            std::string::npos);
  EXPECT_NE(broken([&] {
              const std::string manifest = newest_path + "/manifest.json";
              write_file(manifest, read_file(manifest).substr(0, 100));
            }).find("cut off"),
            std::string::npos);
  // Under its other name it is not seen at all, and goes when the next training saves.
  fs::rename(newest_path, newest_path + ".partial");
  EXPECT_EQ(newest().info.step, 1);
  CheckpointSaver saver(folder_, 3);
  EXPECT_FALSE(fs::exists(newest_path + ".partial"));
}

TEST_F(Checkpoints, OfAnotherModelAreRefused) {
  const Plan plan = of_layout({});
  Trainer trainer(plan, test_text_path());
  trainer.step(0);
  save(trainer, 1);
  const auto refused = [&](const std::function<void(Architecture&)>& change) -> std::string {
    Plan other = of_layout({});
    change(other.model.architecture);
    other.layout.layers_per_stage = {other.model.architecture.layers};
    Trainer there(other, test_text_path());
    try {
      load_state(newest(), there.ranks());
    } catch (const InputError& e) {
      return e.what();
    }
    return "";
  };
  EXPECT_NE(refused([](Architecture& a) { a.hidden = 64; }).find("[256, 32]"), std::string::npos);
  EXPECT_NE(refused([](Architecture& a) { a.layers = 5; }).find("no tensor 'model.layers.4."),
            std::string::npos);
  EXPECT_NE(refused([](Architecture& a) { a.layers = 3; }).find("is not of the plan's model"),
            std::string::npos);
  EXPECT_NE(refused([](Architecture& a) { a.experts = 4; }).find("tensor '"), std::string::npos);
  EXPECT_EQ(refused([](Architecture&) {}), "");
}

// Files that are no safetensors, each refused by name of what is wrong.
TEST_F(Checkpoints, SafetensorsThatLie) {
  const auto refused = [&](const std::string& header, size_t data, uint64_t length = 0) {
    std::string bytes(8, '\0');
    const uint64_t n = length > 0 ? length : header.size();
    std::memcpy(bytes.data(), &n, sizeof(n));
    bytes += header + std::string(data, 'x');
    const std::string path = folder_ + "/bad.safetensors";
    write_file(path, bytes);
    try {
      const SafetensorsFile file(path);
    } catch (const InputError& e) {
      return std::string(e.what()).substr(path.size());
    }
    return std::string("taken");
  };
  const auto f32 = [](const std::string& name, const std::string& shape, int begin, int end) {
    return fmt::format(
        R"("{}":{{"dtype":"F32","shape":{},"data_offsets":[{},{}]}})", name, shape, begin, end);
  };
  EXPECT_EQ(refused("{" + f32("a", "[2]", 0, 8) + "," + f32("b", "[1]", 8, 12) + "}", 12), "taken");
  EXPECT_EQ(refused("{}", 0), "taken");
  const std::vector<std::tuple<std::string, size_t, uint64_t, std::string>> cases = {
      {"{}", 0, uint64_t{1} << 60, "cut off"},
      {"{}", 0, 100, "cut off"},
      {"[1]", 0, 0, "no JSON object"},
      {"{\"a\":", 0, 0, "no JSON object"},
      {"{" + f32("a", "[2]", 0, 8) + "}", 7, 0, "not in the file"},
      {"{" + f32("a", "[2]", 0, 8) + "}", 9, 0, "belong to none"},
      {"{" + f32("a", "[2]", 0, 4) + "}", 4, 0, "takes 8 bytes"},
      {"{" + f32("a", "[1]", 0, 4) + "," + f32("b", "[1]", 2, 6) + "}", 6, 0, "overlap"},
      {"{" + f32("a", "[1]", 0, 4) + "," + f32("b", "[1]", 8, 12) + "}", 12, 0, "gap"},
      {"{" + f32("a", "[1]", 0, 4) + "," + f32("a", "[1]", 4, 8) + "}", 8, 0, "comes twice"},
      {"{" + f32("a", "[-1]", 0, 4) + "}", 4, 0, "whole numbers"},
      {"{" + f32("a", "[1.5]", 0, 4) + "}", 4, 0, "whole numbers"},
      {"{" + f32("a", "[4294967296,4294967296,4]", 0, 4) + "}", 4, 0, "larger than the file"},
      {"{" + f32("a", "[1]", 8, 4) + "}", 8, 0, "not in the file"},
      {R"({"a":{"dtype":"F31","shape":[1],"data_offsets":[0,4]}})", 4, 0, "'F31' is not known"},
      {R"({"a":{"shape":[1],"data_offsets":[0,4]}})", 4, 0, "no dtype"},
      {R"({"a":{"dtype":"F32","data_offsets":[0,4]}})", 4, 0, "no shape"},
      {R"({"a":{"dtype":"F32","shape":[1]}})", 4, 0, "no data_offsets"},
      {R"({"a":3})", 0, 0, "no JSON object"},
      {R"({"__metadata__":{"a":3}})", 0, 0, "is no text"},
  };
  for (const auto& [header, data, length, why] : cases) {
    EXPECT_NE(refused(header, data, length).find(why), std::string::npos)
        << header << ": " << refused(header, data, length);
  }
  write_file(folder_ + "/short", "1234");
  EXPECT_THROW(SafetensorsFile(folder_ + "/short"), InputError);
  write_file(folder_ + "/empty", "");
  EXPECT_THROW(SafetensorsFile(folder_ + "/empty"), InputError);
  EXPECT_THROW(SafetensorsFile(folder_ + "/nothing"), InputError);
}

// 16-bit values are read as what they are.
TEST_F(Checkpoints, HalfPrecisionIsRead) {
  const std::string header = R"({"b":{"dtype":"BF16","shape":[2],"data_offsets":[0,4]},)"
                             R"("h":{"dtype":"F16","shape":[4],"data_offsets":[4,12]}})";
  std::string bytes(8, '\0');
  const uint64_t n = header.size();
  std::memcpy(bytes.data(), &n, sizeof(n));
  bytes += header;
  for (const int w : {0x3FC0, 0xC000, 0x3E00, 0xC000, 0x0001, 0x7C00}) {
    bytes += static_cast<char>(w & 0xFF);
    bytes += static_cast<char>(w >> 8);
  }
  write_file(folder_ + "/half.safetensors", bytes);
  const SafetensorsFile file(folder_ + "/half.safetensors");
  EXPECT_EQ(file.read("b"), (std::vector<float>{1.5f, -2.0f}));
  EXPECT_EQ(file.read("h"),
            (std::vector<float>{1.5f, -2.0f, 0x1p-24f, std::numeric_limits<float>::infinity()}));
}

// A probe learns nothing, and leaves the gradient whose norm it tells.
TEST_F(Checkpoints, ProbesLeaveGradients) {
  for (const Layout& layout : saved_layouts()) {
    const Plan plan = of_layout(layout);
    Trainer trainer(plan, test_text_path());
    const StepLog log = trainer.probe();
    double squares = 0;
    for (const NamedTensor& t : trainer.ranks().state(StateKind::kGradients)) {
      for (const float x : t.values) squares += static_cast<double>(x) * static_cast<double>(x);
    }
    EXPECT_NEAR(std::sqrt(squares), log.gradient_norm, 1e-6 * log.gradient_norm);
    EXPECT_EQ(trainer.ranks().recorded_logits(0, 0).size(),
              static_cast<size_t>(plan.micro_batch_tokens() * plan.model.architecture.vocabulary));
    Trainer other(plan, test_text_path());
    EXPECT_EQ(other.step(0).loss, log.loss);
  }
}

}  // namespace
}  // namespace rehearse
