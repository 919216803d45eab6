#include "base/interrupt.h"

#include <csignal>

namespace rehearse {
namespace {

volatile std::sig_atomic_t caught = 0;

void remember(int signal) {
  caught = signal;
  std::signal(SIGINT, SIG_DFL);
  std::signal(SIGTERM, SIG_DFL);
}

}  // namespace

void catch_interrupts() {
  caught = 0;
  std::signal(SIGINT, remember);
  std::signal(SIGTERM, remember);
}

std::optional<int> interrupted() {
  return caught == 0 ? std::nullopt : std::optional<int>(caught);
}

}  // namespace rehearse
