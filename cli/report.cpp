#include "cli/report.h"

#include <algorithm>

#include <fmt/format.h>

#include "base/text.h"

namespace rehearse::cli {

Value::Value(double x) : text(fmt::format("{:.4g}", x)), scalar(x) {}

Value share(double x) {
  return {fmt::format("{:.1f}%", 100 * x), x};
}
Value signed_share(double x) {
  return {percent(x), x};
}
Value signed_time(Duration d) {
  return {d < Duration() ? "-" + to_string(Duration() - d) : "+" + to_string(d), d.seconds()};
}
std::string percent(double signed_share) {
  return fmt::format("{:+.1f}%", 100 * signed_share);
}

Report::Report() = default;
Report::~Report() = default;
Report::Report(Report&&) noexcept = default;
Report& Report::operator=(Report&&) noexcept = default;

Report::Entry& Report::add() {
  return *entries_.emplace_back(std::make_unique<Entry>());
}

void Report::put(std::string key, Value value) {
  Entry& e = add();
  e.key = std::move(key);
  e.values.push_back(std::move(value));
}

void Report::put(std::string key, std::vector<Value> values) {
  Entry& e = add();
  e.kind = Entry::Kind::kList;
  e.key = std::move(key);
  e.values = std::move(values);
}

void Report::line(std::string key, std::string label, Value value) {
  put(std::move(key), std::move(value));
  entries_.back()->kind = Entry::Kind::kLine;
  entries_.back()->label = std::move(label);
}

void Report::line(const std::string& key, const std::string& label, const Figure& f) {
  line(key,
       label,
       {fmt::format("{:.4g}   (90%: {:.4g} to {:.4g})", f.value, f.low, f.high), f.value});
  put(key + "_interval", {f.low, f.high});
}

void Report::say(std::string text) {
  Entry& e = add();
  e.kind = Entry::Kind::kSay;
  e.label = std::move(text);
}

Report& Report::section(std::string key) {
  Entry& e = add();
  e.kind = Entry::Kind::kSection;
  e.key = std::move(key);
  return e.children.emplace_back();
}

void Report::put_object(std::string key, Report object) {
  Entry& e = add();
  e.kind = Entry::Kind::kObject;
  e.key = std::move(key);
  e.children.push_back(std::move(object));
}

void Report::merge(Report other) {
  for (auto& e : other.entries_) entries_.push_back(std::move(e));
}

Report& Report::item(const std::string& key) {
  for (const auto& e : entries_) {
    if (e->kind == Entry::Kind::kItems && e->key == key) return e->children.emplace_back();
  }
  Entry& e = add();
  e.kind = Entry::Kind::kItems;
  e.key = key;
  return e.children.emplace_back();
}

void Report::table(std::string key, Table table) {
  Entry& e = add();
  e.kind = Entry::Kind::kTable;
  e.key = std::move(key);
  e.table = std::move(table);
}

std::string print_text(const Report::Table& table) {
  if (table.rows.empty() && table.below.empty()) return "";
  // Right-aligned columns, the first one left-aligned.
  std::vector<std::vector<std::string>> lines(1);
  std::vector<size_t> columns;
  for (size_t i = 0; i < table.columns.size(); ++i) {
    // The first column may have an empty heading.
    if (i > 0 && table.columns[i].heading.empty()) continue;
    columns.push_back(i);
    lines.front().push_back(table.columns[i].heading);
  }
  const auto add = [&](const std::vector<Value>& row) {
    auto& line = lines.emplace_back();
    for (const size_t i : columns) line.push_back(i < row.size() ? row[i].text : std::string());
  };
  const size_t shown = std::min(table.shown, table.rows.size());
  for (size_t r = 0; r < shown; ++r) add(table.rows[r]);
  if (shown < table.rows.size()) add({fmt::format("... {} in all", table.rows.size())});
  for (const auto& row : table.below) add(row);
  std::vector<size_t> widths(columns.size(), 0);
  for (const auto& line : lines) {
    for (size_t i = 0; i < line.size(); ++i) widths[i] = std::max(widths[i], columns_of(line[i]));
  }
  std::string out;
  for (const auto& line : lines) {
    std::string text;
    for (size_t i = 0; i < line.size(); ++i) {
      const std::string fill(widths[i] - columns_of(line[i]), ' ');
      text += "  " + (i == 0 ? line[i] + fill : fill + line[i]);
    }
    text.erase(text.find_last_not_of(' ') + 1);
    out += text + "\n";
  }
  return out;
}

std::string print_text(const Report& report) {
  using Kind = Report::Entry::Kind;
  std::string out;
  for (const auto& e : report.entries()) {
    switch (e->kind) {
      case Kind::kPut:
      case Kind::kList:
      case Kind::kObject:
        break;
      case Kind::kLine:
        out += fmt::format("  {:<22} {}\n", e->label, e->values.front().text);
        break;
      case Kind::kSay:
        out += e->label;
        break;
      case Kind::kSection:
      case Kind::kItems:
        for (const Report& child : e->children) out += print_text(child);
        break;
      case Kind::kTable:
        out += print_text(e->table);
        break;
    }
  }
  return out;
}

}  // namespace rehearse::cli
