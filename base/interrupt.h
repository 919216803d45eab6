#pragma once
// SIGINT and SIGTERM as a wish to stop, for work that ends in good order: it asks between its steps
// and writes what there is. Signals that follow within a second are the same wish: `timeout` and
// launchers signal a process, then its whole group. A later one ends the program at once, and says
// on standard error what that loses.

#include <optional>
#include <string>

namespace rehearse {

// Signals are caught from here on.
void catch_interrupts();

// The signal that came since, if one did.
std::optional<int> interrupted();

// What a signal that ends the program at once would lose, such as "steps after 120 are not saved";
// one line, cut off where it is longer than 250 bytes.
void say_what_an_end_loses(const std::string& what);

}  // namespace rehearse
