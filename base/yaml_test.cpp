#include "base/yaml.h"

#include <functional>

#include <gtest/gtest.h>

#include "base/errors.h"

namespace rehearse {
namespace {

// The whole text of the InputError that reading `yaml` with `read` throws.
std::string error_of(const std::string& yaml, const std::function<void(YamlMap&)>& read) {
  try {
    YamlMap top = YamlFile::parse(yaml, "a.yaml").root();
    read(top);
    top.finish();
  } catch (const InputError& e) {
    return e.what();
  }
  return "no error";
}

TEST(Yaml, ReadsWhatIsThere) {
  YamlMap top =
      YamlFile::parse("n: 12\nrate: 50 GB/s\nlist: [1, 2]\nsub: {on: true}\n", "a.yaml").root();
  EXPECT_EQ(top.integer("n"), 12);
  EXPECT_EQ(top.rate("rate"), BytesPerSecond(50e9));
  EXPECT_EQ(top.integers("list"), (std::vector<int64_t>{1, 2}));
  YamlMap sub = top.map("sub");
  EXPECT_TRUE(sub.boolean("on", false));
  sub.finish();
  EXPECT_EQ(top.integer("absent", {}, 7), 7);
  top.finish();
}

TEST(Yaml, MissingUnit) {
  EXPECT_EQ(error_of("links:\n  - name: nvlink\n    bandwidth: 450\n",
                     [](YamlMap& top) {
                       auto links = top.maps("links");
                       links[0].text("name");
                       links[0].rate("bandwidth");
                     }),
            "a.yaml:3:16: links[0].bandwidth: expected a rate with a unit, such as \"450 GB/s\", "
            "found '450'\n"
            "        bandwidth: 450\n"
            "                   ^");
}

TEST(Yaml, UnknownKeyNamesTheNearest) {
  EXPECT_EQ(error_of("schedul: x\n", [](YamlMap& top) { top.has("schedule"); }),
            "a.yaml:1:1: schedul: unknown key; did you mean 'schedule'?\n"
            "    schedul: x\n"
            "    ^");
}

TEST(Yaml, DuplicateKey) {
  EXPECT_EQ(error_of("a: 1\nb: 2\na: 3\n", [](YamlMap& top) { top.integer("a"); }),
            "a.yaml:3:1: a: this key is given twice; keep one of them\n"
            "    a: 3\n"
            "    ^");
}

TEST(Yaml, MissingKey) {
  EXPECT_EQ(error_of("a: 1\n", [](YamlMap& top) { top.integer("b"); }),
            "a.yaml:1:1: b: this key is missing\n"
            "    a: 1\n"
            "    ^");
}

TEST(Yaml, AnIntegerWithALeadingZeroIsNotOctal) {
  EXPECT_EQ(error_of("n: 010\n", [](YamlMap& top) { top.integer("n", {.min = 1}); }),
            "a.yaml:1:4: n: expected an integer of at least 1, found '010'\n"
            "    n: 010\n"
            "       ^");
  EXPECT_NE(error_of("n: 0x10\n", [](YamlMap& top) { top.integer("n"); }), "no error");
  EXPECT_NE(error_of("n: 1_000\n", [](YamlMap& top) { top.integer("n"); }), "no error");
  EXPECT_EQ(error_of("n: 0\n", [](YamlMap& top) { top.integer("n"); }), "no error");
}

TEST(Yaml, SyntaxErrorsHaveAPlaceToo) {
  EXPECT_EQ(error_of("a: [1, 2\nb: 3\n", [](YamlMap&) {}).substr(0, 33),
            "a.yaml:2:2: not valid YAML: end o");
  EXPECT_EQ(error_of("- 1\n", [](YamlMap&) {}),
            "a.yaml:1:1: expected a mapping of keys to values, found a list\n"
            "    - 1\n"
            "    ^");
  EXPECT_NE(error_of("", [](YamlMap&) {}), "no error");
}

TEST(Yaml, ChoicesAreListed) {
  EXPECT_EQ(error_of("s: gpipe\n",
                     [](YamlMap& top) {
                       top.choice<int>("s", {{"1f1b", 1}, {"dualpipe", 2}});
                     }),
            "a.yaml:1:4: s: expected one of 1f1b, dualpipe, found 'gpipe'\n"
            "    s: gpipe\n"
            "       ^");
}

// yaml-cpp 0.7 takes these for endlessly many documents.
TEST(Yaml, EndsOnWhatYamlCppNeverFinishes) {
  for (const std::string text : {",", "]", "a: 1\n, b: 2}\n", "}\n{{{{{{{{{{{{{{{{{{{{\n"}) {
    EXPECT_THROW(YamlFile::parse(text, "f.yaml"), InputError) << text;
  }
  try {
    YamlFile::parse(",", "f.yaml");
  } catch (const InputError& e) {
    EXPECT_STREQ(e.what(), "f.yaml:1:1: not valid YAML: unexpected here\n    ,\n    ^");
  }
}

// Every quantity has a range, checked after its unit.
TEST(Yaml, QuantitiesAreWithinWhatTheyCanBe) {
  const auto refusal = [](const std::string& value, auto read) -> std::string {
    YamlMap map = YamlFile::parse("key: " + value + "\n", "q.yaml").root();
    try {
      read(map);
    } catch (const InputError& e) {
      const std::string what = e.what();
      return what.substr(0, what.find('\n'));
    }
    return "";
  };
  const auto rate = [](YamlMap& m) { m.rate("key"); };
  EXPECT_EQ(refusal("1e300 GB/s", rate),
            "q.yaml:1:6: key: '1e300 GB/s' is beyond what a rate can be here: 1 B/s to 1 EB/s");
  EXPECT_NE(refusal("1e-18 GB/s", rate), "");
  EXPECT_NE(refusal("0 B/s", rate), "");
  EXPECT_NE(refusal("2 YB/s", rate), "");
  EXPECT_EQ(refusal("1 B/s", rate), "");
  EXPECT_EQ(refusal("1e6 TB/s", rate), "");
  const auto flops = [](YamlMap& m) { m.flop_rate("key"); };
  EXPECT_NE(refusal("1e-12 TFLOP/s", flops), "");
  EXPECT_NE(refusal("1e300 PFLOP/s", flops), "");
  EXPECT_EQ(refusal("1979 TFLOP/s", flops), "");
  const auto time = [](YamlMap& m) { m.duration("key"); };
  EXPECT_EQ(refusal("100 h", time),
            "q.yaml:1:6: key: '100 h' is beyond what a time can be here: 0 to 60 s");
  EXPECT_NE(refusal("1e300 h", time), "");
  EXPECT_EQ(refusal("1 min", time), "");
  const auto tokens = [](YamlMap& m) { m.tokens("key"); };
  EXPECT_NE(refusal("0 tokens", tokens), "");
  EXPECT_NE(refusal("1e300 T tokens", tokens), "");
  const auto number = [](YamlMap& m) { m.number("key"); };
  EXPECT_NE(refusal("1e300", number), "");
  EXPECT_NE(refusal(".inf", number), "");
}

}  // namespace
}  // namespace rehearse
