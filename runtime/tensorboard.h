#pragma once
// A training's curves as TensorBoard reads them: a file of events, each a protocol buffer (Event,
// Summary: tensorflow/core/util/event.proto, framework/summary.proto) framed as a record with
// checksums (TFRecord).

#include <string>

#include "base/file.h"
#include "runtime/train.h"

namespace rehearse {

class TensorboardFile {
 public:
  // A new file in `folder`; a resumed run's stands beside the earlier ones, from `first_step` on
  // instead of them. Throws InputError when it cannot be written.
  TensorboardFile(const std::string& folder, int64_t first_step);
  // The step's scalars. False when they could not be written whole; why() says what was wrong.
  bool append(const StepLog& log);
  const std::string& why() const { return file_.why(); }

 private:
  bool add(const std::string& event);
  LogFile file_;
};

}  // namespace rehearse
