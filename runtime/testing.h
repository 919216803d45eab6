#pragma once
// What tests of training need: a text, and the way to what a concrete device and communicator hold.

#include <filesystem>
#include <string>

#include "base/file.h"
#include "base/random.h"
#include "runtime/communicators/local/local_communicator.h"
#include "runtime/train.h"

namespace rehearse {

// A text file, made once: words whose letters depend on each other, so that a model can learn
// something from it.
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

// Links of an emulated cluster.
inline LinkShaper& links(Trainer& trainer) {
  return *dynamic_cast<LocalCommunicator&>(trainer.communicator()).links();
}

}  // namespace rehearse
