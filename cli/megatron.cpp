#include "cli/megatron.h"

#include <algorithm>
#include <charconv>
#include <map>
#include <sstream>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "base/errors.h"

namespace rehearse::cli {
std::string megatron_arguments(const Plan& base, const Candidate& c) {
  const Layout& l = c.layout;
  const Architecture& a = base.model.architecture;
  std::string text = fmt::format(
      "--tensor-model-parallel-size {} --pipeline-model-parallel-size {} --context-parallel-size "
      "{} "
      "--micro-batch-size {} --global-batch-size {} --seq-length {}",
      l.tp,
      l.pp,
      l.cp,
      c.micro_batch_size,
      c.batch,
      c.sequence);
  if (a.experts > 0) {
    text += fmt::format(
        " --expert-model-parallel-size {} --expert-tensor-parallel-size {} "
        "--num-experts {} --moe-router-topk {}",
        l.ep,
        l.etp,
        a.experts,
        a.active_experts);
    text += l.dispatcher == Dispatcher::kAllGather ? " --moe-token-dispatcher-type allgather"
            : l.dispatcher == Dispatcher::kAllToAll
                ? " --moe-token-dispatcher-type alltoall"
                : " --moe-token-dispatcher-type flex --moe-enable-deepep";
  }
  if (l.rank_order == RankOrder::kPipelineFirst) text += " --use-tp-pp-dp-mapping";
  if (l.tp > 1 && l.sequence_parallel) text += " --sequence-parallel";
  if (l.zero_stage == 1) text += " --use-distributed-optimizer";
  if (l.zero_stage == 2) {
    text += " --use-megatron-fsdp --data-parallel-sharding-strategy optim_grads";
  }
  if (l.zero_stage == 3) {
    text += " --use-megatron-fsdp --data-parallel-sharding-strategy optim_grads_params";
  }
  if (l.way() == Way::kRoundAgain) {
    text += fmt::format(" --num-virtual-stages-per-pipeline-rank {}", l.chunks);
  }
  const std::vector<int64_t> even = even_layers(a.layers, l.stages());
  if (l.layers_per_stage != even && l.stages() > 1) {
    text +=
        fmt::format(" --decoder-first-pipeline-num-layers {} --decoder-last-pipeline-num-layers {}",
                    l.layers_per_stage.front(),
                    l.layers_per_stage.back());
  }
  const Recompute& r = c.recompute;
  if (r.layer) {
    text += " --recompute-granularity full --recompute-method uniform --recompute-num-layers 1";
  } else if (r.norms || r.up_projections || r.activations || r.core) {
    std::vector<std::string_view> modules;
    if (r.norms) modules.emplace_back("layernorm");
    if (r.up_projections && a.attention == AttentionKind::kLatent)
      modules.emplace_back("mla_up_proj");
    if (r.activations) modules.emplace_back(a.experts > 0 ? "moe_act" : "mlp");
    if (r.core) modules.emplace_back("core_attn");
    text += fmt::format(" --recompute-granularity selective --recompute-modules {}",
                        fmt::join(modules, " "));
  }
  text += c.precision == Precision::kFp8 ? " --bf16 --fp8-format e4m3 --fp8-recipe blockwise"
                                         : " --bf16";
  const bool own = l.schedule == ScheduleKind::kDualPipe ||
                   l.schedule == ScheduleKind::kDualPipeV || l.schedule == ScheduleKind::kZB1P;
  if (own) {
    text += fmt::format("   # Megatron-LM has no {}: 1f1b is what it runs", name_of(l.schedule));
  }
  return text;
}

namespace {

// Arguments with their values, one or several.
class ArgumentList {
 public:
  explicit ArgumentList(const std::string& text) {
    std::istringstream in(text);
    std::string name;
    for (std::string word; in >> word;) {
      if (word.starts_with("--")) {
        const size_t sign = word.find('=');
        name = word.substr(0, sign);
        values_[name];
        order_.push_back(name);
        if (sign != std::string::npos) values_[name].push_back(word.substr(sign + 1));
      } else if (name.empty()) {
        throw InputError(
            fmt::format("Megatron-LM's arguments: '{}' belongs to no --argument", word));
      } else {
        values_[name].push_back(word);
      }
    }
  }
  bool has(const std::string& name) {
    read_.push_back(name);
    return values_.contains(name);
  }
  const std::vector<std::string>& texts(const std::string& name) { return values_.at(name); }
  std::string text(const std::string& name, const std::string& by_default) {
    if (!has(name)) return by_default;
    if (values_[name].empty()) throw InputError(fmt::format("{}: a value is missing", name));
    return values_[name].front();
  }
  int64_t integer(const std::string& name, int64_t by_default) {
    if (!has(name)) return by_default;
    const std::string value = text(name, "");
    int64_t n = 0;
    const auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), n);
    if (error != std::errc() || end != value.data() + value.size() || n < 1 || n > 1'000'000'000) {
      throw InputError(fmt::format("{} {}: expected a number from 1", name, value));
    }
    return n;
  }
  std::vector<std::string> rest() const {
    std::vector<std::string> rest;
    for (const std::string& name : order_) {
      if (std::find(read_.begin(), read_.end(), name) == read_.end()) rest.push_back(name);
    }
    return rest;
  }

 private:
  std::map<std::string, std::vector<std::string>> values_;
  std::vector<std::string> order_, read_;
};

Recompute recompute_of(ArgumentList& a) {
  Recompute r{.norms = false, .up_projections = false, .activations = false};
  const std::string granularity = a.text("--recompute-granularity", "none");
  a.has("--recompute-method");
  a.has("--recompute-num-layers");
  if (granularity == "full") {
    r.layer = true;
  } else if (granularity == "selective") {
    std::vector<std::string> modules{"core_attn"};
    if (a.has("--recompute-modules")) modules = a.texts("--recompute-modules");
    for (const std::string& m : modules) {
      if (m == "core_attn") {
        r.core = true;
      } else if (m == "layernorm") {
        r.norms = true;
      } else if (m == "mla_up_proj") {
        r.up_projections = true;
      } else if (m == "moe_act" || m == "mlp" || m == "moe") {
        r.activations = true;
      } else {
        throw InputError(
            fmt::format("--recompute-modules {}: not known; expected core_attn, layernorm, "
                        "mla_up_proj, moe_act, mlp, moe",
                        m));
      }
    }
  } else if (granularity != "none") {
    throw InputError(
        fmt::format("--recompute-granularity {}: expected full or selective", granularity));
  }
  return r;
}

}  // namespace

MegatronRun read_megatron(const std::string& arguments, int64_t gpus, const Plan& base) {
  ArgumentList a(arguments);
  const Architecture& model = base.model.architecture;
  Candidate c{.gpus = gpus};
  Layout& l = c.layout;
  l.tp = a.integer("--tensor-model-parallel-size", 1);
  l.pp = a.integer("--pipeline-model-parallel-size", 1);
  l.cp = a.integer("--context-parallel-size", 1);
  l.ep = a.integer("--expert-model-parallel-size", 1);
  l.etp = a.integer("--expert-tensor-parallel-size", model.experts > 0 ? l.tp : 1);
  l.sequence_parallel = a.has("--sequence-parallel");
  const int64_t model_ranks = l.tp * l.pp * l.cp;
  if (gpus % model_ranks != 0) {
    throw InputError(
        fmt::format("Megatron-LM's arguments: tensor x pipeline x context parallelism of {} do not "
                    "divide {} GPUs",
                    model_ranks,
                    gpus));
  }
  l.dp = gpus / model_ranks;
  c.micro_batch_size = a.integer("--micro-batch-size", 1);
  c.sequence = a.integer("--seq-length", base.training.sequence_length);
  c.batch = a.integer("--global-batch-size", c.micro_batch_size * l.dp);
  if (c.batch % (l.dp * c.micro_batch_size) != 0) {
    throw InputError(
        fmt::format("--global-batch-size {}: does not divide over {} data ranks x {} sequences",
                    c.batch,
                    l.dp,
                    c.micro_batch_size));
  }
  c.micro_batches = c.batch / (l.dp * c.micro_batch_size);
  const int64_t virtual_layers =
      a.integer("--num-layers-per-virtual-pipeline-stage", 0 + model.layers);
  const bool by_layers = a.has("--num-layers-per-virtual-pipeline-stage");
  const int64_t chunks = by_layers ? model.layers / l.pp / virtual_layers
                                   : a.integer("--num-virtual-stages-per-pipeline-rank", 1);
  if (chunks > 1) {
    l.schedule = ScheduleKind::kInterleaved;
    l.chunks = chunks;
  }
  l.layers_per_stage = even_layers(model.layers, l.stages());
  const bool first = a.has("--decoder-first-pipeline-num-layers");
  const bool last = a.has("--decoder-last-pipeline-num-layers");
  if ((first || last) && l.stages() > 2) {
    const int64_t at_first =
        a.integer("--decoder-first-pipeline-num-layers", l.layers_per_stage.front());
    const int64_t at_last =
        a.integer("--decoder-last-pipeline-num-layers", l.layers_per_stage.back());
    const std::vector<int64_t> between =
        even_layers(std::max<int64_t>(0, model.layers - at_first - at_last), l.stages() - 2);
    l.layers_per_stage = {at_first};
    l.layers_per_stage.insert(l.layers_per_stage.end(), between.begin(), between.end());
    l.layers_per_stage.push_back(at_last);
  }
  if (a.has("--use-tp-pp-dp-mapping")) l.rank_order = RankOrder::kPipelineFirst;
  l.zero_stage = a.has("--use-distributed-optimizer") ? 1 : 0;
  a.has("--use-megatron-fsdp");
  const std::string sharded = a.text("--data-parallel-sharding-strategy", "");
  if (sharded == "optim") l.zero_stage = 1;
  if (sharded == "optim_grads") l.zero_stage = 2;
  if (sharded == "optim_grads_params") l.zero_stage = 3;
  l.overlap_grad_reduce = a.has("--overlap-grad-reduce");
  const std::string dispatcher = a.text("--moe-token-dispatcher-type", "allgather");
  const bool deepep = a.has("--moe-enable-deepep");
  l.dispatcher = dispatcher == "flex" || deepep ? Dispatcher::kTwoHop
                 : dispatcher == "alltoall"     ? Dispatcher::kAllToAll
                                                : Dispatcher::kAllGather;
  c.recompute = recompute_of(a);
  a.has("--bf16");
  a.has("--fp8-recipe");
  a.has("--num-experts");
  a.has("--moe-router-topk");
  c.precision = a.has("--fp8-format") || a.has("--fp8") ? Precision::kFp8 : Precision::kBf16;
  c.communication_sms = base.cluster.communication_sms;
  const Reasons wrong = why_not(plan_of(base, c));
  if (!wrong.empty()) {
    throw InputError(fmt::format(
        "Megatron-LM's arguments: {}: {}", wrong.front().setting, wrong.front().message));
  }
  return {std::move(c), a.rest()};
}

}  // namespace rehearse::cli
