#pragma once
// Fuzzing of a parser: mutates files of a corpus, keeps those that reach code no other did, and
// stops at the first input that does anything but parse or throw InputError. Built with coverage
// and sanitizers by `make fuzz`.

#include <string>
#include <vector>

namespace rehearse {

struct FuzzTarget {
  std::vector<std::string> words;   // that mutations put in
  std::string extension;            // of files kept
  bool (*use)(const std::string&);  // does what a user would with the text; whether it was good
};

// The program: NAME CORPUS SECONDS [SEED]
int fuzz_main(const FuzzTarget& target, int argc, char** argv);

}  // namespace rehearse
