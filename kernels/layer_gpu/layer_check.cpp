#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <random>

#include "kernels/gate/gate.h"
#include "kernels/layer_gpu/layer_checking.h"

namespace rehearse::kernels {
namespace {

Outcome rmsnorm_check(Target& target, int64_t rows, int64_t width, int64_t stride, bool narrow) {
  const std::string name = named("rmsnorm", rows, width, narrow);
  Judge judge(name);
  Draw draw(name);
  const auto count = static_cast<size_t>(rows * width);
  const Numbers x(target, draw.normal(rows * stride, 3), narrow);
  const Numbers gain(target, draw.normal(width), narrow);
  Numbers y(target, count, narrow), inverse(target, static_cast<size_t>(rows), false);
  const GpuRmsNorm n{.x = x,
                     .gain = gain,
                     .y = y.to(),
                     .inverse = inverse.fp32(),
                     .rows = rows,
                     .width = width,
                     .x_stride = stride,
                     .eps = 1e-6f};
  const std::vector<float> got = twice(
      target, judge, [&] { target.kernels.rmsnorm(n, {}); }, [&] { return y.read(0, count); });
  for (int64_t r = 0; r < rows; ++r) {
    double squares = 0;
    for (int64_t c = 0; c < width; ++c) squares += x[r * stride + c] * x[r * stride + c];
    const double exact = 1 / std::sqrt(squares / static_cast<double>(width) + 1e-6);
    for (int64_t c = 0; c < width; ++c) {
      const double want = x[r * stride + c] * exact * gain[c];
      // A sum of `width` squares, all of one sign; root, division and two products.
      const double error = std::abs(want) * (static_cast<double>(width) + 8) * kEpsilon;
      judge.expect(
          "y", static_cast<double>(got[static_cast<size_t>(r * width + c)]), want, error, narrow);
    }
  }
  return judge.outcome();
}

Outcome rmsnorm_backward_check(
    Target& target, int64_t rows, int64_t width, int64_t stride, bool narrow, bool addend) {
  const std::string name =
      named("rmsnorm_backward", rows, width, narrow) + (addend ? " + addend" : "");
  Judge judge(name);
  Draw draw(name);
  const Numbers x(target, draw.normal(rows * stride, 3), narrow);
  const Numbers gain(target, draw.normal(width), narrow);
  const Numbers dy(target, draw.normal(rows * width, 1e-3), narrow);
  const Numbers more(target, draw.normal(rows * stride, 1e-3), narrow);
  std::vector<float> inverses;
  for (int64_t r = 0; r < rows; ++r) {
    double squares = 0;
    for (int64_t c = 0; c < width; ++c) squares += x[r * stride + c] * x[r * stride + c];
    inverses.push_back(static_cast<float>(1 / std::sqrt(squares / static_cast<double>(width))));
  }
  const Numbers inverse(target, inverses, false);
  const std::vector<float> before = draw.normal(width, 1e-2);
  Numbers dx(target, static_cast<size_t>(rows * stride), narrow);
  Numbers partial(target, static_cast<size_t>(rmsnorm_chunks(rows) * width), false);
  std::unique_ptr<Numbers> d_gain;
  std::vector<float> gains;
  const std::vector<float> got = twice(
      target,
      judge,
      [&] {
        d_gain = std::make_unique<Numbers>(target, before, false);
        target.kernels.rmsnorm_backward({.dy = dy,
                                         .x = x,
                                         .gain = gain,
                                         .inverse = inverse.fp32(),
                                         .addend = addend ? ConstValues(more) : ConstValues(),
                                         .dx = dx.to(),
                                         .partial = partial.fp32(),
                                         .d_gain = d_gain->fp32(),
                                         .rows = rows,
                                         .width = width,
                                         .x_stride = stride},
                                        {});
      },
      [&] {
        std::vector<float> all = d_gain->read(0, static_cast<size_t>(width));
        for (int64_t r = 0; r < rows; ++r) {
          const auto row = dx.read(static_cast<size_t>(r * stride), static_cast<size_t>(width));
          all.insert(all.end(), row.begin(), row.end());
        }
        return all;
      });
  const auto w = static_cast<double>(width);
  for (int64_t r = 0; r < rows; ++r) {
    double dot = 0, magnitude = 0;
    for (int64_t c = 0; c < width; ++c) {
      const double product = dy[r * width + c] * gain[c] * x[r * stride + c] * inverse[r];
      dot += product;
      magnitude += std::abs(product);
    }
    for (int64_t c = 0; c < width; ++c) {
      const double g = dy[r * width + c] * gain[c];
      const double hat = x[r * stride + c] * inverse[r];
      const double own = inverse[r] * (g - hat * dot / w);
      const double want = own + (addend ? more[r * stride + c] : 0);
      const double error =
          kEpsilon * (6 * (std::abs(inverse[r] * g) + std::abs(inverse[r] * hat * dot / w)) +
                      (w + 4) * std::abs(inverse[r] * hat) * magnitude / w + std::abs(want));
      judge.expect("dx",
                   static_cast<double>(got[static_cast<size_t>(width + r * width + c)]),
                   want,
                   error,
                   narrow);
    }
  }
  for (int64_t c = 0; c < width; ++c) {
    double want = static_cast<double>(before[static_cast<size_t>(c)]);
    double magnitude = std::abs(want);
    for (int64_t r = 0; r < rows; ++r) {
      const double product = dy[r * width + c] * x[r * stride + c] * inverse[r];
      want += product;
      magnitude += std::abs(product);
    }
    judge.expect("d_gain",
                 static_cast<double>(got[static_cast<size_t>(c)]),
                 want,
                 magnitude * (static_cast<double>(rows) + 3) * kEpsilon,
                 false);
  }
  return judge.outcome();
}

// Of experts: some of 130 rows, none, and the rest, each padded; rows that are not there stay as
// they were.
Outcome swiglu_check(Target& target, int64_t tokens, int64_t width, bool narrow, bool experts) {
  const std::string name = named("swiglu", tokens, width, narrow) + (experts ? " of experts" : "");
  Judge judge(name);
  Draw draw(name);
  const std::vector<int32_t> counts = {130, 0, static_cast<int32_t>(tokens)};
  std::vector<int64_t> there;  // rows
  if (experts) {
    for (int64_t r = 0; r < 130; ++r) there.push_back(r);
    for (int64_t r = 0; r < tokens; ++r) there.push_back(256 + r);
  } else {
    for (int64_t r = 0; r < tokens; ++r) there.push_back(r);
  }
  const int64_t rows = experts ? 256 + 128 : tokens;
  const DeviceArray<int32_t> of_experts(target, counts);
  const RowCounts limit = experts ? RowCounts{of_experts.get(), 3} : RowCounts{};
  const Numbers gate_up(target, draw.normal(rows * 2 * width, 2), narrow);
  const Numbers weights(target, draw.normal(rows), false);
  const Numbers dy(target, draw.normal(rows * width), narrow);
  std::unique_ptr<Numbers> y, d, dw;
  const auto all = [&] {
    std::vector<float> out;
    for (const auto* of : {&y, &d, &dw}) {
      const auto n = static_cast<size_t>(rows * (of == &y ? width : of == &d ? 2 * width : 1));
      const std::vector<float> part = (*of)->read(0, n);
      out.insert(out.end(), part.begin(), part.end());
    }
    return out;
  };
  const std::vector<float> got = twice(
      target,
      judge,
      [&] {
        const auto sevens = [&](int64_t n) {
          return std::vector<float>(static_cast<size_t>(n), 7);
        };
        y = std::make_unique<Numbers>(target, sevens(rows * width), narrow);
        d = std::make_unique<Numbers>(target, sevens(rows * 2 * width), narrow);
        dw = std::make_unique<Numbers>(target, sevens(rows), false);
        const float* const w = experts ? weights.fp32() : nullptr;
        target.kernels.swiglu({.gate_up = gate_up,
                               .row_weights = w,
                               .y = y->to(),
                               .rows = rows,
                               .width = width,
                               .counts = limit},
                              {});
        target.kernels.swiglu_backward({.dy = dy,
                                        .gate_up = gate_up,
                                        .row_weights = w,
                                        .d_gate_up = d->to(),
                                        .d_row_weights = experts ? dw->fp32() : nullptr,
                                        .rows = rows,
                                        .width = width,
                                        .counts = limit},
                                       {});
      },
      all);
  // expf is good to two last places on a GPU; a sigmoid of it, and a few products.
  const double few = 16 * kEpsilon;
  std::vector<bool> is_there(static_cast<size_t>(rows));
  for (const int64_t r : there) is_there[static_cast<size_t>(r)] = true;
  for (int64_t r = 0; r < rows; ++r) {
    // y, d_gate_up and d_row_weights, one behind the other.
    const auto at = [&](int64_t i) {
      const int64_t place = i < width       ? r * width + i
                            : i < 3 * width ? (rows + 2 * r) * width + i - width
                                            : 3 * rows * width + r;
      return static_cast<double>(got[static_cast<size_t>(place)]);
    };
    if (!is_there[static_cast<size_t>(r)]) {
      for (int64_t i = 0; i < 3 * width + 1; ++i) judge.expect("no row", at(i), 7, 0, false);
      continue;
    }
    const double w = experts ? weights[r] : 1;
    double sum = 0, magnitude = 0;
    for (int64_t c = 0; c < width; ++c) {
      const double g = gate_up[r * 2 * width + c];
      const double u = gate_up[(r * 2 + 1) * width + c];
      const double s = 1 / (1 + std::exp(-g));
      const double grad = dy[r * width + c];
      judge.expect("y", at(c), w * g * s * u, std::abs(w * g * s * u) * few, narrow);
      const double dg = grad * w * u * s * (1 + g * (1 - s));
      const double parts = std::abs(grad * w * u * s) * (1 + std::abs(g));
      judge.expect("d_gate", at(width + c), dg, parts * few, narrow);
      const double du = grad * w * g * s;
      judge.expect("d_up", at(2 * width + c), du, std::abs(du) * few, narrow);
      sum += grad * g * s * u;
      magnitude += std::abs(grad * g * s * u);
    }
    if (experts) {
      judge.expect("d_row_weight",
                   at(3 * width),
                   sum,
                   magnitude * (static_cast<double>(width) * kEpsilon + few),
                   false);
    }
  }
  return judge.outcome();
}

Outcome cross_entropy_check(Target& target, int64_t tokens, int64_t vocabulary) {
  const std::string name = named("cross_entropy", tokens, vocabulary, false);
  Judge judge(name);
  Draw draw(name);
  const std::vector<float> values = draw.normal(tokens * vocabulary, 4);
  std::vector<int32_t> targets;
  for (int64_t t = 0; t < tokens; ++t) {
    targets.push_back(t % 5 == 3 ? -1 : static_cast<int32_t>(draw.below(vocabulary)));
  }
  const DeviceArray<int32_t> wanted(target, targets);
  std::unique_ptr<Numbers> logits;
  Numbers losses(target, static_cast<size_t>(tokens), false),
      lse(target, static_cast<size_t>(tokens), false);
  constexpr float kScale = 0.01f;
  const std::vector<float> got = twice(
      target,
      judge,
      [&] {
        logits = std::make_unique<Numbers>(target, values, false);
        target.kernels.cross_entropy({.targets = wanted.get(),
                                      .logits = logits->fp32(),
                                      .losses = losses.fp32(),
                                      .lse = lse.fp32(),
                                      .tokens = tokens,
                                      .vocabulary = vocabulary},
                                     {});
        target.kernels.cross_entropy_backward({.targets = wanted.get(),
                                               .lse = lse.fp32(),
                                               .logits = logits->fp32(),
                                               .scale = kScale,
                                               .tokens = tokens,
                                               .vocabulary = vocabulary},
                                              {});
      },
      [&] {
        std::vector<float> all = losses.read(0, static_cast<size_t>(tokens));
        const auto back = logits->read(0, static_cast<size_t>(tokens * vocabulary));
        all.insert(all.end(), back.begin(), back.end());
        return all;
      });
  for (int64_t t = 0; t < tokens; ++t) {
    const float* const row = values.data() + t * vocabulary;
    double sum = 0;
    for (int64_t v = 0; v < vocabulary; ++v) sum += std::exp(static_cast<double>(row[v]));
    const double exact = std::log(sum);
    const int32_t own = targets[static_cast<size_t>(t)];
    // The largest is at most 40; its logarithm's sum is of one sign.
    const double error = (40 + static_cast<double>(vocabulary) / 256 + 20) * kEpsilon;
    judge.expect("loss",
                 static_cast<double>(got[static_cast<size_t>(t)]),
                 own < 0 ? 0 : exact - static_cast<double>(row[own]),
                 error,
                 false);
    for (int64_t v = 0; v < vocabulary; ++v) {
      const double p = std::exp(static_cast<double>(row[v]) - exact);
      const double want = own < 0 ? 0 : static_cast<double>(kScale) * (v == own ? p - 1 : p);
      judge.expect(
          "gradient",
          static_cast<double>(got[static_cast<size_t>(tokens + t * vocabulary + v)]),
          want,
          static_cast<double>(kScale) * (p * 2 * error + kEpsilon * (v == own ? 2 : p * 80)),
          false);
    }
  }
  return judge.outcome();
}

Outcome sum_check(Target& target, int64_t count, int addends, bool narrow, bool to_narrow) {
  const std::string name =
      named("sum", addends, count, narrow) + (to_narrow ? " to BF16" : " to FP32");
  Judge judge(name);
  Draw draw(name);
  const Numbers x(target, draw.normal(count), narrow);
  const Numbers first(target, draw.normal(count), false),
      second(target, draw.normal(count), narrow);
  Numbers y(target, static_cast<size_t>(count), to_narrow);
  const std::vector<float> got = twice(
      target,
      judge,
      [&] {
        target.kernels.sum({.x = x,
                            .first = addends > 0 ? ConstValues(first) : ConstValues(),
                            .second = addends > 1 ? ConstValues(second) : ConstValues(),
                            .y = y.to(),
                            .elements = count},
                           {});
      },
      [&] { return y.read(0, static_cast<size_t>(count)); });
  for (int64_t i = 0; i < count; ++i) {
    const double want = x[i] + (addends > 0 ? first[i] : 0) + (addends > 1 ? second[i] : 0);
    const double error =
        addends * kEpsilon * (std::abs(x[i]) + std::abs(first[i]) + std::abs(second[i]));
    judge.expect("y", static_cast<double>(got[static_cast<size_t>(i)]), want, error, to_narrow);
  }
  return judge.outcome();
}

// Tokens that come several times, some not at all.
Outcome embedding_check(Target& target, int64_t count, int64_t width, bool narrow) {
  const std::string name = named("embedding", count, width, narrow);
  Judge judge(name);
  Draw draw(name);
  const int64_t vocabulary = std::max<int64_t>(2, count / 2);
  std::vector<int32_t> ids;
  for (int64_t t = 0; t < count; ++t) ids.push_back(static_cast<int32_t>(draw.below(vocabulary)));
  const DeviceArray<int32_t> tokens(target, ids);
  const Numbers table(target, draw.normal(vocabulary * width), narrow);
  const Numbers dx(target, draw.normal(count * width), narrow);
  const std::vector<float> before = draw.normal(vocabulary * width);
  Numbers x(target, static_cast<size_t>(count * width), narrow);
  std::unique_ptr<Numbers> d_table;
  const std::vector<float> got = twice(
      target,
      judge,
      [&] {
        d_table = std::make_unique<Numbers>(target, before, false);
        target.kernels.embedding(
            {.tokens = tokens.get(), .table = table, .x = x.to(), .count = count, .width = width},
            {});
        target.kernels.embedding_backward({.tokens = tokens.get(),
                                           .dx = dx,
                                           .d_table = d_table->fp32(),
                                           .count = count,
                                           .width = width},
                                          {});
      },
      [&] {
        std::vector<float> all = x.read(0, static_cast<size_t>(count * width));
        const auto back = d_table->read(0, static_cast<size_t>(vocabulary * width));
        all.insert(all.end(), back.begin(), back.end());
        return all;
      });
  std::vector<double> sums(before.begin(), before.end()), magnitudes(sums.size());
  for (size_t i = 0; i < sums.size(); ++i) magnitudes[i] = std::abs(sums[i]);
  for (int64_t t = 0; t < count; ++t) {
    for (int64_t c = 0; c < width; ++c) {
      const int64_t at = ids[static_cast<size_t>(t)] * width + c;
      judge.expect(
          "x", static_cast<double>(got[static_cast<size_t>(t * width + c)]), table[at], 0, narrow);
      sums[static_cast<size_t>(at)] += dx[t * width + c];
      magnitudes[static_cast<size_t>(at)] += std::abs(dx[t * width + c]);
    }
  }
  for (size_t i = 0; i < sums.size(); ++i) {
    judge.expect("d_table",
                 static_cast<double>(got[static_cast<size_t>(count * width) + i]),
                 sums[i],
                 magnitudes[i] * static_cast<double>(count) * kEpsilon,
                 false);
  }
  return judge.outcome();
}

// Three segments with a gap; a step that is not to be applied changes nothing.
Outcome adamw_check(Target& target, int64_t count, bool narrow, bool applies) {
  const std::string name =
      named("adamw", 1, count, narrow) + (applies ? "" : " of a step that is not applied");
  Judge judge(name);
  Draw draw(name);
  const std::vector<GpuAdamW::Segment> list = {
      {0, count / 3, 0.9f}, {count / 3, count / 2, 1}, {count / 2 + 1, count, 0.99f}};
  const DeviceArray<GpuAdamW::Segment> segments(target, list);
  const std::vector<double> state = {64.0, applies ? 0.0 : 1.0};  // a norm of 8
  const DeviceArray<double> status(target, state);
  const std::vector<float> g = draw.normal(count), w = draw.normal(count),
                           first = draw.normal(count, 0.1), a = draw.normal(count);
  std::vector<float> second = draw.normal(count, 0.1);
  for (float& v : second) v = v * v;
  const Numbers gradients(target, g, false);
  std::unique_ptr<Numbers> weights, m, v, average, rounded;
  const AdamWSettings settings{.learning_rate = 1e-2, .step = 7};
  const auto n = static_cast<size_t>(count);
  const std::vector<float> got = twice(
      target,
      judge,
      [&] {
        weights = std::make_unique<Numbers>(target, w, false);
        m = std::make_unique<Numbers>(target, first, narrow);
        v = std::make_unique<Numbers>(target, second, narrow);
        average = std::make_unique<Numbers>(target, a, false);
        rounded = std::make_unique<Numbers>(target, w, true);
        target.kernels.adamw({.settings = settings,
                              .clip = 2,
                              .status = status.get(),
                              .status_size = 2,
                              .segments = segments.get(),
                              .segment_count = 3,
                              .gradients = gradients.fp32(),
                              .weights = weights->fp32(),
                              .m = m->to(),
                              .v = v->to(),
                              .rounded = rounded->to(),
                              .average = average->fp32(),
                              .average_decay = 0.9f,
                              .elements = count},
                             {});
      },
      [&] {
        std::vector<float> all;
        for (const Numbers* x : {&*weights, &*m, &*v, &*average, &*rounded}) {
          const std::vector<float> part = x->read(0, n);
          all.insert(all.end(), part.begin(), part.end());
        }
        return all;
      });
  const double correct1 = 1 - std::pow(settings.beta1, 7),
               correct2 = 1 - std::pow(settings.beta2, 7);
  for (int64_t i = 0; i < count; ++i) {
    const auto at = static_cast<size_t>(i);
    const auto gap = i == count / 2;
    double weight = static_cast<double>(w[at]), keep = i < count / 3   ? 0.9
                                                       : i < count / 2 ? 1
                                                                       : 0.99;
    double one = (*m)[i], two = (*v)[i], mean = static_cast<double>(a[at]);
    if (applies && !gap) {
      const double gradient = static_cast<double>(g[at]) * 2 / 8;
      one = settings.beta1 * one + (1 - settings.beta1) * gradient;
      two = settings.beta2 * two + (1 - settings.beta2) * gradient * gradient;
      weight = weight * keep -
               settings.learning_rate / correct1 * one / (std::sqrt(two / correct2) + settings.eps);
      mean = 0.9 * mean + 0.1 * weight;
    }
    const double few = 12 * kEpsilon;
    const double change = settings.learning_rate / correct1 * (std::abs(one) + 0.2) /
                          (std::sqrt(two / correct2) + settings.eps);
    const double error = few * (std::abs(weight) + std::abs(static_cast<double>(w[at])) + change);
    const auto value = [&](size_t of) { return static_cast<double>(got[of * n + at]); };
    judge.expect("weight", value(0), weight, error, false);
    judge.expect("m", value(1), one, few * (std::abs(one) + 0.2), narrow);
    judge.expect("v", value(2), two, few * (two + 0.2), narrow);
    judge.expect("average", value(3), mean, error + few * std::abs(mean), false);
    judge.expect("rounded", value(4), weight, error, true);
  }
  return judge.outcome();
}

// Choices of random experts, some of other ranks; with room for all, or for a part.
Outcome map_rows_check(
    Target& target, int64_t tokens, int64_t active, int64_t experts, int64_t capacity) {
  const std::string name = named("map_rows", tokens, active, false) + " of " +
                           std::to_string(experts) + " experts, room " + std::to_string(capacity);
  Judge judge(name);
  Draw draw(name);
  std::vector<int32_t> slots;
  for (int64_t i = 0; i < tokens * active; ++i) {
    slots.push_back(static_cast<int32_t>(draw.below(experts + 2)) - 2);  // -2 and -1: elsewhere
  }
  const DeviceArray<int32_t> chosen(target, slots);
  const auto choices = slots.size();
  const auto n = static_cast<size_t>(experts), room = static_cast<size_t>(capacity);
  const DeviceArray<int32_t> expert_rows(target, n), row_of(target, choices);
  const DeviceArray<int32_t> starts(target,
                                    static_cast<size_t>((map_chunks(tokens) + 1) * experts));
  // What it may leave alone is 7 before.
  const DeviceArray<int32_t> token_of_row(target, std::vector<int32_t>(room, 7)),
      choice_of_row(target, std::vector<int32_t>(room, 7));
  std::unique_ptr<DeviceArray<int64_t>> overflowed;
  const std::vector<float> got = twice(
      target,
      judge,
      [&] {
        overflowed = std::make_unique<DeviceArray<int64_t>>(target, std::vector<int64_t>{100});
        target.kernels.map_rows({.slots = chosen.get(),
                                 .expert_rows = expert_rows.get(),
                                 .token_of_row = token_of_row.get(),
                                 .choice_of_row = choice_of_row.get(),
                                 .row_of = row_of.get(),
                                 .overflowed = overflowed->get(),
                                 .starts = starts.get(),
                                 .tokens = tokens,
                                 .active = active,
                                 .experts = experts,
                                 .capacity = capacity},
                                {});
      },
      [&] {
        std::vector<float> all = {static_cast<float>(overflowed->values()[0])};
        for (const auto* a : {&expert_rows, &row_of, &token_of_row, &choice_of_row}) {
          for (const int32_t v : a->values()) all.push_back(static_cast<float>(v));
        }
        return all;
      });
  // Expert by expert, token by token.
  std::vector<double> rows(n), where(choices, -1), token(room, 7), choice(room, 7);
  int64_t first = 0, lost = 0;
  for (int64_t e = 0; e < experts; ++e) {
    const int64_t left = std::max<int64_t>(0, capacity - first);
    int64_t own = 0;
    for (size_t i = 0; i < choices; ++i) {
      if (slots[i] != e) continue;
      if (own == left) {
        ++lost;
        continue;
      }
      where[i] = static_cast<double>(first + own);
      token[static_cast<size_t>(first + own)] =
          static_cast<double>(static_cast<int64_t>(i) / active);
      choice[static_cast<size_t>(first + own)] =
          static_cast<double>(static_cast<int64_t>(i) % active);
      ++own;
    }
    rows[static_cast<size_t>(e)] = static_cast<double>(own);
    for (; own % 128 != 0; ++own) token[static_cast<size_t>(first + own)] = -1;
    first += own;
  }
  size_t at = 0;
  judge.expect(
      "overflow", static_cast<double>(got[at++]), static_cast<double>(100 + lost), 0, false);
  for (const auto* want : {&rows, &where, &token, &choice}) {
    for (const double w : *want) judge.expect("place", static_cast<double>(got[at++]), w, 0, false);
  }
  return judge.outcome();
}

// Values of either type, or codes with their scales, to rows of three experts and back.
Outcome permute_check(Target& target, int64_t width, bool narrow, bool codes) {
  const std::string name = named("permute", 5, width, narrow) + (codes ? " codes" : "");
  Judge judge(name);
  Draw draw(name);
  const std::vector<int32_t> counts = {2, 0, 3};
  const std::vector<int64_t> there = {0, 1, 128, 129, 130};
  std::vector<int32_t> token_of_row(256, -1);
  const int32_t tokens_of[] = {4, 0, 1, 4, 3};
  for (size_t i = 0; i < there.size(); ++i)
    token_of_row[static_cast<size_t>(there[i])] = tokens_of[i];
  const std::vector<int32_t> row_of = {1, -1, 128, -1, -1, -1, 130, -1, 0, 129};
  const DeviceArray<int32_t> of_experts(target, counts), token(target, token_of_row),
      row(target, row_of);
  const RowCounts limit{of_experts.get(), 3};
  const Numbers x(target, draw.normal(5 * width), narrow);
  const Numbers first(target, draw.normal(5 * width), narrow),
      second(target, draw.normal(5 * width), false);
  const auto tiles = static_cast<size_t>((width + kScaleBlock - 1) / kScaleBlock);
  std::vector<uint8_t> bytes;
  for (int64_t i = 0; i < 5 * width; ++i) bytes.push_back(static_cast<uint8_t>(draw.below(256)));
  const DeviceArray<uint8_t> x_codes(target, bytes),
      row_codes(target, static_cast<size_t>(256 * width));
  const std::vector<float> scales = draw.normal(static_cast<int64_t>(tiles) * 8);
  const DeviceArray<float> x_scales(target, scales), row_scales(target, tiles * 256);
  Numbers rows(target, static_cast<size_t>(256 * width), narrow),
      y(target, static_cast<size_t>(5 * width), narrow);
  const std::vector<float> got = twice(
      target,
      judge,
      [&] {
        GpuPermute p{.token_of_row = token.get(), .counts = limit, .width = width, .capacity = 256};
        if (codes) {
          p.x_codes = x_codes.get();
          p.row_codes = row_codes.get();
          p.x_scales = x_scales.get();
          p.row_scales = row_scales.get();
          p.x_scale_stride = 8;
          p.row_scale_stride = 256;
          target.kernels.permute(p, {});
          return;
        }
        p.x = x;
        p.rows = rows.to();
        target.kernels.permute(p, {});
        target.kernels.unpermute({.row_of = row.get(),
                                  .rows = rows,
                                  .first = first,
                                  .second = second,
                                  .y = y.to(),
                                  .tokens = 5,
                                  .active = 2,
                                  .width = width},
                                 {});
      },
      [&] {
        std::vector<float> all;
        for (const int64_t r : there) {
          const auto from = static_cast<size_t>(r * width), n = static_cast<size_t>(width);
          if (codes) {
            for (const uint8_t c : row_codes.values(from, n)) all.push_back(c);
            for (size_t t = 0; t < tiles; ++t) {
              all.push_back(row_scales.values(t * 256 + static_cast<size_t>(r), 1)[0]);
            }
          } else {
            const auto part = rows.read(from, n);
            all.insert(all.end(), part.begin(), part.end());
          }
        }
        if (codes) return all;
        const auto sums = y.read(0, static_cast<size_t>(5 * width));
        all.insert(all.end(), sums.begin(), sums.end());
        return all;
      });
  size_t at = 0;
  for (size_t i = 0; i < there.size(); ++i) {
    const int64_t t = tokens_of[i];
    for (int64_t c = 0; c < width; ++c) {
      const double want = codes ? bytes[static_cast<size_t>(t * width + c)] : x[t * width + c];
      judge.expect("row", static_cast<double>(got[at++]), want, 0, false);
    }
    for (size_t tile = 0; codes && tile < tiles; ++tile) {
      judge.expect("scale",
                   static_cast<double>(got[at++]),
                   static_cast<double>(scales[tile * 8 + static_cast<size_t>(t)]),
                   0,
                   false);
    }
  }
  for (int64_t t = 0; t < 5 && !codes; ++t) {
    for (int64_t c = 0; c < width; ++c) {
      double want = first[t * width + c] + second[t * width + c];
      double magnitude = std::abs(first[t * width + c]) + std::abs(second[t * width + c]);
      for (const int64_t k : {0, 1}) {
        if (row_of[static_cast<size_t>(t * 2 + k)] < 0) continue;
        want += x[t * width + c];  // each of its rows is the token
        magnitude += std::abs(x[t * width + c]);
      }
      judge.expect("sum", static_cast<double>(got[at++]), want, 4 * kEpsilon * magnitude, narrow);
    }
  }
  return judge.outcome();
}

// Choices as the reference's, but for experts whose choice is as good to a few last places; then
// the gradient of these.
Outcome gate_check(Target& target, const GateShape& s, bool biased, double coefficient) {
  const std::string name = named("gate", s.tokens, s.experts, false) + " top " +
                           std::to_string(s.active) + (s.sigmoid ? " sigmoid" : " softmax") +
                           (biased ? " biased" : "");
  Judge judge(name);
  Draw draw(name);
  const Numbers logits(target, draw.normal(s.tokens * s.experts, 2), false);
  const Numbers bias(target, draw.normal(s.experts, 0.1), false);
  const Numbers d_weights(target, draw.normal(s.tokens * s.active), false);
  const auto all = static_cast<size_t>(s.tokens * s.experts),
             picks = static_cast<size_t>(s.tokens * s.active);
  const BalanceLoss loss{.length = s.tokens / 2, .coefficient = coefficient};
  Numbers scores(target, all, false), weights(target, picks, false), d_logits(target, all, false),
      frequency(target, static_cast<size_t>(2 * s.experts), false);
  const DeviceArray<int32_t> chosen(target, picks);
  const std::vector<float> got = twice(
      target,
      judge,
      [&] {
        target.kernels.gate({.shape = s,
                             .logits = logits.fp32(),
                             .bias = biased ? bias.fp32() : nullptr,
                             .scores = scores.fp32(),
                             .chosen = chosen.get(),
                             .weights = weights.fp32()},
                            {});
        target.kernels.gate_backward({.shape = s,
                                      .loss = loss,
                                      .d_weights = d_weights.fp32(),
                                      .scores = scores.fp32(),
                                      .chosen = chosen.get(),
                                      .frequency = frequency.fp32(),
                                      .d_logits = d_logits.fp32()},
                                     {});
      },
      [&] {
        std::vector<float> out = scores.read(0, all);
        for (const auto& part : {weights.read(0, picks), d_logits.read(0, all)}) {
          out.insert(out.end(), part.begin(), part.end());
        }
        for (const int32_t e : chosen.values()) out.push_back(static_cast<float>(e));
        return out;
      });
  const float* const got_weights = got.data() + all;
  const float* const got_d = got_weights + picks;
  const float* const got_chosen = got_d + all;
  std::vector<double> wide(all), wide_bias(static_cast<size_t>(s.experts)), want(all),
      want_weights(picks);
  for (size_t i = 0; i < all; ++i) wide[i] = logits[static_cast<int64_t>(i)];
  for (int64_t e = 0; e < s.experts; ++e) wide_bias[static_cast<size_t>(e)] = bias[e];
  std::vector<int32_t> want_chosen(picks), same(picks);
  const double* const b = biased ? wide_bias.data() : nullptr;
  gate_reference(s, wide.data(), b, false, want.data(), want_chosen.data(), want_weights.data());
  const double few = 40 * kEpsilon;
  for (size_t i = 0; i < picks; ++i) {
    same[i] = static_cast<int32_t>(got_chosen[i]);
    const auto choice = [&](int32_t e) {
      const size_t row = i / static_cast<size_t>(s.active) * static_cast<size_t>(s.experts);
      return want[row + static_cast<size_t>(e)] + (biased ? wide_bias[static_cast<size_t>(e)] : 0);
    };
    judge.expect("choice", choice(same[i]), choice(want_chosen[i]), few, false);
  }
  gate_reference(s, wide.data(), b, true, want.data(), same.data(), want_weights.data());
  for (size_t i = 0; i < all; ++i) {
    judge.expect("score", static_cast<double>(got[i]), want[i], few * want[i], false);
  }
  for (size_t i = 0; i < picks; ++i) {
    judge.expect("weight",
                 static_cast<double>(got_weights[i]),
                 want_weights[i],
                 few * want_weights[i],
                 false);
  }
  for (int64_t t = 0; t < s.tokens; ++t) {
    const double* const score = want.data() + t * s.experts;
    std::vector<double> d(static_cast<size_t>(s.experts)), f(d.size());
    double sum = 0, dot = 0, size = 0;
    for (int64_t k = 0; k < s.active; ++k) {
      const double own = score[same[static_cast<size_t>(t * s.active + k)]];
      sum += own;
      dot += d_weights[t * s.active + k] * own;
    }
    if (coefficient != 0) {
      const int64_t first = t / loss.length * loss.length;
      for (int64_t i = first * s.active; i < (first + loss.length) * s.active; ++i) {
        f[static_cast<size_t>(same[static_cast<size_t>(i)])] +=
            static_cast<double>(s.experts) / static_cast<double>(s.active * loss.length);
      }
      double z = 0, mean = 0;
      for (size_t e = 0; e < d.size(); ++e) {
        z += score[e];
        mean += f[e] * score[e];
      }
      const double share = coefficient / static_cast<double>(loss.length) / z;
      for (size_t e = 0; e < d.size(); ++e) {
        d[e] = share * (f[e] - mean / z);
        size = std::max(size, share * (f[e] + mean / z));
      }
    }
    for (int64_t k = 0; k < s.active; ++k) {
      const double dw = d_weights[t * s.active + k];
      const double term = s.normalize ? s.scaling * (dw - dot / sum) / sum : s.scaling * dw;
      d[static_cast<size_t>(same[static_cast<size_t>(t * s.active + k)])] += term;
      size = std::max(
          size, s.scaling * (std::abs(dw) + std::abs(dot / sum) + 1) / (s.normalize ? sum : 1));
    }
    double all_of = 0;
    for (size_t e = 0; e < d.size(); ++e) all_of += d[e] * score[e];
    for (size_t e = 0; e < d.size(); ++e) {
      const double exact =
          s.sigmoid ? d[e] * score[e] * (1 - score[e]) : score[e] * (d[e] - all_of);
      const double error = score[e] * size * (static_cast<double>(s.experts) + 60) * kEpsilon;
      judge.expect("d_logit",
                   static_cast<double>(got_d[static_cast<size_t>(t * s.experts) + e]),
                   exact,
                   error,
                   false);
    }
  }
  return judge.outcome();
}

// What the three products of a linear are, of x [m, k], w [n, k] and dy [m, n].
enum class Way { kForward, kInput, kWeight };
Outcome product_check(
    Target& target, bool dense, Way way, int64_t m, int64_t n, int64_t k, bool narrow) {
  const std::string name = named(dense ? "dense product" : "product", m, k, narrow) + " to " +
                           std::to_string(n) +
                           (way == Way::kForward ? ""
                            : way == Way::kInput ? ", dx"
                                                 : ", dw");
  Judge judge(name);
  Draw draw(name);
  // a(i, l) b(j, l): rows, columns and length of the contraction.
  const int64_t rows = way == Way::kWeight ? n : m;
  const int64_t columns = way == Way::kForward ? n : k;
  const int64_t length = way == Way::kForward ? k : way == Way::kInput ? n : m;
  const Numbers a(target, draw.normal(rows * length), narrow),
      b(target, draw.normal(columns * length), narrow);
  const GpuOperand of_a = way == Way::kWeight ? GpuOperand{a, 1, rows} : GpuOperand{a, length, 1};
  const GpuOperand of_b =
      way == Way::kForward ? GpuOperand{b, length, 1} : GpuOperand{b, 1, columns};
  const bool add = way == Way::kWeight;
  const std::vector<float> before = draw.normal(rows * columns);
  const Numbers addend(target, before, narrow);
  std::unique_ptr<Numbers> c;
  const std::vector<float> got = twice(
      target,
      judge,
      [&] {
        c = std::make_unique<Numbers>(target, before, narrow && !add);
        const auto product = dense ? target.kernels.dense_product : target.kernels.product;
        product({.a = of_a,
                 .b = of_b,
                 .m = rows,
                 .n = columns,
                 .k = length,
                 .c = c->to(),
                 .addend = add ? ConstValues() : ConstValues(addend),
                 .add = add},
                {});
      },
      [&] { return c->read(0, static_cast<size_t>(rows * columns)); });
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t j = 0; j < columns; ++j) {
      const int64_t at = i * columns + j;
      double want = add ? static_cast<double>(before[static_cast<size_t>(at)]) : addend[at];
      double magnitude = std::abs(want);
      for (int64_t l = 0; l < length; ++l) {
        const double term =
            a[i * of_a.row_stride + l * of_a.k_stride] * b[j * of_b.row_stride + l * of_b.k_stride];
        want += term;
        magnitude += std::abs(term);
      }
      judge.expect("c",
                   static_cast<double>(got[static_cast<size_t>(at)]),
                   want,
                   magnitude * static_cast<double>(length + 2) * kEpsilon,
                   narrow && !add);
    }
  }
  return judge.outcome();
}

// Of three experts, one without rows: rows by their own matrices, and gradients of these.
Outcome experts_product_check(Target& target, int64_t n, int64_t k, bool narrow) {
  const std::string name = named("product of experts", 3, k, narrow) + " to " + std::to_string(n);
  Judge judge(name);
  Draw draw(name);
  const std::vector<int32_t> counts = {33, 0, 130};
  const int64_t firsts[] = {0, 128, 128};
  constexpr int64_t kRoom = 128 + 256;
  const DeviceArray<int32_t> of_experts(target, counts);
  const RowCounts limit{of_experts.get(), 3};
  const Numbers x(target, draw.normal(kRoom * k), narrow),
      dy(target, draw.normal(kRoom * n), narrow);
  std::vector<std::unique_ptr<Numbers>> w, dw;
  std::vector<const float*> wide;
  std::vector<const Bf16*> half;
  for (int e = 0; e < 3; ++e) {
    w.push_back(std::make_unique<Numbers>(target, draw.normal(n * k), narrow));
    wide.push_back(ConstValues(*w.back()).fp32);
    half.push_back(ConstValues(*w.back()).bf16);
  }
  const DeviceArray<const float*> wide_of(target, wide);
  const DeviceArray<const Bf16*> half_of(target, half);
  const std::vector<float> before = draw.normal(n * k);
  const auto count = static_cast<size_t>(kRoom * n);
  std::unique_ptr<Numbers> y;
  const std::vector<float> got = twice(
      target,
      judge,
      [&] {
        y = std::make_unique<Numbers>(target, std::vector<float>(count, 7), false);
        target.kernels.product({.a = {x, k, 1},
                                .b = {{}, k, 1},
                                .m = kRoom,
                                .n = n,
                                .k = k,
                                .c = y->to(),
                                .counts = limit,
                                .b_fp32_of = narrow ? nullptr : wide_of.get(),
                                .b_bf16_of = narrow ? half_of.get() : nullptr},
                               {});
        dw.clear();
        std::vector<float*> to;
        for (int e = 0; e < 3; ++e) {
          dw.push_back(std::make_unique<Numbers>(target, before, false));
          to.push_back(dw.back()->fp32());
        }
        const DeviceArray<float*> c_of(target, to);
        target.kernels.product({.a = {dy, 1, n},
                                .b = {x, 1, k},
                                .m = n,
                                .n = k,
                                .k = kRoom,
                                .add = true,
                                .counts = limit,
                                .c_of = c_of.get()},
                               {});
        target.synchronize();
      },
      [&] {
        std::vector<float> all = y->read(0, count);
        for (const auto& d : dw) {
          const auto part = d->read(0, static_cast<size_t>(n * k));
          all.insert(all.end(), part.begin(), part.end());
        }
        return all;
      });
  std::vector<bool> is_there(static_cast<size_t>(kRoom));
  for (int64_t e = 0; e < 3; ++e) {
    const int64_t own = counts[static_cast<size_t>(e)];
    for (int64_t r = firsts[e]; r < firsts[e] + own; ++r) {
      is_there[static_cast<size_t>(r)] = true;
      for (int64_t j = 0; j < n; ++j) {
        double want = 0, magnitude = 0;
        for (int64_t l = 0; l < k; ++l) {
          const double term = x[r * k + l] * (*w[static_cast<size_t>(e)])[j * k + l];
          want += term;
          magnitude += std::abs(term);
        }
        judge.expect("y",
                     static_cast<double>(got[static_cast<size_t>(r * n + j)]),
                     want,
                     magnitude * static_cast<double>(k + 2) * kEpsilon,
                     false);
      }
    }
    for (int64_t i = 0; i < n * k; ++i) {
      double want = static_cast<double>(before[static_cast<size_t>(i)]);
      double magnitude = std::abs(want);
      for (int64_t r = firsts[e]; r < firsts[e] + own; ++r) {
        const double term = dy[r * n + i / k] * x[r * k + i % k];
        want += term;
        magnitude += std::abs(term);
      }
      judge.expect("dw",
                   static_cast<double>(got[count + static_cast<size_t>(e * n * k + i)]),
                   want,
                   magnitude * static_cast<double>(own + 2) * kEpsilon,
                   false);
    }
  }
  for (int64_t i = 0; i < kRoom * n; ++i) {
    if (is_there[static_cast<size_t>(i / n)]) continue;
    judge.expect("no row", static_cast<double>(got[static_cast<size_t>(i)]), 7, 0, false);
  }
  return judge.outcome();
}

// Against FP64 that goes over all pairs. Scores are a few; an exponential doubles a score's error,
// and the gradient of one takes it once more.
Outcome attention_check(Target& target, const AttentionShape& s, bool narrow) {
  const std::string name = named("attention", s.tokens(), s.length, narrow) + " heads " +
                           std::to_string(s.heads) + " of " + std::to_string(s.qk_nope) + " + " +
                           std::to_string(s.qk_rope) + ", " + std::to_string(s.v_head);
  Judge judge(name);
  Draw draw(name);
  const int64_t tokens = s.tokens(), keys = s.keys(), qk = s.qk(), width = s.qk_nope + s.v_head;
  const Numbers q(target, draw.normal(tokens * s.heads * qk), narrow),
      kv(target, draw.normal(tokens * keys * width), narrow);
  const bool shared = s.qk_rope > 0;
  const Numbers rope(target, draw.normal(std::max<int64_t>(1, tokens * s.k_rope_stride)), narrow);
  const Numbers d_o(target, draw.normal(tokens * s.heads * s.v_head), narrow);
  const auto size = [](int64_t n) { return static_cast<size_t>(std::max<int64_t>(1, n)); };
  Numbers o(target, size(tokens * s.heads * s.v_head), narrow),
      lse(target, size(tokens * s.heads), false), delta(target, size(tokens * s.heads), false),
      of_heads(target, size(tokens * s.heads * s.qk_rope), false),
      dq(target, size(tokens * s.heads * qk), false),
      dkv(target, size(tokens * keys * width), false),
      dk_rope(target, size(tokens * s.k_rope_stride), false);
  const std::vector<float> got = twice(
      target,
      judge,
      [&] {
        const ConstValues key = shared ? ConstValues(rope) : ConstValues();
        target.kernels.attention(
            {.shape = s, .q = q, .kv = kv, .k_rope = key, .o = o.to(), .lse = lse.fp32()}, {});
        target.kernels.attention_backward({.shape = s,
                                           .q = q,
                                           .kv = kv,
                                           .k_rope = key,
                                           .o = o.to(),
                                           .d_o = d_o,
                                           .lse = lse.fp32(),
                                           .dq = dq.fp32(),
                                           .dkv = dkv.fp32(),
                                           .dk_rope = shared ? dk_rope.fp32() : nullptr,
                                           .delta = delta.fp32(),
                                           .rope_of_heads = shared ? of_heads.fp32() : nullptr},
                                          {});
      },
      [&] {
        std::vector<float> all = o.read(0, size(tokens * s.heads * s.v_head));
        for (const Numbers* more : {&dq, &dkv}) {
          const auto part =
              more->read(0, size(tokens * (more == &dq ? s.heads * qk : keys * width)));
          all.insert(all.end(), part.begin(), part.end());
        }
        for (int64_t t = 0; shared && t < tokens; ++t) {
          const auto row = dk_rope.read(static_cast<size_t>(t * s.k_rope_stride),
                                        static_cast<size_t>(s.qk_rope));
          all.insert(all.end(), row.begin(), row.end());
        }
        return all;
      });
  const auto n = [](int64_t count) { return std::vector<double>(static_cast<size_t>(count)); };
  std::vector<double> want_o = n(tokens * s.heads * s.v_head), want_q = n(tokens * s.heads * qk),
                      want_kv = n(tokens * keys * width), want_rope = n(tokens * s.qk_rope),
                      size_q = want_q, size_kv = want_kv, size_rope = want_rope, size_o = want_o;
  // A score is a sum of qk products of a few; what follows is its exponential, twice, and sums.
  const double few = (40 * static_cast<double>(qk + s.v_head) / std::sqrt(static_cast<double>(qk)) +
                      static_cast<double>(s.length) + 60) *
                     kEpsilon;
  const double scale = s.softmax_factor / std::sqrt(static_cast<double>(qk));
  for (int64_t t = 0; t < tokens; ++t) {
    const int64_t first = t / s.length * s.length;
    for (int64_t h = 0; h < s.heads; ++h) {
      const int64_t of = h / (s.heads / keys);
      const auto key = [&](int64_t j, int64_t c) {
        return c < s.qk_nope ? kv[(j * keys + of) * width + c]
                             : rope[j * s.k_rope_stride + c - s.qk_nope];
      };
      const auto value = [&](int64_t j, int64_t c) {
        return kv[(j * keys + of) * width + s.qk_nope + c];
      };
      std::vector<double> p, dp;
      double sum = 0;
      for (int64_t j = first; j <= t; ++j) {
        double dot = 0, back = 0;
        for (int64_t c = 0; c < qk; ++c) dot += q[(t * s.heads + h) * qk + c] * key(j, c);
        for (int64_t c = 0; c < s.v_head; ++c)
          back += d_o[(t * s.heads + h) * s.v_head + c] * value(j, c);
        p.push_back(std::exp(dot * scale));
        dp.push_back(back);
        sum += p.back();
      }
      double delta_of = 0, delta_size = 0;
      for (size_t j = 0; j < p.size(); ++j) {
        p[j] /= sum;
        delta_of += p[j] * dp[j];
        delta_size += p[j] * std::abs(dp[j]);
      }
      double of_output = 0;
      for (int64_t c = 0; narrow && c < s.v_head; ++c) {
        double out = 0;
        for (int64_t j = first; j <= t; ++j) out += p[static_cast<size_t>(j - first)] * value(j, c);
        of_output += std::abs(d_o[(t * s.heads + h) * s.v_head + c] * out) * 0x1p-8;
      }
      for (int64_t j = first; j <= t; ++j) {
        const auto at = static_cast<size_t>(j - first);
        const double ds = p[at] * (dp[at] - delta_of) * scale;
        // What the gradient's parts are; of_output: what a stored output that is rounded makes of
        // delta, as a multiple of the error that is allowed for the others.
        double parts = 0;
        for (int64_t c = 0; c < s.v_head; ++c) {
          parts += std::abs(d_o[(t * s.heads + h) * s.v_head + c] * value(j, c));
        }
        const double ds_size = p[at] * scale * (parts + delta_size + of_output / few);

        for (int64_t c = 0; c < s.v_head; ++c) {
          const auto out = static_cast<size_t>((t * s.heads + h) * s.v_head + c);
          want_o[out] += p[at] * value(j, c);
          size_o[out] += p[at] * std::abs(value(j, c));
          const auto dv = static_cast<size_t>((j * keys + of) * width + s.qk_nope + c);
          want_kv[dv] += p[at] * d_o[static_cast<int64_t>(out)];
          size_kv[dv] += p[at] * std::abs(d_o[static_cast<int64_t>(out)]);
        }
        for (int64_t c = 0; c < qk; ++c) {
          const auto own = static_cast<size_t>((t * s.heads + h) * qk + c);
          want_q[own] += ds * key(j, c);
          size_q[own] += ds_size * std::abs(key(j, c));
          const bool apart = c < s.qk_nope;
          const auto dk = static_cast<size_t>(apart ? (j * keys + of) * width + c
                                                    : j * s.qk_rope + c - s.qk_nope);
          (apart ? want_kv : want_rope)[dk] += ds * q[static_cast<int64_t>(own)];
          (apart ? size_kv : size_rope)[dk] += ds_size * std::abs(q[static_cast<int64_t>(own)]);
        }
      }
    }
  }

  size_t at = 0;
  const auto hold = [&](const char* what,
                        const std::vector<double>& want,
                        const std::vector<double>& sizes,
                        bool half) {
    for (size_t i = 0; i < want.size(); ++i, ++at) {
      judge.expect(what, static_cast<double>(got[at]), want[i], sizes[i] * few, half);
    }
  };
  hold("o", want_o, size_o, narrow);
  hold("dq", want_q, size_q, false);
  hold("dkv", want_kv, size_kv, false);
  hold("dk_rope", want_rope, size_rope, false);
  return judge.outcome();
}

struct RopeCase {
  int64_t rows, columns, length, heads, head_stride, first, width;
  RopePairs pairs;
  bool narrow;
};
Outcome rope_check(Target& target, const RopeCase& c) {
  const std::string name =
      named("rope", c.rows, c.columns, c.narrow) + (c.pairs == RopePairs::kHalves ? " halves" : "");
  Judge judge(name);
  Draw draw(name);
  const RopeTable table(c.length, c.width, 10000);
  const DeviceArray<float> cosine(target, table.cosine), sine(target, table.sine);
  const std::vector<float> values = draw.normal(c.rows * c.columns);
  const auto count = static_cast<size_t>(c.rows * c.columns);
  const Numbers x(target, values, false);
  for (const Turn turn : {Turn::kForward, Turn::kBackward}) {
    Numbers y(target, count, c.narrow);
    const std::vector<float> got = twice(
        target,
        judge,
        [&] {
          target.kernels.rope({.x = x,
                               .y = y.to(),
                               .cosine = cosine.get(),
                               .sine = sine.get(),
                               .rows = c.rows,
                               .columns = c.columns,
                               .length = c.length,
                               .heads = c.heads,
                               .head_stride = c.head_stride,
                               .first = c.first,
                               .width = c.width,
                               .pairs = c.pairs,
                               .turn = turn},
                              {});
        },
        [&] { return y.read(0, count); });
    // The host's kernel, held to FP64 by its own test, on the same values.
    std::vector<float> want = values;
    rope({.rows = c.rows,
          .heads = c.heads,
          .row_stride = c.columns,
          .head_stride = c.head_stride,
          .pairs = c.pairs},
         table,
         turn,
         want.data() + c.first);
    for (size_t i = 0; i < count; ++i) {
      judge.expect("y",
                   static_cast<double>(got[i]),
                   static_cast<double>(want[i]),
                   8 * kEpsilon * (std::abs(static_cast<double>(want[i])) + 4),
                   c.narrow);
    }
  }
  return judge.outcome();
}

}  // namespace

std::vector<LayerCheck> layer_checks() {
  std::vector<LayerCheck> all;
  const auto add = [&](const std::string& name, auto run) { add_check(all, name, run); };
  struct Shape {
    int64_t rows, width, stride;
  };
  for (const bool narrow : {false, true}) {
    for (const Shape& s :
         {Shape{1, 1, 1}, {3, 96, 96}, {130, 64, 80}, {5, 513, 520}, {2, 1536, 1536}}) {
      add(named("rmsnorm", s.rows, s.width, narrow),
          [=](Target& t) { return rmsnorm_check(t, s.rows, s.width, s.stride, narrow); });
      for (const bool addend : {false, true}) {
        add(named("rmsnorm_backward", s.rows, s.width, narrow), [=](Target& t) {
          return rmsnorm_backward_check(t, s.rows, s.width, s.stride, narrow, addend);
        });
      }
    }
    for (const Shape& s : {Shape{1, 1, 0}, {7, 96, 0}, {12, 300, 0}}) {
      for (const bool experts : {false, true}) {
        add(named("swiglu", s.rows, s.width, narrow),
            [=](Target& t) { return swiglu_check(t, s.rows, s.width, narrow, experts); });
      }
    }
    for (const RopePairs pairs : {RopePairs::kNeighbours, RopePairs::kHalves}) {
      for (const RopeCase& c : {RopeCase{.rows = 9,
                               .columns = 4 * 48,
                               .length = 4,
                               .heads = 4,
                               .head_stride = 48,
                               .first = 32,
                               .width = 16},
                                RopeCase{.rows = 3,
                                .columns = 80,
                                .length = 5,
                                .heads = 1,
                                .head_stride = 0,
                                .first = 64,
                                .width = 16},
                                RopeCase{.rows = 2,
                                .columns = 6 * 12 + 3,
                                .length = 2,
                                .heads = 6,
                                .head_stride = 12,
                                .first = 0,
                                .width = 12}}) {
        RopeCase own = c;
        own.pairs = pairs;
        own.narrow = narrow;
        add(named("rope", c.rows, c.columns, narrow),
            [=](Target& t) { return rope_check(t, own); });
      }
    }
  }
  for (const bool narrow : {false, true}) {
    for (const int addends : {0, 1, 2}) {
      for (const bool to_narrow : {false, true}) {
        add(named("sum", addends, 700, narrow),
            [=](Target& t) { return sum_check(t, 700, addends, narrow, to_narrow); });
      }
    }
    for (const Shape& s : {Shape{1, 3, 0}, {40, 70, 0}}) {
      add(named("embedding", s.rows, s.width, narrow),
          [=](Target& t) { return embedding_check(t, s.rows, s.width, narrow); });
    }
    for (const bool applies : {true, false}) {
      add(named("adamw", 1, 900, narrow),
          [=](Target& t) { return adamw_check(t, 900, narrow, applies); });
    }
  }
  struct Linear {
    int64_t m, n, k;
  };
  for (const bool narrow : {false, true}) {
    for (const Linear& l : {Linear{1, 1, 1}, {5, 33, 70}, {64, 32, 32}}) {
      for (const Way way : {Way::kForward, Way::kInput, Way::kWeight}) {
        for (const bool dense : {false, true}) {
          add(named(dense ? "dense product" : "product", l.m, l.k, narrow),
              [=](Target& t) { return product_check(t, dense, way, l.m, l.n, l.k, narrow); });
        }
      }
    }
    add(named("product of experts", 3, 40, narrow),
        [=](Target& t) { return experts_product_check(t, 21, 40, narrow); });
  }
  // MLA's shared key; grouped heads; one head of one token; YaRN's factor.
  for (const AttentionShape& s :
       {AttentionShape{.sequences = 2,
       .length = 9,
       .heads = 3,
       .qk_nope = 16,
       .qk_rope = 8,
       .v_head = 12,
       .k_rope_stride = 40},
        AttentionShape{
            .sequences = 1, .length = 21, .heads = 6, .qk_nope = 10, .v_head = 10, .kv_heads = 2},
        AttentionShape{.sequences = 3, .length = 1, .heads = 1, .qk_nope = 1, .v_head = 1},
        AttentionShape{.sequences = 1,
        .length = 5,
        .heads = 2,
        .qk_nope = 4,
        .qk_rope = 2,
        .v_head = 300,
        .k_rope_stride = 2,
        .softmax_factor = 1.3}}) {
    for (const bool narrow : {false, true}) {
      add(named("attention", s.tokens(), s.length, narrow),
          [=](Target& t) { return attention_check(t, s, narrow); });
    }
  }
  struct Choices {
    int64_t tokens, active, experts, capacity;
  };
  // One token; several chunks; experts without rows; room for a part; none at all.
  for (const Choices& c : {Choices{1, 1, 3, 384},
                           {150, 2, 5, 1280},
                           {70, 3, 300, 210 * 128},
                           {200, 2, 3, 256},
                           {3, 2, 4, 0}}) {
    add(named("map_rows", c.tokens, c.active, false),
        [=](Target& t) { return map_rows_check(t, c.tokens, c.active, c.experts, c.capacity); });
  }
  for (const bool narrow : {false, true}) {
    for (const int64_t width : {1, 130, 300}) {
      add(named("permute", 5, width, narrow),
          [=](Target& t) { return permute_check(t, width, narrow, false); });
      if (!narrow) {
        add(named("permute codes", 5, width, false),
            [=](Target& t) { return permute_check(t, width, false, true); });
      }
    }
  }
  // V3's gate and tiny-v3's, softmax without groups, top 1, groups of one expert.
  for (const GateShape& s :
       {GateShape{.tokens = 10,
       .experts = 256,
       .active = 8,
       .groups = 8,
       .kept_groups = 4,
       .scaling = 2.5},
        GateShape{.tokens = 18, .experts = 16, .active = 4, .groups = 4, .kept_groups = 2},
        GateShape{.tokens = 6, .experts = 60, .active = 6, .sigmoid = false, .normalize = false},
        GateShape{.tokens = 2, .experts = 5, .active = 1, .sigmoid = false},
        GateShape{.tokens = 4, .experts = 8, .active = 2, .groups = 8, .kept_groups = 3}}) {
    for (const bool biased : {false, true}) {
      add(named("gate", s.tokens, s.experts, false),
          [=](Target& t) { return gate_check(t, s, biased, biased ? 0 : 0.01); });
    }
  }
  for (const Shape& s : {Shape{1, 2, 0}, {6, 257, 0}, {3, 1031, 0}}) {
    add(named("cross_entropy", s.rows, s.width, false),
        [=](Target& t) { return cross_entropy_check(t, s.rows, s.width); });
  }
  add_codes_checks(all);
  add_exchange_checks(all);
  return all;
}

}  // namespace rehearse::kernels
