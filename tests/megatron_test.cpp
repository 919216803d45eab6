// Megatron-LM's arguments: lists as people have them, stages by its own checks, what is refused by
// name, and layouts written and read again.

#include "cli/megatron.h"

#include <map>
#include <random>
#include <set>

#include <gtest/gtest.h>

#include "base/errors.h"
#include "cli/megatron_stages.h"
#include "cli/megatron_table.h"
#include "search/search.h"

namespace rehearse {
namespace {

using cli::argument_list;
using cli::ArgumentList;
using cli::MegatronLine;
using cli::MegatronRun;
using cli::MegatronStages;
using cli::stages_of;
using Layers = std::vector<int64_t>;

Plan megatron_base(const std::string& model, const std::string& cluster = "h800-2048") {
  const std::string repo = REHEARSE_SOURCE_DIR;
  Plan base;
  base.path = "test";
  base.model = load_model(repo + "/models/" + model + ".yaml");
  base.cluster = load_cluster(repo + "/topologies/" + cluster + ".yaml");
  base.training.precision = Precision::kBf16;
  base.training.sequence_length = 4096;
  return base;
}

template <typename Function>
std::string error_of(Function function) {
  try {
    function();
  } catch (const InputError& e) {
    return e.what();
  }
  return "";
}

// --- words

std::string words_as_text(const ArgumentList& list) {
  std::string text;
  for (const cli::GivenArgument& a : list.given) {
    text += a.name;
    for (const cli::GivenWord& w : a.values) text += " <" + w.text + ">";
    text += "\n";
  }
  return text;
}
std::string as_words(const std::string& text) {
  return words_as_text(argument_list(text, "x.args"));
}

TEST(MegatronWords, ListsAsPeopleHaveThem) {
  const std::string two = "--seq-length <4096>\n--bf16\n";
  for (const char* text :
       {"--seq-length 4096 --bf16",
        "--seq-length=4096\n--bf16\n",
        "--seq_length 4096 \\\n   --bf16",
        "--seq-length '4096' --bf16   # --fp16 \"and a quote",
        "--seq-length 4096 \\\n # --tensor-model-parallel-size 2 \\\n --bf16 \\\n",
        "# all of it\r\n--seq-length \"4096\" \\\r\n  --bf16\r\n",
        "--seq-length 4096 --bf16 2>&1 | tee log-dir/--fp16\n",
        "A=1 srun torchrun --nproc_per_node $N --x y pretrain_gpt.py \\\n"
        " --seq-length 4096 --bf16",
        "python3 -u ${HERE}/pretrain.py --seq-length 4096 --bf16 > log",
        "MODEL_ARGS:\n  --seq-length: 4096\n  --bf16:\n",
        "ENV_VARS:\n  NCCL_DEBUG: x\nMODEL_ARGS:\n  # none\n  \"--seq_length\": "
        "'4096' # tokens\n  --lr: null\n  --bf16:\n"}) {
    EXPECT_EQ(as_words(text), two) << text;
  }
  EXPECT_EQ(as_words("--data-path 'a # b' \"c\\\"d\" e#f --layout Et*2|(t|)*3tL"),
            "--data-path <a # b> <c\"d> <e#f>\n--layout <Et*2|(t|)*3tL>\n");
  EXPECT_EQ(as_words("--a: [1, 'x y']\n--b:\n  - 1\n  - 2\n--c: ([0]*3+[1]*58)\n"),
            "--a <1> <x y>\n--b <1> <2>\n--c <([0]*3+[1]*58)>\n");
  EXPECT_TRUE(argument_list("--tensor_model_parallel_size 2", "").underscores);
  EXPECT_FALSE(argument_list("--override-opt_param-scheduler", "").underscores);
  EXPECT_EQ(argument_list("torchrun --nnodes=4 --nproc-per-node 8 a.py --bf16", "").processes, 32);
  EXPECT_EQ(argument_list("torchrun --nnodes $N --nproc-per-node 8 a.py", "").processes,
            std::nullopt);
  EXPECT_TRUE(argument_list("--lr $LR", "").given[0].values[0].variable);
  EXPECT_FALSE(argument_list("--lr '$LR'", "").given[0].values[0].variable);
}

TEST(MegatronWords, WhatWouldHaveToBeRunIsRefused) {
  const auto refused = [](const std::string& text) {
    return error_of([&] { argument_list(text, "x.args"); });
  };
  EXPECT_EQ(refused("\n\nTP=2\nARGS=\"\n --bf16\n\"\n"),
            "x.args:3: 'TP=2' belongs to no --argument: keep the arguments alone in the file, with "
            "values in place of variables");
  for (const char* text : {"loose --bf16",
                           "megatron sft --tensor_model_parallel_size 2",
                           "ARGS=( --bf16 )",
                           "torchrun train.py loose --bf16"}) {
    EXPECT_NE(refused(text).find("keep the arguments alone"), std::string::npos) << text;
  }
  EXPECT_EQ(refused("--a\n--b 'c\n"), "x.args:2: the quote ' that opens here is never closed");
  EXPECT_NE(refused("--a: 1\nlearning_rate: 2\n").find("x.args:2: 'learning_rate: 2' is no"),
            std::string::npos);
  EXPECT_NE(refused("--a: >-\n  x\n").find("expected a value in the line"), std::string::npos);
}

TEST(MegatronWords, ListsAreToldFromPlans) {
  EXPECT_TRUE(cli::holds_arguments("# plan\n  --bf16"));
  EXPECT_TRUE(cli::holds_arguments("MODEL_ARGS:\n  --bf16: true\n"));
  EXPECT_TRUE(cli::holds_arguments("A=\"--bf16\""));
  EXPECT_FALSE(cli::holds_arguments("# --bf16\nmodel: x\n"));
  EXPECT_FALSE(
      cli::holds_arguments("model: a.yaml # as --bf16\ndata: {text: \"--x\"}\ncluster: b\n"));
  EXPECT_EQ(cli::bare_setting("a: 1\n tensor_model_parallel_size: 2\n")->line, 2);
  EXPECT_FALSE(cli::bare_setting("model: x\nlayout: {pp: 1}\n"));
}

// --- stages

TEST(MegatronStagesTest, AsMegatronDividesThem) {
  const auto layers = [](const cli::StageArguments& a) { return stages_of(a).layers_per_stage; };
  EXPECT_EQ(layers({.layers = 48, .pp = 2, .first = 40}), (Layers{40, 8}));
  EXPECT_EQ(layers({.layers = 48, .pp = 2, .last = 23}), (Layers{25, 23}));
  EXPECT_EQ(layers({.layers = 48, .pp = 2, .first = 30, .last = 18}), (Layers{30, 18}));
  EXPECT_EQ(layers({.layers = 48, .pp = 4, .first = 9}), (Layers{9, 13, 13, 13}));
  // Layers of a rank, over its virtual stages.
  EXPECT_EQ(layers({.layers = 48, .pp = 4, .first = 9, .last = 15, .virtual_stages = 3}),
            (Layers{3, 4, 4, 5, 3, 4, 4, 5, 3, 4, 4, 5}));
  EXPECT_EQ(layers({.layers = 14, .pp = 2, .first = 10, .virtual_stages = 2}),
            (Layers{5, 2, 5, 2}));
  EXPECT_EQ(stages_of({.layers = 48, .pp = 4, .per_virtual = 3}).chunks, 4);
  EXPECT_EQ(stages_of({.layers = 48, .pp = 4, .per_virtual = 12}).chunks, 1);
  // An end that counts as a layer: 94 + 2 = 8 x 4 x 3.
  Layers ends(32, 3);
  ends.front() = ends.back() = 2;
  EXPECT_EQ(layers({.layers = 94, .pp = 8, .virtual_stages = 4, .embedding = true, .loss = true}),
            ends);
  EXPECT_EQ(layers({.layers = 7, .pp = 2, .loss = true}), (Layers{4, 3}));
  EXPECT_EQ(layers({.layers = 3, .pp = 4, .embedding = true}), (Layers{0, 1, 1, 1}));
}

TEST(MegatronStagesTest, LayoutsInLetters) {
  const auto layers = [](const char* text, int64_t pp, int64_t layers, int64_t mtp = 0) {
    return stages_of({.layers = layers, .mtp = mtp, .pp = pp, .layout = text}).layers_per_stage;
  };
  EXPECT_EQ(layers("Et*4|t*20|t*20|t*4L", 4, 48), (Layers{4, 20, 20, 4}));
  Layers v3(32, 2);
  v3[0] = v3[1] = v3[31] = 1;
  EXPECT_EQ(layers("Et|t|(tt|)*29tL", 8, 61), v3);
  EXPECT_EQ(layers("Et|t|(tt|)*29tmL", 8, 61, 1), v3);
  EXPECT_EQ(stages_of({.layers = 61, .pp = 8, .layout = "Et|t|(tt|)*29,tL"}).chunks, 4);
  EXPECT_EQ(layers("E|(t|tt)*2|L", 5, 6), (Layers{0, 1, 3, 2, 0}));
  EXPECT_EQ(layers("E,(t*2|)*2,t,L", 3, 5), (Layers{2, 2, 1}));

  const auto refused = [&](const char* text, int64_t pp, int64_t count, int64_t mtp = 0) {
    return error_of([&] { layers(text, pp, count, mtp); });
  };
  for (const auto& [text, why] :
       std::map<const char*, const char*>{{"Et|t|tL", "3 stages do not divide over 2"},
                                          {"tE|tL", "one E"},
                                          {"|EttL", "one E"},
                                          {"Ett|L|", "3 stages"},
                                          {"Et|t", "one L"},
                                          {"EtE|tL", "one E"},
                                          {"Et|tttL", "has 4 layers (t), and the model 2"},
                                          {"Et|xL", "'x' is none of"},
                                          {"E(t|tL", "never closed"},
                                          {"E(t)|tL", "'(' is none of"},
                                          {"Et*|tL", "'*' is none of"},
                                          {"Et|tmL", "1 MTP modules (m), and the model 0"},
                                          {"Et*99999999999999999999|tL", "too long"}}) {
    EXPECT_NE(refused(text, 2, 2).find(why), std::string::npos) << refused(text, 2, 2);
  }
  EXPECT_NE(refused("Ett|t|m|L", 4, 3, 1).find("another place"), std::string::npos);
  EXPECT_NE(refused("Ett|mtL", 2, 3, 1).find("another place"), std::string::npos);
}

TEST(MegatronStagesTest, WhatMegatronRefuses) {
  const auto refused = [](const cli::StageArguments& a) { return error_of([&] { stages_of(a); }); };
  const auto has = [&](const cli::StageArguments& a, const char* why) {
    EXPECT_NE(refused(a).find(why), std::string::npos) << why << ": " << refused(a);
  };
  has({.layers = 48, .pp = 2, .first = 30, .last = 30}, "together 60 layers of the model's 48");
  has({.layers = 48, .pp = 2, .first = 20, .last = 20}, "together 40");
  has({.layers = 48, .pp = 2, .first = 48}, "leaves 0 of 48 layers for 1 other rank:");
  has({.layers = 48, .pp = 4, .first = 60}, "leaves 0 of 48");
  has({.layers = 48, .pp = 4, .first = 10}, "leaves 38 of 48 layers for 3 other ranks");
  has({.layers = 48, .pp = 1, .last = 48}, "--decoder-last-pipeline-num-layers on one");
  has({.layers = 48, .pp = 4, .first = 9, .virtual_stages = 2}, "num-layers 9: 9 layers");
  has({.layers = 48, .pp = 4, .first = 12, .last = 14, .virtual_stages = 2}, "11 layers of a rank");
  has({.layers = 48, .pp = 4, .per_virtual = 5}, "12 layers of a rank do not divide");
  has({.layers = 48, .pp = 4, .per_virtual = 7}, "virtual stages of 7");
  has({.layers = 48, .pp = 4, .virtual_stages = 5}, "--num-virtual-stages-per-pipeline-rank 5");
  has({.layers = 61, .pp = 8, .virtual_stages = 4}, "the model's 61 layers do not divide");
  has({.layers = 94, .pp = 8, .embedding = true}, "95 layers, ends that count as one among them");
  has({.layers = 48, .pp = 1, .virtual_stages = 2}, "on one pipeline rank");
  has({.layers = 48, .pp = 4, .first = 12, .per_virtual = 3},
      "Megatron-LM wants --num-virtual-stages-per-pipeline-rank");
  has({.layers = 48, .pp = 4, .per_virtual = 3, .virtual_stages = 4}, "takes one of them");
  has({.layers = 48, .pp = 4, .virtual_stages = 2, .layout = "EtL"}, "takes one of them");
  has({.layers = 48, .pp = 4, .last = 2, .layout = "EtL"}, "takes one of them");
  has({.layers = 48, .pp = 4, .last = 2, .loss = true}, "takes one of them");
  has({.layers = 48, .pp = 4, .embedding = true, .layout = "EtL"}, "takes one of them");
}

TEST(MegatronStagesTest, WrittenAsReadAgain) {
  EXPECT_EQ(cli::stage_arguments({12, 12}, 2, 1, 0), "");
  EXPECT_EQ(cli::stage_arguments({3, 3, 3, 3}, 2, 2, 0),
            " --num-virtual-stages-per-pipeline-rank 2");
  EXPECT_EQ(cli::stage_arguments({40, 8}, 2, 1, 0),
            " --decoder-first-pipeline-num-layers 40 --decoder-last-pipeline-num-layers 8");
  EXPECT_EQ(cli::stage_arguments({0, 3, 3, 2}, 4, 1, 0),
            " --pipeline-model-parallel-layout 'E|(t*3|)*2ttL'");
  EXPECT_EQ(cli::stage_arguments({0, 1, 1, 0}, 4, 1, 0),
            " --account-for-embedding-in-pipeline-split --account-for-loss-in-pipeline-split");
  Layers v3(32, 2);
  v3[0] = v3[1] = v3[31] = 1;
  EXPECT_EQ(cli::stage_arguments(v3, 8, 4, 0),
            " --pipeline-model-parallel-layout 'Et|t|(tt|)*29tL'");
  const Plan base = megatron_base("qwen3-8b");
  std::mt19937_64 random(7);
  for (int i = 0; i < 2000; ++i) {
    const int64_t pp = 2 + static_cast<int64_t>(random() % 5);
    const int64_t chunks = 1 + static_cast<int64_t>(random() % 3);
    const int64_t mtp = static_cast<int64_t>(random() % 2);
    Layers layers(static_cast<size_t>(pp * chunks), 1 + static_cast<int64_t>(random() % 4));
    for (uint64_t changes = random() % 4; changes > 0; --changes) {
      layers[random() % layers.size()] = 1 + static_cast<int64_t>(random() % 5);
    }
    if (random() % 4 == 0) layers.front() = 0;
    if (random() % 4 == 0) layers.back() = 0;
    const ArgumentList list = argument_list(cli::stage_arguments(layers, pp, chunks, mtp), "x");
    const cli::MegatronSettings s = read_arguments(list, base).settings;
    int64_t sum = 0;
    for (const int64_t n : layers) sum += n;
    const MegatronStages again = stages_of({.layers = sum,
                                            .mtp = mtp,
                                            .pp = pp,
                                            .first = s.first_layers,
                                            .last = s.last_layers,
                                            .per_virtual = s.layers_per_virtual,
                                            .virtual_stages = s.virtual_stages,
                                            .embedding = s.embedding_counts,
                                            .loss = s.loss_counts,
                                            .layout = s.stage_layout});
    EXPECT_EQ(again.layers_per_stage, layers);
    EXPECT_EQ(again.chunks, chunks);
  }
}

// --- what is read and what is refused

class MegatronReading : public testing::Test {
 protected:
  static MegatronRun run(const std::string& text) { return cli::read_megatron(text, 32, base()); }
  static std::string refused(const std::string& text) {
    return error_of([&] { run(text); });
  }
  static const Plan& base() {
    static const Plan plan = megatron_base("qwen3-30b-a3b", "h100-1024");
    return plan;
  }
  static constexpr const char* kEp =
      "--expert-model-parallel-size 4 --expert-tensor-parallel-size 1 ";
};

TEST_F(MegatronReading, EveryArgumentStandsInOneTable) {
  std::set<std::string> seen;
  for (const std::string& name : cli::known_arguments()) {
    EXPECT_TRUE(seen.insert(name).second) << name;
    EXPECT_TRUE(name.starts_with("--") && name.find('_') == std::string::npos) << name;
  }
  EXPECT_GT(seen.size(), 300u);
}

TEST_F(MegatronReading, WhatIsNotKnownIsRefusedByName) {
  for (const char* name : {"--some-new-thing",
                           "--overlap-param-gather",
                           "--moe-layer-recompute",
                           "--optimizer-cpu-offload",
                           "--tp-comm-overlap",
                           "--fp16",
                           "--use-torch-fsdp2",
                           "--delay-wgrad-compute",
                           "--cuda-graph-scope attn",
                           "--optimizer muon",
                           "--main-grads-dtype bf16",
                           "--window-size 128,0"}) {
    const std::string why = refused(std::string("--bf16 ") + name);
    EXPECT_NE(why.find(std::string(name).substr(0, std::string(name).find(' '))), std::string::npos)
        << name << ": " << why;
  }
  // All at once, each with its line.
  const std::string all = refused("--bf16\n--some-new-thing 3\n--fp32-residual-connection\n");
  EXPECT_NE(all.find("line 2: --some-new-thing is not known here and may decide layout, memory or "
                     "time; remove it if it does not"),
            std::string::npos)
      << all;
  EXPECT_NE(all.find("line 3: --fp32-residual-connection decides"), std::string::npos) << all;
  // Switched off, it decides nothing.
  EXPECT_EQ(refused("--overlap_param_gather false --optimizer adam"), "");
}

TEST_F(MegatronReading, WhatChangesNothingIsPassedOverAndNamed) {
  const MegatronRun r =
      run("--lr 1e-4 --train-iters 100 --save $CKPT --data-path 1 a_text 2 b_text --seed 5 --bf16 "
          "--tokenizer_type HuggingFaceTokenizer --override-opt_param-scheduler --log-throughput "
          "--eval_iters -1");
  EXPECT_EQ(r.not_read,
            (std::vector<std::string>{"--lr",
                                      "--train-iters",
                                      "--save",
                                      "--data-path",
                                      "--seed",
                                      "--tokenizer-type",
                                      "--override-opt-param-scheduler",
                                      "--log-throughput",
                                      "--eval-iters"}));
  EXPECT_NE(refused("--log-throughput loose").find("--log-throughput loose"), std::string::npos);
  EXPECT_NE(refused("--log-throughput $EXTRA").find("variable"), std::string::npos);
  EXPECT_NE(refused("--save $CKPT ${MODEL_ARGS[@]}").find("belongs to no"), std::string::npos);
  EXPECT_NE(refused("--save ${MODEL_ARGS[@]}").find("variable"), std::string::npos);
  EXPECT_NE(refused("--tensor-model-parallel-size ${TP}").find("put its value there"),
            std::string::npos);
}

TEST_F(MegatronReading, TheLastOfAnArgumentCounts) {
  const MegatronRun r =
      run("--pipeline-model-parallel-size 2 --bf16\n"
          "--pipeline_model_parallel_size=4 --micro-batch-size 1");
  EXPECT_EQ(r.candidate.layout.pp, 4);
  ASSERT_FALSE(r.notes.empty());
  EXPECT_NE(r.notes[0].find("--pipeline-model-parallel-size is given more than once: the last, 4"),
            std::string::npos);
  EXPECT_TRUE(run("--bf16 --bf16 --micro-batch-size 1 --micro-batch-size 1").notes.empty());
  EXPECT_TRUE(refused("--bf16\n--pipeline-model-parallel-size 2 \\\n"
                      "--decoder-first-pipeline-num-layers 48\n")
                  .starts_with("Megatron-LM's arguments:3: --decoder-first-pipeline-num-layers 48: "
                               "leaves 0 of 48"));
  // Of a model's numbers too.
  EXPECT_EQ(refused("--num-layers 12 --num-layers 48"), "");
}

TEST_F(MegatronReading, RecomputationAsItIsMeant) {
  const auto read = [](const std::string& text) {
    return run("--bf16 --pipeline-model-parallel-size 4 " + text).candidate.recompute;
  };
  const Recompute none{.norms = false, .up_projections = false, .activations = false};
  Recompute core = none, full = none;
  core.core = true;
  full.layer = true;
  EXPECT_EQ(read(""), none);
  EXPECT_EQ(read("--recompute-activations"), core);
  EXPECT_EQ(read("--recompute-granularity selective"), core);
  EXPECT_EQ(read("--recompute-granularity selective --recompute-modules core_attn"), core);
  EXPECT_EQ(
      read("--recompute-granularity full --recompute-method uniform --recompute-num-layers 1"),
      full);
  // A block of all of a stage's layers is each by itself.
  EXPECT_EQ(read("--recompute-granularity full --recompute-method block --recompute-num-layers 12"),
            full);
  for (const char* text :
       {"--recompute-granularity full --recompute-method block --recompute-num-layers 11",
        "--recompute-granularity full --recompute-method block --recompute-num-layers 2",
        "--recompute-granularity full --recompute-method uniform --recompute-num-layers 2",
        "--recompute-granularity full --recompute-method uniform",
        "--recompute-granularity full --recompute-num-layers 1",
        "--recompute-granularity full",
        "--recompute-granularity full --recompute-activations",
        "--recompute-method uniform --recompute-num-layers 1",
        "--recompute-modules core_attn",
        "--recompute-granularity selective --recompute-method block",
        "--recompute-granularity selective --recompute-modules moe",
        "--recompute-granularity selective --recompute-modules core_attn mlp",
        "--recompute-granularity selective --recompute-modules shared_experts",
        "--recompute-granularity selective --recompute-modules mla_up_proj",
        "--recompute-granularity selective --recompute-modules",
        "--moe-layer-recompute"}) {
    EXPECT_NE(
        refused(std::string("--bf16 --pipeline-model-parallel-size 4 ") + text).find("--recompute"),
        std::string::npos)
        << text;
  }
}

TEST_F(MegatronReading, ShardingDispatchAndOverlaps) {
  const auto layout = [](const std::string& text) { return run(kEp + text).candidate.layout; };
  EXPECT_EQ(layout("").zero_stage, 0);
  EXPECT_EQ(layout("--use-distributed-optimizer").zero_stage, 1);
  const std::string fsdp = "--use-megatron-fsdp --data-parallel-sharding-strategy ";
  EXPECT_EQ(layout(fsdp + "no_shard").zero_stage, 0);
  EXPECT_EQ(layout(fsdp + "optim_grads").zero_stage, 2);
  EXPECT_EQ(layout(fsdp + "optim_grads_params --use-distributed-optimizer").zero_stage, 3);
  EXPECT_NE(refused("--data-parallel-sharding-strategy optim").find("--use-megatron-fsdp"),
            std::string::npos);
  EXPECT_NE(refused("--use-megatron-fsdp --use-distributed-optimizer").find("what is sharded"),
            std::string::npos);
  EXPECT_EQ(layout("").dispatcher, Dispatcher::kAllGather);
  EXPECT_EQ(layout("--moe-token-dispatcher-type flex --moe-enable-deepep").dispatcher,
            Dispatcher::kTwoHop);
  EXPECT_NE(refused("--moe-enable-deepep").find("flex"), std::string::npos);
  // What Megatron-LM asks of overlapped all-to-alls.
  const std::string overlap =
      "--overlap-moe-expert-parallel-comm --moe-token-dispatcher-type alltoall ";
  EXPECT_TRUE(layout(overlap).overlap_all_to_all);
  EXPECT_TRUE(layout(overlap + "--pipeline-model-parallel-size 2 "
                               "--num-virtual-stages-per-pipeline-rank 2 --global-batch-size 64")
                  .overlap_all_to_all);
  EXPECT_NE(refused(overlap).find("more than one rank"), std::string::npos);
  EXPECT_NE(refused(kEp + std::string("--overlap-moe-expert-parallel-comm")).find("dispatcher"),
            std::string::npos);
  EXPECT_NE(refused(kEp + overlap + "--pipeline-model-parallel-size 2").find("virtual stages"),
            std::string::npos);
  EXPECT_NE(refused(kEp + overlap +
                    "--recompute-granularity full --recompute-method uniform "
                    "--recompute-num-layers 1")
                .find("no full recomputation"),
            std::string::npos);
  EXPECT_EQ(layout("--context-parallel-size 2").context, ContextKind::kRing);
  EXPECT_EQ(layout("--context-parallel-size 2 --cp-comm-type allgather").context,
            ContextKind::kGather);
  EXPECT_NE(refused("--context-parallel-size 2 --cp-comm-type a2a").find("a2a"), std::string::npos);
  EXPECT_NE(refused("--tensor-model-parallel-size 2").find("--sequence-parallel is missing"),
            std::string::npos);
  EXPECT_NE(refused("torchrun --nnodes 2 --nproc_per_node 8 a.py --bf16").find("--gpus 16"),
            std::string::npos);
  EXPECT_NE(refused("--attention-backend unfused").find("training.core"), std::string::npos);
  EXPECT_EQ(refused("--attention-backend flash --use-flash-attn"), "");
}

TEST_F(MegatronReading, NumbersOfAnotherModel) {
  const Plan v3 = megatron_base("deepseek-v3");
  const Plan llama = megatron_base("llama-3.1-8b");
  const auto why = [](const Plan& plan, const std::string& text) {
    return error_of([&] { cli::read_megatron(text, 32, plan); });
  };
  for (const auto& [right, wrong] : std::map<std::string, std::string>{
           {"--num-layers 48", "--num-layers 27"},
           {"--hidden-size 2048", "--hidden-size 4096"},
           {"--num-attention-heads 32", "--num-attention-heads 64"},
           {"--num-experts 128", "--num-experts 64"},
           {"--moe-router-topk 8", "--moe-router-topk 6"},
           {"--moe-ffn-hidden-size 768", "--moe-ffn-hidden-size 1408"},
           {"--ffn-hidden-size 768", "--ffn-hidden-size 6144"},
           {"--ffn-hidden-size 6144 --moe-ffn-hidden-size 768", "--ffn-hidden-size 6144"},
           {"--group-query-attention --num-query-groups 4",
            "--group-query-attention --num-query-groups 8"},
           {"--kv-channels 128", "--kv-channels 64"},
           {"--vocab-size 151936", "--vocab-size 102400"},
           {"--padded-vocab-size 151936", "--padded-vocab-size 152064"},
           {"--mtp-num-layers 0", "--mtp-num-layers 1"},
           {"--moe-layer-freq 1", "--moe-layer-freq 2"},
           {"--moe-layer-freq [1]*48", "--moe-layer-freq [0]+[1]*47"},
           {"--normalization RMSNorm", "--normalization LayerNorm"},
           {"--swiglu", "--swiglu false"},
           {"--qk-layernorm", "--multi-latent-attention"},
           {"--position-embedding-type rope", "--position-embedding-type learned_absolute"},
           {"--untie-embeddings-and-output-weights", "--add-qkv-bias"},
           {"--attention-dropout 0.0", "--hidden-dropout 0.1"}}) {
    EXPECT_EQ(why(base(), right), "") << right;
    EXPECT_NE(why(base(), wrong).find("another model than qwen3-30b-a3b"), std::string::npos)
        << wrong << ": " << why(base(), wrong);
  }
  EXPECT_EQ(why(v3,
                "--num-layers 61 --q-lora-rank 1536 --kv-lora-rank 512 --qk-head-dim 128 "
                "--qk-pos-emb-head-dim 64 --v-head-dim 128 --multi-latent-attention --kv-channels "
                "192 --qk-layernorm --moe-layer-freq ([0]*3+[1]*58) --ffn-hidden-size 18432 "
                "--moe-shared-expert-intermediate-size 2048 --mtp-num-layers 1 "
                "--moe-router-num-groups 8 --moe-router-group-topk 4 --vocab-size 129280"),
            "");
  EXPECT_NE(why(v3, "--moe-layer-freq ([0]*2+[1]*59)").find("has experts in 58 of 61 layers"),
            std::string::npos);
  EXPECT_NE(why(v3, "--moe-layer-freq ([0]*3+[1]*58").find("expected a number, or a pattern"),
            std::string::npos);
  EXPECT_EQ(why(llama, "--ffn-hidden-size 14336 --num-experts 0 --vocab-size 128256"), "");
  EXPECT_NE(why(llama, "--num-experts 8"), "");
  // All that differ, in one go.
  const std::string both = why(base(), "--num-layers 27\n--hidden-size 1024");
  EXPECT_NE(both.find("line 1: --num-layers 27: it has 48"), std::string::npos) << both;
  EXPECT_NE(both.find("line 2: --hidden-size 1024: it has 2048"), std::string::npos) << both;
}

// --- written, and read again

// Some of what a search leaves as it is, otherwise.
Candidate otherwise(const Plan& base, Candidate c, std::mt19937_64& random) {
  const auto flip = [&] { return random() % 2 == 0; };
  Layout& l = c.layout;
  if (flip()) l.overlap_grad_reduce = l.copies() == 1;
  if (flip()) l.overlap_p2p = false;
  if (l.cp > 1 && flip()) l.context = ContextKind::kRing;
  if (flip()) l.overlap_all_to_all = true;
  if (flip() && l.layers_per_stage.size() > 1) {
    const size_t from = random() % l.layers_per_stage.size();
    const size_t to = random() % l.layers_per_stage.size();
    if (l.layers_per_stage[from] > 1) {
      --l.layers_per_stage[from];
      ++l.layers_per_stage[to];
    }
  }
  if (flip()) c.recompute.core = !c.recompute.layer;
  return why_not(plan_of(base, c)).empty() ? c : Candidate();
}

TEST(MegatronLineTest, IsReadAsWhatItLaysOut) {
  struct Case {
    const char* model;
    int64_t gpus, batch;
  };
  int64_t same = 0, others = 0;
  std::mt19937_64 random(3);
  for (const Case& of : {Case{"deepseek-v3", 256, 1024},
                         Case{"qwen3-30b-a3b", 64, 512},
                         Case{"deepseek-16b", 32, 256},
                         Case{"llama-3.1-8b", 16, 128}}) {
    const Plan base = megatron_base(of.model);
    SearchSpace asked{
        .gpus = {of.gpus},
        .batches = {of.batch},
        .precisions = {Precision::kBf16, Precision::kFp8},
        .dispatchers = {Dispatcher::kTwoHop, Dispatcher::kAllToAll, Dispatcher::kAllGather},
        .communication_sms = {20, 24}};
    for (const Candidate& drawn : sample(base, filled(asked, base), 400, 11)) {
      const Candidate varied = otherwise(base, drawn, random);
      for (const Candidate& c : {drawn, varied}) {
        if (c.gpus == 0) continue;
        const MegatronLine line = cli::megatron_line(base, c);
        EXPECT_TRUE(why_not(plan_of(base, line.runs)).empty()) << line.arguments;
        const std::string why = error_of([&] {
          const MegatronRun again = cli::read_megatron(line.arguments, of.gpus, base);
          EXPECT_EQ(to_string(again.candidate), to_string(line.runs)) << line.arguments;
          EXPECT_EQ(again.candidate, line.runs) << line.arguments;
        });
        EXPECT_EQ(why, "") << line.arguments;
        if (line.is_other) {
          ++others;
          EXPECT_FALSE(line.notes.empty());
          continue;
        }
        ++same;
        // The layout itself.
        EXPECT_EQ(line.runs.layout.layers_per_stage, c.layout.layers_per_stage);
        EXPECT_EQ(line.runs.layout.schedule, c.layout.schedule);
        EXPECT_EQ(line.runs.layout.overlap_all_to_all, c.layout.overlap_all_to_all);
        EXPECT_EQ(rank_memory(plan_of(base, line.runs), 0).need(),
                  rank_memory(plan_of(base, c), 0).need())
            << line.arguments;
      }
    }
  }
  EXPECT_GT(same, 500);
  EXPECT_GT(others, 500);
}

TEST(MegatronLineTest, SaysWhatMegatronDoesNotRun) {
  const Plan base = megatron_base("deepseek-v3");
  Candidate c{.gpus = 256, .batch = 2048, .sequence = 4096, .precision = Precision::kFp8};
  c.layout = {.pp = 8, .dp = 32, .ep = 32, .schedule = ScheduleKind::kDualPipe};
  c.layout.layers_per_stage = even_layers(61, 8);
  c.micro_batches = 64;
  c.micro_batch_size = 1;
  c.communication_sms = base.cluster.communication_sms;
  const MegatronLine dual = cli::megatron_line(base, c);
  EXPECT_TRUE(dual.is_other);
  EXPECT_NE(dual.notes.front().find("no dualpipe: the nearest that it runs is interleaved-1f1b x2 "
                                    "with all-to-alls beside"),
            std::string::npos)
      << dual.notes.front();
  EXPECT_NE(dual.arguments.find("--overlap-moe-expert-parallel-comm"), std::string::npos);
  c.layout.schedule = ScheduleKind::kZB1P;
  c.layout.zero_stage = 3;
  const MegatronLine zb = cli::megatron_line(base, c);
  EXPECT_NE(zb.notes.front().find("no zb1p: the nearest that it runs is 1f1b"), std::string::npos);
  EXPECT_EQ(zb.runs.layout.layers_per_stage, c.layout.layers_per_stage);
  for (const char* part : {"--use-megatron-fsdp --data-parallel-sharding-strategy "
                           "optim_grads_params --ckpt-format fsdp_dtensor",
                           "moe_act",
                           "--moe-grouped-gemm",
                           "--pipeline-model-parallel-layout 'Et*7|t*7|(t*8|)*5t*7mL'",
                           "--exp-avg-dtype bf16"}) {
    EXPECT_NE(zb.arguments.find(part), std::string::npos) << part << " of " << zb.arguments;
  }
}

}  // namespace
}  // namespace rehearse
