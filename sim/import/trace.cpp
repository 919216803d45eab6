#include "sim/import/trace.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <cstring>
#include <memory>
#include <optional>
#include <unordered_map>

#include <fmt/format.h>
#include <nlohmann/json.hpp>
#include <zlib.h>

#include "base/call_files.h"
#include "base/errors.h"
#include "base/text.h"

namespace rehearse {
namespace {

constexpr size_t kMaxDepth = 64;
constexpr size_t kMaxToken = 1 << 20;
constexpr size_t kMaxEvents = 5'000'000;
constexpr size_t kMaxNameBytes = size_t{64} << 20;

// Bytes of a file (gunzipped as they come) or of memory, counted by line, with a limit on the
// length of a token, so that no parser behind it has to hold more than that.
class Source {
 public:
  Source(const std::string& path, const std::function<void(int64_t)>& progress)
      : path_(path), progress_(progress), chunk_(1 << 18) {
    note_input(path);
    file_ = gzopen(path.c_str(), "rb");
    if (file_ == nullptr) throw InputError(path + ": cannot be opened");
  }
  Source(std::string_view text, const std::string& path) : path_(path), text_(text) {}
  ~Source() {
    if (file_ != nullptr) gzclose(file_);
  }
  Source(const Source&) = delete;
  Source& operator=(const Source&) = delete;

  bool end() { return at_ == size_ && !fill(); }
  char peek() const { return data_[at_]; }
  void advance() {
    const char c = data_[at_++];
    if (c == '\n') ++line_;
    // A string or a number goes on; white space and punctuation outside of strings end a token.
    if (in_string_) {
      if (escaped_) {
        escaped_ = false;
      } else if (c == '\\') {
        escaped_ = true;
      } else if (c == '"') {
        in_string_ = false;
        token_ = 0;
      }
    } else if (c == '"') {
      in_string_ = true;
      token_ = 0;
    } else if (std::strchr(" \t\r\n,:{}[]", c) != nullptr) {
      token_ = 0;
    }
    if (++token_ > kMaxToken) fail("a string or number of more than 1 MB");
  }

  // What is wrong with a trace.
  [[noreturn]] void refuse(const std::string& what) const {
    throw InputError(fmt::format("{}:{}: {}", path_, line_, what));
  }
  [[noreturn]] void fail(const std::string& what) const {
    throw InputError(fmt::format("{}:{}: not a trace: {}", path_, line_, what));
  }

 private:
  bool fill() {
    if (file_ == nullptr) {
      if (data_ != nullptr) return false;
      data_ = text_.data();
      size_ = text_.size();
      at_ = 0;
      return size_ > 0;
    }
    const int got = gzread(file_, chunk_.data(), static_cast<unsigned>(chunk_.size()));
    int error = Z_OK;
    const char* const message = gzerror(file_, &error);
    if (got < 0 || (error != Z_OK && error != Z_STREAM_END)) {
      fail(error == Z_BUF_ERROR ? "the compressed file ends too early"
                                : fmt::format("it cannot be read ({})", message));
    }
    data_ = chunk_.data();
    at_ = 0;
    size_ = static_cast<size_t>(got);
    if (progress_) progress_(gzoffset(file_));
    return got > 0;
  }

  std::string path_;
  std::function<void(int64_t)> progress_;
  gzFile file_ = nullptr;
  std::vector<char> chunk_;
  std::string_view text_;
  const char* data_ = nullptr;
  size_t at_ = 0, size_ = 0;
  int64_t line_ = 1;
  size_t token_ = 0;
  bool in_string_ = false, escaped_ = false;
};

// The iterator that nlohmann's parser takes.
class SourceIterator {
 public:
  using difference_type = std::ptrdiff_t;
  using value_type = char;
  using pointer = const char*;
  using reference = const char&;
  using iterator_category = std::input_iterator_tag;

  SourceIterator() = default;
  explicit SourceIterator(Source* source) : source_(source) {}
  char operator*() const { return source_->peek(); }
  SourceIterator& operator++() {
    source_->advance();
    return *this;
  }
  bool operator==(const SourceIterator& other) const {
    return (source_ == nullptr || source_->end()) ==
           (other.source_ == nullptr || other.source_->end());
  }
  bool operator!=(const SourceIterator& other) const { return !(*this == other); }

 private:
  Source* source_ = nullptr;
};

enum class Category : uint8_t { kOther, kAnnotation, kLaunch, kDevice };

// Nanoseconds; Kineto writes microseconds, whole or with decimals.
using Nanoseconds = int64_t;

struct Launch {
  int64_t thread = 0, process = 0;
  Nanoseconds at = 0;
};

// Takes the parser's events apart. Depth 1 is the object around everything (or the array of
// events); `event_depth_` is where an event's own keys are.
class Reader : public nlohmann::json_sax<nlohmann::json> {
 public:
  Reader(Source& source, const std::function<bool(std::string_view)>& wanted)
      : source_(source), wanted_(wanted) {}

  bool null() override { return value(); }
  bool boolean(bool) override { return value(); }
  bool number_integer(number_integer_t v) override {
    number(static_cast<double>(v), v);
    return value();
  }
  bool number_unsigned(number_unsigned_t v) override {
    number(static_cast<double>(v),
           v <= static_cast<uint64_t>(INT64_MAX) ? std::optional(static_cast<int64_t>(v))
                                                 : std::nullopt);
    return value();
  }
  bool number_float(number_float_t v, const string_t& digits) override {
    decimal_ = decimal_nanoseconds(digits);
    number(v, std::nullopt);
    decimal_.reset();
    return value();
  }
  bool string(string_t& v) override {
    text(v);
    return value();
  }
  bool binary(binary_t&) override { return value(); }
  bool start_object(std::size_t) override {
    enter();
    if (stack_.size() == event_depth_) event_ = {};
    return true;
  }
  bool end_object() override {
    if (stack_.size() == event_depth_) finish_event();
    leave();
    return true;
  }
  bool start_array(std::size_t) override {
    enter();
    if (stack_.size() == 1) {  // a bare array of events
      event_depth_ = 2;
      has_events_ = true;
    }
    if (stack_.size() == 2 && keys_[0] == "traceEvents") {
      event_depth_ = 3;
      has_events_ = true;
    }
    return true;
  }
  bool end_array() override {
    const bool events = stack_.size() + 1 == event_depth_;
    leave();
    if (events) event_depth_ = SIZE_MAX;
    return true;
  }
  bool key(string_t& v) override {
    if (stack_.size() <= keys_.size()) keys_[stack_.size() - 1] = whole_characters(v, 64);
    return true;
  }
  bool parse_error(std::size_t, const std::string&, const nlohmann::detail::exception& e) override {
    const std::string what = e.what();
    const size_t at = what.find("syntax error");
    source_.fail(at == std::string::npos ? what : what.substr(at));
  }

  bool has_events() const { return has_events_; }
  Trace finish();

 private:
  struct Event {
    bool complete = false;  // "ph": "X"
    Category category = Category::kOther;
    std::string name;
    std::optional<double> time_us, length_us;
    // The same exactly, in nanoseconds, where it was written as a plain number.
    std::optional<int64_t> time_exact, length_exact;
    std::optional<int64_t> correlation, stream, device;
    int64_t process = 0, thread = 0;
    int32_t grid[3] = {0, 0, 0};
  };

  void enter() {
    if (stack_.size() == kMaxDepth) {
      source_.fail(fmt::format("brackets nested more than {} deep", kMaxDepth));
    }
    if (!stack_.empty()) ++stack_.back();
    stack_.push_back(0);
  }
  void leave() { stack_.pop_back(); }
  bool value() {
    if (!stack_.empty()) ++stack_.back();
    return true;
  }
  // Whether the value at hand is `key` of an event, or of its args.
  bool of_event(std::string_view name) const {
    return stack_.size() == event_depth_ && keys_[event_depth_ - 1] == name;
  }
  bool of_args(std::string_view name) const {
    return stack_.size() == event_depth_ + 1 && keys_[event_depth_ - 1] == "args" &&
           keys_[event_depth_] == name;
  }

  // Of the number at hand.
  std::optional<int64_t> exact(std::optional<int64_t> integer) const {
    constexpr int64_t kMost = 9'000'000'000'000'000;
    if (!integer) return decimal_;
    return std::abs(*integer) < kMost ? std::optional(*integer * 1000) : std::nullopt;
  }
  // "1712345678901002.1" microseconds: more digits than a double holds.
  static std::optional<int64_t> decimal_nanoseconds(const std::string& digits) {
    const size_t point = digits.find('.');
    if (point == std::string::npos || point == 0 || point > 16 ||
        digits.find_first_not_of("0123456789", point + 1) != std::string::npos) {
      return std::nullopt;
    }
    const std::string scaled =
        digits.substr(0, point) + (digits.substr(point + 1) + "000").substr(0, 3);
    int64_t v = 0;
    const auto r = std::from_chars(scaled.data(), scaled.data() + scaled.size(), v);
    const bool all = r.ec == std::errc() && r.ptr == scaled.data() + scaled.size();
    return all ? std::optional(v) : std::nullopt;
  }

  int64_t whole(std::string_view what, double v, std::optional<int64_t> integer) const {
    if (!integer) source_.fail(fmt::format("{} is {}, expected a whole number", what, v));
    return *integer;
  }

  void number(double v, std::optional<int64_t> integer) {
    if (event_depth_ == SIZE_MAX || stack_.size() < event_depth_) {
      about_device(v, integer);
      return;
    }
    if (of_event("ts")) {
      event_.time_us = v;
      event_.time_exact = exact(integer);
    } else if (of_event("dur")) {
      event_.length_us = v;
      event_.length_exact = exact(integer);
    } else if (of_event("pid")) {
      event_.process = integer.value_or(-1);
    } else if (of_event("tid")) {
      event_.thread = integer.value_or(-1);
    } else if (of_args("correlation")) {
      event_.correlation = whole("correlation", v, integer);
    } else if (of_args("stream")) {
      event_.stream = whole("stream", v, integer);
    } else if (of_args("device")) {
      event_.device = whole("device", v, integer);
    } else if (stack_.size() == event_depth_ + 2 && keys_[event_depth_ - 1] == "args" &&
               keys_[event_depth_] == "grid" && stack_.back() < 3) {
      const int64_t blocks = whole("a grid's entry", v, integer);
      if (blocks < 0 || blocks > INT32_MAX) {
        source_.fail(fmt::format("a grid of {} blocks", blocks));
      }
      event_.grid[stack_.back()] = static_cast<int32_t>(blocks);
    }
  }

  void text(const std::string& v) {
    if (event_depth_ == SIZE_MAX || stack_.size() < event_depth_) {
      if (stack_.size() == 3 && keys_[0] == "deviceProperties" && keys_[2] == "name" &&
          trace_.device.empty()) {
        trace_.device = whole_characters(v, 200);
      }
      return;
    }
    if (of_event("ph")) {
      event_.complete = v == "X";
    } else if (of_event("name")) {
      event_.name = v;
    } else if (of_event("cat")) {
      event_.category = v == "user_annotation"                      ? Category::kAnnotation
                        : v == "cuda_runtime" || v == "cuda_driver" ? Category::kLaunch
                        : v == "kernel" || v == "gpu_memcpy" || v == "gpu_memset"
                            ? Category::kDevice
                            : Category::kOther;
    } else if (of_event("ts") || of_event("dur")) {
      source_.refuse(fmt::format("{} is a string, expected a number", keys_[event_depth_ - 1]));
    }
  }

  void about_device(double, std::optional<int64_t> integer) {
    if (!integer) return;
    if (stack_.size() == 3 && keys_[0] == "deviceProperties" && keys_[2] == "numSms" &&
        trace_.sms == 0) {
      trace_.sms = *integer;
    }
    if (stack_.size() == 2 && keys_[0] == "distributedInfo" && keys_[1] == "world_size") {
      trace_.world = *integer;
    }
  }

  Nanoseconds nanoseconds(std::string_view what,
                          const std::optional<double>& us,
                          const std::optional<int64_t>& exactly) const {
    if (!us) source_.refuse(fmt::format("event '{}' has no {}", shown(event_.name), what));
    constexpr double kMost = 9e15;
    if (!std::isfinite(*us) || std::abs(*us) >= kMost) {
      source_.fail(
          fmt::format("event '{}': {} of {} us is out of range", shown(event_.name), what, *us));
    }
    return exactly ? *exactly : static_cast<Nanoseconds>(std::llround(*us * 1000));
  }
  static std::string shown(const std::string& name) { return whole_characters(name, 80); }

  void finish_event() {
    if (!event_.complete || event_.category == Category::kOther) return;
    const Nanoseconds begin = nanoseconds("ts", event_.time_us, event_.time_exact);
    if (event_.category == Category::kLaunch) {
      if (event_.correlation) {
        check_count(launches_.size());
        const Launch launch{event_.thread, event_.process, begin};
        const auto [known, is_new] = launches_.emplace(*event_.correlation, launch);
        if (!is_new && known->second.process != launch.process) {
          source_.refuse(
              fmt::format("correlation {} is of processes {} and {}: several processes in one "
                          "file, whose launches cannot be told apart; give each its own",
                          *event_.correlation,
                          known->second.process,
                          launch.process));
        }
        known->second = launch;
      }
      return;
    }
    const Nanoseconds length = nanoseconds("dur", event_.length_us, event_.length_exact);
    if (length < 0) {
      source_.fail(fmt::format("event '{}' lasts {} us: a duration cannot be negative",
                               shown(event_.name),
                               static_cast<double>(length) * 1e-3));
    }
    if (event_.category == Category::kAnnotation) {
      if (wanted_ && !wanted_(event_.name)) {
        if (trace_.passed_over++ == 0) trace_.passed_over_name = whole_characters(event_.name, 80);
        return;
      }
      check_count(annotations_.size());
      check_names(event_.name.size());
      annotations_.push_back({event_.name, begin, begin + length, event_.thread, event_.process});
      return;
    }
    check_count(device_.size());
    const int64_t device = event_.device.value_or(event_.process);
    if (device_.empty()) device_id_ = device;
    if (device != device_id_) {
      source_.fail(
          fmt::format("event '{}' ran on device {}, others on {}: several devices in one file; "
                      "give each its own",
                      shown(event_.name),
                      device,
                      device_id_));
    }
    DeviceEvent e;
    const auto [at, fresh] = name_index_.emplace(event_.name, trace_.names.size());
    if (fresh) {
      check_names(2 * event_.name.size());
      trace_.names.push_back(event_.name);
    }
    e.name = static_cast<int32_t>(at->second);
    e.stream =
        static_cast<int32_t>(std::clamp<int64_t>(event_.stream.value_or(0), INT32_MIN, INT32_MAX));
    std::copy(event_.grid, event_.grid + 3, e.grid);
    device_.push_back({e, begin, begin + length, event_.correlation});
  }
  void check_count(size_t count) const {
    if (count >= kMaxEvents) source_.fail("more than 5 million events of one kind");
  }
  void check_names(size_t bytes) {
    name_bytes_ += bytes;
    if (name_bytes_ > kMaxNameBytes) source_.fail("more than 64 MB of names");
  }

  struct RawAnnotation {
    std::string name;
    Nanoseconds begin, end;
    int64_t thread, process;
  };
  struct RawDevice {
    DeviceEvent event;
    Nanoseconds begin, end;
    std::optional<int64_t> correlation;
  };
  std::vector<std::optional<int32_t>> innermost(const std::vector<Launch>& launches) const;

  Source& source_;
  const std::function<bool(std::string_view)>& wanted_;
  int64_t device_id_ = 0;       // of all device events
  std::vector<int32_t> stack_;  // entries seen so far, by depth
  std::array<std::string, 8> keys_;
  size_t event_depth_ = SIZE_MAX;
  bool has_events_ = false;
  std::optional<int64_t> decimal_;  // of the number at hand
  Event event_;
  Trace trace_;
  std::unordered_map<std::string, size_t> name_index_;
  size_t name_bytes_ = 0;
  std::unordered_map<int64_t, Launch> launches_;
  std::vector<RawAnnotation> annotations_;
  std::vector<RawDevice> device_;
};

// For each launch the shortest annotation around it: of its own thread, else of another thread of
// its process (autograd launches from threads of its own while the program waits in an annotation).
std::vector<std::optional<int32_t>> Reader::innermost(const std::vector<Launch>& launches) const {
  std::vector<size_t> order(launches.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    return launches[a].at < launches[b].at;
  });
  std::vector<std::optional<int32_t>> found(launches.size());
  std::vector<int32_t> open;
  size_t next = 0;
  for (const size_t i : order) {
    const Launch& l = launches[i];
    while (next < annotations_.size() && annotations_[next].begin <= l.at) {
      open.push_back(static_cast<int32_t>(next++));
    }
    std::erase_if(open, [&](int32_t a) { return annotations_[static_cast<size_t>(a)].end < l.at; });
    if (open.size() > 10'000) source_.fail("more than 10000 annotations open at once");
    const auto better = [&](int32_t a, int32_t b) {
      const RawAnnotation& x = annotations_[static_cast<size_t>(a)];
      const RawAnnotation& y = annotations_[static_cast<size_t>(b)];
      const bool own_x = x.thread == l.thread;
      const bool own_y = y.thread == l.thread;
      if (own_x != own_y) return own_x;
      return x.end - x.begin < y.end - y.begin;
    };
    for (const int32_t a : open) {
      if (annotations_[static_cast<size_t>(a)].process != l.process) continue;
      if (!found[i] || better(a, *found[i])) found[i] = a;
    }
  }
  return found;
}

Trace Reader::finish() {
  if (device_.empty()) {
    source_.refuse("no device events in the trace: profile with ProfilerActivity.CUDA");
  }
  // Picoseconds of 64 bits hold 106 days.
  constexpr Nanoseconds kMost = 100LL * 24 * 3600 * 1'000'000'000;
  const auto median = device_.begin() + static_cast<int64_t>(device_.size() / 2);
  std::nth_element(device_.begin(), median, device_.end(), [](const auto& a, const auto& b) {
    return a.begin < b.begin;
  });
  const Nanoseconds middle = median->begin;
  for (const RawDevice& d : device_) {
    if (d.begin - middle < kMost / 2 && middle - d.begin < kMost / 2) continue;
    source_.fail(fmt::format("event '{}' lies more than 50 days from the others: its ts is odd",
                             shown(trace_.names[static_cast<size_t>(d.event.name)])));
  }
  std::erase_if(annotations_, [&](const RawAnnotation& a) {
    return a.begin - middle > kMost / 2 || middle - a.begin > kMost / 2;
  });
  std::sort(annotations_.begin(), annotations_.end(), [](const auto& a, const auto& b) {
    return std::tie(a.begin, b.end) < std::tie(b.begin, a.end);
  });
  std::stable_sort(device_.begin(), device_.end(), [](const auto& a, const auto& b) {
    return a.begin < b.begin;
  });
  std::vector<Launch> launches;
  for (const RawDevice& d : device_) {
    const auto launch = d.correlation ? launches_.find(*d.correlation) : launches_.end();
    if (launch == launches_.end()) ++trace_.orphans;
    launches.push_back(launch == launches_.end() ? Launch{.at = INT64_MIN} : launch->second);
  }
  const auto annotation = innermost(launches);
  const Nanoseconds origin = device_.front().begin;
  const auto since = [&](Nanoseconds t) {
    if (t - origin > kMost || origin - t > kMost) {
      source_.refuse("an event lasts more than 50 days");
    }
    return Duration::nanoseconds(t - origin);
  };
  for (size_t i = 0; i < device_.size(); ++i) {
    DeviceEvent e = device_[i].event;
    e.begin = since(device_[i].begin);
    e.end = since(device_[i].end);
    e.annotation = annotation[i];
    trace_.events.push_back(e);
  }
  for (const RawAnnotation& a : annotations_) {
    trace_.annotations.push_back({a.name, since(a.begin), since(a.end)});
  }
  return std::move(trace_);
}

Trace parse(Source& source,
            const std::string& path,
            const std::function<bool(std::string_view)>& wanted) {
  if (source.end()) throw InputError(path + ": is empty; expected a profiler's trace");
  Reader reader(source, wanted);
  nlohmann::json::sax_parse(SourceIterator(&source), SourceIterator(), &reader);
  if (!reader.has_events()) {
    throw InputError(path +
                     ": not a trace: expected an object with a key 'traceEvents', or an array of "
                     "events");
  }
  return reader.finish();
}

}  // namespace

Trace read_trace(const std::string& path,
                 const std::function<void(int64_t)>& progress,
                 const std::function<bool(std::string_view)>& wanted) {
  Source source(path, progress);
  return parse(source, path, wanted);
}

Trace parse_trace(std::string_view text,
                  const std::string& path,
                  const std::function<bool(std::string_view)>& wanted) {
  Source source(text, path);
  return parse(source, path, wanted);
}

}  // namespace rehearse
