#pragma once
// SIGINT and SIGTERM as a wish to stop, for work that ends in good order: it asks between its steps
// and writes what there is. A second signal ends the program at once.

#include <optional>

namespace rehearse {

// Signals are caught from here on.
void catch_interrupts();

// The signal that came since, if one did.
std::optional<int> interrupted();

}  // namespace rehearse
