#include "search/share.h"

#include <exception>
#include <filesystem>
#include <thread>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "base/errors.h"

namespace rehearse {

using nlohmann::json;

void on_threads(int32_t threads, const std::function<void(int32_t)>& work) {
  std::vector<std::exception_ptr> failed(static_cast<size_t>(threads));
  {
    std::vector<std::jthread> running;
    for (int32_t i = 0; i < threads; ++i) {
      running.emplace_back([&, i] {
        try {
          work(i);
        } catch (...) {
          failed[static_cast<size_t>(i)] = std::current_exception();
        }
      });
    }
  }
  for (const std::exception_ptr& e : failed) {
    if (e) std::rethrow_exception(e);
  }
}

json json_of(const Candidate& c) {
  const Layout& l = c.layout;
  const Recompute& r = c.recompute;
  return {c.gpus,
          c.batch,
          c.sequence,
          static_cast<int>(c.precision),
          c.micro_batches,
          c.micro_batch_size,
          {r.norms, r.up_projections, r.activations, r.core, r.layer},
          c.communication_sms,
          {l.pp, l.dp, l.ep, l.tp, l.cp, l.etp, l.chunks, l.zero_stage},
          static_cast<int>(l.schedule),
          static_cast<int>(l.dispatcher),
          static_cast<int>(l.rank_order),
          l.layers_per_stage};
}

Candidate candidate_of(const json& j, const Plan& base) {
  Candidate c{.gpus = j.at(0),
              .batch = j.at(1),
              .sequence = j.at(2),
              .precision = static_cast<Precision>(j.at(3).get<int>()),
              .layout = base.layout,
              .micro_batches = j.at(4),
              .micro_batch_size = j.at(5),
              .recompute = {},
              .communication_sms = j.at(7)};
  const json& r = j.at(6);
  c.recompute = {.norms = r.at(0),
                 .up_projections = r.at(1),
                 .activations = r.at(2),
                 .core = r.at(3),
                 .layer = r.at(4)};
  Layout& l = c.layout;
  size_t i = 0;
  for (int64_t* n : {&l.pp, &l.dp, &l.ep, &l.tp, &l.cp, &l.etp, &l.chunks, &l.zero_stage}) {
    *n = j.at(8).at(i++);
  }
  l.schedule = static_cast<ScheduleKind>(j.at(9).get<int>());
  l.dispatcher = static_cast<Dispatcher>(j.at(10).get<int>());
  l.rank_order = static_cast<RankOrder>(j.at(11).get<int>());
  l.layers_per_stage = j.at(12).get<std::vector<int64_t>>();
  return c;
}

json json_of(const Screened& s) {
  return {json_of(s.candidate),
          s.estimate.step,
          s.estimate.bound,
          s.estimate.need.count(),
          s.estimate.fullest,
          s.score,
          s.bound};
}

Screened screened_of(const json& j, const Plan& base) {
  return {.candidate = candidate_of(j.at(0), base),
          .estimate = {.step = j.at(1),
                       .bound = j.at(2),
                       .need = Bytes(j.at(3).get<int64_t>()),
                       .fullest = j.at(4)},
          .score = j.at(5),
          .bound = j.at(6)};
}

json json_of(const Scored& s) {
  return {{"step_s", s.step},
          {"low_s", s.low},
          {"high_s", s.high},
          {"score", s.score},
          {"bubble", s.bubble},
          {"exposed", s.exposed},
          {"exposed_shared", s.exposed_shared},
          {"waiting", s.waiting},
          {"optimizer", s.optimizer},
          {"extrapolated", s.extrapolated},
          {"limited_by", s.limited_by}};
}

Scored scored_of(const json& j, const Plan& base, const Screened& screened) {
  Scored s{.screened = screened,
           .step = j.at("step_s"),
           .low = j.at("low_s"),
           .high = j.at("high_s"),
           .score = j.at("score"),
           .bubble = j.at("bubble"),
           .exposed = j.at("exposed"),
           .exposed_shared = j.at("exposed_shared"),
           .waiting = j.at("waiting"),
           .optimizer = j.at("optimizer"),
           .extrapolated = j.at("extrapolated"),
           .limited_by = j.at("limited_by")};
  complete(base, s);
  return s;
}

Journal::Journal(const std::string& path, const std::string& question) : path_(path) {
  if (!std::filesystem::exists(path) || std::filesystem::is_empty(path)) {
    log_ = std::make_unique<LogFile>(path);
    log_->append(json{{"question", question}}.dump());
    return;
  }
  const std::string text = read_own_file(path);
  std::string kept;
  size_t line = 1;
  for (size_t at = 0; at < text.size(); ++line) {
    const size_t end = text.find('\n', at);
    if (end == std::string::npos) break;  // a line that was not written to its end
    const auto fail = [&](const std::string& why) {
      throw InputError(fmt::format("{}:{}: {}", path, line, why));
    };
    const json j = json::parse(text.begin() + static_cast<ptrdiff_t>(at),
                               text.begin() + static_cast<ptrdiff_t>(end),
                               nullptr,
                               /*allow_exceptions=*/false);
    at = end + 1;
    if (!j.is_object()) fail("is no line of a search's journal: expected a JSON object");
    if (line == 1) {
      if (!j.contains("question")) fail("is no journal of a search: its first line asks nothing");
      if (j["question"] != question) {
        fail("is the journal of another search; name another file, or remove this one");
      }
      continue;
    }
    if (!j.contains("layout") || !j.contains("simulated")) {
      fail("is no line of a search's journal: expected \"layout\" and \"simulated\"");
    }
    known_.insert_or_assign(j["layout"].dump(), j["simulated"]);
  }
  if (line == 1) throw InputError(path + ":1: is no journal of a search");
  log_ = std::make_unique<LogFile>(path, LogFile::Mode::kGoOn);
}

const json* Journal::find(const Candidate& c) const {
  const auto at = known_.find(json_of(c).dump());
  return at == known_.end() ? nullptr : &at->second;
}

void Journal::add(const Candidate& c, const json& scored) {
  const json key = json_of(c);
  if (!log_->append(json{{"layout", key}, {"simulated", scored}}.dump())) {
    throw InputError(log_->why());
  }
  known_.insert_or_assign(key.dump(), scored);
}

}  // namespace rehearse
