// Fuzzes what `calibrate --from-trace` reads: profilers' traces (texts that begin with a bracket)
// and calibrations of GPUs (others), and what is made of them (tests/fuzzing.h).

#include "plan/cluster.h"
#include "sim/import/profile.h"
#include "sim/price/gpu_costs.h"
#include "tests/fuzzing.h"

namespace rehearse {
namespace {

constexpr const char* kCluster =
    "name: c\nnodes: 2\ndevices_per_node: 2\ndevice: {kind: gpu, peak: 989 TFLOP/s, peak_fp8: 1979 "
    "TFLOP/s, memory_bandwidth: 3 TB/s, memory: 80 GB, copy_per_sm: 15 GB/s}\n"
    "node_link: {bandwidth: 160 GB/s, latency: 1 us}\nnetwork: {bandwidth: 47 GB/s, latency: 2 "
    "us}\n";

const Plan& small_plan() {
  static const Plan plan = [] {
    Plan p;
    p.path = "fuzz.yaml";
    Architecture& a = p.model.architecture;
    a = {.vocabulary = 256, .hidden = 256, .layers = 2, .expert_intermediate = 128, .experts = 8};
    a.shared_experts = 1;
    a.active_experts = 2;
    a.groups = a.kept_groups = 2;
    a.heads = 2;
    a.q_lora = 64;
    a.kv_lora = a.qk_nope = a.qk_rope = a.v_head = 64;
    p.cluster = parse_cluster(kCluster, "cluster.yaml");
    p.layout.dp = p.layout.ep = 4;
    p.layout.layers_per_stage = {2};
    p.training.micro_batches = p.training.micro_batch_size = 1;
    p.training.sequence_length = 64;
    p.training.precision = Precision::kFp8;
    return p;
  }();
  return plan;
}

const ProfileMap& map() {
  static const ProfileMap m{.ops = {{"attn(F)", "", {OpKind::kAttn, Pass::kForward}},
                                    {"mlp(F)", "", {OpKind::kMlp, Pass::kForward}},
                                    {"", "*attn_w*", {OpKind::kAttn, Pass::kWeight}},
                                    {"dispatch*", "", {OpKind::kDispatch, Pass::kForward}}},
                            .kernels = {{"*gemm*", WorkKind::kProduct},
                                        {"*flash*", WorkKind::kAttention},
                                        {"*cast*", WorkKind::kCast},
                                        {"*notify*", WorkKind::kWaiting},
                                        {"*dispatch*", WorkKind::kData},
                                        {"*permute*", WorkKind::kPermute},
                                        {"*other*", WorkKind::kElementwise}},
                            .rows = {{{OpKind::kMlp, Pass::kForward}, "*permute*", false, 0, 1},
                                     {{OpKind::kMlp, Pass::kForward}, "*permute*", true, 1, 128}}};
  return m;
}

// Prices every op by what was read.
void price(const GpuCalibration& c) {
  const GpuCosts costs(c, small_plan().cluster);
  static const MemberLoad load = expected_load(small_plan());
  static const OpWork work(small_plan());
  for (const OpKind kind : {OpKind::kAttn, OpKind::kMlp, OpKind::kDispatch}) {
    for (const Pass pass : {Pass::kForward, Pass::kInput, Pass::kWeight}) {
      const std::vector<GpuTask> tasks = work.layer_tasks({kind, pass}, load);
      const GpuCosts::Time t = costs.time(kind, pass, tasks);
      CHECK(t.beside >= Duration() && t.alone >= Duration()) << t.beside.picoseconds();
      CHECK(costs.copy_slowdown(kind, pass, 0.3) >= 1);
    }
  }
}

bool use(const std::string& text) {
  try {
    if (text.empty() || (text[0] != '{' && text[0] != '[')) {
      const GpuCalibration c = parse_gpu_calibration(text, "fuzz.yaml");
      price(c);
      return true;
    }
    const Trace trace = parse_trace(text, "fuzz.json");
    const std::vector<ProfiledOp> ops = profile_ops(trace, map(), "fuzz.json");
    const GpuCalibration c = import_profile(ops, trace, small_plan(), "fuzz");
    price(c);
    price(parse_gpu_calibration(print_gpu_calibration(c), "again.yaml"));
    return true;
  } catch (const InputError&) {
    return false;
  }
}

const std::vector<std::string> kWords = {"{",
                                         "}",
                                         "[",
                                         "]",
                                         ",",
                                         ":",
                                         "\"",
                                         "\\",
                                         "\\u0000",
                                         "\\ud800",
                                         "\"traceEvents\": [",
                                         "\"ph\": \"X\"",
                                         "\"cat\": \"kernel\"",
                                         "\"cat\": \"user_annotation\"",
                                         "\"cat\": \"cuda_runtime\"",
                                         "\"cat\": \"gpu_memcpy\"",
                                         "\"ts\": ",
                                         "\"dur\": ",
                                         "\"dur\": -1",
                                         "\"args\": {",
                                         "\"correlation\": ",
                                         "\"stream\": ",
                                         "\"grid\": [1, 1, 1]",
                                         "\"grid\": [-1]",
                                         "\"name\": \"gemm\"",
                                         "\"name\": \"flash\"",
                                         "\"name\": \"cast\"",
                                         "\"name\": \"notify\"",
                                         "\"name\": \"dispatch\"",
                                         "\"name\": \"attn(F)\"",
                                         "\"name\": \"attn_w\"",
                                         "1e308",
                                         "1e999",
                                         "-1e18",
                                         "9223372036854775807",
                                         "18446744073709551615",
                                         "1740461679470813",
                                         "0.001",
                                         "null",
                                         "true",
                                         "NaN",
                                         "Infinity",
                                         "// x",
                                         "\xef\xbb\xbf",
                                         "\xff",
                                         "\n",
                                         " ",
                                         "us: [0]",
                                         "us: []",
                                         "gflop: [1]",
                                         "mb: [0]",
                                         "beside: true",
                                         "beside: false",
                                         "work: product",
                                         "work: data",
                                         "work: waiting",
                                         "work: gap",
                                         "family: dense",
                                         "family: grouped_weight",
                                         "format: fp8",
                                         "shape: [1, 1, 1, 1]",
                                         "shape: [4, 9, 9, 9]",
                                         "op: attn.F",
                                         "op: dispatch.F",
                                         "demand: 0.5",
                                         "demand: 1",
                                         "entries:",
                                         "entry_count: 1",
                                         "copy: 0 GB/s",
                                         "sms: 20"};

}  // namespace
}  // namespace rehearse

int main(int argc, char** argv) {
  return rehearse::fuzz_main({rehearse::kWords, ".txt", rehearse::use}, argc, argv);
}
