#include "plan/keys.h"

#include <filesystem>
#include <sstream>

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>
#include <unistd.h>

#include "base/errors.h"
#include "base/file.h"
#include "plan/plan.h"

namespace rehearse {
namespace {

using Json = nlohmann::json;  // which is YAML too

// A plan on GPUs in which every section stands and everything that is needed.
Json whole_plan() {
  return Json::parse(R"({
    "model": "deepseek-v3.yaml", "cluster": "h800-2048.yaml",
    "layout": {"schedule": "interleaved-1f1b"},
    "training": {"micro_batches": 8, "micro_batch_size": 1, "sequence_length": 4096},
    "data": {}, "fp8": {}, "expert_load": {"kind": "synthetic"},
    "budget": {"phases": [{"name": "all", "tokens": "1B tokens", "batches": [8]}]}})");
}

Json& section_of(Json& plan, const std::string& name) {
  if (name.empty()) return plan;
  return name == "budget.phases" ? plan["budget"]["phases"][0] : plan[name];
}

Plan load(const Json& plan) {
  const std::string path =
      std::filesystem::temp_directory_path() / fmt::format("rehearse-keys-{}.yaml", getpid());
  write_file(path, plan.dump());
  return load_plan(path);
}

// What the reader says to a value that no key can have.
TEST(PlanKeys, TheReaderAsksForEveryKeyThatIsDescribed) {
  for (const KeySection& s : plan_keys()) {
    for (const YamlKey& k : s.keys) {
      Json plan = whole_plan();
      if (k.key == "file") plan["expert_load"]["kind"] = "recorded";
      if (s.name == "budget.phases" && k.key == "steps") section_of(plan, s.name).erase("tokens");
      section_of(plan, s.name)[k.key] = Json::parse(R"([["nonsense"]])");
      try {
        load(plan);
        ADD_FAILURE() << s.name << "." << k.key << " is read over";
      } catch (const InputError& e) {
        const std::string what = e.what();
        EXPECT_NE(what.find(k.key), std::string::npos) << what;
        EXPECT_EQ(what.find("unknown key"), std::string::npos) << what;
      }
    }
  }
}

TEST(PlanKeys, WhatIsNeededAndNoMoreIs) {
  for (const KeySection& s : plan_keys()) {
    for (const YamlKey& k : s.keys) {
      Json plan = whole_plan();
      if (!section_of(plan, s.name).contains(k.key)) continue;
      section_of(plan, s.name).erase(k.key);
      const bool one_of_two = k.key == "tokens" || k.key == "phases";
      if (k.missing.empty() || one_of_two) {
        EXPECT_THROW(load(plan), InputError) << s.name << "." << k.key;
      } else {
        EXPECT_NO_THROW(load(plan)) << s.name << "." << k.key;
      }
    }
  }
}

// A default that is a value, written out, changes nothing.
TEST(PlanKeys, DefaultsAreTheReadersOwn) {
  Json plan = whole_plan();
  const Plan plain = load(plan);
  int written = 0;
  for (const KeySection& s : plan_keys()) {
    if (s.name == "budget.phases") continue;
    for (const YamlKey& k : s.keys) {
      if (section_of(plan, s.name).contains(k.key) || k.missing.empty()) continue;
      const bool choice = k.takes.find(" | ") != std::string::npos && !k.takes.starts_with("0");
      const bool number = k.missing.find_first_not_of("0123456789.e-") == std::string::npos;
      if (!choice && !number) continue;
      Json one = plan;
      Json& value = section_of(one, s.name)[k.key];
      if (number || k.missing == "true" || k.missing == "false") {
        value = Json::parse(k.missing);
      } else if (k.missing.starts_with("[")) {  // of names
        value = Json::array();
        std::istringstream names(k.missing.substr(1, k.missing.size() - 2));
        for (std::string name; std::getline(names >> std::ws, name, ',');) value.push_back(name);
      } else {
        value = k.missing;
      }
      const Plan same = load(one);
      EXPECT_EQ(same.layout, plain.layout) << k.key;
      EXPECT_EQ(same.training, plain.training) << k.key;
      EXPECT_EQ(same.data.validation_fraction, plain.data.validation_fraction) << k.key;
      EXPECT_EQ(same.routing, plain.routing) << k.key;
      EXPECT_EQ(same.expert_load.skew, plain.expert_load.skew) << k.key;
      EXPECT_EQ(same.expert_load.seed, plain.expert_load.seed) << k.key;
      EXPECT_EQ(same.expert_load.varies, plain.expert_load.varies) << k.key;
      ++written;
    }
  }
  EXPECT_GT(written, 20);
}

}  // namespace
}  // namespace rehearse
