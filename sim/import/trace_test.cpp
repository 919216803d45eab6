#include "sim/import/trace.h"

#include <filesystem>
#include <fstream>

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <zlib.h>

#include "base/errors.h"
#include "base/file.h"

namespace rehearse {
namespace {

namespace fs = std::filesystem;

std::string error_of(const std::string& text) {
  try {
    parse_trace(text, "t.json");
  } catch (const InputError& e) {
    return e.what();
  }
  return "";
}

std::string event(const std::string& fields) {
  return fmt::format(R"({{"traceEvents": [{{"ph": "X", {}}}]}})", fields);
}

TEST(Trace, TakesDeviceEventsAndTheAnnotationsThatLaunchedThem) {
  const Trace t = parse_trace(
      read_file(std::string(REHEARSE_SOURCE_DIR) + "/tests/corpus/trace/annotated.txt"), "t.json");
  EXPECT_EQ(t.device, "NVIDIA H800");
  EXPECT_EQ(t.sms, 132);
  EXPECT_EQ(t.world, 4);
  EXPECT_EQ(t.orphans, 0);
  ASSERT_EQ(t.events.size(), 5u);
  ASSERT_EQ(t.annotations.size(), 3u);
  const auto of = [&](size_t i) {
    return t.annotations[static_cast<size_t>(t.events[i].annotation.value())].name;
  };
  EXPECT_EQ(of(0), "attn(F)");
  EXPECT_EQ(of(1), "attn(F)");  // launched by another thread while the first one waits
  EXPECT_EQ(of(2), "mlp(F)");
  EXPECT_EQ(of(4), "dispatch(F)");
  EXPECT_EQ(t.events[0].begin, Duration());
  EXPECT_EQ(t.events[1].begin, Duration::microseconds(31));
  EXPECT_EQ(t.events[1].end, Duration::microseconds(36));
  EXPECT_EQ(t.events[0].grid[0], 32);
  EXPECT_EQ(t.events[0].grid[1], 2);
  EXPECT_EQ(t.events[3].stream, 27);
}

TEST(Trace, ABareArrayWithFractionsAndWithoutLaunches) {
  const Trace t = parse_trace(
      read_file(std::string(REHEARSE_SOURCE_DIR) + "/tests/corpus/trace/bare.txt"), "t.json");
  ASSERT_EQ(t.events.size(), 3u);
  EXPECT_EQ(t.orphans, 3);
  EXPECT_EQ(t.events[0].annotation, std::nullopt);
  EXPECT_EQ(t.events[0].end, Duration::nanoseconds(2250));
  EXPECT_EQ(t.events[1].begin, Duration::nanoseconds(3500));
}

// Microseconds since 1970 with decimals have more digits than a double.
TEST(Trace, DecimalEpochTimesAreExact) {
  const Trace t = parse_trace(
      R"([{"ph":"X","cat":"kernel","name":"a","ts":1712345678901002.100,"dur":2.1},
          {"ph":"X","cat":"kernel","name":"b","ts":1712345678901004.2,"dur":2.137}])",
      "t.json");
  ASSERT_EQ(t.events.size(), 2u);
  EXPECT_EQ(t.events[0].end, Duration::nanoseconds(2100));
  EXPECT_EQ(t.events[1].begin, Duration::nanoseconds(2100));
  EXPECT_EQ(t.events[1].end, Duration::nanoseconds(4237));
}

// The nearest annotation of the launching thread wins over a shorter one of another thread.
TEST(Trace, NestedAnnotations) {
  std::string events;
  const auto annotation = [&](const char* name, int tid, int ts, int dur) {
    events += fmt::format(
        R"({{"ph":"X","cat":"user_annotation","name":"{}","pid":1,"tid":{},"ts":{},"dur":{}}},)",
        name,
        tid,
        ts,
        dur);
  };
  annotation("outer", 1, 0, 100);
  annotation("inner", 1, 10, 50);
  annotation("elsewhere", 2, 20, 5);
  for (const auto& [id, tid, ts] :
       {std::tuple(1, 1, 5), std::tuple(2, 1, 22), std::tuple(3, 1, 70)}) {
    events += fmt::format(
        R"({{"ph":"X","cat":"cuda_runtime","name":"l","pid":1,"tid":{},"ts":{},"dur":1,"args":{{"correlation":{}}}}},)"
        R"({{"ph":"X","cat":"kernel","name":"k","pid":0,"tid":7,"ts":{},"dur":1,"args":{{"correlation":{}}}}},)",
        tid,
        ts,
        id,
        1000 + id,
        id);
  }
  events.pop_back();
  const Trace t = parse_trace("[" + events + "]", "t.json");
  const auto of = [&](size_t i) {
    return t.annotations[static_cast<size_t>(t.events[i].annotation.value())].name;
  };
  EXPECT_EQ(of(0), "outer");
  EXPECT_EQ(of(1), "inner");
  EXPECT_EQ(of(2), "outer");
}

// A launch by `process` and what it started, `ts` microseconds on.
std::string launched(int correlation, double ts, int process = 100, int device = 0) {
  return fmt::format(
      R"({{"ph": "X", "cat": "cuda_runtime", "name": "l", "pid": {0}, "tid": 1, "ts": {1:.1f}, "dur": 1,)"
      R"( "args": {{"correlation": {2}}}}},)"
      R"({{"ph": "X", "cat": "kernel", "name": "k{2}", "pid": {3}, "tid": 7, "ts": {4:.1f}, "dur": 5,)"
      R"( "args": {{"correlation": {2}, "stream": 7, "device": {3}}}}},)",
      process,
      ts,
      correlation,
      device,
      ts + 10);
}
std::string annotation(const std::string& name, double ts, double dur) {
  return fmt::format(R"({{"ph": "X", "cat": "user_annotation", "name": "{}", "pid": 100, "tid": 1,)"
                     R"( "ts": {:.1f}, "dur": {:.1f}}},)",
                     name,
                     ts,
                     dur);
}
std::string trace_of(std::string events) {
  events.pop_back();
  return "[" + events + "]";
}

TEST(Trace, IsOfOneProcessAndOneDevice) {
  EXPECT_EQ(error_of(trace_of(launched(1, 1e9) + launched(2, 1e9 + 20))), "");
  EXPECT_NE(error_of(trace_of(launched(1, 1e9) + launched(1, 1e9, 200, 0)))
                .find("correlation 1 is of processes 100 and 200"),
            std::string::npos);
  EXPECT_NE(error_of(trace_of(launched(1, 1e9) + launched(2, 1e9, 100, 1)))
                .find("event 'k2' ran on device 1, others on 0"),
            std::string::npos);
}

TEST(Trace, WhatIsOddIsNamedAsWhatItIs) {
  EXPECT_NE(error_of(trace_of(annotation("a", 1e15, 400))).find("no device events in the trace"),
            std::string::npos);
  // One annotation of a clock that was not set, among true ones.
  const double now = 1.7e15;
  const Trace t = parse_trace(
      trace_of(annotation("far", 0, 0) + annotation("a", now, 400) + launched(1, now + 20)),
      "t.json");
  ASSERT_EQ(t.annotations.size(), 1u);
  EXPECT_EQ(t.annotations[0].name, "a");
  EXPECT_EQ(t.events[0].annotation, 0);
  EXPECT_NE(error_of(trace_of(launched(1, 0) + launched(2, now) + launched(3, now + 50)))
                .find("event 'k1' lies more than 50 days from the others"),
            std::string::npos);
}

TEST(Trace, AnnotationsThatNobodyWantsAreTransparent) {
  const std::string text = trace_of(annotation("attn(F)", 1000, 400) +
                                    annotation("inner", 1010, 100) + launched(1, 1020));
  const auto wanted = [](std::string_view name) { return name != "inner"; };
  const Trace t = parse_trace(text, "t.json", wanted);
  ASSERT_EQ(t.annotations.size(), 1u);
  EXPECT_EQ(t.annotations[static_cast<size_t>(*t.events[0].annotation)].name, "attn(F)");
  EXPECT_EQ(t.passed_over, 1);
}

TEST(Trace, WhatIsWrongIsSaid) {
  EXPECT_EQ(error_of(""), "t.json: is empty; expected a profiler's trace");
  EXPECT_NE(error_of("{}").find("expected an object with a key 'traceEvents'"), std::string::npos);
  EXPECT_NE(error_of("7").find("expected an object with a key 'traceEvents'"), std::string::npos);
  EXPECT_NE(error_of("{\"traceEvents\": [\n{\"ph\": \"X\",\n")
                .find("t.json:3: not a trace: syntax error"),
            std::string::npos);
  EXPECT_NE(error_of("{\"traceEvents\": [{]}").find("syntax error"), std::string::npos);
  EXPECT_NE(
      error_of(event(R"("cat": "kernel", "name": "k", "ts": 1)")).find("event 'k' has no dur"),
      std::string::npos);
  EXPECT_NE(
      error_of(event(R"("cat": "kernel", "name": "k", "dur": 1)")).find("event 'k' has no ts"),
      std::string::npos);
  EXPECT_NE(error_of(event(R"("cat": "kernel", "name": "k", "ts": 1, "dur": -3)"))
                .find("event 'k' lasts -3 us: a duration cannot be negative"),
            std::string::npos);
  EXPECT_NE(error_of(event(R"("cat": "kernel", "name": "k", "ts": "1", "dur": 3)"))
                .find("ts is a string, expected a number"),
            std::string::npos);
  EXPECT_NE(error_of(event(R"("cat": "kernel", "name": "k", "ts": 1e300, "dur": 3)"))
                .find("is out of range"),
            std::string::npos);
  EXPECT_NE(
      error_of(
          event(R"("cat": "kernel", "name": "k", "ts": 1, "dur": 1, "args": {"correlation": 0.5})"))
          .find("correlation is 0.5, expected a whole number"),
      std::string::npos);
  EXPECT_NE(
      error_of(
          event(R"("cat": "kernel", "name": "k", "ts": 1, "dur": 1, "args": {"grid": [-1, 1, 1]})"))
          .find("a grid of -1 blocks"),
      std::string::npos);
}

TEST(Trace, HostileTextsHitLimitsAndNotMemory) {
  EXPECT_NE(error_of("{\"traceEvents\": " + std::string(100'000, '[')).find("nested more than 64"),
            std::string::npos);
  EXPECT_NE(error_of("{\"a\": " + std::string(100'000, '{')).find("syntax error"),
            std::string::npos);
  EXPECT_NE(error_of("{\"traceEvents\": [\"" + std::string(2'000'000, 'x')).find("more than 1 MB"),
            std::string::npos);
  EXPECT_NE(error_of("{\"traceEvents\": [" + std::string(2'000'000, '7')).find("more than 1 MB"),
            std::string::npos);
}

class TraceFile : public testing::Test {
 protected:
  void SetUp() override {
    const auto* info = testing::UnitTest::GetInstance()->current_test_info();
    path_ =
        (fs::temp_directory_path() / (std::string("rehearse_") + info->name() + ".gz")).string();
  }
  void TearDown() override { fs::remove(path_); }
  void write_gzip(const std::string& text, int64_t times, const std::string& end) {
    gzFile file = gzopen(path_.c_str(), "wb1");
    gzputs(file, "[");
    for (int64_t i = 0; i < times; ++i)
      gzwrite(file, text.data(), static_cast<unsigned>(text.size()));
    gzputs(file, end.c_str());
    gzclose(file);
  }
  std::string path_;
};

// A gigabyte of events that nothing needs, compressed: read as a stream.
TEST_F(TraceFile, AGigabyteTakesLittleMemory) {
  const std::string useless = R"({"ph": "X", "cat": "cpu_op", "name": ")" +
                              std::string(65'000, 'a') + R"(", "ts": 1, "dur": 2},)";
  write_gzip(useless, 16'500, R"({"ph": "X", "cat": "kernel", "name": "k", "ts": 5, "dur": 2}])");
  rusage before{};
  getrusage(RUSAGE_SELF, &before);
  const Trace t = read_trace(path_);
  rusage after{};
  getrusage(RUSAGE_SELF, &after);
  EXPECT_EQ(t.events.size(), 1u);
  EXPECT_LT(after.ru_maxrss - before.ru_maxrss, 100 * 1024);  // KiB
}

TEST_F(TraceFile, ACutOffGzipIsRecognised) {
  write_gzip(R"({"ph": "X", "cat": "kernel", "name": "k", "ts": 5, "dur": 2},)",
             20'000,
             R"({"ph": "X", "cat": "kernel", "name": "k", "ts": 5, "dur": 2}])");
  EXPECT_EQ(read_trace(path_).events.size(), 20'001u);
  fs::resize_file(path_, fs::file_size(path_) / 2);
  try {
    read_trace(path_);
    FAIL();
  } catch (const InputError& e) {
    EXPECT_NE(std::string(e.what()).find("not a trace: "), std::string::npos) << e.what();
  }
}

}  // namespace
}  // namespace rehearse
