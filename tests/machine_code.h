#pragma once
// Reads Hopper's machine code out of a cubin, an ELF file with a section of 16-byte instructions
// per kernel: enough of it to count instructions in the loop around matrix products. The toolkit
// has a disassembler, but not every installation. Opcodes as cuobjdump shows them for sm_90a.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

namespace rehearse {

class MachineCode {
 public:
  enum class Op {
    kOther,
    kMatrixProduct,  // QGMMA
    kWarpGroup,      // WARPGROUP.ARRIVE before products, WARPGROUP.DEPBAR: the wait for them
    kMultiplyAdd,    // FFMA
    kMultiply,       // FMUL
    kLoadShared,     // LDS
    kBranch,
    kTrap,
  };

  // Throws std::runtime_error where it is no such file.
  explicit MachineCode(const std::string& cubin) {
    if (cubin.size() < 64 || cubin.compare(0,
                                           4,
                                           "\x7f"
                                           "ELF") != 0) {
      throw std::runtime_error("no ELF file");
    }
    const auto at = [&]<class T>(size_t offset, T) {
      if (offset + sizeof(T) > cubin.size()) throw std::runtime_error("cut off");
      T value;
      std::memcpy(&value, cubin.data() + offset, sizeof(T));
      return value;
    };
    const auto sections = at(0x28, uint64_t{});
    const auto size = at(0x3a, uint16_t{});
    const auto count = at(0x3c, uint16_t{});
    const auto names = at(0x3e, uint16_t{});
    const auto offset_of = [&](size_t i) { return at(sections + i * size + 0x18, uint64_t{}); };
    for (size_t i = 0; i < count; ++i) {
      const std::string name =
          cubin.c_str() + offset_of(names) + at(sections + i * size, uint32_t{});
      if (name.rfind(".text.", 0) != 0) continue;
      const auto bytes = at(sections + i * size + 0x20, uint64_t{});
      std::vector<uint64_t>& words = kernels_[name.substr(6)];
      for (size_t b = 0; b < bytes; b += 16) words.push_back(at(offset_of(i) + b, uint64_t{}));
    }
  }

  // The instructions of the smallest loop of this kernel that holds all matrix products. Throws
  // std::runtime_error where the name does not say one kernel, or there is none.
  std::vector<Op> loop_around_products(const std::string& kernel) const {
    const std::vector<uint64_t>& words = find(kernel);
    size_t first = words.size();
    size_t last = 0;
    for (size_t i = 0; i < words.size(); ++i) {
      if (op_of(words[i]) != Op::kBranch) continue;
      const int64_t to = static_cast<int64_t>(i) + 1 + distance(words[i]);
      if (to < 0 || to >= static_cast<int64_t>(i)) continue;
      const auto begin = static_cast<size_t>(to);
      const bool multiplies =
          std::any_of(words.begin() + to, words.begin() + static_cast<int64_t>(i), [](uint64_t w) {
            return op_of(w) == Op::kMatrixProduct;
          });
      if (multiplies && (last == 0 || i - begin < last - first)) first = begin, last = i;
    }
    if (last == 0) throw std::runtime_error("no loop around products in " + kernel);
    std::vector<Op> loop;
    for (size_t i = first; i <= last; ++i) loop.push_back(op_of(words[i]));
    return loop;
  }

  int count(const std::string& kernel, Op op) const {
    const std::vector<uint64_t>& words = find(kernel);
    return static_cast<int>(
        std::count_if(words.begin(), words.end(), [&](uint64_t w) { return op_of(w) == op; }));
  }

 private:
  static Op op_of(uint64_t word) {
    switch (word & 0xfff) {
      case 0x9f3:
        return Op::kMatrixProduct;
      case 0x9c5:
        return Op::kWarpGroup;
      case 0x223:
        return Op::kMultiplyAdd;
      case 0x220:
        return Op::kMultiply;
      case 0x984:
        return Op::kLoadShared;
      case 0x947:
        return Op::kBranch;
      case 0x95c:
        return Op::kTrap;
      default:
        return Op::kOther;
    }
  }
  // Of a branch, in instructions from the next one: 4-byte words in bits 16 to 23 and 34 to 63.
  static int64_t distance(uint64_t word) {
    const auto words = static_cast<int64_t>((word >> 34) << 8 | (word >> 16 & 0xff));
    return (words >= int64_t{1} << 37 ? words - (int64_t{1} << 38) : words) / 4;
  }
  const std::vector<uint64_t>& find(const std::string& kernel) const {
    const std::vector<uint64_t>* found = nullptr;
    for (const auto& [name, words] : kernels_) {
      if (name.find(kernel) == std::string::npos) continue;
      if (found) throw std::runtime_error("several kernels are " + kernel);
      found = &words;
    }
    if (!found) throw std::runtime_error("no kernel is " + kernel);
    return *found;
  }

  std::map<std::string, std::vector<uint64_t>> kernels_;
};

}  // namespace rehearse
