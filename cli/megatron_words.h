#pragma once
// Lists of Megatron-LM's arguments as people keep them, as words: a command with its launcher or
// without, lines with comments and quotes, a YAML of arguments.

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace rehearse::cli {

struct GivenWord {
  std::string text;       // without quotes
  bool variable = false;  // holds a shell's $NAME, $(command) or the like
};
struct GivenArgument {
  std::string name;  // "--tensor-model-parallel-size": with dashes, however it is spelt
  std::vector<GivenWord> values;
  int line = 1;  // where it stands, from 1
};
struct ArgumentList {
  std::string path;                  // what errors call it
  std::vector<GivenArgument> given;  // in their order
  bool underscores = false;          // --tensor_model_parallel_size, as ms-swift and NeMo spell it
  std::optional<int64_t>
      processes;  // that the launcher before them starts, where it says all of it
};

// '#' begins a comment where a word begins, a backslash at a line's end goes on in the next; words
// up to a Python script are its launcher's. Throws InputError, naming the line, for what would have
// to be run to be known: variables before the arguments, other commands.
ArgumentList argument_list(const std::string& text, const std::string& path);

// Whether a file holds such a list rather than a plan.
bool holds_arguments(const std::string& text);
// The first line's key that is an argument's name without its dashes (tensor_model_parallel_size:
// 2), as settings of other programs have it.
struct BareSetting {
  std::string key;
  int line = 1;
};
std::optional<BareSetting> bare_setting(const std::string& text);

// An InputError at a line of the list.
[[noreturn]] void fail_at(const std::string& path, int line, const std::string& message);

}  // namespace rehearse::cli
