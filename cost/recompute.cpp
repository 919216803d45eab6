#include "cost/recompute.h"

namespace rehearse {

void set_recompute(Recompute& recompute, Recomputable part) {
  switch (part) {
    case Recomputable::kNorms:
      recompute.norms = true;
      return;
    case Recomputable::kUpProjections:
      recompute.up_projections = true;
      return;
    case Recomputable::kActivations:
      recompute.activations = true;
      return;
    case Recomputable::kSelective:
      recompute.core = true;
      return;
    case Recomputable::kFull:
      recompute.layer = true;
      return;
  }
}

}  // namespace rehearse
