#pragma once
// Drawing with the scripts of plots/.

#include <string>
#include <vector>

namespace rehearse::cli {

// Runs plots/<script> with python3; false when that or its libraries are missing.
bool plot(const std::string& script, const std::vector<std::string>& args);

}  // namespace rehearse::cli
