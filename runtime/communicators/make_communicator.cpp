#include "runtime/communicators/local/local_communicator.h"

namespace rehearse {

std::unique_ptr<Communicator> make_communicator(const Plan& plan) {
  const bool linked = plan.cluster.linked();
  return std::make_unique<LocalCommunicator>(
      plan.layout.world(),
      linked ? std::make_unique<LinkShaper>(plan.cluster, plan.layout.world()) : nullptr);
}

}  // namespace rehearse
