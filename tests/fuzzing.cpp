#include "tests/fuzzing.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <random>

#include "base/errors.h"
#include "base/file.h"

namespace {

constexpr size_t kEdges = 1 << 16;
unsigned char seen_now[kEdges];
bool watching = false;

}  // namespace

// Called at every edge of the instrumented code (-fsanitize-coverage=trace-pc).
extern "C" void __sanitizer_cov_trace_pc() {
  if (!watching) return;
  static thread_local uintptr_t before = 0;
  const auto here = reinterpret_cast<uintptr_t>(__builtin_return_address(0));
  seen_now[((here >> 1) ^ before) % kEdges] = 1;
  before = here >> 2;
}

namespace rehearse {
namespace {

namespace fs = std::filesystem;

class Mutator {
 public:
  Mutator(const std::vector<std::string>& words, uint64_t seed) : words_(words), random_(seed) {}

  std::string mutate(std::string text, const std::string& other) {
    for (size_t n = 1 + below(4); n > 0; --n) once(text, other);
    return text.substr(0, 20'000);
  }
  size_t below(size_t n) { return n == 0 ? 0 : random_() % n; }

 private:
  void once(std::string& text, const std::string& other) {
    switch (below(8)) {
      case 0:  // a byte
        if (!text.empty()) text[below(text.size())] = static_cast<char>(below(256));
        break;
      case 1:  // a stretch gone
        if (!text.empty()) text.erase(below(text.size()), 1 + below(20));
        break;
      case 2:  // a word
        text.insert(below(text.size() + 1), words_[below(words_.size())]);
        break;
      case 3: {  // a number replaced
        const size_t at = text.find_first_of("0123456789", below(text.size() + 1));
        if (at == std::string::npos) break;
        size_t end = at;
        while (end < text.size() && text[end] >= '0' && text[end] <= '9') ++end;
        static const std::vector<std::string> kNumbers = {"0",
                                                          "1",
                                                          "2",
                                                          "3",
                                                          "7",
                                                          "8",
                                                          "16",
                                                          "63",
                                                          "64",
                                                          "255",
                                                          "4096",
                                                          "65536",
                                                          "1000000",
                                                          "99999999999999999999",
                                                          "0.5",
                                                          "1e9",
                                                          "-5",
                                                          "010",
                                                          "0x10"};
        text.replace(at, end - at, kNumbers[below(kNumbers.size())]);
        break;
      }
      case 4: {  // a line twice, elsewhere
        const size_t from = text.rfind('\n', below(text.size() + 1));
        if (from == std::string::npos) break;
        const size_t end = text.find('\n', from + 1);
        const std::string line = text.substr(from, end == std::string::npos ? end : end - from);
        const size_t to = text.find('\n', below(text.size() + 1));
        text.insert(to == std::string::npos ? text.size() : to, line);
        break;
      }
      case 5: {  // lines of another file
        const size_t from = below(other.size() + 1);
        text.insert(below(text.size() + 1), other.substr(from, below(200)));
        break;
      }
      case 6:  // nested deeply
        text.insert(below(text.size() + 1), std::string(1 + below(300), below(2) ? '[' : '{'));
        break;
      default: {  // indented otherwise
        const size_t at = text.find('\n', below(text.size() + 1));
        if (at != std::string::npos) text.insert(at + 1, std::string(1 + below(4), ' '));
        break;
      }
    }
  }

  const std::vector<std::string>& words_;
  std::mt19937_64 random_;
};

int run(const FuzzTarget& target, const std::string& folder, double seconds, uint64_t seed) {
  std::vector<std::string> corpus;
  std::vector<fs::path> paths;
  for (const auto& entry : fs::directory_iterator(folder)) paths.push_back(entry.path());
  std::sort(paths.begin(), paths.end());
  for (const fs::path& p : paths) corpus.push_back(read_file(p.string()));
  if (corpus.empty()) throw InputError(folder + ": no files to begin with");
  std::vector<unsigned char> seen(kEdges, 0);
  const auto fresh = [&](const std::string& text, bool& parsed) {
    std::fill(std::begin(seen_now), std::end(seen_now), 0);
    // Left there should this be the last thing that happens.
    std::ofstream(folder + ".last", std::ios::binary) << text;
    watching = true;
    parsed = target.use(text);
    watching = false;
    bool any = false;
    for (size_t i = 0; i < kEdges; ++i) {
      if (seen_now[i] == 0 || seen[i] != 0) continue;
      seen[i] = 1;
      any = true;
    }
    return any;
  };
  bool parsed = false;
  for (const std::string& text : corpus) fresh(text, parsed);
  Mutator mutator(target.words, seed);
  int64_t runs = 0;
  int64_t good = 0;
  int64_t kept = 0;
  const auto begin = std::chrono::steady_clock::now();
  const auto passed = [&] {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  };
  while (passed() < seconds) {
    const std::string text =
        mutator.mutate(corpus[mutator.below(corpus.size())], corpus[mutator.below(corpus.size())]);
    const auto start = passed();
    const bool keep = fresh(text, parsed);
    if (passed() - start > 5) {
      std::cerr << "an input took " << passed() - start << " s; it is in " << folder << ".last\n";
      return 1;
    }
    ++runs;
    good += parsed;
    if (!keep) continue;
    corpus.push_back(text);
    ++kept;
    write_file(folder + "/" + std::to_string(std::hash<std::string>{}(text)) + target.extension,
               text);
  }
  fs::remove(folder + ".last");
  std::cout << runs << " inputs in " << passed() << " s, " << good << " of them good, " << kept
            << " kept; no crash\n";
  return 0;
}

}  // namespace

int fuzz_main(const FuzzTarget& target, int argc, char** argv) {
  if (argc < 3) {
    std::cerr << "usage: " << argv[0] << " CORPUS SECONDS [SEED]\n";
    return 2;
  }
  try {
    return run(target,
               argv[1],
               std::atof(argv[2]),
               argc > 3 ? static_cast<uint64_t>(std::atoll(argv[3])) : 1);
  } catch (const InputError& e) {
    std::cerr << e.what() << "\n";
    return 1;
  }
}

}  // namespace rehearse
