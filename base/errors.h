#pragma once
// The three kinds of error (docs/architecture.md, "Errors"), all exceptions, caught once in cli/.
//   InputError     anything a user could have written: a file, a key, an option.
//   ScheduleError  a Program that is invalid, or an execution of one that is stuck.
//   InternalError  our own bug; thrown by CHECK.

#include <sstream>
#include <stdexcept>
#include <string>
#include <utility>

namespace rehearse {

class InputError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
  // Where in a file it stands; none: file is empty, line and column are 0.
  struct Place {
    std::string file;
    int line = 0, column = 0;  // from 1
  };
  InputError(const std::string& text, Place place)
      : runtime_error(text), place_(std::move(place)) {}
  const Place& place() const { return place_; }

 private:
  Place place_;
};

class ScheduleError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

class InternalError : public std::logic_error {
 public:
  using std::logic_error::logic_error;
};

namespace internal {

// Collects the values streamed into a failed CHECK and throws when the full expression ends.
class CheckFailure {
 public:
  CheckFailure(const char* file, int line, const char* condition) {
    stream_ << file << ":" << line << ": CHECK(" << condition << ") failed: ";
  }
  [[noreturn]] ~CheckFailure() noexcept(false) { throw InternalError(stream_.str()); }
  std::ostream& stream() { return stream_; }

 private:
  std::ostringstream stream_;
};

}  // namespace internal
}  // namespace rehearse

// CHECK(condition) << values: throws InternalError with file, line and the values when it is false.
#define CHECK(condition) \
  if (condition) {       \
  } else                 \
    ::rehearse::internal::CheckFailure(__FILE__, __LINE__, #condition).stream()
