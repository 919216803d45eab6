// What the program writes: never over an input or another output, never through a link or a kept
// file, never half; what a signal or a full disk leaves; errors as objects.

#include <sstream>

#include <nlohmann/json.hpp>

#include "base/random.h"
#include "plan/routing/routing_file.h"
#include "sim/price/calibration.h"
#include "tests/command.h"

namespace rehearse {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

class Outputs : public CommandTest {
 protected:
  void SetUp() override {
    CommandTest::SetUp();
    std::string text;
    while (text.size() < 20'000) text += "one plan file is simulated, trained and compared.\n";
    write("text.txt", text);
    write("plan.yaml",
          "model: tiny-v3.yaml\n"
          "cluster: localhost.yaml\n"
          "layout: {pp: 1}\n"
          "training: {micro_batches: 2, micro_batch_size: 1, sequence_length: 32, steps: 4}\n");
  }
  // Exit code 1, the text in the error, and nothing new or changed in the folder.
  void expect_refused(const std::string& arguments, const std::string& text, int code = 1) {
    const auto names = listing();
    const CommandResult r = rehearse(arguments);
    EXPECT_EQ(r.exit_code, code) << arguments << ": " << r.err;
    EXPECT_NE(r.err.find(text), std::string::npos) << arguments << ": " << r.err;
    EXPECT_EQ(listing(), names) << arguments;
  }
};

TEST_F(Outputs, AreNeverInputs) {
  const std::string plan = read("plan.yaml");
  fs::create_symlink("plan.yaml", folder_ / "link.yaml");
  fs::create_hard_link(folder_ / "plan.yaml", folder_ / "hard.yaml");
  for (const std::string name : {"plan.yaml", "./plan.yaml", "link.yaml", "hard.yaml"}) {
    expect_refused("simulate plan.yaml --timeline " + name, "is an input of the same call");
  }
  expect_refused("train plan.yaml --data text.txt --record-routing text.txt",
                 "is an input of the same call");
  expect_refused("train plan.yaml --data text.txt --out run --record-routing run/log.jsonl",
                 "two results of the same call");
  expect_refused("calibrate plan.yaml --out plan.yaml", "is an input of the same call");
  EXPECT_EQ(read("plan.yaml"), plan);
}

TEST_F(Outputs, LinksAreFollowedAndKeptFilesKept) {
  write("target.json", "old");
  fs::create_symlink("target.json", folder_ / "link.json");
  ASSERT_EQ(rehearse("simulate plan.yaml --timeline link.json").exit_code, 0);
  EXPECT_TRUE(fs::is_symlink(folder_ / "link.json"));
  EXPECT_EQ(read("target.json").front(), '{');

  fs::create_symlink("not-yet.json", folder_ / "dangling.json");
  ASSERT_EQ(rehearse("simulate plan.yaml --timeline dangling.json").exit_code, 0);
  EXPECT_TRUE(fs::is_symlink(folder_ / "dangling.json"));
  EXPECT_TRUE(exists("not-yet.json"));

  fs::create_symlink("circle.json", folder_ / "circle.json");
  EXPECT_NE(rehearse("simulate plan.yaml --timeline circle.json").err.find("in a circle"),
            std::string::npos);
  fs::remove(folder_ / "circle.json");

  write("kept.json", "kept");
  fs::permissions(folder_ / "kept.json", fs::perms::owner_read);
  expect_refused("simulate plan.yaml --timeline kept.json", "has no write permission");
  EXPECT_EQ(read("kept.json"), "kept");

  for (const std::string device : {"/dev/stdout", "/dev/null", "/dev/fd/1"}) {
    expect_refused("simulate plan.yaml --timeline " + device, "device");
  }
  EXPECT_TRUE(fs::is_symlink("/dev/stdout"));
}

TEST_F(Outputs, EmptyNamesAreWrongUsage) {
  expect_refused("train plan.yaml --data text.txt --out ''", "--out needs a value", 2);
  expect_refused("simulate plan.yaml --timeline ''", "--timeline needs a value", 2);
  expect_refused("simulate ''", "a plan file's name is empty", 2);
}

TEST_F(Outputs, AFinishedRunIsNotOverwritten) {
  ASSERT_EQ(rehearse("train plan.yaml --data text.txt --out run -q").exit_code, 0);
  const std::string before = read("run/log.jsonl");
  expect_refused("train plan.yaml --data text.txt --out run -q", "a finished run");
  EXPECT_EQ(read("run/log.jsonl"), before);
  EXPECT_EQ(rehearse("train plan.yaml --data text.txt --out run --force -q").exit_code, 0);
}

TEST_F(Outputs, ASignalEndsTheStepAndKeepsWhatThereIs) {
  for (const auto& [signal, code] : {std::pair{"INT", 130}, std::pair{"TERM", 143}}) {
    const std::string out = std::string("run") + signal;
    // A background job of a shell ignores SIGINT unless it has job control.
    const CommandResult r = rehearse("--version >/dev/null; '" REHEARSE_PROGRAM
                                     "' train plan.yaml --data text.txt "
                                     "--steps 1000000 -q --out " +
                                     out +
                                     " >/dev/null & job=$!; "
                                     "while ! [ -s " +
                                     out + "/log.jsonl ]; do sleep 0.02; done; kill -" + signal +
                                     " $job; wait $job; echo $?");
    EXPECT_EQ(r.out, std::to_string(code) + "\n") << r.err;
    const Json result = Json::parse(read(out + "/result.json"));
    const int64_t steps = result["steps"];
    EXPECT_GE(steps, 1);
    EXPECT_FALSE(result["stopped_by_signal"].is_null());
    const std::string log = read(out + "/log.jsonl");
    EXPECT_EQ(std::count(log.begin(), log.end(), '\n'), steps);
    EXPECT_TRUE(exists(out + "/timeline.json"));
  }
}

TEST_F(Outputs, AFullDiskTakesOneResultAlone) {
  // A limit of one block on files' sizes: the log fits, the timeline does not.
  const CommandResult r =
      rehearse("--version >/dev/null; ulimit -f 8; '" REHEARSE_PROGRAM
               "' train plan.yaml --data text.txt -q --out run --record-routing run/r.h5 --json");
  EXPECT_EQ(r.exit_code, 1);
  EXPECT_NE(r.err.find("run/timeline.json: cannot be written"), std::string::npos) << r.err;
  EXPECT_EQ(Json::parse(r.out)["steps"], 4);
  const auto names = listing();
  EXPECT_TRUE(names.contains("run/log.jsonl"));
  EXPECT_TRUE(names.contains("run/result.json"));
  EXPECT_FALSE(names.contains("run/timeline.json"));
  for (const std::string& name : names) EXPECT_EQ(name.find(".part"), std::string::npos) << name;
}

// Everything under a final name is whole: JSON parses, a log is of whole lines, a calibration
// loads, recorded routing opens.
void expect_whole(const fs::path& folder) {
  for (const auto& entry : fs::recursive_directory_iterator(folder)) {
    const std::string path = entry.path().string();
    const std::string kind = entry.path().extension().string();
    if (!entry.is_regular_file() || kind == ".part") continue;
    try {
      const std::string text = read_file(path);
      if (kind == ".json") {
        EXPECT_TRUE(Json::accept(text)) << path;
      }
      if (kind == ".jsonl" && !text.empty()) {
        EXPECT_EQ(text.back(), '\n') << path;
        std::istringstream lines(text);
        for (std::string line; std::getline(lines, line);) EXPECT_TRUE(Json::accept(line)) << path;
      }
      if (kind == ".cal") load_calibration(path);
      if (kind == ".h5") RoutingReader reader(path);
    } catch (const std::exception& e) {
      ADD_FAILURE() << e.what();
    }
  }
}

const std::vector<std::string> kWriting = {
    "simulate plan.yaml --timeline t.json",
    "train plan.yaml --data text.txt --out run --force -q --record-routing run/r.h5",
    "calibrate plan.yaml --no-grid --rounds 1 --milliseconds 0.01 --out c.cal -q",
    "train plan.yaml --data text.txt --out other --force -q"};

TEST_F(Outputs, KilledAtAnyTime) {
  constexpr int kKills = 60;
  const std::string program = "'" REHEARSE_PROGRAM "' ";
  // What was finished before stays, or is replaced by something finished.
  for (const std::string& verb : kWriting) ASSERT_EQ(rehearse(verb).exit_code, 0) << verb;
  uint64_t state = 7;
  for (int i = 0; i < kKills; ++i) {
    state = split_mix(state);
    const double seconds = 0.002 + 0.2 * static_cast<double>(state % 1000) / 1000;
    rehearse("--version >/dev/null; " + program + kWriting[static_cast<size_t>(i) % 4] +
             " >/dev/null & job=$!; sleep " + std::to_string(seconds) +
             "; kill -9 $job 2>/dev/null; wait $job");
    expect_whole(folder_);
  }
  for (const std::string name : {"t.json", "c.cal", "run/r.h5", "run/timeline.json"}) {
    EXPECT_TRUE(exists(name)) << name;
  }
}

TEST_F(Outputs, FullDisksOfAnySize) {
  constexpr int kDisks = 20;
  for (int i = 0; i < kDisks; ++i) {
    const std::string& verb = kWriting[static_cast<size_t>(i) % 4];
    // Blocks of 512 bytes; error messages themselves need one.
    const CommandResult r = rehearse("--version >/dev/null; ulimit -f " + std::to_string(1 + i) +
                                     "; '" REHEARSE_PROGRAM "' " + verb + " >/dev/null");
    EXPECT_TRUE(r.exit_code == 0 || r.exit_code == 1) << verb << ": " << r.exit_code;
    if (r.exit_code == 1) {
      EXPECT_NE(r.err.find("cannot be written"), std::string::npos) << r.err;
    }
    expect_whole(folder_);
    for (const std::string& name : listing()) EXPECT_EQ(name.find(".part"), std::string::npos);
  }
}

TEST_F(Outputs, ErrorsAreObjectsToo) {
  write("bad.yaml",
        "model: tiny-v3.yaml\ncluster: localhost.yaml\nlayout: {pp: zero}\n"
        "training: {micro_batches: 2, micro_batch_size: 1, sequence_length: 32}\n");
  const CommandResult bad = rehearse("simulate bad.yaml --json");
  EXPECT_EQ(bad.exit_code, 1);
  const Json error = Json::parse(bad.out)["error"];
  EXPECT_EQ(error["kind"], "input");
  EXPECT_EQ(error["file"], "bad.yaml");
  EXPECT_EQ(error["line"], 3);
  EXPECT_EQ(error["column"], 14);
  EXPECT_NE(error["message"].get<std::string>().find("layout.pp"), std::string::npos);
  const CommandResult usage = rehearse("simulate --json --nonsense");
  EXPECT_EQ(usage.exit_code, 2);
  EXPECT_EQ(Json::parse(usage.out)["error"]["kind"], "usage");
  EXPECT_EQ(Json::parse(rehearse("simulate none.yaml --json").out)["error"]["file"], "none.yaml");
}

TEST_F(Outputs, OptionsThatDoNotApplyAreRefused) {
  for (const std::string arguments : {"simulate plan.yaml --fold",
                                      "simulate plan.yaml --threads 2",
                                      "inspect plan.yaml --ops --json",
                                      "inspect --capabilities --ops",
                                      "calibrate plan.yaml --base plan.yaml",
                                      "calibrate plan.yaml --map plan.yaml",
                                      "calibrate --check c.yaml --rounds 2",
                                      "compare plan.yaml --predicted a --calibration b"}) {
    const CommandResult r = rehearse(arguments);
    EXPECT_EQ(r.exit_code, 2) << arguments << ": " << r.err;
  }
}

TEST_F(Outputs, AnErrorShowsAPieceOfALongLine) {
  write("long.yaml", "model: \"" + std::string(100'000, 'x') + "\x01\x1b[31m\"\nnope: 1\n");
  const CommandResult r = rehearse("simulate long.yaml");
  EXPECT_EQ(r.exit_code, 1);
  EXPECT_EQ(r.err.find('\x1b'), std::string::npos);
  size_t at = r.err.find('\n') + 1;  // the message may quote; the line shown may not be long
  EXPECT_LE(r.err.find('\n', at) - at, 204u);
  EXPECT_LE(r.err.size(), 3000u);
}

}  // namespace
}  // namespace rehearse
