#include "runtime/devices/device.h"

#include "base/errors.h"

namespace rehearse {

// Where workers of lanes wait themselves, and an op has ended when its work was asked for.
void TrainingDevice::wait(const OpAt& /*at*/, int64_t /*rank*/, OpId /*dependency*/) {}
void TrainingDevice::end_step(Timeline& /*timeline*/) {}
void TrainingDevice::begin(const OpAt& /*at*/, int64_t /*rank*/) {}
void TrainingDevice::end(const OpAt& /*at*/,
                         int64_t /*rank*/,
                         const std::function<MemberLoad()>& /*load*/) {}

void TrainingDevice::make_room() {
  CHECK(false) << "rows of experts overflowed on a device that has room for all";
}

}  // namespace rehearse
