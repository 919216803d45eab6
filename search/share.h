#pragma once
// A search's work shared out to threads and processes, and kept across interruptions.

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "base/file.h"
#include "base/stopwatch.h"
#include "search/search.h"

namespace rehearse {

// Runs `work(i)` for each thread, and throws what one of them threw.
void on_threads(int32_t threads, const std::function<void(int32_t)>& work);

// What another process, or this one later, needs to know.
nlohmann::json json_of(const Candidate& c);
// base: its layout's dispatcher, overlaps and so on, as of a search's candidates.
Candidate candidate_of(const nlohmann::json& json, const Plan& base);
nlohmann::json json_of(const Screened& s);
Screened screened_of(const nlohmann::json& json, const Plan& base);
nlohmann::json json_of(const Scored& s);  // what was simulated; not `screened`
// Throws nlohmann::json::exception when something is missing.
Scored scored_of(const nlohmann::json& json, const Plan& base, const Screened& screened);

// What a search has simulated, in a file that grows by a line for each layout: a search that was
// interrupted goes on from there.
class Journal {
 public:
  // A file that is there must be of the same search. question: all that an answer hangs on. Throws
  // InputError naming file and line.
  Journal(const std::string& path, const std::string& question);
  size_t known() const { return known_.size(); }

  // nullptr: not yet simulated. JSON null: given up.
  const nlohmann::json* find(const Candidate& c) const;
  void add(const Candidate& c, const nlohmann::json& scored);

 private:
  std::string path_;
  std::map<std::string, nlohmann::json> known_;
  std::unique_ptr<LogFile> log_;
};

}  // namespace rehearse
