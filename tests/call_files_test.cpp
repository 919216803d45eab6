// What each verb reads and writes, seen from outside (tests/opened_files.cpp), printed, and held
// against each other: with each file that a call writes made a link to each file that it reads, the
// same call is refused, and what it reads stays as it was.

#include <map>
#include <set>
#include <sstream>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "tests/command.h"

namespace rehearse {
namespace {

namespace fs = std::filesystem;

struct Call {
  std::string name, arguments;
  std::set<std::string> reads, writes;  // at least these
  int worst = 0;                        // exit code
};

std::string of_repo(const std::string& name) {
  return (fs::path(REHEARSE_SOURCE_DIR) / name).string();
}

class CallFiles : public CommandTest {
 protected:
  void SetUp() override {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    GTEST_SKIP() << "a sanitizer must be loaded first";
#endif
    CommandTest::SetUp();
    make_inputs();
  }

  void copy(const std::string& from, const std::string& to) {
    fs::create_directories((folder_ / to).parent_path());
    fs::copy_file(of_repo(from), folder_ / to);
  }

  void make_inputs() {
    copy("models/tiny-v3.yaml", "model.yaml");
    copy("topologies/localhost.yaml", "cores.yaml");
    copy("topologies/h100-1024.yaml", "gpus.yaml");
    copy("topologies/h800-published.calibration.yaml", "published.yaml");
    for (const char* name : {"h100.yaml",
                             "h100-products.csv",
                             "h100-attention.csv",
                             "h100-grouped.csv",
                             "h100-collectives.csv",
                             "h100-exchanges.csv"}) {
      copy(std::string("topologies/devices/") + name, std::string("device/") + name);
    }
    std::string text;
    while (text.size() < 20'000) text += "what is read is never written. ";
    write("text.txt", text);
    const std::string step = "micro_batches: 2, micro_batch_size: 1, sequence_length: 32, steps: 2";
    write("cores-plan.yaml",
          "model: model.yaml\ncluster: cores.yaml\nlayout: {pp: 1, dp: 2, ep: 2}\n"
          "training: {" +
              step + "}\ndata: {text: text.txt}\n");
    run("train cores-plan.yaml --out made --record-routing routing.h5 --checkpoint-every 1");
    run("replay routing.h5 cores-plan.yaml --policy published --write-placement map.json");
    run("simulate cores-plan.yaml --timeline predicted.json");
    run("calibrate cores-plan.yaml --no-grid --rounds 1 --milliseconds 0.01 --out cores.cal");
    write("gpu-plan.yaml",
          "model: model.yaml\ncluster: gpus.yaml\ncalibration: device/h100.yaml\n"
          "layout: {pp: 1, dp: 2, ep: 2}\n"
          "training: {" +
              step +
              ", precision: bf16}\n"
              "expert_load: {kind: recorded, file: routing.h5}\nexpert_placement: map.json\n");
    write("present.args", "--tensor-model-parallel-size 1\n--expert-model-parallel-size 2\n");
    std::string choices = "layer,expert\n";
    for (int layer = 0; layer < 2; ++layer) {
      for (int i = 0; i < 16; ++i) choices += fmt::format("{},{}\n", layer, (3 * i + layer) % 8);
    }
    write("choices.csv", choices);
    write("nccl.txt", nccl());
  }

  // What nccl-tests print of 8 H800 at 155 GB/s and 3.5 us a step.
  static std::string nccl() {
    std::string text = "# all_reduce_perf -b 1M -e 1G\n# Using devices\n";
    for (int r = 0; r < 8; ++r) {
      text += fmt::format(
          "#  Rank {:2} Group  0 Pid {} on host device {:2} [0x18] NVIDIA H800\n", r, 100 + r, r);
    }
    text +=
        "#       size         count      type   redop    root     time   algbw   busbw #wrong     "
        "time   algbw   busbw #wrong\n"
        "#        (B)    (elements)                               (us)  (GB/s)  (GB/s)            "
        "(us)  (GB/s)  (GB/s)\n";
    for (double size = 1 << 20; size <= 1 << 30; size *= 4) {
      const double us = 3.5 * 14 + size * 1.75 / 155e3;
      text += fmt::format(
          "  {0:.0f} {1:.0f} float sum -1 {2:.4f} {3:.6f} {4:.6f} 0 {2:.4f} {3:.6f} {4:.6f} 0\n",
          size,
          size / 4,
          us,
          size / us * 1e-3,
          size / us * 1.75e-3);
    }
    return text + "# Out of bounds values : 0 OK\n# Avg bus bandwidth    : 1\n";
  }

  void run(const std::string& arguments) {
    const CommandResult r = rehearse(arguments + " -q");
    ASSERT_EQ(r.exit_code, 0) << arguments << ": " << r.err;
  }

  // A file's name within the folder; empty for what is elsewhere, or no plain file.
  std::string within(const std::string& path) const {
    std::error_code error;
    const fs::path whole =
        fs::weakly_canonical(path.starts_with('/') ? fs::path(path) : folder_ / path, error);
    const std::string name = fs::relative(whole, fs::canonical(folder_), error).string();
    return name.starts_with("..") || !fs::is_regular_file(whole, error) ? "" : name;
  }

  // Runs a call and says which of the files that were there it opened to read, and what it wrote.
  void watch(const Call& call, std::set<std::string>& reads, std::set<std::string>& writes) {
    const std::set<std::string> before = listing();
    const std::string log = folder_.string() + ".opened";
    fs::remove(log);
    const CommandResult r = rehearse(
        call.arguments, "OPENED_FILES='" + log + "' LD_PRELOAD='" REHEARSE_OPENED_FILES "'");
    ASSERT_LE(r.exit_code, call.worst) << call.arguments << ": " << r.err;
    std::istringstream lines(read_own_file(log));
    for (std::string line; std::getline(lines, line);) {
      const std::string name = within(line.substr(2));
      if (name.empty() || name.ends_with(".lock")) continue;
      if (line[0] == 'R') {
        if (before.contains(name)) reads.insert(name);
      } else {
        writes.insert(name);
      }
    }
    fs::remove(log);
    for (const std::string& name : writes) reads.erase(name);  // a call's own: logs, journals
  }

  // Everything but inputs, so that the next call begins as the last did.
  void remove_all_but(const std::set<std::string>& kept) {
    for (const std::string& name : listing()) {
      if (!kept.contains(name)) fs::remove_all(folder_ / name);
    }
  }
};

const std::vector<Call>& calls() {
  static const std::vector<Call> all = {
      {"inspect", "inspect gpu-plan.yaml", {"gpu-plan.yaml", "model.yaml", "gpus.yaml"}, {}},
      {"simulate",
       "simulate gpu-plan.yaml --timeline o/t.json --ranks 0 --link-load o/l.json --page o/p.html "
       "-q",
       {"device/h100.yaml",
        "device/h100-products.csv",
        "device/h100-collectives.csv",
        "routing.h5",
        "map.json"},
       {"o/t.json", "o/l.json", "o/p.html"}},
      {"plan",
       "plan --model model.yaml --cluster gpus.yaml --calibration device/h100.yaml --gpus 2 "
       "--batch 4 "
       "--sequence 32 --precision bf16 --simulate 2 --show 1 --present present.args --csv o/c.csv "
       "--page o/p.html --out o/plans --journal o/j.jsonl -q",
       {"model.yaml", "gpus.yaml", "device/h100.yaml", "present.args"},
       {"o/c.csv", "o/p.html", "o/plans/1.yaml", "o/j.jsonl"}},
      {"train",
       "train cores-plan.yaml --out o --record-routing o/r.h5 --force -q "
       "--from made/checkpoints/step-00000002",
       {"cores-plan.yaml",
        "cores.yaml",
        "text.txt",
        "made/checkpoints/step-00000002/model-00001-of-00001.safetensors",
        "made/checkpoints/step-00000002/model.safetensors.index.json"},
       {"o/log.jsonl", "o/timeline.json", "o/result.json", "o/r.h5"}},
      {"train --steps 0",
       "train cores-plan.yaml --steps 0 --dump-logits o/l.st --dump-gradients o/g.st "
       "--from made/checkpoints/step-00000002/model-00001-of-00001.safetensors",
       {"text.txt", "made/checkpoints/step-00000002/model-00001-of-00001.safetensors"},
       {"o/l.st", "o/g.st"}},
      {"replay",
       "replay routing.h5 cores-plan.yaml --placement map.json --calibration cores.cal --timeline "
       "o/t.json --page o/p.html --write-placement o/m.json -q",
       {"routing.h5", "cores-plan.yaml", "map.json", "cores.cal"},
       {"o/t.json", "o/p.html", "o/m.json"}},
      {"trace import",
       "trace import choices.csv --format csv --experts 8 --active 2 --out o/r.h5 -q",
       {"choices.csv"},
       {"o/r.h5"}},
      {"trace synthesize",
       "trace synthesize routing.h5 --steps 1 --out o/r.h5 -q",
       {"routing.h5"},
       {"o/r.h5"}},
      {"compare",
       "compare cores-plan.yaml --measured made/timeline.json --predicted predicted.json --page "
       "o/p.html",
       {"cores-plan.yaml", "made/timeline.json", "predicted.json"},
       {"o/p.html"}},
      {"calibrate",
       "calibrate cores-plan.yaml --no-grid --rounds 1 --milliseconds 0.01 --out o/c.cal -q",
       {"cores-plan.yaml", "model.yaml"},
       {"o/c.cal"}},
      // A machine that is busy now is not as the calibration has it.
      {"calibrate --check", "calibrate --check cores.cal -q", {"cores.cal"}, {}, 1},
      {"calibrate --links",
       "calibrate --links nccl.txt --base published.yaml --out o/c.yaml",
       {"nccl.txt", "published.yaml"},
       {"o/c.yaml"}},
      {"calibrate --from-tables",
       "calibrate gpu-plan.yaml --from-tables device/h100-products.csv --out o/d.yaml",
       {"gpu-plan.yaml", "device/h100-products.csv"},
       {"o/d.yaml", "o/d-products.csv"}},
      {"calibrate --judge-table",
       "calibrate gpu-plan.yaml --judge-table device/h100-attention.csv --told-by device/h100.yaml",
       {"device/h100-attention.csv", "device/h100.yaml"},
       {}},
      {"validate",
       "validate cores-plan.yaml --calibration cores.cal --steps 2 --out o -q",
       {"cores-plan.yaml", "text.txt", "cores.cal"},
       {"o/validation.json"}},
  };
  return all;
}

TEST_F(CallFiles, NothingThatIsReadIsWritten) {
  const std::set<std::string> inputs = listing();
  size_t tried = 0;
  for (const Call& call : calls()) {
    std::set<std::string> reads, writes;
    watch(call, reads, writes);
    if (HasFatalFailure()) return;
    fmt::print(
        "{}\n  reads  {}\n  writes {}\n", call.name, fmt::join(reads, " "), fmt::join(writes, " "));
    for (const std::string& name : call.reads)
      EXPECT_TRUE(reads.contains(name)) << call.name << " " << name;
    for (const std::string& name : call.writes)
      EXPECT_TRUE(writes.contains(name)) << call.name << " " << name;
    for (const std::string& output : writes) {
      for (const std::string& input : reads) {
        remove_all_but(inputs);
        const std::string before = read(input);
        const fs::path link = folder_ / output;
        fs::create_directories(link.parent_path());
        fs::create_symlink(folder_ / input, link);
        const CommandResult r = rehearse(call.arguments);
        EXPECT_NE(r.exit_code, 0) << call.name << ": " << output << " -> " << input;
        EXPECT_NE(r.err.find("is an input of the same call"), std::string::npos)
            << call.name << ": " << output << " -> " << input << ": " << r.err;
        EXPECT_EQ(read(input), before) << call.name << ": " << output << " -> " << input;
        ++tried;
      }
    }
    remove_all_but(inputs);
  }
  EXPECT_GT(tried, 80u);
  fmt::print("{} pairs of an output and an input\n", tried);
}

}  // namespace
}  // namespace rehearse
