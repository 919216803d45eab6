#include "base/yaml.h"

#include <algorithm>
#include <cctype>
#include <charconv>
#include <cmath>
#include <sstream>

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/yaml.h>

#include "base/file.h"
#include "base/text.h"

namespace rehearse {

namespace {

// Notes where documents begin, and nothing else.
class DocumentMarks : public YAML::EventHandler {
 public:
  std::vector<YAML::Mark> starts;
  void OnDocumentStart(const YAML::Mark& mark) override { starts.push_back(mark); }
  void OnDocumentEnd() override {}
  void OnNull(const YAML::Mark&, YAML::anchor_t) override {}
  void OnAlias(const YAML::Mark&, YAML::anchor_t) override {}
  void OnScalar(const YAML::Mark&,
                const std::string&,
                YAML::anchor_t,
                const std::string&) override {}
  void OnSequenceStart(const YAML::Mark&,
                       const std::string&,
                       YAML::anchor_t,
                       YAML::EmitterStyle::value) override {}
  void OnSequenceEnd() override {}
  void OnMapStart(const YAML::Mark&,
                  const std::string&,
                  YAML::anchor_t,
                  YAML::EmitterStyle::value) override {}
  void OnMapEnd() override {}
};

}  // namespace

struct YamlFile::Contents {
  std::string path;
  std::vector<std::string> lines;
  YAML::Node root;

  SourcePlace place(const YAML::Mark& mark) const {
    const int line = std::max(mark.line, 0);
    std::string text;
    if (static_cast<size_t>(line) < lines.size()) text = lines[static_cast<size_t>(line)];
    // yaml-cpp counts bytes; people and editors, characters.
    const auto before = std::min(static_cast<size_t>(std::max(mark.column, 0)), text.size());
    int column = 1 + std::max(mark.column, 0) - static_cast<int>(before);
    for (size_t i = 0; i < before; i += std::max<size_t>(character_bytes(text, i), 1)) ++column;
    return {.file = path, .line = line + 1, .column = column, .text = text};
  }
};

namespace {

constexpr size_t kMostShown = 200;     // columns of a source line
constexpr size_t kMostMessage = 2000;  // of a message, which may quote from the file

// What an error shows of a source line: at most kMostShown characters, around the column.
struct Excerpt {
  std::string text;
  size_t caret = 1;  // from 1: the column of a terminal, within text
};
Excerpt excerpt(std::string_view line, int column) {
  constexpr std::string_view kDots = "...";
  // Characters, each as it is shown, in front of the column and from it on.
  std::vector<std::string> shown;
  for (size_t i = 0; i < line.size();) {
    const size_t bytes = std::max<size_t>(character_bytes(line, i), 1);
    shown.push_back(printable(line.substr(i, bytes)));
    i += bytes;
  }
  const size_t at = std::min(static_cast<size_t>(std::max(column, 1)) - 1, shown.size());
  const size_t room = kMostShown - 2 * kDots.size();
  const bool whole = columns_of(fmt::format("{}", fmt::join(shown, ""))) <= kMostShown;
  size_t first = at;
  size_t end = at;
  size_t used = 0;
  // By turns one more in front and one more behind, as long as there is room.
  const auto take = [&](size_t i, size_t within) {
    const size_t columns = columns_of(shown[i]);
    if (!whole && used + columns > within) return false;
    used += columns;
    return true;
  };
  while (first > 0 && take(first - 1, room / 2)) --first;
  while (end < shown.size() && take(end, room)) ++end;
  while (first > 0 && take(first - 1, room)) --first;
  Excerpt e;
  if (first > 0) e.text = kDots;
  for (size_t i = first; i < at; ++i) e.text += shown[i];
  e.caret = columns_of(e.text) + 1;
  for (size_t i = at; i < end; ++i) e.text += shown[i];
  if (end < shown.size()) e.text += kDots;
  return e;
}

}  // namespace

void SourcePlace::fail(std::string_view path, std::string_view message) const {
  const Excerpt shown = excerpt(text, column);
  throw InputError(fmt::format("{}:{}:{}: {}{}{}\n    {}\n    {:>{}}",
                               file,
                               line,
                               column,
                               printable(path, kMostShown),
                               path.empty() ? "" : ": ",
                               printable(message, kMostMessage),
                               shown.text,
                               "^",
                               shown.caret),
                   {.file = file, .line = line, .column = column});
}

namespace {

std::vector<std::string> split_lines(const std::string& text) {
  std::vector<std::string> lines(1);
  for (const char c : text) {
    if (c == '\n') {
      lines.emplace_back();
    } else if (c != '\r') {
      lines.back() += c;
    }
  }
  return lines;
}

size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t replaced = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = row[j];
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, replaced});
    }
  }
  return row[b.size()];
}

// Decimal digits with an optional sign and no leading zero; everything else YAML calls an integer
// (octal, hex, underscores) is refused, since readers disagree about it.
std::optional<int64_t> parse_integer(const std::string& text) {
  int64_t value = 0;
  const char* end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data(), end, value);
  if (error != std::errc() || rest != end) return std::nullopt;
  const size_t first = text.starts_with('-') ? 1 : 0;
  if (text.size() > first + 1 && text[first] == '0') return std::nullopt;
  return value;
}

std::optional<double> parse_number(const std::string& text) {
  double value = 0;
  const char* end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data(), end, value);
  if (error != std::errc() || rest != end || !std::isfinite(value)) return std::nullopt;
  if (text.size() > 1 && text[0] == '0' && std::isdigit(static_cast<unsigned char>(text[1]))) {
    return std::nullopt;
  }
  return value;
}

std::string quoted(const YAML::Node& node) {
  if (node.IsMap()) return "a mapping";
  if (node.IsSequence()) return "a list";
  if (node.IsNull()) return "nothing";
  return fmt::format("'{}'", node.Scalar());
}

std::optional<YAML::Node> find_value(const YAML::Node& map, std::string_view key) {
  for (const auto& entry : map) {
    if (entry.first.Scalar() == key) return entry.second;
  }
  return std::nullopt;
}

std::string describe(IntegerRange range) {
  const bool low = range.min != IntegerRange{}.min;
  const bool high = range.max != IntegerRange{}.max;
  if (low && high) return fmt::format("an integer from {} to {}", range.min, range.max);
  if (low) return fmt::format("an integer of at least {}", range.min);
  if (high) return fmt::format("an integer of at most {}", range.max);
  return "an integer";
}

std::string describe(NumberRange range) {
  const bool low = std::isfinite(range.min);
  const bool high = std::isfinite(range.max);
  if (low && high) return fmt::format("a number from {} to {}", range.min, range.max);
  if (low) return fmt::format("a number of at least {}", range.min);
  if (high) return fmt::format("a number of at most {}", range.max);
  return "a number";
}

}  // namespace

std::optional<std::string> nearest_name(std::string_view word,
                                        const std::vector<std::string>& candidates) {
  std::optional<std::string> best;
  size_t best_distance = std::max<size_t>(2, word.size() / 3) + 1;
  for (const std::string& c : candidates) {
    const size_t d = edit_distance(word, c);
    if (d < best_distance) {
      best_distance = d;
      best = c;
    }
  }
  return best;
}

std::string_view format_line(std::string_view text) {
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find('\n', at), text.size());
    const std::string_view line = text.substr(at, end - at);
    if (line.starts_with("format:")) return line;
    at = end + 1;
  }
  return {};
}

YamlFile YamlFile::load(const std::string& path) {
  return parse(read_file(path, kMostYamlBytes), path);
}

namespace {

// yaml-cpp puts a replacement character for what is no UTF-8, and ends a text at a zero byte.
void require_text(const YamlFile::Contents& contents) {
  for (size_t i = 0; i < contents.lines.size(); ++i) {
    const std::string& line = contents.lines[i];
    const auto at = std::min(first_not_utf8(line).value_or(line.size()), line.find('\0'));
    if (at >= line.size()) continue;
    int column = 1;
    for (size_t c = 0; c < at; c += std::max<size_t>(character_bytes(line, c), 1)) ++column;
    const auto byte = static_cast<unsigned char>(line[at]);
    SourcePlace{
        .file = contents.path, .line = static_cast<int>(i) + 1, .column = column, .text = line}
        .fail("",
              byte == 0 ? "a zero byte: this is no text"
                        : fmt::format("byte 0x{:02x} is no UTF-8; save the file as UTF-8", byte));
  }
}

}  // namespace

YamlFile YamlFile::parse(std::string text, std::string path) {
  auto contents = std::make_shared<Contents>();
  contents->path = std::move(path);
  contents->lines = split_lines(text);
  require_text(*contents);
  try {
    // At most two documents are looked for: there are texts, "," for one, that yaml-cpp 0.7 takes
    // for endlessly many.
    std::istringstream stream(text);
    YAML::Parser parser(stream);
    DocumentMarks marks;
    while (marks.starts.size() < 2 && parser.HandleNextDocument(marks)) {
    }
    if (marks.starts.size() > 1) {
      const bool stuck = marks.starts[0].pos == marks.starts[1].pos;
      contents->place(marks.starts[1])
          .fail("",
                stuck ? "not valid YAML: unexpected here"
                      : "expected one YAML document, found several");
    }
    if (!marks.starts.empty()) contents->root = YAML::Load(text);
  } catch (const YAML::Exception& e) {
    contents->place(e.mark).fail("", "not valid YAML: " + e.msg);
  }
  if (!contents->root.IsMap()) {
    SourcePlace{.file = contents->path, .text = contents->lines[0]}.fail(
        "", "expected a mapping of keys to values, found " + quoted(contents->root));
  }
  YamlFile file;
  file.contents_ = std::move(contents);
  return file;
}

namespace {

std::string leaf_text(const YAML::Node& node) {
  if (node.IsScalar() || node.IsNull()) return node.IsNull() ? "null" : node.Scalar();
  std::vector<std::string> parts;
  for (const auto& item : node) {
    parts.push_back(node.IsMap()
                        ? fmt::format("{}: {}", leaf_text(item.first), leaf_text(item.second))
                        : leaf_text(item));
  }
  const std::string all = fmt::format("{}", fmt::join(parts, ", "));
  return node.IsMap() ? "{" + all + "}" : "[" + all + "]";
}

void add_leaves(const YAML::Node& map,
                const std::string& path,
                std::vector<std::pair<std::string, std::string>>& out) {
  for (const auto& entry : map) {
    const std::string key = path + (path.empty() ? "" : ".") + entry.first.Scalar();
    if (entry.second.IsMap()) {
      add_leaves(entry.second, key, out);
    } else {
      out.emplace_back(key, leaf_text(entry.second));
    }
  }
}

}  // namespace

std::vector<std::pair<std::string, std::string>> YamlFile::leaves() const {
  std::vector<std::pair<std::string, std::string>> out;
  add_leaves(contents_->root, "", out);
  return out;
}

YamlMap YamlFile::root() const {
  return YamlMap(contents_, contents_->root, "");
}

YamlMap::YamlMap(std::shared_ptr<const YamlFile::Contents> file,
                 const YAML::Node& node,
                 std::string path)
    : file_(std::move(file)), node_(std::make_shared<YAML::Node>(node)), path_(std::move(path)) {
  std::set<std::string> seen;
  for (const auto& entry : *node_) {
    if (!entry.first.IsScalar()) {
      file_->place(entry.first.Mark()).fail(path_, "a key must be a plain name");
    }
    if (!seen.insert(entry.first.Scalar()).second) {
      file_->place(entry.first.Mark())
          .fail(path_of(entry.first.Scalar()), "this key is given twice; keep one of them");
    }
  }
}

std::string YamlMap::path_of(std::string_view key) const {
  return path_.empty() ? std::string(key) : fmt::format("{}.{}", path_, key);
}

YAML::Node YamlMap::need(std::string_view key) {
  if (!has(key)) place().fail(path_of(key), "this key is missing");
  return *find_value(*node_, key);
}

std::string YamlMap::scalar(std::string_view key, std::string_view expected) {
  const YAML::Node node = need(key);
  if (!node.IsScalar()) fail(key, fmt::format("expected {}, found {}", expected, quoted(node)));
  return node.Scalar();
}

bool YamlMap::has(std::string_view key) {
  CHECK(keys_ == nullptr || std::ranges::find(*keys_, key, &YamlKey::key) != keys_->end())
      << "no key '" << key << "' is described for '" << path_ << "'";
  asked_.emplace(key);
  const std::optional<YAML::Node> value = find_value(*node_, key);
  return value && !(null_is_missing_ && value->IsNull());
}

bool YamlMap::contains(std::string_view key) const {
  return find_value(*node_, key).has_value();
}

bool YamlMap::is_list(std::string_view key) const {
  const std::optional<YAML::Node> value = find_value(*node_, key);
  return value && value->IsSequence();
}

int64_t YamlMap::integer(std::string_view key, IntegerRange range) {
  const std::string text = scalar(key, describe(range));
  const auto value = parse_integer(text);
  if (!value || *value < range.min || *value > range.max) {
    fail(key, fmt::format("expected {}, found '{}'", describe(range), text));
  }
  return *value;
}

int64_t YamlMap::integer(std::string_view key, IntegerRange range, int64_t missing) {
  return has(key) ? integer(key, range) : missing;
}

double YamlMap::number(std::string_view key, NumberRange range) {
  const std::string text = scalar(key, describe(range));
  const auto value = parse_number(text);
  if (!value || *value < range.min || *value > range.max) {
    fail(key, fmt::format("expected {}, found '{}'", describe(range), text));
  }
  // Nothing that is stated as a plain number is as large: sums and products of such stay finite.
  constexpr double kLargest = 1e18;
  if (std::abs(*value) > kLargest) {
    fail(key,
         fmt::format("'{}' is beyond {:g}, larger than any such number can be", text, kLargest));
  }
  return *value;
}

double YamlMap::number(std::string_view key, NumberRange range, double missing) {
  return has(key) ? number(key, range) : missing;
}

bool YamlMap::boolean(std::string_view key, bool missing) {
  if (!has(key)) return missing;
  const std::string text = scalar(key, "true or false");
  if (text != "true" && text != "false") {
    fail(key, fmt::format("expected true or false, found '{}'", text));
  }
  return text == "true";
}

std::string YamlMap::text(std::string_view key) {
  std::string value = scalar(key, "a text");
  if (value.empty()) fail(key, "expected a text, found nothing");
  return value;
}

std::string YamlMap::text(std::string_view key, std::string missing) {
  return has(key) ? text(key) : missing;
}

template <typename T, typename Parse>
T YamlMap::quantity(std::string_view key,
                    Parse parse,
                    std::string_view what,
                    std::string_view example,
                    T least,
                    T most,
                    std::string_view range) {
  const std::string expected = fmt::format("{} with a unit, such as \"{}\"", what, example);
  const std::string text = scalar(key, expected);
  const std::optional<T> value = parse(text);
  if (!value) fail(key, fmt::format("expected {}, found '{}'", expected, text));
  if (*value < least || *value > most) {
    fail(key, fmt::format("'{}' is beyond what {} can be here: {}", text, what, range));
  }
  return *value;
}

Duration YamlMap::duration(std::string_view key, Duration longest) {
  return quantity(
      key, parse_duration, "a time", "3.7 us", Duration(), longest, "0 to " + to_string(longest));
}
Bytes YamlMap::bytes(std::string_view key) {
  return quantity(key,
                  parse_bytes,
                  "a size",
                  "80 GB",
                  Bytes(1),
                  Bytes(1'000'000'000'000'000'000),
                  "1 B to 1 EB");
}
BytesPerSecond YamlMap::rate(std::string_view key) {
  return quantity(key,
                  parse_bytes_per_second,
                  "a rate",
                  "450 GB/s",
                  BytesPerSecond(1),
                  BytesPerSecond(1e18),
                  "1 B/s to 1 EB/s");
}
FlopsPerSecond YamlMap::flop_rate(std::string_view key) {
  return quantity(key,
                  parse_flops_per_second,
                  "a rate",
                  "990 TFLOP/s",
                  FlopsPerSecond(1e6),
                  FlopsPerSecond(1e21),
                  "1 MFLOP/s to 1 ZFLOP/s");
}
double YamlMap::tokens(std::string_view key) {
  return quantity(key,
                  parse_tokens,
                  "a number of tokens",
                  "14.8T tokens",
                  1.0,
                  1e21,
                  "1 token to 1e9 T tokens");
}

template <typename T, typename Range, typename Parse>
std::vector<T> YamlMap::list(std::string_view key, Range range, Parse parse) {
  const YAML::Node items = need(key);
  const std::string expected = describe(range);
  if (!items.IsSequence()) {
    fail(key, fmt::format("expected a list, each {}; found {}", expected, quoted(items)));
  }
  std::vector<T> values;
  for (const auto& item : items) {
    const auto value = item.IsScalar() ? parse(item.Scalar()) : std::nullopt;
    if (!value || *value < range.min || *value > range.max) {
      file_->place(item.Mark())
          .fail(fmt::format("{}[{}]", path_of(key), values.size()),
                fmt::format("expected {}, found {}", expected, quoted(item)));
    }
    values.push_back(*value);
  }
  return values;
}

std::vector<std::string> YamlMap::texts(std::string_view key) {
  const YAML::Node items = need(key);
  if (!items.IsSequence()) {
    fail(key, fmt::format("expected a list of texts; found {}", quoted(items)));
  }
  std::vector<std::string> values;
  for (const auto& item : items) {
    if (!item.IsScalar()) {
      file_->place(item.Mark())
          .fail(fmt::format("{}[{}]", path_of(key), values.size()),
                fmt::format("expected text, found {}", quoted(item)));
    }
    values.push_back(item.Scalar());
  }
  return values;
}

std::vector<int64_t> YamlMap::integers(std::string_view key, IntegerRange range) {
  return list<int64_t>(key, range, parse_integer);
}

std::vector<double> YamlMap::numbers(std::string_view key, NumberRange range) {
  return list<double>(key, range, parse_number);
}

YamlMap YamlMap::map(std::string_view key) {
  const YAML::Node node = need(key);
  if (!node.IsMap()) fail(key, "expected a mapping of keys to values, found " + quoted(node));
  YamlMap map(file_, node, path_of(key));
  map.null_is_missing_ = null_is_missing_;
  return map;
}

std::vector<YamlMap> YamlMap::maps(std::string_view key) {
  const YAML::Node list = need(key);
  if (!list.IsSequence()) fail(key, "expected a list of mappings, found " + quoted(list));
  std::vector<YamlMap> out;
  for (const auto& item : list) {
    const std::string path = fmt::format("{}[{}]", path_of(key), out.size());
    if (!item.IsMap()) {
      file_->place(item.Mark()).fail(path, "expected a mapping, found " + quoted(item));
    }
    out.emplace_back(file_, item, path);
  }
  return out;
}

size_t YamlMap::choice_index(std::string_view key, const std::vector<std::string_view>& names) {
  const std::string text = scalar(key, fmt::format("one of {}", fmt::join(names, ", ")));
  for (size_t i = 0; i < names.size(); ++i) {
    if (names[i] == text) return i;
  }
  fail(key, fmt::format("expected one of {}, found '{}'", fmt::join(names, ", "), text));
}

void YamlMap::finish() const {
  for (const auto& entry : *node_) {
    const std::string& key = entry.first.Scalar();
    if (asked_.contains(key)) continue;
    std::vector<std::string> known(asked_.begin(), asked_.end());
    if (keys_ != nullptr) {
      known.clear();
      for (const YamlKey& k : *keys_) known.push_back(k.key);
    }
    const auto near = nearest_name(key, known);
    file_->place(entry.first.Mark())
        .fail(path_of(key),
              near ? fmt::format("unknown key; did you mean '{}'?", *near)
                   : fmt::format("unknown key; known here: {}", fmt::join(known, ", ")));
  }
}

std::optional<std::string> YamlMap::first_unknown() const {
  for (const auto& entry : *node_) {
    if (null_is_missing_ && entry.second.IsNull()) continue;
    if (!asked_.contains(entry.first.Scalar())) return entry.first.Scalar();
  }
  return std::nullopt;
}

SourcePlace YamlMap::place(std::string_view key) const {
  const std::optional<YAML::Node> value = find_value(*node_, key);
  return value && value->Mark().line >= 0 ? file_->place(value->Mark()) : place();
}

SourcePlace YamlMap::place() const {
  return file_->place(node_->Mark());
}

void YamlMap::fail(std::string_view key, std::string_view message) const {
  place(key).fail(path_of(key), message);
}

std::string quoted_yaml(std::string_view text) {
  std::string out = "\"";
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      out += fmt::format("\\{}", c);
    } else if (byte < ' ' || byte == 0x7f) {
      out += fmt::format("\\x{:02x}", byte);
    } else {
      out += c;
    }
  }
  return out + "\"";
}

std::string plain_or_quoted_yaml(std::string_view text) {
  // What the reader takes for something else, or what ends a plain value.
  const bool letter = !text.empty() && std::isalpha(static_cast<unsigned char>(text.front())) != 0;
  const bool safe =
      letter && text.back() != ' ' && std::all_of(text.begin(), text.end(), [](char c) {
        return std::isalnum(static_cast<unsigned char>(c)) != 0 ||
               std::string_view(" ._()@/+-,").find(c) != std::string_view::npos;
      });
  const bool word = text == "null" || text == "true" || text == "false";
  return safe && !word ? std::string(text) : quoted_yaml(text);
}

}  // namespace rehearse
