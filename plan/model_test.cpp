#include "plan/model.h"

#include <filesystem>

#include <gtest/gtest.h>

#include "base/file.h"

namespace rehearse {
namespace {

// parse(print(model)) is the model again, for every model that comes with the program.
TEST(Model, PrintedModelsReadBack) {
  int64_t seen = 0;
  const std::filesystem::path models = std::string(REHEARSE_SOURCE_DIR) + "/models";
  const std::string copy = std::filesystem::temp_directory_path() / "rehearse_model_test.yaml";
  for (const auto& entry : std::filesystem::directory_iterator(models)) {
    if (entry.path().extension() != ".yaml" && entry.path().extension() != ".json") continue;
    const Model model = load_model(entry.path().string());
    write_file(copy, print_model(model));
    const Model back = load_model(copy);
    EXPECT_EQ(back.name, model.name);
    EXPECT_EQ(back.init_std, model.init_std);
    EXPECT_EQ(back.architecture, model.architecture) << entry.path();
    ++seen;
  }
  std::filesystem::remove(copy);
  EXPECT_GT(seen, 2);
}

}  // namespace
}  // namespace rehearse
