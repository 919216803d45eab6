#include "runtime/data/text_data.h"

#include <gtest/gtest.h>

#include "plan/testing.h"
#include "runtime/testing.h"

namespace rehearse {
namespace {

std::string file_of(const std::string& text) {
  const std::string path =
      (std::filesystem::temp_directory_path() / "rehearse_documents.txt").string();
  write_file(path, text);
  return path;
}

constexpr int32_t kEnd = 256, kBegin = 257, kHole = 258, kFimEnd = 259;

Plan plan_with(double fim_rate) {
  Plan plan = small_plan({});
  plan.model.architecture.vocabulary = 260;
  plan.training.sequence_length = 12;
  plan.data = {.document_separator = "\n\n", .fim_rate = fim_rate};
  plan.data.validation_fraction = 0.4;
  return plan;
}

// Documents of unlike letters: "d0abcdef...".
std::string documents(int count) {
  std::string text;
  for (int i = 0; i < count; ++i) {
    text += fmt::format("document {} of {}: {}\n\n", i, count, i * 7919);
  }
  return text;
}

TEST(TextData, DocumentsArePackedWithAnEndEach) {
  const Plan plan = plan_with(0);
  const TextData data(file_of(documents(10)), plan);
  const std::span<const uint16_t> tokens = data.training_text();
  std::string text;
  for (const uint16_t t : tokens) text += t == kEnd ? "\n\n" : std::string(1, static_cast<char>(t));
  // What is held out begins with a document.
  EXPECT_TRUE(documents(10).starts_with(text)) << text;
  EXPECT_EQ(data.validation(0, 1).inputs.front(), 'd');
}

// What is moved can be put back, and the rate is what was asked.
TEST(TextData, MiddlesAreMovedToTheEnd) {
  const Plan plan = plan_with(0.5);
  const int count = 60;
  const std::string path = file_of(documents(count));
  const TextData data(path, plan);
  const std::span<const uint16_t> tokens = data.training_text();
  std::string back;
  int moved = 0, all = 0;
  std::string part[3];
  int at = 0;
  for (const uint16_t t : tokens) {
    if (t == kBegin) {
      ++moved;
    } else if (t == kHole) {
      at = 2;
    } else if (t == kFimEnd) {
      at = 1;
    } else if (t == kEnd) {
      back += part[0] + part[1] + part[2] + "\n\n";
      part[0] = part[1] = part[2] = "";
      at = 0;
      ++all;
    } else {
      part[at] += static_cast<char>(t);
    }
  }
  EXPECT_TRUE(documents(count).starts_with(back)) << back;
  EXPECT_GT(all, 20);
  EXPECT_NEAR(static_cast<double>(moved) / all, 0.5, 0.25);
  EXPECT_NE(data.checksum(), TextData(path, plan_with(0)).checksum());
  for (const int32_t t : data.validation(0, 5).inputs) EXPECT_LE(t, kEnd);
}

TEST(TextData, SpecialTokensNeedAVocabulary) {
  Plan plan = plan_with(0);
  plan.model.architecture.vocabulary = 256;
  EXPECT_THROW(TextData(file_of(documents(10)), plan), InputError);
}

}  // namespace
}  // namespace rehearse
