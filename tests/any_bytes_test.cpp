// Text that is no UTF-8, or whose characters are of several bytes, wherever it may come from: an
// error object or an answer, in UTF-8, and nothing cut within a character.

#include <nlohmann/json.hpp>

#include "base/text.h"
#include "tests/command.h"

namespace rehearse {
namespace {

using Json = nlohmann::json;

class AnyBytes : public CommandTest {
 protected:
  static std::string plan(const std::string& model, const std::string& schedule = "1f1b") {
    return "model: " + model + "\ncluster: localhost.yaml\nlayout: {pp: 1, schedule: " + schedule +
           "}\ntraining: {micro_batches: 2, micro_batch_size: 1, sequence_length: 32}\n";
  }
  // The answer to a call with --json.
  Json answer(const std::string& arguments, int code) {
    const CommandResult r = rehearse(arguments + " --json");
    EXPECT_EQ(r.exit_code, code) << arguments << ": " << r.err;
    EXPECT_FALSE(first_not_utf8(r.out)) << arguments;
    EXPECT_FALSE(first_not_utf8(r.err)) << arguments;
    EXPECT_TRUE(Json::accept(r.out)) << arguments << ": " << r.out;
    return Json::accept(r.out) ? Json::parse(r.out) : Json();
  }
};

TEST_F(AnyBytes, InAFile) {
  write("bad.yaml", "# caf\xe9\n" + plan("tiny-v3"));
  for (const std::string verb : {"inspect", "simulate", "train", "calibrate", "compare"}) {
    const Json error = answer(verb + " bad.yaml", 1)["error"];
    EXPECT_EQ(error["line"], 1) << verb;
    EXPECT_EQ(error["column"], 6) << verb;
    EXPECT_NE(error["message"].get<std::string>().find("byte 0xe9 is no UTF-8"), std::string::npos);
  }
  // Behind characters of several bytes columns are characters.
  write("wide.yaml", plan("tiny-v3") + "# \xe4\xb8\xad\xe6\x96\x87\xff\n");
  EXPECT_EQ(answer("inspect wide.yaml", 1)["error"]["column"], 5);
  write("zero.yaml", std::string("model: x\0y\n", 11));
  EXPECT_NE(answer("inspect zero.yaml", 1)["error"]["message"].get<std::string>().find("zero byte"),
            std::string::npos);
}

TEST_F(AnyBytes, InANameAndAnArgument) {
  write("caf\xe9.yaml", plan("tiny-v3"));
  EXPECT_EQ(answer("inspect caf\xe9.yaml", 0)["model"], "tiny-v3");
  EXPECT_EQ(answer("inspect none\xe9.yaml", 1)["error"]["file"], "none\\xe9.yaml");
  EXPECT_EQ(answer("inspect --\xe9", 2)["error"]["kind"], "usage");
  write("p.yaml", plan("tiny-v3"));
  answer("simulate p.yaml --timeline o\xe9/t.json", 0);
  EXPECT_TRUE(exists("o\xe9/t.json"));
  answer("simulate p.yaml --calibration c\xe9.yaml", 1);
}

// A line is cut between characters, and the caret stands where the fault is.
TEST_F(AnyBytes, InALongLine) {
  for (const std::string& character : {"\xc3\xa9", "\xe4\xb8\xad", "\xf0\x9f\x98\x80"}) {
    for (size_t shift = 0; shift < 4; ++shift) {
      std::string comment(shift, ' ');
      for (int i = 0; i < 300; ++i) comment += character;
      std::string text = plan("tiny-v3", "nope");
      text.replace(text.find("}\n"), 2, "}  # " + comment + "\n");
      write("long.yaml", text);
      const Json error = answer("inspect long.yaml", 1)["error"];
      const std::string message = error["message"];
      const size_t line = message.find('\n') + 1;
      const size_t caret = message.find('\n', line) + 1;
      EXPECT_EQ(message.find('^', caret) - caret, message.find("nope", line) - line);
    }
  }
}

}  // namespace
}  // namespace rehearse
