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

}  // namespace rehearse
