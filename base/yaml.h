#pragma once
// Strict YAML on top of yaml-cpp: every error names file:line:column, the key's path, what would be
// right, and shows the source line with a caret. Unknown, duplicate and missing keys are errors,
// and so is every scalar that YAML would silently reinterpret (010 is not 8).
//
// Use: read each key once, then call finish(), which reports keys nobody asked for:
//
//     YamlMap top = YamlFile::load("plan.yaml").root();
//     const int64_t pp = top.integer("pp", {.min = 1});
//     const BytesPerSecond rate = top.rate("bandwidth");   // "50 GB/s"
//     top.finish();

#include <cstdint>
#include <limits>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/names.h"
#include "base/units.h"

namespace YAML {
class Node;
struct Mark;
}  // namespace YAML

namespace rehearse {

class YamlMap;

// Where a value stands in a file, for errors that are found later than reading.
struct SourcePlace {
  std::string file;  // as the user named it
  int line = 1;      // from 1
  int column = 1;    // from 1
  std::string text;  // the source line

  // "file:line:column: path: message", the line, a caret.
  [[noreturn]] void fail(std::string_view path, std::string_view message) const;
};

// A file of settings is far smaller (calibrations, the largest, are of 100 KB), and what yaml-cpp
// makes of a text takes some fifty times its size.
constexpr int64_t kMostYamlBytes = 16 << 20;

// The line of a text that begins with "format:", which says what the file is of; else empty. For
// choosing a reader before the text is parsed.
std::string_view format_line(std::string_view text);

class YamlFile {
 public:
  // Throws InputError when the file is missing, is not YAML or is not one mapping.
  static YamlFile load(const std::string& path);
  // The same for text that is already in memory; `path` names it in errors.
  static YamlFile parse(std::string text, std::string path);
  YamlMap root() const;
  // Every value that is no mapping, by the path of its key ("attention.heads"), in the file's
  // order; lists as in "[1, 2]".
  std::vector<std::pair<std::string, std::string>> leaves() const;

  struct Contents;

 private:
  std::shared_ptr<const Contents> contents_;
};

// `text` as a YAML value that reads back as itself: in double quotes, with escapes for quotes,
// backslashes and control characters; plain_or_quoted leaves the quotes out where nothing needs
// them.
std::string quoted_yaml(std::string_view text);
std::string plain_or_quoted_yaml(std::string_view text);

struct IntegerRange {
  int64_t min = std::numeric_limits<int64_t>::min();
  int64_t max = std::numeric_limits<int64_t>::max();
};

struct NumberRange {
  double min = -std::numeric_limits<double>::infinity();
  double max = std::numeric_limits<double>::infinity();
};

// A key of a mapping, for its reader and for people.
struct YamlKey {
  std::string key;
  std::string takes;    // a placeholder or the names it chooses from
  std::string missing;  // what a file without it means; empty: it is needed
  std::string meaning;
};

// One mapping of the file. Every getter throws InputError when the key is missing or its value is
// not of the kind asked for; the forms with a default return that when the key is missing.
class YamlMap {
 public:
  YamlMap(std::shared_ptr<const YamlFile::Contents> file, const YAML::Node& node, std::string path);

  // The keys that this mapping may have: asking for another is a mistake of ours, and finish()
  // names them. `keys` must outlive this.
  void keys(const std::vector<YamlKey>& keys) { keys_ = &keys; }

  bool has(std::string_view key);             // counts as asking for it
  bool contains(std::string_view key) const;  // does not
  bool is_list(std::string_view key) const;
  bool asked(std::string_view key) const { return asked_.contains(key); }
  // From here on, keys whose value is null count as missing, here and in mappings within.
  void null_is_missing() { null_is_missing_ = true; }

  int64_t integer(std::string_view key, IntegerRange range = {});
  int64_t integer(std::string_view key, IntegerRange range, int64_t missing);
  double number(std::string_view key, NumberRange range = {});
  double number(std::string_view key, NumberRange range, double missing);
  bool boolean(std::string_view key, bool missing);
  std::string text(std::string_view key);
  std::string text(std::string_view key, std::string missing);
  // Quantities within what such things can be: errors name the range.
  Duration duration(std::string_view key, Duration longest = Duration::seconds(60));
  Bytes bytes(std::string_view key);
  BytesPerSecond rate(std::string_view key);
  FlopsPerSecond flop_rate(std::string_view key);
  double tokens(std::string_view key);
  std::vector<int64_t> integers(std::string_view key, IntegerRange range = {});
  std::vector<double> numbers(std::string_view key, NumberRange range = {});
  std::vector<std::string> texts(std::string_view key);
  YamlMap map(std::string_view key);
  std::vector<YamlMap> maps(std::string_view key);

  // One of the names in `choices`; the error lists them.
  template <typename T>
  T choice(std::string_view key, const std::vector<std::pair<std::string_view, T>>& choices) {
    std::vector<std::string_view> names;
    for (const auto& c : choices) names.push_back(c.first);
    return choices[choice_index(key, names)].second;
  }

  // The value that a table has a name for.
  template <typename E, size_t N>
  E choice(std::string_view key, const NameTable<E, N>& table) {
    std::vector<std::string_view> names;
    for (const Named<E>& n : table.entries()) names.push_back(n.name);
    return table.entries()[choice_index(key, names)].value;
  }
  template <typename E, size_t N>
  E choice(std::string_view key, const NameTable<E, N>& table, E missing) {
    return has(key) ? choice(key, table) : missing;
  }

  // Throws InputError for the first key that no getter asked for, with the nearest known name.
  void finish() const;

  // The first of these keys, for files whose unknown keys mean something else than a slip.
  std::optional<std::string> first_unknown() const;

  // The value of `key` (of the whole mapping where it is missing), for errors found later.
  SourcePlace place(std::string_view key) const;
  SourcePlace place() const;
  std::string path_of(std::string_view key) const;
  [[noreturn]] void fail(std::string_view key, std::string_view message) const;

 private:
  YAML::Node need(std::string_view key);
  std::string scalar(std::string_view key, std::string_view expected);
  size_t choice_index(std::string_view key, const std::vector<std::string_view>& names);
  template <typename T, typename Parse>
  T quantity(std::string_view key,
             Parse parse,
             std::string_view what,
             std::string_view example,
             T least,
             T most,
             std::string_view range);

  template <typename T, typename Range, typename Parse>
  std::vector<T> list(std::string_view key, Range range, Parse parse);

  std::shared_ptr<const YamlFile::Contents> file_;
  std::shared_ptr<const YAML::Node> node_;
  std::string path_;
  std::set<std::string, std::less<>> asked_;
  const std::vector<YamlKey>* keys_ = nullptr;
  bool null_is_missing_ = false;
};

// The candidate nearest to `word` by edit distance, when it is near enough to be a slip.
std::optional<std::string> nearest_name(std::string_view word,
                                        const std::vector<std::string>& candidates);

}  // namespace rehearse
