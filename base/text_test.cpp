#include "base/text.h"

#include <gtest/gtest.h>

namespace rehearse {
namespace {

TEST(Text, TellsWhatIsNoUtf8) {
  EXPECT_FALSE(first_not_utf8("plain, é, 中文, 😀"));
  EXPECT_EQ(first_not_utf8("caf\xe9"), 3u);
  EXPECT_EQ(first_not_utf8("\xc3"), 0u);              // cut off
  EXPECT_EQ(first_not_utf8("a\xc0\xaf"), 1u);         // overlong
  EXPECT_EQ(first_not_utf8("\xe0\x80\x80"), 0u);      // overlong
  EXPECT_EQ(first_not_utf8("\xed\xa0\x80"), 0u);      // a surrogate
  EXPECT_EQ(first_not_utf8("\xf4\x90\x80\x80"), 0u);  // beyond U+10FFFF
  EXPECT_FALSE(first_not_utf8("\xf4\x8f\xbf\xbf"));   // U+10FFFF
}

TEST(Text, EscapesWhatCannotBeShown) {
  EXPECT_EQ(printable("caf\xe9 \x1b[31m\x7f\tx\n"), "caf\\xe9 \\x1b[31m\\x7f x\n");
  EXPECT_EQ(printable("\xc2\x9b"), "\\xc2\\x9b");  // a C1 control
  EXPECT_EQ(printable("中文注释", 2), "中文...");
  EXPECT_EQ(valid_utf8("caf\xe9\x1b"), "caf\\xe9\x1b");
  EXPECT_EQ(valid_utf8("é"), "é");
}

TEST(Text, CutsBetweenCharacters) {
  EXPECT_EQ(whole_characters("éé", 3), "é");
  EXPECT_EQ(whole_characters("éé", 4), "éé");
  EXPECT_EQ(whole_characters("\xe9\xe9\xe9", 2), "\xe9\xe9");
  EXPECT_EQ(whole_characters("中", 2), "");
}

TEST(Text, KnowsColumns) {
  EXPECT_EQ(columns_of("abc"), 3u);
  EXPECT_EQ(columns_of("é中"), 3u);
  EXPECT_EQ(columns_of("e\xcc\x81"), 1u);  // a combining acute
}

}  // namespace
}  // namespace rehearse
