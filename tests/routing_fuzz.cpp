// Fuzzes what `trace import` and `replay --placement` read: the first byte says as what, '{'
// Megatron-LM's lines, '0' to '9' a CSV of choices, '[' a placement; all else an array of NumPy.

#include <cstdlib>
#include <filesystem>

#include <unistd.h>

#include "base/errors.h"
#include "base/file.h"
#include "plan/routing/foreign.h"
#include "tests/fuzzing.h"

namespace rehearse {
namespace {

const std::string& file_name() {
  static const std::string path =
      (std::filesystem::temp_directory_path() / ("rehearse_fuzz_" + std::to_string(::getpid())))
          .string();
  return path;
}

bool use(const std::string& text) {
  FILE* file = std::fopen(file_name().c_str(), "wb");
  CHECK(file != nullptr) << file_name();
  std::fwrite(text.data(), 1, text.size(), file);
  std::fclose(file);
  try {
    ForeignTrace trace;
    const char first = text.empty() ? ' ' : text[0];
    if (first == '[') {
      return !read_placement(file_name(), 4, 2).empty();
    }
    if (first == '{') {
      trace = read_megatron({file_name()},
                            {.experts = 8,
                             .place = [](int64_t rank) { return std::pair(int64_t{0}, rank); },
                             .recomputed = text.size() % 2 == 1},
                            [](int64_t) {});
      CHECK(print_megatron(trace).size() == 1) << "files";
    } else if (first >= '0' && first <= '9') {
      trace = read_choices_csv(file_name(), 8, 2);
    } else {
      trace = read_array(file_name(), {.counts = text.size() % 2 == 1, .active = 2});
    }
    for (const RecordedStep& step : trace.steps) {
      const RoutingShape& s = step.shape;
      CHECK(static_cast<int64_t>(step.choices.size()) == s.micro_batches * s.layers * s.choices())
          << "choices";
      for (int64_t l = 0; l < s.layers; ++l) step.expert_tokens(l);
    }
    return true;
  } catch (const InputError&) {
    return false;
  }
}

}  // namespace
}  // namespace rehearse

int main(int argc, char** argv) {
  return rehearse::fuzz_main({.words = {"\"step\": ",
                                        "\"layer\": ",
                                        "\"rank\": ",
                                        "\"num_tokens\": ",
                                        "\"topk\": ",
                                        "\"top_indices\": ",
                                        "\"block\": \"decoder\"",
                                        "\"block\": \"mtp\"",
                                        "\"mtp_idx\": ",
                                        "[[0, 1], [2, 3]]",
                                        "2147483648",
                                        "-1",
                                        "{",
                                        "}\n",
                                        "[",
                                        "]",
                                        "0,1\n",
                                        "'descr': '<i4'",
                                        "'fortran_order': False",
                                        "'shape': (2, 2, 2)",
                                        "PK\1\2",
                                        "PK\5\6",
                                        "\x93NUMPY"},
                              .extension = ".bin",
                              .use = rehearse::use},
                             argc,
                             argv);
}
