// The table of which folder may include which, of docs/architecture.md, held against the sources.

#include <filesystem>
#include <fstream>
#include <map>
#include <regex>
#include <set>

#include <gtest/gtest.h>

namespace {

namespace fs = std::filesystem;

const std::map<std::string, std::set<std::string>> kMayInclude = {
    {"base", {"base"}},
    {"cost", {"base", "cost"}},
    {"plan", {"base", "cost", "plan"}},
    {"sim", {"base", "cost", "plan", "sim"}},
    {"search", {"base", "cost", "plan", "sim", "search"}},
    {"kernels", {"base", "cost", "kernels"}},
    {"runtime", {"base", "cost", "plan", "kernels", "runtime"}},
    {"cli", {"base", "cost", "plan", "sim", "search", "kernels", "runtime", "cli"}},
};

TEST(Layering, IncludesKeepToTheTable) {
  const std::regex include("^\\s*#\\s*include\\s+\"([^\"]+)\"");
  const std::set<std::string> kSources = {".h", ".cpp", ".cu", ".cuh"};
  int files = 0;
  int includes = 0;
  for (const auto& [folder, allowed] : kMayInclude) {
    const fs::path root = fs::path(REHEARSE_SOURCE_DIR) / folder;
    if (!fs::exists(root)) continue;
    for (const auto& entry : fs::recursive_directory_iterator(root)) {
      if (!kSources.contains(entry.path().extension().string())) continue;
      ++files;
      std::ifstream in(entry.path());
      int line_number = 0;
      for (std::string line; std::getline(in, line);) {
        ++line_number;
        std::smatch match;
        if (!std::regex_search(line, match, include)) continue;
        ++includes;
        const std::string header = match[1];
        const std::string from = header.substr(0, header.find('/'));
        EXPECT_TRUE(allowed.contains(from)) << entry.path().string() << ":" << line_number << ": "
                                            << folder << " may not include " << header;
        EXPECT_TRUE(fs::exists(fs::path(REHEARSE_SOURCE_DIR) / header))
            << entry.path().string() << ":" << line_number << ": includes are from the root";
      }
    }
  }
  EXPECT_GT(files, 50);
  EXPECT_GT(includes, 100);
}

// What the imitation does not know cannot be checked without a GPU.
TEST(Layering, InlineAssemblyStaysInOneFolder) {
  const std::regex assembly("(^|[^_a-zA-Z])(asm|__asm__)\\s*(volatile)?\\s*\\(");
  int inside = 0;
  for (const auto& entry :
       fs::recursive_directory_iterator(fs::path(REHEARSE_SOURCE_DIR) / "kernels")) {
    const std::string path = entry.path().string();
    std::ifstream in(path);
    int line_number = 0;
    for (std::string line; std::getline(in, line);) {
      ++line_number;
      if (!std::regex_search(line, assembly)) continue;
      const bool home = path.find("/kernels/ptx/gpu/") != std::string::npos;
      inside += home;
      EXPECT_TRUE(home) << path << ":" << line_number << ": inline PTX belongs in kernels/ptx/gpu";
    }
  }
  EXPECT_GT(inside, 20);
}

}  // namespace
