#include "base/call_files.h"

#include <algorithm>
#include <filesystem>
#include <mutex>

#include <fmt/format.h>

#include "base/errors.h"
#include "base/file.h"

namespace rehearse {

namespace {

std::mutex mutex;  // files are read by many threads
CallFiles files;

[[noreturn]] void refuse(const std::string& output, const std::string& input) {
  throw InputError(
      fmt::format("{}: would be written, and is an input of the same call{}; name another output",
                  output,
                  input == output ? "" : fmt::format(" ({})", input)));
}

bool is_within(const std::string& path, const std::string& folder) {
  namespace fs = std::filesystem;
  std::error_code error;
  const fs::path whole = fs::weakly_canonical(fs::absolute(path, error), error);
  const fs::path root = fs::weakly_canonical(fs::absolute(folder, error), error);
  return std::mismatch(root.begin(), root.end(), whole.begin(), whole.end()).first == root.end();
}

}  // namespace

void note_input(const std::string& path) {
  const std::lock_guard lock(mutex);
  if (std::ranges::find(files.read, path) != files.read.end()) return;
  const auto is = [&](const std::string& other) { return same_file(other, path); };
  const auto holds = [&](const std::string& folder) { return is_within(path, folder); };
  if (std::ranges::any_of(files.written, is) || std::ranges::any_of(files.own, holds)) return;
  for (const std::string& output : files.claimed) {
    if (is(output)) refuse(output, path);
  }
  for (const std::string& folder : files.emptied) {
    if (holds(folder)) refuse(folder, path);
  }
  files.read.push_back(path);
}

void note_written(const std::string& path) {
  const std::lock_guard lock(mutex);
  if (std::ranges::find(files.written, path) == files.written.end()) files.written.push_back(path);
}

void claim_output(const std::string& path) {
  const std::lock_guard lock(mutex);
  for (const std::string& input : files.read) {
    if (same_file(path, input)) refuse(path, input);
  }
  for (const std::string& other : files.claimed) {
    if (same_file(path, other)) {
      throw InputError(
          fmt::format("{}: two results of the same call would be written to it", path));
    }
  }
  files.claimed.push_back(path);
}

void claim_output_folder(const std::string& path) {
  const std::lock_guard lock(mutex);
  for (const std::string& input : files.read) {
    if (is_within(input, path)) refuse(path, input);
  }
  files.emptied.push_back(path);
}

void claim_own_folder(const std::string& path) {
  const std::lock_guard lock(mutex);
  files.own.push_back(path);
}

const CallFiles& call_files() {
  return files;
}

std::string input_named_in(const std::string& text) {
  const std::lock_guard lock(mutex);
  std::string longest;
  for (const std::string& path : files.read) {
    if (path.size() > longest.size() && text.starts_with(path) && text.size() > path.size() &&
        text[path.size()] == ':') {
      longest = path;
    }
  }
  return longest;
}

}  // namespace rehearse
