// Pictures are whole or not there, and nothing stays beside them; skipped without matplotlib.

#include "tests/command.h"

namespace rehearse {
namespace {

class Picture : public CommandTest {
 protected:
  void SetUp() override {
    CommandTest::SetUp();
    if (std::system("/usr/bin/python3 -c 'import matplotlib' 2>/dev/null") != 0) {
      GTEST_SKIP() << "matplotlib is missing";
    }
    std::string text;
    while (text.size() < 20'000) text += "one plan file is simulated, trained and compared.\n";
    write("text.txt", text);
    write("plan.yaml",
          "model: tiny-v3.yaml\n"
          "cluster: localhost.yaml\n"
          "layout: {pp: 2, schedule: dualpipe}\n"
          "training: {micro_batches: 4, micro_batch_size: 1, sequence_length: 32, steps: 2}\n");
    ASSERT_EQ(rehearse("train plan.yaml --data text.txt --out run -q").exit_code, 0);
    there_ = listing();
  }

  // Whatever else is in the folder now.
  std::set<std::string> further() {
    std::set<std::string> names = listing();
    for (const std::string& name : there_) names.erase(name);
    return names;
  }
  static bool is_png(const std::string& bytes) {
    return bytes.starts_with("\x89PNG\r\n") && bytes.find("IEND") != std::string::npos;
  }

  const std::string compare_ = "compare plan.yaml --measured run/timeline.json --picture ";
  // A script of plots/, in the folder.
  CommandResult script(const std::string& words, const std::string& before = "") {
    return rehearse("--version >/dev/null; " + before + " /usr/bin/python3 -B '" +
                    std::string(REHEARSE_SOURCE_DIR) + "/plots/" + words);
  }

 private:
  std::set<std::string> there_;
};

TEST_F(Picture, IsDrawnAndNothingElse) {
  ASSERT_EQ(rehearse(compare_ + "both.png").exit_code, 0);
  EXPECT_TRUE(is_png(read("both.png")));
  ASSERT_EQ(rehearse(compare_ + "both.svg").exit_code, 0);
  EXPECT_NE(read("both.svg").find("</svg>"), std::string::npos);
  EXPECT_EQ(further(), (std::set<std::string>{"both.png", "both.svg"}));
  // A name without a known end is refused before anything is done.
  for (const std::string name : {"both", "both.xyz", "both.PNG2"}) {
    const CommandResult r = rehearse(compare_ + name);
    EXPECT_EQ(r.exit_code, 1);
    EXPECT_EQ(r.err, name + ": a picture's name ends in .png, .svg, .pdf\n");
    EXPECT_EQ(r.out, "");
  }
}

TEST_F(Picture, AFullDiskKeepsTheOldOne) {
  // matplotlib's own files, which a new machine has not yet.
  ASSERT_EQ(rehearse(compare_ + "both.png").exit_code, 0);
  write("both.png", "the old one");
  write("loss.png", "the old one");
  // 4 KB at most in a file.
  const CommandResult r = rehearse("--version >/dev/null; ulimit -f 8; '" REHEARSE_PROGRAM "' " +
                                   compare_ + "both.png >/dev/null");
  EXPECT_EQ(r.exit_code, 1);
  EXPECT_NE(r.err.find("both.png: cannot be written: File too large"), std::string::npos) << r.err;
  const CommandResult s = script("loss.py' run/log.jsonl --out loss.png", "ulimit -f 8;");
  EXPECT_EQ(s.exit_code, 1);
  EXPECT_NE(s.err.find("loss.png: cannot be written: File too large"), std::string::npos) << s.err;
  EXPECT_EQ(read("both.png"), "the old one");
  EXPECT_EQ(read("loss.png"), "the old one");
  EXPECT_EQ(further(), (std::set<std::string>{"both.png", "loss.png"}));
}

TEST_F(Picture, AKillKeepsTheOldOneOrLeavesTheNew) {
  write("both.png", "the old one");
  write("lanes.png", "the old one");
  const std::string kill_soon = " & job=$!; sleep $S; kill -$K $job 2>/dev/null; wait $job";
  for (const std::string moment : {"0.1", "0.6", "1.2"}) {
    for (const std::string signal : {"KILL", "TERM", "INT"}) {
      const std::string when = "S=" + moment + "; K=" + signal + "; ";
      rehearse("--version >/dev/null; " + when + "'" REHEARSE_PROGRAM "' " + compare_ +
               "both.png >/dev/null" + kill_soon);
      script("lanes.py' run/timeline.json --out lanes.png" + kill_soon, when);
      for (const std::string name : {"both.png", "lanes.png"}) {
        const std::string bytes = read(name);
        EXPECT_TRUE(bytes == "the old one" || is_png(bytes)) << name << " after " << moment;
      }
      EXPECT_EQ(further(), (std::set<std::string>{"both.png", "lanes.png"})) << moment << signal;
    }
  }
}

TEST_F(Picture, LinksAreFollowedAndPermissionsKept) {
  namespace fs = std::filesystem;
  write("target.png", "");
  fs::permissions(folder_ / "target.png", fs::perms::owner_read | fs::perms::owner_write);
  fs::create_symlink("target.png", folder_ / "link.png");
  ASSERT_EQ(script("lanes.py' run/timeline.json --out link.png").exit_code, 0);
  EXPECT_TRUE(fs::is_symlink(folder_ / "link.png"));
  EXPECT_TRUE(is_png(read("target.png")));
  EXPECT_EQ(fs::status(folder_ / "target.png").permissions(),
            fs::perms::owner_read | fs::perms::owner_write);
  fs::permissions(folder_ / "target.png", fs::perms::owner_read);
  const CommandResult r = script("loss.py' run/log.jsonl --out link.png");
  EXPECT_EQ(r.exit_code, 1);
  EXPECT_EQ(r.err, "link.png: cannot be written: it is there and has no write permission\n");
}

// All scripts that draw do so by plots/picture.py.
TEST(Pictures, AreWrittenInOnePlace) {
  int scripts = 0;
  for (const auto& entry :
       std::filesystem::directory_iterator(std::string(REHEARSE_SOURCE_DIR) + "/plots")) {
    if (entry.path().extension() != ".py") continue;
    ++scripts;
    const std::string text = read_file(entry.path().string());
    EXPECT_EQ(text.find("savefig") != std::string::npos, entry.path().filename() == "picture.py")
        << entry.path();
  }
  EXPECT_GT(scripts, 8);
}

}  // namespace
}  // namespace rehearse
