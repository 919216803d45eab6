#pragma once
// Threads that stand back.

namespace rehearse {

// The calling thread gets what other threads leave of the cores (Linux: nice 19, of it alone).
void stand_back();

}  // namespace rehearse
