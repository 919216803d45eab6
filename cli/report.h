#pragma once
// A result as a tree of named figures, lines and tables: built once, printed as text for people and
// as JSON for programs (whose keys are a contract) by one printer each.

#include <cstdint>
#include <memory>
#include <string>
#include <variant>
#include <vector>

#include "base/units.h"
#include "sim/budget.h"

namespace rehearse::cli {

// A figure: how people read it, and what programs get. Times are seconds there, sizes bytes, rates
// per second.
struct Value {
  using Scalar = std::variant<std::monostate, bool, int64_t, double, std::string>;
  std::string text;
  Scalar scalar;

  Value() = default;  // nothing: JSON's null, an empty cell
  Value(Duration d) : text(to_string(d)), scalar(d.seconds()) {}
  Value(Bytes b) : text(to_string(b)), scalar(b.count()) {}
  Value(BytesPerSecond r) : text(to_string(r)), scalar(r.value()) {}
  Value(bool b) : text(b ? "yes" : "no"), scalar(b) {}
  Value(int64_t n) : text(std::to_string(n)), scalar(n) {}
  Value(size_t n) : Value(static_cast<int64_t>(n)) {}
  Value(int n) : Value(static_cast<int64_t>(n)) {}
  Value(double x);
  Value(std::string s) : text(s), scalar(std::move(s)) {}
  Value(std::string_view s) : Value(std::string(s)) {}
  Value(const char* s) : Value(std::string(s)) {}
  // Read in other words than programs get.
  Value(std::string shown, Scalar s) : text(std::move(shown)), scalar(std::move(s)) {}
};
// "12.3%" of a share; "+1.2%" of a signed one.
Value share(double x);
Value signed_share(double x);
// "+1.2 ms": durations have no sign of their own.
Value signed_time(Duration d);
std::string percent(double signed_share);  // "+3.1%"

class Report {
 public:
  // --- figures of this object
  // For programs alone.
  void put(std::string key, Value value);
  void put(std::string key, std::vector<Value> values);
  // "  label   value" for people.
  void line(std::string key, std::string label, Value value);
  // With its 90% interval: for programs under key and key_interval.
  void line(const std::string& key, const std::string& label, const Figure& figure);
  // For people alone.
  void say(std::string text);

  // A nested object, shown where it stands.
  Report& section(std::string key);
  // A nested object for programs alone.
  void put_object(std::string key, Report object);
  // All entries of `other`, behind this one's.
  void merge(Report other);
  // A list of nested objects: each call adds one to the list of that key.
  Report& item(const std::string& key);

  // Rows of figures: for programs a list of objects, or an object by the first column's values. A
  // column without heading is not shown, one without key not given to programs.
  struct Table {
    struct Column {
      std::string key, heading;
    };
    std::vector<Column> columns;
    std::vector<std::vector<Value>> rows;
    bool by_first = false;    // an object whose keys are the first column's scalars, texts all
    size_t shown = SIZE_MAX;  // rows for people; "... N in all" stands for the others
    std::vector<std::vector<Value>> below;   // rows for people alone, such as a mean
    std::vector<std::vector<Value>> unseen;  // rows for programs alone, such as zeros

    void row(std::vector<Value> cells) { rows.push_back(std::move(cells)); }
  };
  // key: none for a table for people alone.
  void table(std::string key, Table table);

  struct Entry;  // cli/report.cpp and its printers
  const std::vector<std::unique_ptr<Entry>>& entries() const { return entries_; }

  Report();
  ~Report();
  Report(Report&&) noexcept;
  Report& operator=(Report&&) noexcept;

 private:
  Entry& add();
  std::vector<std::unique_ptr<Entry>> entries_;
};

struct Report::Entry {
  enum class Kind : uint8_t { kPut, kList, kLine, kSay, kSection, kObject, kItems, kTable };
  Kind kind = Kind::kPut;
  std::string key, label;  // label: the text, of kSay
  std::vector<Value> values;
  std::vector<Report> children;  // of kSection and kObject (one), kItems
  Table table;
};

std::string print_text(const Report& report);
// One object, `indent` spaces per level (-1: on one line), a line's end.
std::string print_json(const Report& report, int indent = 2);
// A table alone, as text.
std::string print_text(const Report::Table& table);

}  // namespace rehearse::cli
