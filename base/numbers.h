#pragma once
// Numbers in text.

#include <optional>
#include <string>

namespace rehearse {

// Of the whole text, where it is a finite one.
std::optional<double> number_of(const std::string& text);

}  // namespace rehearse
