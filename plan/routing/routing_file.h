#pragma once
// Recorded routing: which experts every token of some steps' micro-batches chose, layer by layer.
// HDF5, so that h5py and h5dump read it too (plots/routing_trace.py reads and writes it):
//   choices  uint16 [steps x micro_batches, layers, tokens, active], expert indices; chunked by
//            micro-batch and layer, shuffled, deflated, with checksums; attributes `format`
//            ("rehearse-routing 2"), `experts`, `micro_batches_per_step`
//   weights  float16, likewise but not deflated: the gate's weights of these choices (not in every
//            file)
//   steps    int64 [steps]: their numbers
// Micro-batches of a step: one data rank's after the other's. Layers: those with experts, first
// first, MTP modules' last. Attributes of the file say what it is of: model, layout, text and so
// on. Format 1 had no steps: all of it is one.

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace rehearse {

struct RoutingShape {
  int64_t micro_batches = 0;  // of a step
  int64_t layers = 0, tokens = 0, active = 0, experts = 0;
  int64_t steps = 1;  // that a reader found
  int64_t choices() const { return tokens * active; }
  bool operator==(const RoutingShape&) const = default;
};

// Empty when every token chooses `active` experts of `experts`, each once; else what is wrong, with
// "{}" where the caller says of which micro-batch.
std::string why_not_choices(std::span<const int32_t> choices, int64_t active, int64_t experts);

// Writes beside `path` and renames over it, at every commit(): the file is whole at any moment,
// with all steps of the last commit. Until then they are in memory. Throws InputError when the file
// cannot be written.
class RoutingWriter {
 public:
  // about: attributes of the file. weights: whether those are written too.
  RoutingWriter(const std::string& path,
                const RoutingShape& shape,
                const std::map<std::string, std::string>& about = {},
                bool weights = false,
                int deflate = 1);  // 0: not packed
  ~RoutingWriter();                // what was not committed is lost
  // The next step's number; files of one step need not say it.
  void begin_step(int64_t number);
  // Of that step. choices, weights: [tokens, active].
  void write(int64_t micro_batch,
             int64_t layer,
             std::span<const int32_t> choices,
             std::span<const float> weights = {});
  // A whole step's, [micro-batch][layer][token][active], without weights.
  void write_step(int64_t number, std::span<const uint16_t> choices);
  // A dataset of numbers beside the choices, once.
  void put_numbers(const std::string& name, const std::vector<int64_t>& numbers);
  // Puts all steps into the file.
  void commit();
  void finish() { commit(); }
  // Bytes of choices and weights as they are packed so far.
  int64_t packed_bytes() const;

 private:
  struct File;
  std::unique_ptr<File> file_;
};

// Throws InputError for anything that is not such a file, and for choices that are no experts and
// weights that are no numbers.
class RoutingReader {
 public:
  explicit RoutingReader(const std::string& path);
  ~RoutingReader();
  const RoutingShape& shape() const;
  const std::vector<int64_t>& steps() const;  // their numbers
  bool has_weights() const;
  // "" where the file does not say.
  std::string about(const std::string& attribute) const;
  // Of a dataset that put_numbers made. Throws InputError where there is none.
  std::vector<int64_t> numbers(const std::string& name) const;
  // [tokens, active]. step: index from 0; micro_batch: of the step.
  std::vector<int32_t> read(int64_t micro_batch, int64_t layer, int64_t step = 0) const;
  std::vector<float> read_weights(int64_t micro_batch, int64_t layer, int64_t step = 0) const;

 private:
  struct File;
  std::unique_ptr<File> file_;
};

}  // namespace rehearse
