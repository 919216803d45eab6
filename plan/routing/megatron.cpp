// Megatron-LM's router tracer, read.

#include <algorithm>
#include <atomic>
#include <cstring>
#include <mutex>
#include <set>
#include <thread>

#include <fcntl.h>
#include <fmt/format.h>
#include <nlohmann/json.hpp>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/big_memory.h"
#include "base/call_files.h"
#include "base/errors.h"
#include "base/file.h"
#include "plan/routing/foreign.h"

namespace rehearse {
namespace {

[[noreturn]] void fail_at(const std::string& path, size_t byte, const std::string& what) {
  throw InputError(fmt::format("{}: byte {}: {}", path, byte, what));
}

// A line's numbers, read by hand where simdjson would make a value of each: top_indices is all but
// a few bytes of a line.
// REQUIRES: a byte behind the text that is neither digit nor blank, as a line's end is.
class LineReader {
 public:
  LineReader(const std::string& path, std::string_view text, size_t offset)
      : path_(path), text_(text), offset_(offset) {}

  [[noreturn]] void fail(const std::string& what) const { fail_at(path_, offset_ + at_, what); }
  void blanks() {
    while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\t')) ++at_;
  }
  bool take(char c) {
    blanks();
    if (at_ == text_.size() || text_[at_] != c) return false;
    ++at_;
    return true;
  }
  void need(char c) {
    if (!take(c)) {
      fail(fmt::format("expected '{}', found {}",
                       c,
                       at_ == text_.size() ? "the line's end" : fmt::format("'{}'", text_[at_])));
    }
  }
  int64_t number() {
    blanks();
    const bool minus = at_ < text_.size() && text_[at_] == '-';
    if (minus) ++at_;
    const size_t begin = at_;
    int64_t n = 0;
    while (at_ < text_.size() && static_cast<unsigned>(text_[at_] - '0') < 10) {
      n = n * 10 + (text_[at_++] - '0');
      if (n > INT32_MAX) fail("a number beyond 2147483647");
    }
    if (at_ == begin) fail("expected a whole number");
    return minus ? -n : n;
  }
  std::string_view string() {
    need('"');
    const size_t end = text_.find_first_of("\"\\", at_);
    if (end == std::string_view::npos || text_[end] == '\\') fail("expected a plain string");
    const std::string_view s = text_.substr(at_, end - at_);
    at_ = end + 1;
    return s;
  }
  // Any value that is of no interest.
  void skip_value() {
    blanks();
    int depth = 0;
    bool in_string = false;
    for (; at_ < text_.size(); ++at_) {
      const char c = text_[at_];
      if (in_string) {
        if (c == '\\') ++at_;
        if (c == '"') in_string = false;
        continue;
      }
      if (c == '"') in_string = true;
      if (c == '[' || c == '{') ++depth;
      if (depth == 0 && (c == ',' || c == '}')) return;
      if (c == ']' || c == '}') --depth;
    }
    fail("the line is cut off");
  }
  size_t at() const { return at_; }
  const char* cursor() const { return text_.data() + at_; }
  void go_to(const char* cursor) { at_ = static_cast<size_t>(cursor - text_.data()); }
  std::string_view between(size_t begin, size_t end) const {
    return text_.substr(begin, end - begin);
  }
  void require_end() {
    blanks();
    if (at_ != text_.size()) fail("more behind the object's end");
  }

 private:
  const std::string& path_;
  std::string_view text_;
  size_t offset_, at_ = 0;
};

struct Line {
  int64_t step = 0, layer = 0, rank = 0, tokens = 0, active = 0, mtp = -1;
  bool decoder = true;
  size_t choices = 0;  // where they begin in the file's list
};

struct RankFile {
  std::string path;
  std::vector<Line> lines;
  std::vector<uint16_t, BigAllocator<uint16_t>> choices;
  std::string prototype;  // the first line, its values and blanks: how they are written
};

// Which experts a token has chosen already.
class Chosen {
 public:
  explicit Chosen(int64_t experts) : by_(static_cast<size_t>(experts), 0) {}
  void next_token() { ++token_; }
  bool insert(uint32_t expert) { return std::exchange(by_[expert], token_) != token_; }

 private:
  std::vector<uint64_t> by_;  // the last token that chose it
  uint64_t token_ = 0;
};

// Values of `top_indices`: [[..], ..].
void read_indices(LineReader& r,
                  int64_t experts,
                  Line& line,
                  Chosen& chosen,
                  std::vector<uint16_t, BigAllocator<uint16_t>>& to) {
  line.choices = to.size();
  const auto most = static_cast<uint32_t>(experts);
  const auto digit_at = [](const char* p) { return static_cast<unsigned>(*p - '0'); };
  const auto blanks = [](const char* p) {
    while (*p == ' ' || *p == '\t') ++p;
    return p;
  };
  r.need('[');
  line.tokens = 0;
  if (r.take(']')) return;
  do {
    r.need('[');
    chosen.next_token();
    int64_t width = 0;
    for (const char* p = r.cursor();; ++p) {
      p = blanks(p);
      r.go_to(p);
      uint32_t e = digit_at(p) <= 9 ? 0 : most;
      for (; digit_at(p) <= 9 && e < most; ++p) e = e * 10 + digit_at(p);
      if (e >= most) {
        r.fail(fmt::format("token {} chooses expert {} of {}", line.tokens, r.number(), experts));
      }
      if (!chosen.insert(e)) {
        r.fail(fmt::format("token {} chooses expert {} twice", line.tokens, e));
      }
      to.push_back(static_cast<uint16_t>(e));
      ++width;
      p = blanks(p);
      if (*p == ',') continue;
      r.go_to(p);
      break;
    }
    r.need(']');
    if (line.tokens == 0) line.active = width;
    if (width != line.active) {
      r.fail(fmt::format(
          "token {} has {} experts, those before it {}", line.tokens, width, line.active));
    }
    ++line.tokens;
  } while (r.take(','));
  r.need(']');
}

Line read_line(LineReader& r,
               int64_t experts,
               Chosen& chosen,
               std::vector<uint16_t, BigAllocator<uint16_t>>& to) {
  Line line;
  std::set<std::string, std::less<>> seen;
  int64_t told_tokens = -1, told_active = -1;
  r.need('{');
  do {
    const std::string key(r.string());
    if (!seen.insert(key).second) r.fail(fmt::format("the key '{}' twice", key));
    r.need(':');
    if (key == "step") {
      line.step = r.number();
    } else if (key == "layer") {
      line.layer = r.number();
    } else if (key == "rank") {
      line.rank = r.number();
    } else if (key == "num_tokens") {
      told_tokens = r.number();
    } else if (key == "topk") {
      told_active = r.number();
    } else if (key == "mtp_idx") {
      line.mtp = r.number();
    } else if (key == "block") {
      line.decoder = r.string() == "decoder";
    } else if (key == "top_indices") {
      read_indices(r, experts, line, chosen, to);
    } else {
      r.skip_value();
    }
  } while (r.take(','));
  r.need('}');
  r.require_end();
  for (const char* key : {"step", "layer", "rank", "num_tokens", "topk", "top_indices"}) {
    if (!seen.contains(key)) r.fail(fmt::format("the line has no '{}'", key));
  }
  if (told_tokens != line.tokens || told_active != line.active) {
    r.fail(fmt::format("top_indices is of {} tokens with {} experts; num_tokens says {}, topk {}",
                       line.tokens,
                       line.active,
                       told_tokens,
                       told_active));
  }
  if (line.tokens == 0) r.fail("a call on no tokens");
  return line;
}

// A file's bytes as they lie in the page cache: these are large, and read once.
class Mapped {
 public:
  explicit Mapped(const std::string& path) {
    note_input(path);
    const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    struct stat about {};
    if (file < 0 || ::fstat(file, &about) != 0 || !S_ISREG(about.st_mode)) {
      if (file >= 0) ::close(file);
      throw InputError(path + ": no such file");
    }
    size_ = static_cast<size_t>(about.st_size);
    if (size_ > 0) data_ = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE | MAP_POPULATE, file, 0);
    ::close(file);
    if (data_ == MAP_FAILED) throw InputError(path + ": cannot be read");
  }
  ~Mapped() {
    if (data_ != nullptr) ::munmap(data_, size_);
  }
  Mapped(const Mapped&) = delete;
  Mapped& operator=(const Mapped&) = delete;
  std::string_view text() const { return {static_cast<const char*>(data_), size_}; }

 private:
  void* data_ = nullptr;
  size_t size_ = 0;
};

RankFile read_rank(const std::string& path, const MegatronOptions& o, const ImportProgress& done) {
  RankFile f{.path = path, .lines = {}, .choices = {}, .prototype = {}};
  const Mapped file(path);
  const std::string_view text = file.text();
  f.choices.reserve(text.size() / 4);
  Chosen chosen(o.experts);
  for (size_t at = 0; at < text.size();) {
    const size_t end = text.find('\n', at);
    if (end == std::string_view::npos) {
      fail_at(path, text.size(), "the last line is cut off: it has no line's end");
    }
    const std::string_view one = text.substr(at, end - at);
    if (one.empty()) fail_at(path, at, "an empty line");
    LineReader reader(path, one, at);
    f.lines.push_back(read_line(reader, o.experts, chosen, f.choices));
    if (f.prototype.empty()) f.prototype = one;
    if (f.lines.back().rank != f.lines.front().rank) {
      fail_at(
          path,
          at,
          fmt::format(
              "a line of rank {} in rank {}'s file", f.lines.back().rank, f.lines.front().rank));
    }
    done(static_cast<int64_t>(one.size() + 1));
    at = end + 1;
  }
  if (f.lines.empty()) fail_at(path, 0, "no lines");
  return f;
}

// Where a router's call stands: layers of MTP modules behind all others.
constexpr int64_t kBehindAll = 1'000'000;

}  // namespace

ForeignTrace read_megatron(const std::vector<std::string>& files,
                           const MegatronOptions& o,
                           const ImportProgress& progress) {
  std::vector<RankFile> ranks(files.size());
  std::mutex lock;
  std::exception_ptr error;
  std::atomic<size_t> next = 0;
  const auto work = [&] {
    for (size_t i = next++; i < files.size(); i = next++) {
      try {
        int64_t sum = 0;
        ranks[i] = read_rank(files[i], o, [&](int64_t n) {
          constexpr int64_t kOften = 1 << 24;
          if ((sum += n) < kOften) return;
          const std::lock_guard guard(lock);
          progress(sum);
          sum = 0;
        });
        const std::lock_guard guard(lock);
        progress(sum);
      } catch (...) {
        const std::lock_guard guard(lock);
        if (!error) error = std::current_exception();
      }
    }
  };
  std::vector<std::thread> threads;
  for (int32_t t = 1; t < o.threads; ++t) threads.emplace_back(work);
  work();
  for (std::thread& t : threads) t.join();
  if (error) std::rethrow_exception(error);

  // Every (step, layer, data rank)'s calls in their order are its micro-batches.
  struct Call {
    size_t file = 0, line = 0;
  };
  std::map<int64_t, std::map<int64_t, std::map<int64_t, std::vector<Call>>>> calls;
  std::set<int64_t> layers, data_ranks, seen_ranks;
  const Line& first = ranks.front().lines.front();
  for (size_t f = 0; f < ranks.size(); ++f) {
    const RankFile& rank = ranks[f];
    const int64_t number = rank.lines.front().rank;
    if (!seen_ranks.insert(number).second) {
      throw InputError(fmt::format("{}: rank {} has another file already", rank.path, number));
    }
    const auto [offset, data_rank] = o.place(number);
    data_ranks.insert(data_rank);
    for (size_t l = 0; l < rank.lines.size(); ++l) {
      const Line& line = rank.lines[l];
      if (line.tokens != first.tokens || line.active != first.active) {
        throw InputError(
            fmt::format("{}: line {}: {} tokens with {} experts; the first line of {} "
                        "has {} with {}",
                        rank.path,
                        l + 1,
                        line.tokens,
                        line.active,
                        ranks.front().path,
                        first.tokens,
                        first.active));
      }
      if (line.layer - o.layer_base < 0 || line.layer - o.layer_base >= kBehindAll) {
        throw InputError(fmt::format(
            "{}: line {}: layer {}; the first is {}", rank.path, l + 1, line.layer, o.layer_base));
      }
      const int64_t layer = line.decoder ? line.layer - o.layer_base + offset
                                         : kBehindAll + std::max<int64_t>(0, line.mtp);
      layers.insert(layer);
      calls[line.step][layer][data_rank].push_back({f, l});
    }
  }
  // As many everywhere.
  size_t micro_batches = 0;
  std::vector<Call> repeated;  // those left out, call by call as the first ones stand below
  size_t next_repeated = 0;
  for (auto& [step, by_layer] : calls) {
    for (const int64_t layer : layers) {
      for (const int64_t d : data_ranks) {
        std::vector<Call>& of = by_layer[layer][d];
        if (o.recomputed) {
          const size_t half = of.size() / 2;
          bool twice = of.size() % 2 == 0;
          for (size_t i = 0; twice && i < half; ++i) {
            const auto at = [&](const Call& c) {
              return ranks[c.file].choices.begin() +
                     static_cast<ptrdiff_t>(ranks[c.file].lines[c.line].choices);
            };
            const auto size = static_cast<ptrdiff_t>(first.tokens * first.active);
            twice = std::equal(at(of[i]), at(of[i]) + size, at(of[i + half]));
          }
          if (!twice) {
            throw InputError(fmt::format(
                "step {}, layer {}, data rank {}: its {} calls are not the same ones twice, as "
                "recomputation leaves them",
                step,
                layer,
                d,
                of.size()));
          }
          repeated.insert(repeated.end(), of.begin() + static_cast<ptrdiff_t>(half), of.end());
          of.resize(half);
        }
        if (micro_batches == 0) micro_batches = of.size();
        if (of.size() != micro_batches || of.empty()) {
          throw InputError(fmt::format(
              "step {}, layer {}, data rank {}: {} calls; step {}'s first layer has {}: a rank's "
              "file is missing, or its layers need another offset",
              step,
              layer,
              d,
              of.size(),
              calls.begin()->first,
              micro_batches));
        }
      }
    }
  }
  const RoutingShape shape{.micro_batches = static_cast<int64_t>(data_ranks.size() * micro_batches),
                           .layers = static_cast<int64_t>(layers.size()),
                           .tokens = first.tokens,
                           .active = first.active,
                           .experts = o.experts};
  ForeignTrace trace;
  // Where in a step's choices each line of each file went.
  std::vector<std::vector<int64_t>> order(ranks.size());
  for (size_t f = 0; f < ranks.size(); ++f) order[f].resize(ranks[f].lines.size(), -1);
  const auto size = static_cast<size_t>(shape.choices());
  for (const auto& [number, by_layer] : calls) {
    RecordedStep step{.shape = shape, .number = number, .choices = {}};
    step.choices.resize(static_cast<size_t>(shape.micro_batches * shape.layers) * size);
    int64_t layer_index = 0;
    for (const auto& [layer, by_rank] : by_layer) {
      int64_t d = 0;
      for (const auto& [data_rank, of] : by_rank) {
        for (size_t m = 0; m < of.size(); ++m) {
          const int64_t row = d * static_cast<int64_t>(micro_batches) + static_cast<int64_t>(m);
          const auto to = static_cast<size_t>(row * shape.layers + layer_index);
          const RankFile& from = ranks[of[m].file];
          std::copy_n(from.choices.begin() + static_cast<ptrdiff_t>(from.lines[of[m].line].choices),
                      size,
                      step.choices.begin() + static_cast<ptrdiff_t>(to * size));
          const int64_t at =
              static_cast<int64_t>(trace.steps.size()) * shape.micro_batches * shape.layers +
              static_cast<int64_t>(to);
          order[of[m].file][of[m].line] = at;
          if (o.recomputed) {
            const Call& twin = repeated[next_repeated + m];
            order[twin.file][twin.line] = -1 - at;
          }
        }
        next_repeated += of.size();
        ++d;
      }
      ++layer_index;
    }
    trace.steps.push_back(std::move(step));
  }
  trace.about["source"] = "Megatron-LM's router tracer";
  trace.about["megatron_files"] = std::to_string(ranks.size());
  for (size_t f = 0; f < ranks.size(); ++f) {
    const std::string name = fmt::format("megatron_{}", f);
    std::vector<int64_t>& lines = trace.numbers[name];
    for (size_t l = 0; l < ranks[f].lines.size(); ++l) {
      const Line& line = ranks[f].lines[l];
      lines.insert(lines.end(),
                   {line.step, line.layer, line.rank, line.decoder ? 1 : 0, line.mtp, order[f][l]});
    }
    const std::string& p = ranks[f].prototype;
    trace.about[name + "_file"] = ranks[f].path.substr(ranks[f].path.rfind('/') + 1);
    // The first line up to its indices, and what is between values.
    trace.about[name + "_spaced"] = p.find("\": ") != std::string::npos ? "yes" : "no";
    std::string keys;
    LineReader r(ranks[f].path, p, 0);
    r.need('{');
    do {
      const std::string key(r.string());
      r.need(':');
      const size_t begin = r.at();
      r.skip_value();
      std::string_view value = r.between(begin, r.at());
      value.remove_prefix(std::min(value.find_first_not_of(" \t"), value.size()));
      value = value.substr(0, value.find_last_not_of(" \t") + 1);
      const bool is_text = value.starts_with('"');
      if (key == "stage" && is_text) {
        // Unescaped, where it is JSON to the letter.
        const auto text = nlohmann::json::parse(value, nullptr, /*allow_exceptions=*/false);
        trace.about[name + "_stage"] =
            text.is_string() ? text.get<std::string>() : value.substr(1, value.size() - 2);
      }
      // A list with blanks between: other names cannot be in it, nor can they be exported.
      const bool plain = key.find_first_of(" =") == std::string::npos;
      if (plain && (key != "stage" || is_text)) keys += key + " ";
    } while (r.take(','));
    keys.pop_back();
    trace.about[name + "_keys"] = keys;
  }
  return trace;
}

}  // namespace rehearse
