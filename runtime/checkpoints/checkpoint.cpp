#include "runtime/checkpoints/checkpoint.h"

#include <algorithm>
#include <charconv>
#include <filesystem>

#include <fcntl.h>
#include <fmt/format.h>
#include <nlohmann/json.hpp>
#include <unistd.h>

#include "base/background.h"
#include "base/errors.h"
#include "base/file.h"
#include "base/json_error.h"
#include "runtime/checkpoints/foreign_weights.h"
#include "runtime/checkpoints/safetensors.h"

namespace rehearse {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr std::string_view kPrefix = "step-";
constexpr std::string_view kPartial = ".partial";
constexpr const char* kFormat = "rehearse checkpoint";
constexpr int kVersion = 3;
constexpr size_t kShardBytes = size_t{2} << 30;

std::string folder_name(int64_t step) {
  return fmt::format("{}{:08}", kPrefix, step);
}

std::optional<int64_t> step_of(const std::string& name) {
  if (!name.starts_with(kPrefix)) return std::nullopt;
  int64_t step = 0;
  const char* const end = name.data() + name.size();
  const auto read = std::from_chars(name.data() + kPrefix.size(), end, step);
  if (read.ec != std::errc() || read.ptr != end || name != folder_name(step)) return std::nullopt;
  return step;
}

// Steps of the checkpoints in a folder, ascending.
std::vector<int64_t> steps_in(const std::string& folder) {
  std::vector<int64_t> steps;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(folder, error)) {
    if (const auto step = step_of(entry.path().filename().string())) steps.push_back(*step);
  }
  std::sort(steps.begin(), steps.end());
  return steps;
}

void sync_folder(const std::string& folder) {
  const int file = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (file < 0) return;
  ::fsync(file);
  ::close(file);
}

// Tensors in files of at most kShardBytes, in their order.
std::vector<std::vector<const NamedTensor*>> shards_of(const std::vector<NamedTensor>& tensors) {
  std::vector<std::vector<const NamedTensor*>> shards(1);
  size_t bytes = 0;
  for (const NamedTensor& t : tensors) {
    const size_t own = t.values.size() * sizeof(float);
    if (bytes > 0 && bytes + own > kShardBytes) {
      shards.emplace_back();
      bytes = 0;
    }
    shards.back().push_back(&t);
    bytes += own;
  }
  return shards;
}

json parse_json(const std::string& path) {
  const std::string text = read_file(path);
  json j = json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!j.is_object()) throw InputError(path + ": is no JSON object, or cut off");
  return j;
}

// Facts by what they are: "recipe": {"training.beta1": "0.9", ...}.
json manifest_of(const CheckpointInfo& i) {
  json j = {{"format", kFormat},
            {"version", kVersion},
            {"step", i.step},
            {"loss", i.loss},
            {"averages", i.averages},
            {"model_name", i.model},
            {"saved_in_layout", i.layout_text}};
  for (const Fact& f : i.facts) j[std::string(kOnResume[f.on_change])][f.key] = f.value;
  return j;
}

CheckpointInfo info_of(const json& j, const std::string& path) {
  try {
    if (j.value("format", "") != kFormat) {
      throw InputError(path + ": is no checkpoint's manifest: no \"format\": \"" + kFormat + "\"");
    }
    if (j.at("version") != kVersion) {
      throw InputError(
          fmt::format("{}: version {}; this rehearse goes on from version {}, which says "
                      "what it is of (--from takes the weights alone)",
                      path,
                      j.at("version").dump(),
                      kVersion));
    }
    CheckpointInfo i{.step = j.at("step"),
                     .loss = j.at("loss").is_null() ? 0 : j.at("loss").get<double>(),
                     .averages = j.at("averages"),
                     .model = j.at("model_name"),
                     .layout_text = j.at("saved_in_layout"),
                     .facts = {}};
    for (const auto& kind : kOnResume.entries()) {
      if (kind.value == OnResume::kNothing || !j.contains(kind.name)) continue;
      for (const auto& [key, value] : j.at(std::string(kind.name)).items()) {
        i.facts.push_back({kind.value, key, value.get<std::string>()});
      }
    }
    return i;
  } catch (const json::exception& e) {
    fail_json(path, "is no checkpoint's manifest", e);
  }
}

// Files of a kind that a manifest lists.
std::vector<std::string> files_of(const std::string& folder, const std::string& kind) {
  std::vector<std::string> paths;
  const std::string path = folder + "/manifest.json";
  const json j = parse_json(path);
  for (const json& f : j.at("files")) {
    const auto name = f.at("name").get<std::string>();
    if (name.starts_with(kind) && name.ends_with(".safetensors"))
      paths.push_back(folder + "/" + name);
  }
  return paths;
}

void load_kind(TensorFiles& files, LocalRanks& ranks, StateKind kind, const std::string& suffix) {
  ranks.set_state(kind, [&](const std::string& name, const std::vector<int64_t>& shape) {
    return files.read(name + suffix, shape);
  });
}

}  // namespace

struct CheckpointSaver::Snapshot {
  CheckpointInfo info;
  std::vector<NamedTensor> model, optimizer, average;
};

CheckpointSaver::CheckpointSaver(std::string folder, int64_t keep)
    : folder_(std::move(folder)), keep_(keep) {
  std::error_code error;
  std::vector<fs::path> partial;
  for (const auto& entry : fs::directory_iterator(folder_, error)) {
    if (entry.path().filename().string().ends_with(kPartial)) partial.push_back(entry.path());
  }
  for (const fs::path& p : partial) fs::remove_all(p, error);
}

CheckpointSaver::~CheckpointSaver() {
  finish();
}

void CheckpointSaver::finish() {
  if (writing_.joinable()) writing_.join();
}

std::string CheckpointSaver::error() {
  finish();
  return std::exchange(error_, {});
}

void CheckpointSaver::save(const LocalRanks& ranks, const CheckpointInfo& info) {
  finish();
  if (!snapshot_) snapshot_ = std::make_unique<Snapshot>();
  Snapshot& s = *snapshot_;
  s.info = info;
  ranks.state(StateKind::kWeights, s.model, 0);
  size_t end = 0;
  for (const auto& [kind, suffix] : {std::pair(StateKind::kFirstMoments, ".exp_avg"),
                                     std::pair(StateKind::kSecondMoments, ".exp_avg_sq")}) {
    const size_t begin = end;
    end = ranks.state(kind, s.optimizer, begin);
    for (size_t i = begin; i < end; ++i) s.optimizer[i].name += suffix;
  }
  if (info.averages) ranks.state(StateKind::kAverages, s.average, 0);
  last_step_ = info.step;
  writing_ = std::thread([this] {
    stand_back();
    try {
      write(*snapshot_);
    } catch (const std::exception& e) {
      error_ = e.what();
    }
  });
}

void CheckpointSaver::write(const Snapshot& s) {
  const std::string whole = checkpoint_folder(folder_, s.info.step);
  const std::string partial = whole + std::string(kPartial);
  std::error_code error;
  fs::remove_all(partial, error);
  try {
    json manifest = manifest_of(s.info);
    json& files = manifest["files"] = json::array();
    json weight_map = json::object();
    int64_t model_bytes = 0;
    for (const auto& [kind, tensors] : {std::pair("model", &s.model),
                                        std::pair("optimizer", &s.optimizer),
                                        std::pair("average", &s.average)}) {
      if (tensors->empty()) continue;
      const auto shards = shards_of(*tensors);
      for (size_t i = 0; i < shards.size(); ++i) {
        const std::string name =
            fmt::format("{}-{:05}-of-{:05}.safetensors", kind, i + 1, shards.size());
        const WrittenFile written =
            write_safetensors(partial + "/" + name, shards[i], {{"format", "pt"}});
        files.push_back({{"name", name}, {"bytes", written.bytes}, {"crc32c", written.checksum}});
        if (tensors != &s.model) continue;
        for (const NamedTensor* t : shards[i]) {
          weight_map[t->name] = name;
          model_bytes += static_cast<int64_t>(t->values.size() * sizeof(float));
        }
      }
    }
    write_file(
        partial + "/model.safetensors.index.json",
        json{{"metadata", {{"total_size", model_bytes}}}, {"weight_map", weight_map}}.dump(1) +
            "\n");
    write_file(partial + "/manifest.json", manifest.dump(1) + "\n");
    sync_folder(partial);
    fs::remove_all(whole);  // of the same step, from before
    fs::rename(partial, whole);
    sync_folder(folder_);
  } catch (...) {
    fs::remove_all(partial, error);
    throw;
  }
  std::vector<int64_t> steps = steps_in(folder_);
  while (static_cast<int64_t>(steps.size()) > keep_) {
    // Under another name first: half a folder is never taken for a checkpoint.
    const std::string old = folder_ + "/" + folder_name(steps.front());
    fs::rename(old, old + std::string(kPartial), error);
    fs::remove_all(old + std::string(kPartial), error);
    steps.erase(steps.begin());
  }
}

Checkpoint open_checkpoint(const std::string& folder) {
  const std::string path = folder + "/manifest.json";
  const json manifest = parse_json(path);
  Checkpoint c{.folder = folder, .info = info_of(manifest, path)};
  if (!manifest.contains("files") || !manifest["files"].is_array() || manifest["files"].empty()) {
    throw InputError(path + ": lists no files");
  }
  for (const json& f : manifest["files"]) {
    const bool right = f.is_object() && f.contains("name") && f["name"].is_string() &&
                       f.contains("bytes") && f["bytes"].is_number_integer() &&
                       f.contains("crc32c") && f["crc32c"].is_number_unsigned();
    if (!right || f["name"].get<std::string>().find('/') != std::string::npos) {
      throw InputError(path + ": its list of files holds " + f.dump());
    }
    const std::string file = folder + "/" + f["name"].get<std::string>();
    std::error_code error;
    const auto bytes = static_cast<int64_t>(fs::file_size(file, error));
    if (error) throw InputError(file + ": is missing");
    if (bytes != f["bytes"].get<int64_t>()) {
      throw InputError(fmt::format("{}: has {} bytes; the manifest says {}: cut off",
                                   file,
                                   bytes,
                                   f["bytes"].get<int64_t>()));
    }
    if (SafetensorsFile(file).checksum() != f["crc32c"].get<uint32_t>()) {
      throw InputError(file + ": its checksum is not the manifest's: corrupt");
    }
  }
  return c;
}

std::optional<Checkpoint> newest_checkpoint(const std::string& folder,
                                            std::vector<std::string>& passed_over) {
  std::vector<int64_t> steps = steps_in(folder);
  for (auto step = steps.rbegin(); step != steps.rend(); ++step) {
    const std::string path = folder + "/" + folder_name(*step);
    try {
      Checkpoint c = open_checkpoint(path);
      if (c.info.step != *step) {
        throw InputError(fmt::format("{}: its manifest is of step {}", path, c.info.step));
      }
      return c;
    } catch (const InputError& e) {
      passed_over.emplace_back(e.what());
    }
  }
  return std::nullopt;
}

std::string checkpoint_folder(const std::string& folder, int64_t step) {
  return folder + "/" + folder_name(step);
}

bool has_checkpoints(const std::string& folder) {
  return !steps_in(folder).empty();
}

void load_state(const Checkpoint& c, LocalRanks& ranks, bool with_averages) {
  const bool averages = with_averages && c.info.averages;
  TensorFiles model(files_of(c.folder, "model-"));
  load_kind(model, ranks, StateKind::kWeights, "");
  TensorFiles optimizer(files_of(c.folder, "optimizer-"));
  load_kind(optimizer, ranks, StateKind::kFirstMoments, ".exp_avg");
  load_kind(optimizer, ranks, StateKind::kSecondMoments, ".exp_avg_sq");
  TensorFiles average(averages ? files_of(c.folder, "average-") : std::vector<std::string>{});
  if (averages) load_kind(average, ranks, StateKind::kAverages, "");
  for (const TensorFiles* files : {&model, &optimizer, &average}) files->require_all_read();
}

void load_weights(const std::string& path,
                  LocalRanks& ranks,
                  const std::function<void(const std::string&)>& note) {
  ForeignWeights weights(path);
  // A gate's bias may be missing: it starts at nothing.
  ranks.set_state(StateKind::kWeights,
                  [&](const std::string& name, const std::vector<int64_t>& shape) {
                    if (name.ends_with("e_score_correction_bias") && !weights.has(name)) {
                      return std::vector<float>(static_cast<size_t>(shape.front()), 0.0f);
                    }
                    return weights.read(name, shape);
                  });
  weights.require_all_read();
  for (const std::string& text : weights.notes()) note(text);
}

void note_on_stderr(const std::string& text) {
  fmt::print(stderr, "note: {}\n", text);
}

}  // namespace rehearse
