#pragma once
// Drawing with the scripts of plots/.

#include <optional>
#include <string>
#include <vector>

namespace rehearse::cli {

// The format of a picture by its file's name, such as "png". Throws InputError for a name whose end
// is of none that plots/ draw.
std::string picture_format(const std::string& path);

// The picture that plots/<script> draws with python3, as bytes; none where that or its libraries
// are missing. It touches no file: `input` is its standard input, and the picture comes from its
// standard output.
std::optional<std::string> plot(const std::string& script,
                                const std::vector<std::string>& args,
                                const std::string& format,
                                const std::string& input = "");

}  // namespace rehearse::cli
