#pragma once
// What a JSON library says of a file, in our words: with the place, without its own numbering.

#include <exception>
#include <string>
#include <string_view>

namespace rehearse {

// Throws InputError "path:line:column: what: ..." from the text of one of nlohmann's exceptions,
// with the place where that tells one.
[[noreturn]] void fail_json(const std::string& path,
                            std::string_view what,
                            const std::exception& error);

}  // namespace rehearse
