#pragma once
// Runs the rehearse program in a folder of its own and captures what it says.

#include <cstdio>
#include <filesystem>
#include <set>
#include <string>

#include <gtest/gtest.h>
#include <sys/wait.h>

#include "base/file.h"

namespace rehearse {

struct CommandResult {
  int exit_code = 0;
  std::string out, err;
};

// A temporary folder, removed at the end, in which commands run.
class CommandTest : public testing::Test {
 protected:
  void SetUp() override {
    const auto* info = testing::UnitTest::GetInstance()->current_test_info();
    folder_ = std::filesystem::temp_directory_path() /
              ("rehearse_" + std::string(info->test_suite_name()) + "_" + info->name());
    std::filesystem::remove_all(folder_);
    std::filesystem::create_directories(folder_);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  void write(const std::string& name, const std::string& text) {
    write_file((folder_ / name).string(), text);
  }
  std::string read(const std::string& name) { return read_file((folder_ / name).string()); }
  bool exists(const std::string& name) { return std::filesystem::exists(folder_ / name); }
  // Names of everything in the folder, for "nothing was written".
  std::set<std::string> listing() {
    std::set<std::string> names;
    for (const auto& e : std::filesystem::recursive_directory_iterator(folder_)) {
      names.insert(std::filesystem::relative(e.path(), folder_).string());
    }
    return names;
  }

  // arguments: as typed after `rehearse`. before: before it, such as mpirun and its options.
  CommandResult rehearse(const std::string& arguments, const std::string& before = "") {
    const std::string err_file = folder_.string() + ".err";
    const std::string command = "cd '" + folder_.string() + "' && " + before + " '" +
                                REHEARSE_PROGRAM + "' " + arguments + " 2>'" + err_file + "'";
    CommandResult result;
    FILE* pipe = ::popen(command.c_str(), "r");
    char buffer[4096];
    for (size_t n; (n = std::fread(buffer, 1, sizeof(buffer), pipe)) > 0;) {
      result.out.append(buffer, n);
    }
    result.exit_code = WEXITSTATUS(::pclose(pipe));
    result.err = read_file(err_file);
    std::filesystem::remove(err_file);
    return result;
  }

  std::filesystem::path folder_;
};

}  // namespace rehearse
