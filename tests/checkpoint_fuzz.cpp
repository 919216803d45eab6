// Fuzzes what `train --from` and `--resume` read: safetensors files (a text that begins with '{' is
// a header, whose length is put before it, and the data behind a line's end; others are files as
// they are) and checkpoints' manifests (behind a '#').

#include <cstdlib>
#include <cstring>
#include <filesystem>

#include <unistd.h>

#include "base/errors.h"
#include "base/file.h"
#include "runtime/checkpoints/checkpoint.h"
#include "runtime/checkpoints/safetensors.h"
#include "tests/fuzzing.h"

namespace rehearse {
namespace {

const std::string& folder() {
  static const std::string path = [] {
    const std::string p =
        (std::filesystem::temp_directory_path() / ("rehearse_fuzz_" + std::to_string(::getpid())))
            .string();
    std::filesystem::create_directories(p);
    return p;
  }();
  return path;
}

void put(const std::string& path, const std::string& bytes) {
  FILE* file = std::fopen(path.c_str(), "wb");
  CHECK(file != nullptr) << path;
  std::fwrite(bytes.data(), 1, bytes.size(), file);
  std::fclose(file);
}

bool use(const std::string& text) {
  try {
    if (!text.empty() && text[0] == '#') {
      put(folder() + "/manifest.json", text.substr(1));
      put(folder() + "/model-00001-of-00001.safetensors", std::string("\x02\0\0\0\0\0\0\0{}", 10));
      open_checkpoint(folder());
      return true;
    }
    std::string bytes = text;
    if (!text.empty() && text[0] == '{') {
      const size_t end = std::min(text.find('\n'), text.size());
      const uint64_t length = end;
      bytes.assign(8, '\0');
      std::memcpy(bytes.data(), &length, sizeof(length));
      bytes += text.substr(0, end) + (end < text.size() ? text.substr(end + 1) : "");
    }
    const std::string path = folder() + "/x.safetensors";
    put(path, bytes);
    const SafetensorsFile file(path);
    for (const auto& [name, e] : file.entries()) {
      if (e.type != "F32" && e.type != "BF16" && e.type != "F16") continue;
      int64_t elements = 1;
      for (const int64_t n : e.shape) elements *= n;
      CHECK(static_cast<int64_t>(file.read(name).size()) == elements) << name;
    }
    return file.checksum() != 1;
  } catch (const InputError&) {
    return false;
  }
}

}  // namespace
}  // namespace rehearse

int main(int argc, char** argv) {
  return rehearse::fuzz_main({.words = {"\"dtype\"",
                                        "\"shape\"",
                                        "\"data_offsets\"",
                                        "\"F32\"",
                                        "\"BF16\"",
                                        "\"F16\"",
                                        "\"I64\"",
                                        "\"__metadata__\"",
                                        "\"files\"",
                                        "\"bytes\"",
                                        "\"crc32c\"",
                                        "\"name\"",
                                        "[0,4]",
                                        "18446744073709551615",
                                        "-1",
                                        "1e3",
                                        "{",
                                        "}",
                                        "[",
                                        "]",
                                        "\"step\"",
                                        "\"version\"",
                                        "null",
                                        "9223372036854775807"},
                              .extension = ".bin",
                              .use = rehearse::use},
                             argc,
                             argv);
}
