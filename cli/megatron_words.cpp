#include "cli/megatron_words.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <sstream>

#include <fmt/format.h>

#include "base/errors.h"
#include "cli/whole_number.h"

namespace rehearse::cli {
namespace {

constexpr const char* kAlone =
    "keep the arguments alone in the file, with values in place of variables";

bool is_letter(char c) {
  return std::isalpha(static_cast<unsigned char>(c)) != 0;
}
bool is_blank(char c) {
  return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}
bool is_one_of(char c, std::string_view all) {
  return all.find(c) != std::string_view::npos;
}
bool begins_argument(std::string_view word) {
  return word.size() > 2 && word.starts_with("--") && is_letter(word[2]);
}

std::string with_dashes(std::string name) {
  std::replace(name.begin(), name.end(), '_', '-');
  return name;
}

// A shell's words, with no shell to run what is in them.
class ShellWords {
 public:
  struct Word : GivenWord {
    int line = 1;
  };
  ShellWords(const std::string& text, const std::string& path) : text_(text), path_(path) {}

  std::vector<Word> read() {
    std::vector<Word> words;
    while (skip_blanks()) {
      Word word;
      word.line = line_;
      quoted_ = false;
      read_word(word);
      if (!quoted_ && ends_command(word.text)) {
        while (at_ < text_.size() && text_[at_] != '\n') {
          if (!skip_continuation()) ++at_;
        }
        continue;
      }
      words.push_back(std::move(word));
    }
    return words;
  }

 private:
  // What stands behind a command: pipes, redirections, other commands of its line.
  static bool ends_command(const std::string& word) {
    for (const char* mark : {"|", "||", "&", "&&", ";", "&>", "|&"}) {
      if (word == mark) return true;
    }
    const size_t arrow = word.find_first_not_of("0123456789");
    return arrow != std::string::npos && (word[arrow] == '>' || word[arrow] == '<');
  }
  // A backslash at a line's end, with the blanks that people leave behind it.
  bool skip_continuation() {
    if (text_[at_] != '\\') return false;
    const size_t end = text_.find_first_not_of(" \t\r", at_ + 1);
    if (end != std::string::npos && text_[end] != '\n') return false;
    at_ = end == std::string::npos ? text_.size() : end + 1;
    ++line_;
    return true;
  }
  // To the next word; false where there is none.
  bool skip_blanks() {
    while (at_ < text_.size()) {
      if (text_[at_] == '#') {
        at_ = std::min(text_.find('\n', at_), text_.size());
      } else if (is_blank(text_[at_])) {
        if (text_[at_++] == '\n') ++line_;
      } else if (!skip_continuation()) {
        return true;
      }
    }
    return false;
  }
  void read_word(Word& word) {
    while (at_ < text_.size() && !is_blank(text_[at_])) {
      const char c = text_[at_];
      if (c == '\'' || c == '"') {
        read_quoted(word, c);
      } else if (c == '$' || c == '`') {
        read_variable(word);
      } else if (c != '\\') {
        word.text += c;
        ++at_;
      } else if (!skip_continuation()) {
        word.text += text_[at_ + 1];
        at_ += 2;
      }
    }
  }
  void read_quoted(Word& word, char quote) {
    quoted_ = true;
    const int from = line_;
    for (++at_; at_ < text_.size() && text_[at_] != quote;) {
      const char c = text_[at_];
      if (quote == '"' && (c == '$' || c == '`')) {
        read_variable(word);
        continue;
      }
      if (quote == '"' && c == '\\') {
        if (skip_continuation()) continue;
        if (at_ + 1 < text_.size() && is_one_of(text_[at_ + 1], "\"\\$`")) ++at_;
      }
      if (text_[at_] == '\n') ++line_;
      word.text += text_[at_++];
    }
    if (at_ >= text_.size()) {
      fail_at(path_, from, fmt::format("the quote {} that opens here is never closed", quote));
    }
    ++at_;
  }
  void read_variable(Word& word) {
    word.variable = true;
    const char open = at_ + 1 < text_.size() ? text_[at_ + 1] : ' ';
    const char close = text_[at_] == '`' ? '`' : open == '{' ? '}' : open == '(' ? ')' : '\0';
    const size_t end = close == '\0' ? at_ : text_.find(close, at_ + 1);
    const size_t last = end == std::string::npos ? text_.size() - 1 : end;
    for (; at_ <= last; ++at_) {
      if (text_[at_] == '\n') ++line_;
      word.text += text_[at_];
    }
  }

  const std::string& text_;
  const std::string& path_;
  size_t at_ = 0;
  int line_ = 1;
  bool quoted_ = false;
};

std::string trimmed(const std::string& text) {
  const size_t first = text.find_first_not_of(" \t\r");
  if (first == std::string::npos) return "";
  return text.substr(first, text.find_last_not_of(" \t\r") - first + 1);
}

// Puts a name into a list of arguments, as it is to be looked up.
GivenArgument& begin_argument(ArgumentList& list, const std::string& spelt, int line) {
  const bool plain = std::ranges::all_of(spelt, [](char c) {
    return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '-' || c == '_';
  });
  if (!plain) fail_at(list.path, line, fmt::format("'{}' is no argument's name", spelt));
  if (spelt.find('_') != std::string::npos && spelt.find('-', 2) == std::string::npos) {
    list.underscores = true;
  }
  list.given.push_back({.name = with_dashes(spelt), .values = {}, .line = line});
  return list.given.back();
}

// Of the words before the script: --nnodes x --nproc-per-node, where both are numbers.
std::optional<int64_t> launched(const std::vector<ShellWords::Word>& words, size_t script) {
  std::optional<int64_t> nodes, per_node;
  for (size_t i = 0; i < script; ++i) {
    const std::string& word = words[i].text;
    const size_t sign = std::min(word.find('='), word.size());
    const std::string name = with_dashes(word.substr(0, sign));
    std::optional<int64_t>* into = name == "--nnodes"           ? &nodes
                                   : name == "--nproc-per-node" ? &per_node
                                                                : nullptr;
    if (into != nullptr)
      *into = whole_number(sign < word.size() ? word.substr(sign + 1) : words[i + 1].text);
  }
  constexpr int64_t kMost = 1'000'000;
  if (!nodes || !per_node || *nodes < 1 || *per_node < 1 || *nodes > kMost || *per_node > kMost) {
    return std::nullopt;
  }
  return *nodes * *per_node;
}

ArgumentList of_words(const std::string& text, const std::string& path) {
  const std::vector<ShellWords::Word> words = ShellWords(text, path).read();
  ArgumentList list{.path = path, .given = {}};
  size_t at = 0;
  if (!words.empty() && !begins_argument(words.front().text)) {
    while (at < words.size() && !words[at].text.ends_with(".py")) ++at;
    if (at == words.size()) {
      fail_at(path,
              words.front().line,
              fmt::format("'{}' belongs to no --argument: {}",
                          words.front().text.substr(0, words.front().text.find('\n')),
                          kAlone));
    }
    list.processes = launched(words, at);
    ++at;
  }
  for (; at < words.size(); ++at) {
    const ShellWords::Word& word = words[at];
    if (begins_argument(word.text)) {
      const size_t sign = std::min(word.text.find('='), word.text.size());
      GivenArgument& a = begin_argument(list, word.text.substr(0, sign), word.line);
      if (sign < word.text.size()) {
        a.values.push_back({word.text.substr(sign + 1), word.variable});
      }
    } else if (list.given.empty() || word.text == "--") {
      fail_at(path, word.line, fmt::format("'{}' belongs to no --argument: {}", word.text, kAlone));
    } else {
      list.given.back().values.push_back(word);
    }
  }
  return list;
}

// --- YAML of arguments: "--tensor-model-parallel-size: 2", under some heading or none.

// The key of a line "key: value", its quotes taken off; nothing where it is no such line.
std::optional<std::pair<std::string, std::string>> yaml_pair(const std::string& line) {
  const std::string text = trimmed(line);
  for (size_t colon = text.find(':'); colon != std::string::npos;
       colon = text.find(':', colon + 1)) {
    if (colon + 1 < text.size() && !is_blank(text[colon + 1])) continue;
    std::string key = trimmed(text.substr(0, colon));
    if (key.size() > 1 && (key.front() == '"' || key.front() == '\'') &&
        key.back() == key.front()) {
      key = key.substr(1, key.size() - 2);
    }
    if (key.empty() || key.find_first_of(" \t\"'#") != std::string::npos) return std::nullopt;
    return std::pair(key, trimmed(text.substr(colon + 1)));
  }
  return std::nullopt;
}

// The words of a value: a scalar, or a list in brackets. '#' begins a comment as in a shell.
std::vector<GivenWord> yaml_values(std::string text, const std::string& path, int line) {
  if (!text.empty() && is_one_of(text.front(), "|>&*{")) {
    fail_at(path, line, fmt::format("'{}': expected a value in the line, or a list", text));
  }
  if (text.starts_with('[')) {
    // A pattern that begins with a bracket goes on behind it, and is no list.
    const size_t close = std::min(text.rfind(']'), text.size() - 1);
    const std::string behind = trimmed(text.substr(close + 1));
    if (behind.empty() || behind.starts_with('#')) {
      text = text.substr(1, close - 1);
      std::replace(text.begin(), text.end(), ',', ' ');
    }
  }
  const std::vector<ShellWords::Word> words = ShellWords(text, path).read();
  return {words.begin(), words.end()};
}

bool is_yaml(const std::string& text) {
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) {
    const auto pair = yaml_pair(line);
    if (pair && begins_argument(pair->first)) return true;
  }
  return false;
}

ArgumentList of_yaml(const std::string& text, const std::string& path) {
  ArgumentList list{.path = path, .given = {}};
  bool open = false;  // the last argument's values are lines that follow
  int number = 0;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) {
    ++number;
    const std::string content = trimmed(line);
    if (content.empty() || content.starts_with('#') || content == "---" || content == "...") {
      continue;
    }
    if (open && content.starts_with("- ")) {
      for (GivenWord& w : yaml_values(content.substr(2), path, number)) {
        list.given.back().values.push_back(std::move(w));
      }
      continue;
    }
    open = false;
    const auto pair = yaml_pair(content);
    if (pair && begins_argument(pair->first)) {
      std::vector<GivenWord> values = yaml_values(pair->second, path, number);
      const bool null = values.size() == 1 && (values[0].text == "null" || values[0].text == "~" ||
                                               values[0].text == "None");
      if (null) continue;
      open = values.empty();
      begin_argument(list, pair->first, number).values = std::move(values);
      continue;
    }
    // Headings, and what sets a shell's environment.
    const bool lower = pair && std::ranges::any_of(pair->first, [](char c) {
                         return std::islower(static_cast<unsigned char>(c)) != 0;
                       });
    if (pair && (!lower || pair->second.empty())) continue;
    fail_at(path,
            number,
            fmt::format("'{}' is no --argument: expected lines such as "
                        "--tensor-model-parallel-size: 2",
                        content));
  }
  return list;
}

}  // namespace

void fail_at(const std::string& path, int line, const std::string& message) {
  throw InputError(fmt::format("{}:{}: {}", path, line, message), {path, line, 0});
}

ArgumentList argument_list(const std::string& text, const std::string& path) {
  return is_yaml(text) ? of_yaml(text, path) : of_words(text, path);
}

bool holds_arguments(const std::string& text) {
  std::istringstream in(text);
  bool found = false;
  for (std::string line; std::getline(in, line);) {
    // A plan's own.
    if (line.starts_with("cluster:") || line.starts_with("layout:")) return false;
    for (size_t at = 0; at < line.size(); ++at) {
      const bool word_begins = at == 0 || is_blank(line[at - 1]);
      if (line[at] == '#' && word_begins) break;
      const bool quoted = at > 0 && is_one_of(line[at - 1], "\"'(=");
      if ((word_begins || quoted) && begins_argument(std::string_view(line).substr(at))) {
        found = true;
      }
    }
  }
  return found;
}

std::optional<BareSetting> bare_setting(const std::string& text) {
  constexpr std::array<std::string_view, 3> kTelling = {
      "tensor-model-parallel-size", "pipeline-model-parallel-size", "expert-model-parallel-size"};
  std::istringstream in(text);
  int number = 0;
  for (std::string line; std::getline(in, line);) {
    ++number;
    const auto pair = yaml_pair(line);
    if (pair && std::ranges::find(kTelling, with_dashes(pair->first)) != kTelling.end()) {
      return BareSetting{pair->first, number};
    }
  }
  return std::nullopt;
}

}  // namespace rehearse::cli
