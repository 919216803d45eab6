// Files whole or not there; locks that no kill leaves; what a call reads held against what it
// writes.

#include "base/file.h"

#include <csignal>
#include <filesystem>
#include <fstream>

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/call_files.h"
#include "base/errors.h"
#include "base/folder_lock.h"
#include "base/json_error.h"

namespace rehearse {
namespace {

namespace fs = std::filesystem;

class Files : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::temp_directory_path() / fmt::format("rehearse_files_{}", ::getpid());
    fs::remove_all(folder_);
    fs::create_directories(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }
  std::string at(const std::string& name) { return (folder_ / name).string(); }
  static std::string error_of(const std::function<void()>& work) {
    try {
      work();
    } catch (const InputError& e) {
      return e.what();
    }
    return "";
  }
  size_t names() { return static_cast<size_t>(std::distance(fs::directory_iterator(folder_), {})); }
  fs::path folder_;
};

TEST_F(Files, AFileThatIsNotCommittedNeverWas) {
  write_file(at("a"), "before");
  {
    NewFile file(at("a"));
    file.write("half");
    EXPECT_EQ(read_own_file(at("a")), "before");
  }
  EXPECT_EQ(read_own_file(at("a")), "before");
  EXPECT_EQ(names(), 1u);
  {
    NewFile file(at("a"));
    file.write("the ");
    file.write("whole");
    file.commit();
  }
  EXPECT_EQ(read_own_file(at("a")), "the whole");
  EXPECT_EQ(names(), 1u);
}

TEST_F(Files, AKillWhileWritingLeavesNothing) {
  const pid_t child = ::fork();
  if (child == 0) {
    NewFile file(at("b"));
    for (;;) file.write(std::string(1 << 12, 'x'));
  }
  ::usleep(20'000);
  ::kill(child, SIGKILL);
  ::waitpid(child, nullptr, 0);
  EXPECT_EQ(names(), 0u);
}

TEST_F(Files, PipesAndDevicesEnd) {
  EXPECT_NE(error_of([] { read_file("/dev/zero"); }).find("is no plain file"), std::string::npos);
  write_file(at("long"), std::string(100, 'x'));
  EXPECT_EQ(read_file(at("long"), 100).size(), 100u);
  EXPECT_NE(error_of([&] { read_file(at("long"), 99); }).find("more than 99 bytes"),
            std::string::npos);
  EXPECT_FALSE(read_file("/proc/self/status").empty());  // says that it has no bytes
}

TEST_F(Files, InputsAndOutputsMayComeInEitherOrder) {
  std::ofstream(at("read")) << "x";
  std::ofstream(at("claimed")) << "x";
  fs::create_symlink(at("read"), at("link"));
  fs::create_directories(at("emptied"));
  std::ofstream(at("emptied/inside")) << "x";
  note_input(at("read"));
  EXPECT_NE(error_of([&] { claim_output(at("link")); }).find("is an input of the same call"),
            std::string::npos);
  claim_output(at("claimed"));
  EXPECT_NE(error_of([&] { note_input(at("claimed")); }).find("is an input of the same call"),
            std::string::npos);
  EXPECT_NE(error_of([&] { claim_output(at("claimed")); }).find("two results"), std::string::npos);
  claim_output_folder(at("emptied"));
  EXPECT_NE(error_of([&] { note_input(at("emptied/inside")); }).find("is an input"),
            std::string::npos);
  // What was written by this call is none of its inputs.
  write_file(at("claimed"), "y");
  EXPECT_EQ(error_of([&] { note_input(at("claimed")); }), "");
  EXPECT_EQ(input_named_in(at("read") + ":3:1: wrong"), at("read"));
  EXPECT_EQ(input_named_in("nothing: wrong"), "");
}

TEST_F(Files, AFolderHasOneHolder) {
  const std::string folder = at("run/deep");
  {
    const FolderLock lock(folder, "the first");
    // A lock is its process's: another one finds it held.
    const pid_t child = ::fork();
    if (child == 0) {
      const std::string why = error_of([&] { const FolderLock again(folder, "the second"); });
      const bool named =
          why.find(fmt::format("process {} on ", ::getppid())) != std::string::npos &&
          why.find("the first") != std::string::npos;
      ::_exit(named ? 0 : 1);
    }
    int status = 1;
    ::waitpid(child, &status, 0);
    EXPECT_EQ(status, 0);
    EXPECT_TRUE(fs::exists(folder));
  }
  EXPECT_FALSE(fs::exists(at("run")));  // made for the lock alone
}

TEST_F(Files, AKilledHolderLeavesNoLock) {
  const std::string folder = at("run");
  int ready[2];
  ASSERT_EQ(::pipe(ready), 0);
  const pid_t child = ::fork();
  if (child == 0) {
    const FolderLock lock(folder, "to be killed");
    [[maybe_unused]] const ssize_t n = ::write(ready[1], "x", 1);
    ::pause();
  }
  char x = 0;
  ASSERT_EQ(::read(ready[0], &x, 1), 1);
  EXPECT_NE(error_of([&] { const FolderLock lock(folder, "too early"); }), "");
  ::kill(child, SIGKILL);
  ::waitpid(child, nullptr, 0);
  EXPECT_EQ(error_of([&] { const FolderLock lock(folder, "after it"); }), "");
}

TEST(FolderLocks, KnowWhereTheyDoNotHold) {
  for (const auto& [type, options] :
       std::vector<std::pair<std::string, std::string>>{{"ext4", "rw,relatime"},
                                                        {"overlay", "rw"},
                                                        {"nfs4", "rw,vers=4.2,local_lock=none"},
                                                        {"nfs", "rw,vers=3,local_lock=none"},
                                                        {"lustre", "rw,flock"},
                                                        {"ceph", "rw"},
                                                        {"cifs", "rw,vers=3.1.1"}}) {
    EXPECT_FALSE(why_locks_do_not_hold(type, options)) << type << " " << options;
  }
  for (const auto& [type, options] :
       std::vector<std::pair<std::string, std::string>>{{"nfs", "rw,vers=3,nolock,local_lock=all"},
                                                        {"nfs4", "rw,local_lock=flock"},
                                                        {"lustre", "rw,localflock"},
                                                        {"lustre", "rw"},
                                                        {"cifs", "rw,nobrl"},
                                                        {"fuse.sshfs", "rw"},
                                                        {"9p", "rw"}}) {
    EXPECT_TRUE(why_locks_do_not_hold(type, options)) << type << " " << options;
  }
}

TEST(JsonErrors, HaveTheirPlace) {
  const std::runtime_error e(
      "[json.exception.parse_error.101] parse error at line 2, column 28: syntax error while "
      "parsing value - unexpected ','");
  try {
    fail_json("map.json", "is not JSON", e);
  } catch (const InputError& error) {
    EXPECT_STREQ(error.what(),
                 "map.json:2:28: is not JSON: syntax error while parsing value - unexpected ','");
    EXPECT_EQ(error.place().line, 2);
    EXPECT_EQ(error.place().column, 28);
  }
}

}  // namespace
}  // namespace rehearse
