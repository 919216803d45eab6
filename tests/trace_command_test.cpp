// Routing traces of others, made by a script of their formats alone (tests/make_traces.py).

#include <cstdlib>
#include <cstring>

#include <nlohmann/json.hpp>

#include "plan/routing/recorded_step.h"
#include "tests/command.h"

namespace rehearse {
namespace {

using Json = nlohmann::json;

class TraceCommand : public CommandTest {
 protected:
  void SetUp() override {
    CommandTest::SetUp();
    if (std::system("/usr/bin/python3 -c 'import numpy' 2> /dev/null") != 0) {
      GTEST_SKIP() << "no NumPy";
    }
    const std::string command = std::string("/usr/bin/python3 '") + REHEARSE_SOURCE_DIR +
                                "/tests/make_traces.py' '" + folder_.string() + "'";
    ASSERT_EQ(std::system(command.c_str()), 0);
  }
  void import(const std::string& what) {
    const CommandResult r = rehearse("trace import " + what + " --out t.h5 -q");
    ASSERT_EQ(r.exit_code, 0) << r.err;
  }
  std::string refusal(const std::string& what) {
    const CommandResult r = rehearse("trace import " + what + " --out none.h5 -q");
    EXPECT_EQ(r.exit_code, 1) << r.out;
    EXPECT_FALSE(exists("none.h5"));
    return r.err;
  }
  // All choices, token by token, are those of the text file.
  void expect_choices(const std::string& told) {
    const RoutingReader reader((folder_ / "t.h5").string());
    std::istringstream numbers(read(told));
    size_t count = 0;
    for (int64_t s = 0; s < reader.shape().steps; ++s) {
      for (const uint16_t e : read_step(reader, s).choices) {
        int want = -1;
        numbers >> want;
        ASSERT_EQ(e, want) << "choice " << count << " of " << told;
        ++count;
      }
    }
    int more = 0;
    EXPECT_FALSE(numbers >> more);
    EXPECT_GT(count, 100u);
  }
  std::string ranks(const std::string& prefix) {
    std::string all;
    for (int r = 0; r < 4; ++r) all += prefix + std::to_string(r) + ".jsonl ";
    return all +
           "--experts 16 --layer-offset 0=0 --layer-offset 1=0 --layer-offset 2=2 "
           "--layer-offset 3=2 ";
  }
};

TEST_F(TraceCommand, MegatronsFilesGoInAndOut) {
  const std::pair<std::string, std::string> kinds[] = {
      {"router_trace_rank", "--layer-base 1"}, {"compact", ""}, {"recomputed", "--recomputed"}};
  for (const auto& [prefix, options] : kinds) {
    import(ranks(prefix) + options);
    expect_choices(prefix + ".txt");
    ASSERT_EQ(rehearse("trace export t.h5 --out back").exit_code, 0);
    for (int r = 0; r < 4; ++r) {
      const std::string file = prefix + std::to_string(r) + ".jsonl";
      EXPECT_EQ(read("back/" + file), read(file));
    }
  }
  // The run's plan tells where ranks stand.
  write("run.yaml",
        "model: tiny-v3.yaml\ncluster: localhost.yaml\nlayout: {pp: 2, dp: 2, layers_per_stage: "
        "[2, 2]}\ntraining: {micro_batches: 3, micro_batch_size: 1, sequence_length: 24}\n");
  import("compact0.jsonl compact1.jsonl compact2.jsonl compact3.jsonl --experts 16 --run run.yaml");
  expect_choices("compact.txt");
}

// Every line of what is exported is JSON to another's parser; how many lines.
constexpr const char* kParse = R"(import json, sys
count = 0
for path in sys.argv[1:]:
    for line in open(path, encoding='utf-8', newline='\n'):
        o = json.loads(line, parse_constant=lambda x: sys.exit('not JSON: ' + x),
                       object_pairs_hook=lambda pairs: sys.exit('twice')
                       if len(dict(pairs)) < len(pairs) else dict(pairs))
        if len(o['top_indices']) != o['num_tokens'] or len(o['top_indices'][0]) != o['topk']:
            sys.exit('another shape')
        count += 1
print(count)
)";

TEST_F(TraceCommand, WhatIsExportedIsJson) {
  write("parse.py", kParse);
  const auto lines_of = [&](const std::string& files) {
    const std::string command = "cd '" + folder_.string() + "' && /usr/bin/python3 parse.py " +
                                files + " > count.txt 2> why.txt";
    EXPECT_EQ(std::system(command.c_str()), 0) << read("why.txt");
    return std::stoi(read("count.txt"));
  };
  // Keys that point into files of states, one with a blank and one with '='; a stage of any bytes;
  // an MTP module in some lines alone.
  const auto line = [](int layer, const std::string& block) {
    return R"({"step": 3, "stage": "pre dispatch=\t\x01\xe9 )"
           "\xe2\x82\xac"
           R"(", "block": )" +
           block + R"(, "layer": )" + std::to_string(layer) +
           R"(, "rank": 0, "hs_offset": 128, "logit_file": "a\"b", "w 1": NaN, "a=b": [1, {"c": 2}],)"
           R"( "num_tokens": 2, "topk": 2, "top_indices": [[0, 3], [1, 2]]})"
           "\n";
  };
  std::string text = line(0, "\"decoder\"") + line(1, "\"decoder\"") +
                     line(0, R"("mtp", "mtp_idx": 0)") + line(1, R"("mtp", "mtp_idx": 1)");
  for (const auto& [from, to] :
       {std::pair("\\t", "\t"), std::pair("\\x01", "\x01"), std::pair("\\xe9", "\xe9")}) {
    for (size_t at; (at = text.find(from)) != std::string::npos;)
      text.replace(at, strlen(from), to);
  }
  write("odd.jsonl", text);
  import("odd.jsonl --experts 4");
  const CommandResult r = rehearse("trace export t.h5 --out back --json");
  ASSERT_EQ(r.exit_code, 0) << r.err;
  EXPECT_EQ(Json::parse(r.out)["left_out"], Json({"hs_offset", "logit_file"}));
  EXPECT_EQ(lines_of("back/odd.jsonl"), 4);
  std::istringstream back(read("back/odd.jsonl"));
  std::vector<Json> all;
  for (std::string l; std::getline(back, l);) all.push_back(Json::parse(l));
  EXPECT_FALSE(all[0].contains("mtp_idx"));
  EXPECT_EQ(all[3]["mtp_idx"], 1);
  EXPECT_EQ(all[3]["block"], "mtp");
  EXPECT_EQ(all[0]["stage"], "pre dispatch=\t\x01\xef\xbf\xbd \xe2\x82\xac");
  // What was exported is read as the same choices.
  rehearse("trace import back/odd.jsonl --experts 4 --out again.h5 -q");
  const RoutingReader first((folder_ / "t.h5").string()), again((folder_ / "again.h5").string());
  EXPECT_EQ(read_step(first, 0).choices, read_step(again, 0).choices);
}

TEST_F(TraceCommand, AttributesOfAnywhereExportJsonOrAreRefused) {
  write("parse.py", kParse);
  const RoutingShape shape{.micro_batches = 1, .layers = 1, .tokens = 2, .active = 1, .experts = 2};
  const std::string keys = "step layer rank num_tokens topk top_indices";
  const auto exported = [&](std::map<std::string, std::string> about,
                            const std::vector<int64_t>& numbers) {
    about.emplace("megatron_files", "1");
    about.emplace("megatron_0_file", "o.jsonl");
    {
      RoutingWriter writer((folder_ / "t.h5").string(), shape, about, false, 0);
      writer.write_step(0, std::vector<uint16_t>{1, 0});
      writer.put_numbers("megatron_0", numbers);
      writer.commit();
    }
    return rehearse("trace export t.h5 --out back");
  };
  const std::vector<int64_t> one_line = {0, 0, 0, 1, -1, 0};
  for (const std::string& odd : {std::string("\"quoted\""),
                                 std::string("back\\slash"),
                                 std::string("new\nline"),
                                 std::string("\xff\xfe"),
                                 std::string("step"),
                                 std::string("=")}) {
    for (const std::string& part : {odd, odd + "=" + odd, "stage=" + odd}) {
      const CommandResult r = exported({{"megatron_0_keys", keys + " " + part}}, one_line);
      EXPECT_EQ(r.exit_code, 0) << part << r.err;
      const std::string command =
          "cd '" + folder_.string() + "' && /usr/bin/python3 parse.py back/o.jsonl > /dev/null";
      EXPECT_EQ(std::system(command.c_str()), 0) << part << read("back/o.jsonl");
    }
  }
  const auto refused = [&](const CommandResult& r, const std::string& why) {
    EXPECT_EQ(r.exit_code, 1) << r.out;
    EXPECT_NE(r.err.find(why), std::string::npos) << r.err;
  };
  refused(exported({}, one_line), "megatron_0_keys does not hold 'step'");
  refused(exported({{"megatron_0_keys", "step layer rank topk top_indices"}}, one_line),
          "does not hold 'num_tokens'");
  refused(exported({{"megatron_0_keys", keys}}, {0, 0, 0, 1}), "is damaged");
  refused(exported({{"megatron_0_keys", keys}}, {0, 0, 0, 1, -1, 7}), "is damaged");
  refused(exported({{"megatron_0_keys", keys}, {"megatron_0_file", ""}}, one_line), "");
}

TEST_F(TraceCommand, ArraysAndLists) {
  import("request.npy --format array --experts 16");
  expect_choices("request.txt");
  import("stored.npz --format array");
  expect_choices("steps.txt");
  import("packed.npz --format array --array choices --pack");
  expect_choices("steps.txt");
  import("llama.csv --format csv --experts 16 --active 4");
  expect_choices("request.txt");
  import("counts.npy --format counts --active 4");
  const RoutingReader reader((folder_ / "t.h5").string());
  EXPECT_NE(reader.about("estimated"), "");
  std::istringstream told(read("counts.txt"));
  for (int64_t l = 0; l < 2; ++l) {
    for (const int64_t n : read_step(reader, 0).expert_tokens(l)) {
      int64_t want = -1;
      told >> want;
      EXPECT_EQ(n, want);
    }
  }
}

// Experts as SGLang had them placed, by its map the model's own.
TEST_F(TraceCommand, PicklesOfSglang) {
  const std::string source = REHEARSE_SOURCE_DIR;
  const auto python = [&](const std::string& script) {
    const std::string command = "cd '" + folder_.string() + "' && /usr/bin/python3 '" + source +
                                "/" + script + " > out.txt 2>&1";
    return std::system(command.c_str());
  };
  const int made = python("tests/make_pickle.py' .");
  if (WEXITSTATUS(made) == 77) GTEST_SKIP() << "no PyTorch";
  ASSERT_EQ(made, 0) << read("out.txt");
  ASSERT_EQ(python("plots/import_traces.py' sglang.pt sglang.npz"), 0) << read("out.txt");
  import("sglang.npz --format array --experts 16");
  expect_choices("sglang.txt");
}

TEST_F(TraceCommand, WhatIsWrongIsSaidByPlace) {
  const auto expect = [&](const std::string& what, const std::string& said) {
    EXPECT_NE(refusal(what).find(said), std::string::npos) << refusal(what);
  };
  expect(ranks("none"), "no such file");
  const std::string whole = read("compact0.jsonl");
  const auto with = [&](const std::string& text) {
    write("bad.jsonl", text);
    return std::string("bad.jsonl --experts 16");
  };
  expect(with(whole.substr(0, whole.size() / 2)), "byte ");
  expect(with(whole.substr(0, whole.size() - 1)), "cut off");
  expect(with(""), "byte 0: no lines");
  std::string other = whole;
  const size_t at = other.find("[[") + 2;
  expect("compact0.jsonl --experts 3", "of 3");
  other.replace(at, other.find(',', at) - at, "-1");
  expect(with(other), "chooses expert -1 of 16");
  other = whole;
  const size_t comma = other.find(',', at);
  const size_t second = other.find(',', comma + 1);
  other.replace(comma + 1, second - comma - 1, other.substr(at, comma - at));
  expect(with(other), "twice");
  other = whole;
  other.replace(other.find("\"topk\":4"), 8, "\"topk\":5");
  expect(with(other), "topk 5");
  other = whole;
  other.erase(0, other.find('\n') + 1);
  expect(with(other), "calls");
  expect("compact0.jsonl compact0.jsonl --experts 16", "has another file already");
  expect("compact0.jsonl --experts 16 --recomputed", "not the same ones twice");
  expect("fortran.npy --format array", "Fortran's order");
  expect("floats.npy --format array", "expected whole numbers");
  expect("packed.npz --format array", "name one of: choices, other");
  expect("request.npy --format array --experts 9", "of 9");
  expect("counts.npy --format counts --active 5", "tokens of 5 each");
  expect("llama.csv --format csv --experts 4 --active 4", "of 4");
  expect("llama.csv --format csv --experts 16 --active 7", "tokens of 7 each");
  write("cut.npy", read("request.npy").substr(0, 150));
  expect("cut.npy --format array", "its shape");
  write("cut.npz", read("packed.npz").substr(0, 300));
  expect("cut.npz --format array", "is no zip");
}

}  // namespace
}  // namespace rehearse
