#pragma once
// Reads the trace that PyTorch's profiler (Kineto) exports: Chrome trace JSON, plain or gzip, an
// object with traceEvents or a bare array. It is read as a stream: what is kept is what the device
// did and which annotation of the program launched it, so memory grows with those and not with the
// file.

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "base/units.h"

namespace rehearse {

// Something that ran on the device: a kernel, a copy, a fill.
struct DeviceEvent {
  int32_t name = 0;  // index in Trace::names
  int32_t stream = 0;
  // Index in Trace::annotations: the innermost that launched it, if any did.
  std::optional<int32_t> annotation;
  int32_t grid[3] = {0, 0, 0};  // blocks; 0 for copies and fills
  Duration begin, end;          // since the trace's first device event
};

// A named stretch of the program (torch.profiler.record_function), on the CPU.
struct Annotation {
  std::string name;
  Duration begin, end;  // since the same moment; begin may be negative
};

struct Trace {
  std::string device;                   // name of the profiled device, empty when not stated
  int64_t sms = 0;                      // of it, 0 when not stated
  int64_t world = 0;                    // ranks of the profiled program, 0 when not stated
  int64_t orphans = 0;                  // device events of which nothing says what launched them
  int64_t passed_over = 0;              // annotations that were not wanted
  std::string passed_over_name;         // one of them
  std::vector<std::string> names;       // of device events
  std::vector<DeviceEvent> events;      // by begin
  std::vector<Annotation> annotations;  // by begin
};

// Throws InputError with file, line and what would be right for anything that is not such a trace:
// broken or cut-off JSON or gzip, an event without ts or dur, negative durations, numbers out of
// range. Limits, each an error that names it: nesting of 64, tokens of 1 MB, 5 million events of a
// kind, 64 MB of names. Device events without a correlation id, or whose launch is not in the
// trace (it may have begun before), have no annotation and are counted.
// A trace is of one process and one device: events of several are an error, since correlation ids
// are each process's own; so is one without device events. Annotations far from all device events
// (a clock that was not set) are left out.
// progress: called now and then with the bytes of the file read so far.
// wanted: annotations that it says no to are transparent: what they launched belongs to those
// around them.
Trace read_trace(const std::string& path,
                 const std::function<void(int64_t)>& progress = {},
                 const std::function<bool(std::string_view)>& wanted = {});

// The same of text in memory; `path` names it in errors.
Trace parse_trace(std::string_view text,
                  const std::string& path,
                  const std::function<bool(std::string_view)>& wanted = {});

}  // namespace rehearse
