// A Report says the same to people and to programs.

#include "cli/report.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

namespace rehearse::cli {
namespace {

using Json = nlohmann::ordered_json;

TEST(Report, LinesAreReadAndCounted) {
  Report r;
  r.say("a step\n");
  r.line("step_time_s", "step time", Duration::microseconds(1500));
  r.line("bubble_fraction", "bubble", share(0.125));
  r.line("days", "days", Figure{2, 1, 4});
  r.put("ops", 12);
  r.put("none", Value());
  EXPECT_EQ(print_text(r),
            "a step\n"
            "  step time              1.5 ms\n"
            "  bubble                 12.5%\n"
            "  days                   2   (90%: 1 to 4)\n");
  EXPECT_EQ(Json::parse(print_json(r)),
            (Json{{"step_time_s", 0.0015},
                  {"bubble_fraction", 0.125},
                  {"days", 2.0},
                  {"days_interval", {1.0, 4.0}},
                  {"ops", 12},
                  {"none", nullptr}}));
}

TEST(Report, TablesAreListsOfObjects) {
  Report r;
  Report::Table t{.columns = {{"op", "op"}, {"time_s", "time"}, {"", "share"}, {"bytes", ""}},
                  .shown = 1};
  t.row({"attn.F", Duration::microseconds(2), share(0.5), Bytes(7)});
  t.row({"mlp.F", Duration::microseconds(3), share(0.5), Bytes(8)});
  t.below = {{"mean", Duration::microseconds(2.5)}};
  r.table("ops", t);
  EXPECT_EQ(print_text(r),
            "  op              time  share\n"
            "  attn.F          2 us  50.0%\n"
            "  ... 2 in all\n"
            "  mean          2.5 us\n");
  const Json j = Json::parse(print_json(r))["ops"];
  ASSERT_EQ(j.size(), 2u);
  EXPECT_EQ(j[1], (Json{{"op", "mlp.F"}, {"time_s", 3e-6}, {"bytes", 8}}));
  t.by_first = true;
  Report by_name;
  by_name.table("ops", t);
  EXPECT_EQ(Json::parse(print_json(by_name))["ops"]["attn.F"],
            (Json{{"time_s", 2e-6}, {"bytes", 7}}));
}

TEST(Report, ObjectsNest) {
  Report r;
  r.section("mean").line("f", "F", Duration::microseconds(1));
  r.item("ranks").put("rank", 0);
  r.item("ranks").put("rank", 1);
  Report other;
  other.say("not shown\n");
  other.put("x", 1.5);
  r.put_object("other", std::move(other));
  EXPECT_EQ(print_text(r), "  F                      1 us\n");
  EXPECT_EQ(Json::parse(print_json(r)),
            (Json{{"mean", {{"f", 1e-6}}},
                  {"ranks", {{{"rank", 0}}, {{"rank", 1}}}},
                  {"other", {{"x", 1.5}}}}));
}

}  // namespace
}  // namespace rehearse::cli
