#pragma once
// Text from outside (files, names, arguments), which may hold any bytes, made fit to be shown and
// to be put into JSON: UTF-8 without control characters, cut between characters only.

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

namespace rehearse {

// Bytes of the UTF-8 character that begins at text[at]: 1 to 4; 0 where no whole one begins there
// (RFC 3629: no surrogates, none longer than needed). REQUIRES: at < text.size().
size_t character_bytes(std::string_view text, size_t at);

// The first byte that belongs to no UTF-8 character; none where all do.
std::optional<size_t> first_not_utf8(std::string_view text);

// With bytes that are no UTF-8 as escapes, such as \xe9. Text that is UTF-8 stays as it is.
std::string valid_utf8(std::string_view text);

// valid_utf8, and control characters as escapes too; line breaks stay. At most so many characters
// of the text, then "...".
std::string printable(std::string_view text, size_t most = std::string_view::npos);

// The first whole characters of it, at most so many bytes.
std::string whole_characters(std::string_view text, size_t most_bytes);

// Columns that a terminal takes for it: two for East Asian wide characters, none for marks that
// combine with the character before. REQUIRES: printable() of something.
size_t columns_of(std::string_view text);

}  // namespace rehearse
