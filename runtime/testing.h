#pragma once
// A text file for tests, made once: words whose letters depend on each other, so that a model can
// learn something from it.

#include <filesystem>
#include <string>

#include "base/file.h"
#include "runtime/random.h"

namespace rehearse {

inline std::string test_text_path() {
  static const std::string path = [] {
    const std::string words[] = {"the ",
                                 "rank ",
                                 "sends ",
                                 "tokens ",
                                 "to ",
                                 "experts ",
                                 "and ",
                                 "waits ",
                                 "for ",
                                 "nothing.\n"};
    Random random(7);
    std::string text;
    while (text.size() < 20'000) text += words[random.next() % std::size(words)];
    const std::string file =
        (std::filesystem::temp_directory_path() / "rehearse_test_text.txt").string();
    write_file(file, text);
    return file;
  }();
  return path;
}

}  // namespace rehearse
