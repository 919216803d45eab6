#pragma once
// Weights as others write them: Hugging Face's names and what its writers make of them, read as the
// tensors that a model here has (NamedTensor).
//
//   packed experts   mlp.experts.gate_up_proj [experts, 2 x width, hidden], gate above up, and
//                    mlp.experts.down_proj [experts, hidden, width], as transformers 5 has them
//   Mixtral's names  block_sparse_moe.gate; block_sparse_moe.experts.N.w1 (gate), w3 (up), w2
//   (down) FP8              codes E4M3 with a scale for each 128 x 128 of them (weight_scale_inv)
//   multimodal       the language model's tensors, by their prefix; a tower's are passed over
//
// Passed over without a word: buffers that everybody computes anew (rotary_emb.inv_freq), and the
// embedding and head that files hold once more with every MTP module.

#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "runtime/checkpoints/tensor_files.h"

namespace rehearse {

class ForeignWeights {
 public:
  // path: a folder as Hugging Face's, a checkpoint's folder, or one file. Throws InputError for
  // what is none, and for kinds of files that are not read (adapters, other models' names, other
  // quantisations), by the kind.
  explicit ForeignWeights(const std::string& path);

  bool has(const std::string& name) const { return named_.contains(name); }
  // The model's tensor of this name, as FP32. Throws InputError where it is missing or of another
  // shape.
  std::vector<float> read(const std::string& name, const std::vector<int64_t>& shape);
  // Throws InputError where something of the files was not read.
  void require_all_read() const;
  // What was passed over that a user may miss.
  const std::vector<std::string>& notes() const { return notes_; }

 private:
  struct Tensor {
    std::string name;  // in the file
    TensorFiles::Tensor in;
  };
  // One matrix, or some of its rows, of a tensor of one or several.
  struct Rows {
    int64_t matrix = 0;
    int64_t first = 0, count = 0;
    int64_t columns = 0;
    int64_t of = 0;  // rows of a whole matrix
  };

  void take_names();
  void refuse_mixed_experts() const;
  std::vector<float> read_rows(const std::string& name, const Tensor& tensor, const Rows& rows);
  // Those of the matrix that holds the rows: one for each block of it.
  std::vector<float> scales_of(const std::string& name, const Tensor& tensor, const Rows& rows);
  // What the files are, for a message: layers, attention, experts.
  std::string description() const;

  TensorFiles files_;
  std::map<std::string, Tensor> named_;  // by the name that the model has
  std::set<std::string> used_;
  std::set<std::pair<std::string, int64_t>> used_parts_;  // of packed tensors: thirds of an expert
  std::vector<std::string> notes_;
};

}  // namespace rehearse
