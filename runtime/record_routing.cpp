#include "runtime/record_routing.h"

#include <fmt/format.h>

#include "base/background.h"
#include "base/errors.h"

namespace rehearse {

std::vector<int64_t> routed_layers(const Architecture& a) {
  std::vector<int64_t> layers;
  for (int64_t layer = 0; layer < a.layers + a.mtp_depth; ++layer) {
    if (a.is_moe(layer)) layers.push_back(layer);
  }
  return layers;
}

namespace {

RoutingShape shape_of(const Plan& plan) {
  const Architecture& a = plan.model.architecture;
  if (a.experts == 0) throw InputError(plan.path + ": --record-routing: the model has no experts");
  if (plan.training.ramp_from > 0) {
    throw InputError(plan.path +
                     ": --record-routing: records steps of one batch size; this plan's batch grows "
                     "(training.ramp_from)");
  }
  return {.micro_batches = plan.layout.dp * plan.training.micro_batches,
          .layers = static_cast<int64_t>(routed_layers(a).size()),
          .tokens = plan.micro_batch_tokens(),
          .active = a.active_experts,
          .experts = a.experts};
}

std::map<std::string, std::string> attributes(const Plan& plan,
                                              std::map<std::string, std::string> about) {
  const Layout& l = plan.layout;
  about.insert({{"model", plan.model.name},
                {"layout", fmt::format("{} {}", ranks_text(l), name_of(l.schedule))},
                {"dp", std::to_string(l.dp)},
                {"ep", std::to_string(l.ep)},
                {"groups", std::to_string(plan.model.architecture.groups)},
                {"kept_groups", std::to_string(plan.model.architecture.kept_groups)},
                {"seed", std::to_string(plan.training.seed)},
                {"sequence_length", std::to_string(plan.training.sequence_length)}});
  return about;
}

}  // namespace

RoutingRecorder::RoutingRecorder(const std::string& path,
                                 const Plan& plan,
                                 Trainer& trainer,
                                 std::map<std::string, std::string> about)
    : plan_(plan),
      trainer_(trainer),
      layers_(routed_layers(plan.model.architecture)),
      writer_(path, shape_of(plan), attributes(plan, std::move(about)), /*weights=*/true) {
  trainer_.record_choices(true);
  thread_ = std::thread([this] {
    stand_back();
    write_steps();
  });
}

RoutingRecorder::~RoutingRecorder() {
  finish();
}

void RoutingRecorder::record(int64_t step) {
  Step s{.number = step, .choices = {}, .weights = {}};
  for (int32_t d = 0; d < plan_.layout.dp; ++d) {
    for (int64_t m = 0; m < plan_.training.micro_batches; ++m) {
      for (const int64_t layer : layers_) {
        s.choices.push_back(trainer_.recorded_choices(layer, d, m));
        s.weights.push_back(trainer_.recorded_weights(layer, d, m));
      }
    }
  }
  constexpr size_t kMostWaiting = 4;
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return waiting_.size() < kMostWaiting || !error_.empty(); });
  if (error_.empty()) waiting_.push_back(std::move(s));
  changed_.notify_all();
}

std::string RoutingRecorder::finish() {
  {
    const std::lock_guard lock(mutex_);
    ending_ = true;
  }
  changed_.notify_all();
  if (thread_.joinable()) thread_.join();
  return error_;
}

// A file of n bytes is written anew when it has grown by an eighth: nine times its size in all, and
// a kill loses an eighth of the steps at most.
void RoutingRecorder::write_steps() {
  int64_t committed = 0;
  const auto commit = [&] {
    writer_.commit();
    committed = writer_.packed_bytes();
  };
  try {
    for (;;) {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [&] { return !waiting_.empty() || ending_; });
      if (waiting_.empty()) break;
      const Step step = std::move(waiting_.front());
      waiting_.pop_front();
      lock.unlock();
      changed_.notify_all();
      writer_.begin_step(step.number);
      for (size_t i = 0; i < step.choices.size(); ++i) {
        const auto at = static_cast<int64_t>(i);
        const auto layers = static_cast<int64_t>(layers_.size());
        writer_.write(at / layers, at % layers, step.choices[i], step.weights[i]);
      }
      if (writer_.packed_bytes() >= committed + committed / 8) commit();
    }
    if (writer_.packed_bytes() > committed) commit();
  } catch (const InputError& e) {
    const std::lock_guard lock(mutex_);
    error_ = e.what();
    changed_.notify_all();
  }
}

}  // namespace rehearse
