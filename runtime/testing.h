#pragma once
// What tests of training need: a text, and the way to what a concrete device and communicator hold.

#include <filesystem>
#include <string>

#include <gtest/gtest.h>

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

// A layout in a test's name.
inline std::string layout_name(const testing::TestParamInfo<Layout>& info) {
  const Layout& l = info.param;
  std::string name(name_of(l.schedule));
  std::erase(name, '-');
  name += "_pp" + std::to_string(l.pp) + "_dp" + std::to_string(l.dp) + "_ep" +
          std::to_string(l.ep) + "_zero" + std::to_string(l.zero_stage);
  if (l.rank_order == RankOrder::kPipelineFirst) name += "_pp_before_dp";
  for (const int64_t n : l.layers_per_stage) name += "_" + std::to_string(n);
  return name;
}

// Links of an emulated cluster.
inline LinkShaper& links(Trainer& trainer) {
  return *dynamic_cast<LocalCommunicator&>(trainer.communicator()).links();
}

}  // namespace rehearse
