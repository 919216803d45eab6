// rehearse trace: routing traces of others in, and out again.

#include <algorithm>
#include <filesystem>
#include <set>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "base/file.h"
#include "base/progress.h"
#include "base/stopwatch.h"
#include "cli/command.h"
#include "cli/report.h"
#include "cli/whole_number.h"
#include "plan/routing/foreign.h"
#include "plan/routing/synthetic.h"
#include "sim/replay.h"

namespace rehearse::cli {
namespace {

enum class Format : uint8_t { kMegatron, kCsv, kArray, kCounts };
constexpr NameTable kFormats{std::to_array<Named<Format>>({{Format::kMegatron, "megatron"},
                                                           {Format::kCsv, "csv"},
                                                           {Format::kArray, "array"},
                                                           {Format::kCounts, "counts"}})};
static_assert(kFormats.complete());

int64_t needed(const Options& options, const char* name, const char* why) {
  if (!options.has(name)) throw UsageError(fmt::format("trace: --{} is needed: {}", name, why));
  return options.integer(name, {.min = 1, .max = 65'536});
}

// "3=16": rank 3's first layer is the model's 16th.
std::map<int64_t, int64_t> offsets_of(const Options& options) {
  std::map<int64_t, int64_t> all;
  if (!options.has("layer-offset")) return all;
  for (const std::string& text : options.texts("layer-offset")) {
    const size_t equals = text.find('=');
    const auto rank = whole_number(text.substr(0, equals));
    const auto offset =
        equals == std::string::npos ? std::nullopt : whole_number(text.substr(equals + 1));
    if (!rank || !offset || *rank < 0 || *offset < 0) {
      throw UsageError(
          fmt::format("trace: --layer-offset {}: expected RANK=LAYERS, such as 8=16", text));
    }
    all[*rank] = *offset;
  }
  return all;
}

ForeignTrace read_foreign(const Options& options,
                          Format format,
                          const std::vector<std::string>& files,
                          const ImportProgress& progress) {
  if (format == Format::kMegatron) {
    MegatronOptions o{
        .experts = needed(options, "experts", "the files do not say how many there are"),
        .layer_base = options.integer("layer-base", {.min = 0, .max = 1'000'000}),
        .place = {},
        .recomputed = options.has("recomputed"),
        .threads = static_cast<int32_t>(options.integer("threads", {.min = 1, .max = 256}))};
    const std::map<int64_t, int64_t> offsets = offsets_of(options);
    if (options.has("run")) {
      const Plan plan = load_plan(options.text("run"));
      const Layout l = plan.layout;
      if (l.slots() > 1) {
        throw InputError(fmt::format(
            "{}: layout.schedule: {}: ranks hold several stages, which the files do not tell "
            "apart; use --layer-offset",
            plan.path,
            name_of(l.schedule)));
      }
      o.place = [l](int64_t rank) {
        const Place p = l.place_of(rank % l.world());
        return std::pair(l.first_layer(l.stage_of(p.pp_rank, 0)),
                         static_cast<int64_t>(p.data_rank));
      };
    } else {
      // Ranks of one offset are data ranks, in their order, whatever the pipeline's.
      std::map<int64_t, int64_t> next;  // data rank, by offset
      std::map<int64_t, std::pair<int64_t, int64_t>> place;
      if (offsets.empty()) {
        o.place = [](int64_t rank) { return std::pair(int64_t{0}, rank); };
      } else {
        for (const auto& [rank, offset] : offsets) place[rank] = {offset, next[offset]++};
        o.place = [place](int64_t rank) {
          const auto at = place.find(rank);
          if (at == place.end()) {
            throw InputError(fmt::format(
                "rank {} has a file but no --layer-offset; give one for every rank", rank));
          }
          return at->second;
        };
      }
    }
    return read_megatron(files, o, progress);
  }
  if (files.size() != 1) {
    throw UsageError(fmt::format("trace: --format {} takes one file", kFormats[format]));
  }
  if (format == Format::kCsv) {
    return read_choices_csv(files.front(),
                            needed(options, "experts", "the file does not say how many there are"),
                            needed(options, "active", "lines of a token"));
  }
  ArrayOptions o{.experts = options.has("experts") ? needed(options, "experts", "") : 0,
                 .name = options.has("array") ? options.text("array") : "",
                 .counts = format == Format::kCounts,
                 .active = 0};
  if (o.counts) o.active = needed(options, "active", "experts of a token");
  return read_array(files.front(), o);
}

void describe(Report& r, const RoutingShape& s, int64_t steps) {
  r.line("steps", "steps", steps);
  r.line("micro_batches", "micro-batches of a step", s.micro_batches);
  r.line("layers", "layers with experts", s.layers);
  r.line("tokens", "tokens of a micro-batch", s.tokens);
  r.line(
      "experts", "experts", {fmt::format("{} of {} for a token", s.active, s.experts), s.experts});
  r.put("active", s.active);
}

int import_trace(const Options& options, const std::vector<std::string>& files) {
  if (files.empty()) throw UsageError("trace import: no files");
  if (!options.has("out")) throw UsageError("trace import: --out is needed: the file to write");
  options.check_outputs({options.text("out")});
  const auto format = kFormats.find(options.text("format"));
  if (!format) {
    throw UsageError(
        fmt::format("trace: --format {}: expected {}", options.text("format"), kFormats.list()));
  }
  const Stopwatch watch;
  int64_t all = 0;
  for (const std::string& f : files) {
    std::error_code error;
    const auto size = std::filesystem::file_size(f, error);
    if (error) throw InputError(f + ": no such file");
    all += static_cast<int64_t>(size);
  }
  Progress progress(
      {.label = "import", .total = std::max<int64_t>(1, all), .quiet = options.quiet()});
  int64_t done = 0;
  const ForeignTrace trace =
      read_foreign(options, *format, files, [&](int64_t n) { progress.update(done += n); });
  const double read_seconds = watch.seconds();
  std::map<std::string, std::string> about = trace.about;
  if (trace.estimated) about["estimated"] = "tokens dealt out by counts of experts";
  const RoutingShape& shape = trace.steps.front().shape;
  RoutingWriter writer(
      options.text("out"), shape, about, /*weights=*/false, options.has("pack") ? 1 : 0);
  for (const RecordedStep& step : trace.steps) writer.write_step(step.number, step.choices);
  for (const auto& [name, numbers] : trace.numbers) writer.put_numbers(name, numbers);
  writer.commit();
  Report r;
  describe(r, shape, static_cast<int64_t>(trace.steps.size()));
  r.put("estimated", trace.estimated);
  if (trace.estimated) {
    r.say(
        "  estimated: tokens were dealt out by counts of experts; bytes that follow are "
        "estimates\n");
  }
  const double seconds = watch.seconds();
  r.line("wall_s",
         "read and written",
         {fmt::format("{} in {:.2f} s, {:.0f} MB/s (reading alone {:.0f})",
                      to_string(Bytes(all)),
                      seconds,
                      static_cast<double>(all) / seconds * 1e-6,
                      static_cast<double>(all) / read_seconds * 1e-6),
          seconds});
  r.put("bytes", all);
  options.print(r);
  return 0;
}

ForeignTrace read_own(const std::string& path) {
  const RoutingReader reader(path);
  ForeignTrace trace;
  for (int64_t i = 0; i < reader.shape().steps; ++i) trace.steps.push_back(read_step(reader, i));
  const std::string count = reader.about("megatron_files");
  const auto files = whole_number(count);
  if (!files || *files < 1) {
    throw InputError(path + ": was not imported from Megatron-LM's files: nothing to export as");
  }
  trace.about["megatron_files"] = count;
  for (int64_t f = 0; f < *files; ++f) {
    const std::string name = fmt::format("megatron_{}", f);
    for (const char* part : {"_file", "_spaced", "_keys", "_stage"}) {
      trace.about[name + part] = reader.about(name + part);
    }
    trace.numbers[name] = reader.numbers(name);
    const int64_t rows =
        reader.shape().steps * reader.shape().micro_batches * reader.shape().layers;
    const std::vector<int64_t>& lines = trace.numbers[name];
    for (size_t i = 5; i < lines.size(); i += 6) {
      if (lines[i] < -rows || lines[i] >= rows)
        throw InputError(path + ": its list of lines is damaged");
    }
  }
  return trace;
}

int export_trace(const Options& options, const std::vector<std::string>& files) {
  if (files.size() != 1 || !options.has("out")) {
    throw UsageError("trace export: expected one trace, and --out, the folder to write into");
  }
  const ForeignTrace trace = read_own(files.front());
  const auto written = print_megatron(trace);
  std::set<std::string> names;
  for (const auto& [name, text] : written) {
    if (names.insert(std::filesystem::path(name).filename().string()).second) continue;
    throw InputError(
        fmt::format("{}: two of its files have the name '{}': one would replace the other",
                    files.front(),
                    name));
  }
  std::vector<std::string> paths;
  for (const auto& [name, text] : written) {
    const std::string base = std::filesystem::path(name).filename().string();
    if (base.empty() || base == "." || base == "..") {
      throw InputError(files.front() + ": names a file that is none");
    }
    paths.push_back((std::filesystem::path(options.text("out")) / base).string());
  }
  options.check_outputs(paths);
  Report r;
  for (size_t i = 0; i < paths.size(); ++i) {
    write_file(paths[i], written[i].second);
    r.say(fmt::format("written: {}\n", paths[i]));
  }
  r.put("files", static_cast<int64_t>(written.size()));
  if (const auto left_out = left_out_of_megatron(trace); !left_out.empty()) {
    r.say(fmt::format("left out: {}, whose values a trace does not hold\n",
                      fmt::join(left_out, ", ")));
    r.put("left_out", std::vector<Value>(left_out.begin(), left_out.end()));
  }
  options.print(r);
  return 0;
}

int show_trace(const Options& options, const std::vector<std::string>& files) {
  if (files.size() != 1) throw UsageError("trace show: expected one trace");
  const RoutingReader reader(files.front());
  Report r;
  describe(r, reader.shape(), reader.shape().steps);
  r.line("weights", "gate weights", reader.has_weights());
  for (const char* key : {"model", "layout", "source", "estimated", "text_crc32"}) {
    if (const std::string text = reader.about(key); !text.empty()) r.line(key, key, text);
  }
  options.print(r);
  return 0;
}

// Parameters of a trace, how well what is made of them is like it, and such a trace.
int synthesize(const Options& options, const std::vector<std::string>& files) {
  if (files.size() != 1) throw UsageError("trace synthesize: expected one trace, to be like");
  if (options.has("out")) options.check_outputs({options.text("out")});
  const RoutingReader reader(files.front());
  // As many as say enough.
  constexpr int64_t kMostSteps = 16;
  const int64_t fitted = std::min(kMostSteps, reader.shape().steps);
  std::vector<RecordedStep> steps;
  for (int64_t i = 0; i < fitted; ++i) {
    steps.push_back(read_step(reader, reader.shape().steps - fitted + i));
  }
  const RoutingModel model(steps);
  const auto seed = static_cast<uint64_t>(options.integer("seed", {.min = 0}));
  const RoutingFigures& told = model.figures();
  const RoutingFigures made = figures_of(model.make(fitted, seed + 1));
  Report r;
  Report::Table table{.columns = {{"figure", ""}, {"trace", "trace"}, {"made", "made of it"}}};
  table.by_first = false;
  table.row({"max_over_mean", told.max, made.max});
  table.row({"gini", told.gini, made.gini});
  table.row({"neighbours", told.neighbours, made.neighbours});
  table.row({"layers", told.layers, made.layers});
  table.row({"drift", told.drift, made.drift});
  r.say(fmt::format("fitted to the last {} of {} steps; judged on others made of the fit\n",
                    fitted,
                    reader.shape().steps));
  r.table("figures", std::move(table));
  r.say(
      "max, Gini: of experts' tokens in a micro-batch; neighbours: experts that the token before "
      "has "
      "too;\nlayers: what an expert says of the next layer's (total variation); drift: of "
      "popularity "
      "from\nstep to step\n");
  r.line("repeat", "repeats", {fmt::format("{:.3f}", model.repeat()), model.repeat()});
  r.line("power", "layers' power", {fmt::format("{:.3f}", model.power()), model.power()});
  const double off = misfit(told, made);
  r.line("misfit", "misfit", {fmt::format("{:.1f}%, mean over the figures", 100 * off), off});
  if (options.has("out")) {
    const int64_t count = options.has("steps")
                              ? options.integer("steps", {.min = 1, .max = 100'000})
                              : reader.shape().steps;
    const auto like = model.make(count, seed);
    RoutingWriter writer(options.text("out"),
                         like.front().shape,
                         {{"source", fmt::format("made like {}, seed {}", files.front(), seed)}});
    for (const RecordedStep& step : like) writer.write_step(step.number, step.choices);
    writer.commit();
  }
  options.print(r);
  return 0;
}

}  // namespace

int trace(const Arguments& args) {
  Options options(
      {.name = "trace",
       .about =
           "Routing traces: import others' files, export them again, make others like one\n"
           "(synthesize: popularity, neighbours and layers fitted), show what one is. Formats:\n"
           "  megatron  Megatron-LM's router tracer, router_trace_rank<r>.jsonl, a file per rank\n"
           "  csv       layer,expert: a choice per line, as llama.cpp writes them\n"
           "  array     .npy or .npz of choices: [tokens, layers, active] (vLLM), [micro_batches,\n"
           "            layers, tokens, active], or with steps before\n"
           "  counts    .npy or .npz of tokens per expert, [layers, experts] or with steps before\n"
           "            (SGLang); dealt out to tokens, and marked as estimated\n"
           "plots/import_traces.py makes arrays of pickles (.pt) and Parquet files.",
       .examples =
           "  rehearse trace import router_trace_rank*.jsonl --experts 256 --run run.yaml --out "
           "r.h5\n"
           "  rehearse trace import counts.npy --format counts --active 8 --out r.h5\n"
           "  rehearse trace export r.h5 --out folder\n"
           "  rehearse trace synthesize r.h5 --steps 100 --seed 7 --out like-it.h5\n"
           "  rehearse trace show r.h5\n",
       .plan = PlanArgument::kSeveral,
       .takes = "import|export|synthesize|show <file>..."});
  options.value("format", "NAME", std::string(kFormats.list()), "megatron")
      .value("experts", "N", "routed experts of a layer")
      .value("active", "N", "experts of a token (csv, counts)")
      .value("array", "NAME", "of an .npz with several")
      .value(
          "run", "PLAN", "megatron: the run's plan, for which layers and data ranks its ranks have")
      .values("layer-offset",
              "RANK=N",
              "megatron: layers of the stages before a rank's, instead of --run")
      .value("layer-base", "N", "megatron: number of a chunk's first layer in the files", "0")
      .flag("recomputed", "megatron: every call is there twice, from recomputation in backward")
      .flag("pack", "deflate what is written: smaller, and slower")
      .value("threads", "N", "files side by side", "2")
      .value("seed", "N", "synthesize: of what is made", "1")
      .value("steps", "N", "synthesize: how many to make (as many as the trace has)")
      .value("out", "PATH", "trace to write, folder (export)");
  if (!options.parse(args)) return 0;
  std::vector<std::string> files = options.plan_paths();
  const std::string action = files.front();
  files.erase(files.begin());
  if (action == "import") return import_trace(options, files);
  if (action == "export") return export_trace(options, files);
  if (action == "synthesize") return synthesize(options, files);
  if (action == "show") return show_trace(options, files);
  throw UsageError(fmt::format("trace: '{}': expected import, export, synthesize or show", action));
}

}  // namespace rehearse::cli
