#include "base/background.h"

#include <sys/resource.h>
#include <unistd.h>

namespace rehearse {

void stand_back() {
  constexpr int kLeast = 19;
  ::setpriority(PRIO_PROCESS, static_cast<id_t>(::gettid()), kLeast);
}

}  // namespace rehearse
