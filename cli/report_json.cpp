// print_json of a Report.

#include <nlohmann/json.hpp>

#include "base/text.h"
#include "cli/report.h"

namespace rehearse::cli {
namespace {

using Json = nlohmann::ordered_json;

Json of(const Value& value) {
  return std::visit(
      [](const auto& x) -> Json {
        if constexpr (std::is_same_v<std::decay_t<decltype(x)>, std::monostate>) {
          return nullptr;
        } else if constexpr (std::is_same_v<std::decay_t<decltype(x)>, std::string>) {
          return valid_utf8(x);
        } else {
          return x;
        }
      },
      value.scalar);
}

Json of(const Report::Table& table) {
  Json out = table.by_first ? Json::object() : Json::array();
  const auto add = [&](const std::vector<Value>& row) {
    Json object = Json::object();
    for (size_t i = table.by_first ? 1 : 0; i < row.size(); ++i) {
      if (!table.columns[i].key.empty()) object[table.columns[i].key] = of(row[i]);
    }
    if (table.by_first) {
      out[valid_utf8(std::get<std::string>(row.front().scalar))] = std::move(object);
    } else {
      out.push_back(std::move(object));
    }
  };
  for (const auto& row : table.rows) add(row);
  for (const auto& row : table.unseen) add(row);
  return out;
}

Json of(const Report& report) {
  using Kind = Report::Entry::Kind;
  Json out = Json::object();
  for (const auto& e : report.entries()) {
    if (e->key.empty()) continue;
    switch (e->kind) {
      case Kind::kPut:
      case Kind::kLine:
        out[e->key] = of(e->values.front());
        break;
      case Kind::kList: {
        Json list = Json::array();
        for (const Value& v : e->values) list.push_back(of(v));
        out[e->key] = std::move(list);
        break;
      }
      case Kind::kSay:
        break;
      case Kind::kSection:
      case Kind::kObject:
        out[e->key] = of(e->children.front());
        break;
      case Kind::kItems: {
        Json list = Json::array();
        for (const Report& child : e->children) list.push_back(of(child));
        out[e->key] = std::move(list);
        break;
      }
      case Kind::kTable:
        out[e->key] = of(e->table);
        break;
    }
  }
  return out;
}

}  // namespace

std::string print_json(const Report& report, int indent) {
  return of(report).dump(indent) + "\n";
}

}  // namespace rehearse::cli
