// The table of which folder may include which, of docs/architecture.md, held against the sources.

#include <cctype>
#include <filesystem>
#include <fstream>
#include <map>
#include <optional>
#include <set>

#include <gtest/gtest.h>

namespace {

namespace fs = std::filesystem;

// The header that a line includes in quotes, if it does.
std::optional<std::string> included(const std::string& line) {
  const size_t hash = line.find_first_not_of(" \t");
  if (hash == std::string::npos || line[hash] != '#') return std::nullopt;
  const size_t word = line.find_first_not_of(" \t", hash + 1);
  if (word == std::string::npos || line.compare(word, 7, "include") != 0) return std::nullopt;
  const size_t open = line.find('"', word);
  const size_t close = open == std::string::npos ? open : line.find('"', open + 1);
  if (close == std::string::npos) return std::nullopt;
  return line.substr(open + 1, close - open - 1);
}

// Whether a line has inline assembly: asm or __asm__ as a word, volatile or not, and a bracket.
bool has_assembly(const std::string& line) {
  for (size_t at = line.find("asm"); at != std::string::npos; at = line.find("asm", at + 1)) {
    const bool long_form = at >= 2 && line.compare(at - 2, 7, "__asm__") == 0;
    const size_t begin = long_form ? at - 2 : at;
    const auto is_name = [](char c) {
      return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_';
    };
    if (begin > 0 && is_name(line[begin - 1])) continue;
    std::string rest = line.substr(long_form ? begin + 7 : at + 3);
    std::erase_if(rest, [](char c) { return c == ' ' || c == '\t'; });
    if (rest.starts_with("(") || rest.starts_with("volatile(")) return true;
  }
  return false;
}

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
        const std::string header = included(line).value_or("");
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
        const auto quoted = included(line);
        if (!quoted) continue;
        ++includes;
        const std::string& header = *quoted;
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

// The same of the runtime's rooms: layers and what a rank does know no device but by its interface,
// and devices do not know what ops do. Its own files are below the devices and above all rooms.
TEST(Layering, RuntimeRoomsIncludeOneWay) {
  const std::set<std::string> device = {
      "runtime", "runtime/memory", "runtime/compute", "runtime/communicators", "runtime/devices"};
  const auto with = [](std::set<std::string> rooms, const std::set<std::string>& more) {
    rooms.insert(more.begin(), more.end());
    return rooms;
  };
  const std::map<std::string, std::set<std::string>> may = {
      {"runtime/memory", {"runtime/memory"}},
      {"runtime/data", {"runtime/data"}},
      {"runtime/compute", {"runtime/memory", "runtime/compute"}},
      {"runtime/communicators",
       {"runtime/memory", "runtime/communicators", "runtime/communicators/local"}},
      {"runtime/communicators/local",
       {"runtime", "runtime/memory", "runtime/communicators", "runtime/communicators/local"}},
      {"runtime/layers",
       {"runtime/memory", "runtime/compute", "runtime/communicators", "runtime/layers"}},
      {"runtime/devices",
       with(device,
            {"runtime/devices/cpu",
             "runtime/devices/emulated",
             "runtime/devices/cuda",
             "runtime/devices/cuda/gpu"})},
      {"runtime/devices/cpu", with(device, {"runtime/devices/cpu"})},
      {"runtime/devices/emulated", with(device, {"runtime/devices/emulated"})},
      {"runtime/devices/cuda", with(device, {"runtime/devices/cuda", "runtime/devices/cuda/gpu"})},
      {"runtime/devices/cuda/gpu", {"runtime/memory", "runtime/devices/cuda/gpu"}},
      {"runtime/devices/null", with(device, {"runtime/devices/null"})},
      {"runtime/devices/late",
       with(device, {"runtime/devices/cpu", "runtime/devices/null", "runtime/devices/late"})},
      {"runtime/step", with(device, {"runtime/data", "runtime/layers", "runtime/step"})},
      {"runtime/checkpoints", {"runtime/step", "runtime/checkpoints"}},
  };
  std::set<std::string> seen;
  const fs::path root = REHEARSE_SOURCE_DIR;
  for (const auto& entry : fs::recursive_directory_iterator(root / "runtime")) {
    const std::string extension = entry.path().extension().string();
    const std::string stem = entry.path().stem().string();
    const bool source = extension == ".h" || extension == ".cpp" || extension == ".cu";
    if (!source || stem.ends_with("_test")) continue;
    const std::string file = fs::relative(entry.path(), root).string();
    const std::string room = file.substr(0, file.rfind('/'));
    if (room == "runtime" || stem == "testing") continue;
    ASSERT_TRUE(may.contains(room)) << room << ": a new room? say what it may include";
    seen.insert(room);
    std::ifstream in(entry.path());
    for (std::string line; std::getline(in, line);) {
      const std::string header = included(line).value_or("");
      if (!header.starts_with("runtime/")) continue;
      EXPECT_TRUE(may.at(room).contains(header.substr(0, header.rfind('/'))))
          << file << ": " << room << " may not include " << header;
    }
  }
  EXPECT_EQ(seen.size(), may.size());
}

// Layers and steps say what is computed, in order: no values of an array, no other type of one.
TEST(Layering, LayersAndStepsHoldNoValuesAndNoConversions) {
  int files = 0;
  for (const std::string folder : {"runtime/layers", "runtime/step"}) {
    for (const auto& entry : fs::directory_iterator(fs::path(REHEARSE_SOURCE_DIR) / folder)) {
      const std::string stem = entry.path().stem().string();
      if (stem.ends_with("_test")) continue;
      ++files;
      std::ifstream in(entry.path());
      int line_number = 0;
      for (std::string line; std::getline(in, line);) {
        ++line_number;
        if (line.find_first_not_of(" ") != std::string::npos &&
            line.substr(line.find_first_not_of(" ")).starts_with("//")) {
          continue;
        }
        for (const char* const word : {"float*",
                                       "float *",
                                       "double*",
                                       "fp32()",
                                       "bf16()",
                                       "fp64()",
                                       "int32()",
                                       "int64()",
                                       "codes()",
                                       "convert",
                                       "kernels/",
                                       "devices/cpu"}) {
          EXPECT_EQ(line.find(word), std::string::npos)
              << entry.path().string() << ":" << line_number << ": " << line;
        }
      }
    }
  }
  EXPECT_GE(files, 20);
}

// What the imitation does not know cannot be checked without a GPU.
TEST(Layering, InlineAssemblyStaysInOneFolder) {
  int inside = 0;
  for (const auto& entry :
       fs::recursive_directory_iterator(fs::path(REHEARSE_SOURCE_DIR) / "kernels")) {
    const std::string path = entry.path().string();
    std::ifstream in(path);
    int line_number = 0;
    for (std::string line; std::getline(in, line);) {
      ++line_number;
      if (!has_assembly(line)) continue;
      const bool home = path.find("/kernels/ptx/gpu/") != std::string::npos;
      inside += home;
      EXPECT_TRUE(home) << path << ":" << line_number << ": inline PTX belongs in kernels/ptx/gpu";
    }
  }
  EXPECT_GT(inside, 20);
}

}  // namespace
