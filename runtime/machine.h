#pragma once
// What measurements of this machine are valid for.

#include <string>

namespace rehearse {

// "Intel(R) Xeon(R) ..., family 6 model 143" of this machine.
std::string processor_name();
// Compiler and matrix library of this program.
std::string build_description();

// Fingerprint of the source code of kernels/ that this program was built from.
std::string kernel_sources();

// Keeps memory that is freed with the process instead of handing it back to the system: messages
// come and go with every op, and each page that comes back costs a fault.
void keep_freed_memory();

}  // namespace rehearse
