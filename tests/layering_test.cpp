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

// Within a folder arrows run one way too: what a room may include of its own folder. A room without
// a slash is the folder's own files.
const std::map<std::string, std::set<std::string>> kRoomMayInclude = {
    {"plan", {"plan"}},
    {"plan/routing", {"plan", "plan/routing"}},
    {"plan/program", {"plan", "plan/routing", "plan/program"}},
    {"sim/engine", {"sim/engine"}},
    {"sim/network", {"sim/engine", "sim/network"}},
    {"sim/price", {"sim/engine", "sim/price"}},
    {"sim", {"sim/engine", "sim/network", "sim/price", "sim"}},
    {"sim/import", {"sim/engine", "sim/network", "sim/price", "sim", "sim/import"}},
};

TEST(Layering, RoomsIncludeOneWay) {
  const std::regex include("^\\s*#\\s*include\\s+\"([^\"]+)\"");
  const auto room_of = [](const std::string& file) { return file.substr(0, file.rfind('/')); };
  std::map<std::string, int> seen;
  for (const std::string folder : {"plan", "sim"}) {
    const fs::path root = fs::path(REHEARSE_SOURCE_DIR) / folder;
    for (const auto& entry : fs::recursive_directory_iterator(root)) {
      const std::string extension = entry.path().extension().string();
      const std::string stem = entry.path().stem().string();
      // Tests look at a room from outside.
      const bool test =
          stem.ends_with("_test") || stem.ends_with("_benchmark") || stem == "testing";
      if ((extension != ".h" && extension != ".cpp") || test) continue;
      const std::string room =
          room_of(fs::relative(entry.path(), fs::path(REHEARSE_SOURCE_DIR)).string());
      ASSERT_TRUE(kRoomMayInclude.contains(room))
          << room << ": a new room? say what it may include";
      std::ifstream in(entry.path());
      for (std::string line; std::getline(in, line);) {
        std::smatch match;
        if (!std::regex_search(line, match, include)) continue;
        const std::string header = match[1];
        if (!header.starts_with(folder + "/")) continue;
        ++seen[room];
        EXPECT_TRUE(kRoomMayInclude.at(room).contains(room_of(header)))
            << entry.path().string() << ": " << room << " may not include " << header;
      }
    }
  }
  for (const auto& [room, allowed] : kRoomMayInclude) EXPECT_GT(seen[room], 0) << room;
}

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
