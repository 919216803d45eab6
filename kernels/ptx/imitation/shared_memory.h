#pragma once
// A block's shared memory, with who wrote and read every 4 bytes of it: finds reads of what nothing
// wrote, accesses outside, and races, whatever the order of this run.

#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "kernels/ptx/imitation/clocks.h"

namespace rehearse::kernels::imitation {

// What a kernel did wrong: file, line, who, what.
class ImitationError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

struct Access {
  Epoch epoch;         // whose access, and when
  const Sight& sight;  // what the one who made or issued it has seen
  bool async = false;  // by the copy engine or the tensor cores
  uint32_t line = 0;   // of the kernel source
};

class SharedMemory {
 public:
  // Addresses start here: a kernel that takes 0 for the start is found out.
  static constexpr uint32_t kBase = 1024;

  explicit SharedMemory(int bytes);
  // Both check and record; addresses and sizes are multiples of 4. They return the bytes, or throw
  // a Conflict, which names agents by number.
  const uint8_t* read(uint32_t address, uint32_t bytes, const Access& access);
  uint8_t* write(uint32_t address, uint32_t bytes, const Access& access);
  // Checks a read and does not record it: of what is never written again.
  void look(uint32_t address, uint32_t bytes, const Access& access);

  struct Conflict {
    std::string what;
    uint32_t address = 0;
    Epoch other;  // the access it conflicts with; time 0: none
    uint32_t other_line = 0;
  };

 private:
  struct Reader {
    Epoch epoch;
    uint32_t line = 0;
  };
  struct Word {
    Epoch written;
    uint32_t line = 0;
    bool async = false;
    std::vector<Reader> readers;  // since then
  };
  static void note_reader(std::vector<Reader>& readers, const Reader& reader);
  void check_range(uint32_t address, uint32_t bytes) const;
  void check_read(uint32_t word, const Access& access) const;

  std::vector<uint8_t> bytes_;
  std::vector<Word> words_;
};

}  // namespace rehearse::kernels::imitation
