// Naive folded fprop, dgrad and wgrad: see reference.h.
//
// All three work on one group at a time and share two things. W[row][column][k] are the folded weights, k
// running over the coefficients of Fold. X[column][k] is the folded patch around one output point:
//   A tied: a column is an input channel; a row is an orbit, and class p of its coefficients adds to slot p &
//   mask. B tied: a column is an orbit of input channels, which the butterfly has turned into slots; class p
//   of the patch is
//           taken from slot p & mask; a row is an output channel.
#include "reference.h"

#include <vector>

#include "../common/channel_map.h"
#include "../common/fold.h"
#include "scalar.h"

namespace symconv::cpu::reference {
namespace {

int64_t offset(const Tensor& t, int64_t n, int64_t channel, const int64_t* point) {
  return n * t.strides[0] + channel * t.strides[1] + point[0] * t.strides[2] + point[1] * t.strides[3] +
         point[2] * t.strides[4];
}

void unravel(int64_t index, const int64_t* extent, int64_t* point) {
  for (int d = kAxes - 1; d >= 0; --d) {
    point[d] = index % extent[d];
    index /= extent[d];
  }
}

// What the operators share about a problem.
struct Plan {
  const Problem& p;
  ChannelMap map;
  Fold fold;
  std::vector<Coefficient> coefficients;
  int64_t rows, columns;  // of a group's reduced weight

  explicit Plan(const Problem& problem)
      : p(problem),
        map(problem),
        fold(problem),
        rows(problem.weight_rows() / problem.groups),
        columns(problem.weight_columns()) {
    for (int64_t k = 0; k < fold.total(); ++k) coefficients.push_back(fold.coefficient(k));
  }

  int64_t size() const { return fold.total(); }

  // The input point that mirrored tap g of coefficient c reads for output point y; false outside the input.
  bool input_point(const Coefficient& c, int g, const int64_t* y, int64_t* x) const {
    for (int d = 0; d < kAxes; ++d) {
      const int64_t tap = g & axis_bit(d) ? p.kernel[d] - 1 - c.tap[d] : c.tap[d];
      x[d] = y[d] * p.stride[d] - p.padding[d] + tap * p.dilation[d];
      if (x[d] < 0 || x[d] >= p.input[d]) return false;
    }
    return true;
  }

  // Folded weights [row][column][k] of a group.
  template <typename T>
  std::vector<double> fold_weights(const Tensor& weight, int64_t group) const {
    std::vector<double> folded(rows * columns * size()), taps(size());
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t c = 0; c < columns; ++c) {
        for (int64_t t = 0; t < size(); ++t) {
          int64_t tap[kAxes];
          unravel(t, p.kernel, tap);
          taps[t] = static_cast<double>(
              static_cast<const T*>(weight.data)[offset(weight, group * rows + r, c, tap)]);
        }
        for (int64_t k = 0; k < size(); ++k) {
          folded[(r * columns + c) * size() + k] = fold.fold_weight<double>(coefficients[k], taps.data());
        }
      }
    }
    return folded;
  }

  // Calls visit(channel, sign) for every input channel of the group, with the sign that it has in slot parity
  // & mask of `column`: the channel itself when A is tied, the whole orbit when B is.
  template <typename Visit>
  void for_each_channel(int64_t column, int parity, Visit&& visit) const {
    if (!p.transposed) return visit(column, 1);
    const Block& block = map.block_of(column);
    for (int copy = 0; copy < block.size(); ++copy) {
      visit(block.channel(column - block.first, copy),
            sign(parity & block.mask, reflection(block.mask, copy)));
    }
  }

  // Folded patch X[k] of one column around output point y.
  template <typename T>
  void fold_patch(const Tensor& input, int64_t n, int64_t group, int64_t column, const int64_t* y,
                  double* x) const {
    const int64_t first = group * (p.b_channels / p.groups);
    for (int64_t k = 0; k < size(); ++k) {
      const Coefficient& c = coefficients[k];
      double sum = 0;
      for (int i = 0; i < c.terms(); ++i) {
        const int g = subset(c.paired, i);
        int64_t at[kAxes];
        if (!input_point(c, g, y, at)) continue;
        for_each_channel(column, c.parity, [&](int64_t channel, int s) {
          const T value = static_cast<const T*>(input.data)[offset(input, n, first + channel, at)];
          sum += s * sign(c.parity, g) * static_cast<double>(value);
        });
      }
      x[k] = sum;
    }
  }

  // Slots of grad_output at point y: gu[row][slot] when A is tied (the butterfly), one per row otherwise.
  template <typename T>
  std::vector<double> slots(const Tensor& grad_output, int64_t n, int64_t group, const int64_t* y) const {
    const int64_t first = group * (p.a_channels / p.groups);
    std::vector<double> gu(rows * kMaxOrbit);
    for (int64_t r = 0; r < rows; ++r) {
      const Block block = p.transposed ? Block{0, rows, 0, rows} : map.block_of(r);
      double copies[kMaxOrbit];
      for (int i = 0; i < block.size(); ++i) {
        const int64_t channel = first + block.channel(r - block.first, i);
        copies[i] =
            static_cast<double>(static_cast<const T*>(grad_output.data)[offset(grad_output, n, channel, y)]);
      }
      butterfly_to_slots(block.mask, copies, &gu[r * kMaxOrbit]);
    }
    return gu;
  }

  int slot(int64_t row, int parity) const {
    return p.transposed ? 0 : slot_of(map.block_of(row).mask, parity);
  }
};

template <typename T>
double bias_of(const Tensor& bias, int64_t channel) {
  return bias.data ? static_cast<double>(static_cast<const T*>(bias.data)[channel * bias.strides[0]]) : 0.0;
}

template <typename T>
T narrow(double value) {
  if constexpr (sizeof(T) == 2)
    return T(static_cast<float>(value));
  else
    return static_cast<T>(value);
}

template <typename T>
void fprop_typed(const Plan& plan, const Tensor& input, const Tensor& weight, const Tensor& bias,
                 const Tensor& output, const Threads& threads) {
  const Problem& p = plan.p;
  for (int64_t group = 0; group < p.groups; ++group) {
    const std::vector<double> w = plan.fold_weights<T>(weight, group);
    threads.run(p.batch * p.output_points(), [&](int64_t begin, int64_t end) {
      std::vector<double> x(plan.columns * plan.size());
      for (int64_t i = begin; i < end; ++i) {
        const int64_t n = i / p.output_points();
        int64_t y[kAxes];
        unravel(i % p.output_points(), p.output, y);
        for (int64_t c = 0; c < plan.columns; ++c) {
          plan.fold_patch<T>(input, n, group, c, y, &x[c * plan.size()]);
        }
        for (int64_t r = 0; r < plan.rows; ++r) {
          double slots[kMaxOrbit] = {}, copies[kMaxOrbit];
          for (int64_t j = 0; j < plan.columns * plan.size(); ++j) {
            const int parity = plan.coefficients[j % plan.size()].parity;
            slots[plan.slot(r, parity)] += w[r * plan.columns * plan.size() + j] * x[j];
          }
          const Block block = p.transposed ? Block{0, plan.rows, 0, plan.rows} : plan.map.block_of(r);
          butterfly_to_copies(block.mask, slots, copies);
          for (int copy = 0; copy < block.size(); ++copy) {
            const int64_t channel = group * (p.a_channels / p.groups) + block.channel(r - block.first, copy);
            static_cast<T*>(output.data)[offset(output, n, channel, y)] =
                narrow<T>(copies[copy] + bias_of<T>(bias, channel));
          }
        }
      }
    });
  }
}

template <typename T>
void dgrad_typed(const Plan& plan, const Tensor& grad_output, const Tensor& weight, const Tensor& bias,
                 const Tensor& grad_input, const Threads& threads) {
  const Problem& p = plan.p;
  const int64_t channels = p.b_channels / p.groups;
  for (int64_t group = 0; group < p.groups; ++group) {
    const std::vector<double> w = plan.fold_weights<T>(weight, group);
    threads.run(p.batch, [&](int64_t begin, int64_t end) {
      std::vector<double> image(channels * p.input_points()), gx(plan.columns * plan.size());
      for (int64_t n = begin; n < end; ++n) {
        image.assign(image.size(), 0.0);
        for (int64_t i = 0; i < p.output_points(); ++i) {
          int64_t y[kAxes];
          unravel(i, p.output, y);
          const std::vector<double> gu = plan.slots<T>(grad_output, n, group, y);
          gx.assign(gx.size(), 0.0);
          for (int64_t r = 0; r < plan.rows; ++r) {
            for (int64_t j = 0; j < plan.columns * plan.size(); ++j) {
              const int parity = plan.coefficients[j % plan.size()].parity;
              gx[j] += w[r * plan.columns * plan.size() + j] * gu[r * kMaxOrbit + plan.slot(r, parity)];
            }
          }
          for (int64_t c = 0; c < plan.columns; ++c) {  // the transpose of fold_patch
            for (int64_t k = 0; k < plan.size(); ++k) {
              const Coefficient& coefficient = plan.coefficients[k];
              for (int t = 0; t < coefficient.terms(); ++t) {
                const int g = subset(coefficient.paired, t);
                int64_t at[kAxes];
                if (!plan.input_point(coefficient, g, y, at)) continue;
                const int64_t point = (at[0] * p.input[1] + at[1]) * p.input[2] + at[2];
                plan.for_each_channel(c, coefficient.parity, [&](int64_t channel, int s) {
                  image[channel * p.input_points() + point] +=
                      s * sign(coefficient.parity, g) * gx[c * plan.size() + k];
                });
              }
            }
          }
        }
        for (int64_t c = 0; c < channels; ++c) {
          for (int64_t i = 0; i < p.input_points(); ++i) {
            int64_t x[kAxes];
            unravel(i, p.input, x);
            const int64_t channel = group * channels + c;
            static_cast<T*>(grad_input.data)[offset(grad_input, n, channel, x)] =
                narrow<T>(image[c * p.input_points() + i] + bias_of<T>(bias, channel));
          }
        }
      }
    });
  }
}

template <typename T>
void wgrad_typed(const Plan& plan, const Tensor& grad_output, const Tensor& input, const Tensor& grad_weight,
                 const Threads& threads) {
  const Problem& p = plan.p;
  threads.run(p.groups * plan.columns, [&](int64_t begin, int64_t end) {
    std::vector<double> x(plan.size()), gw(plan.rows * plan.size()), taps(plan.size());
    for (int64_t j = begin; j < end; ++j) {
      const int64_t group = j / plan.columns, column = j % plan.columns;
      gw.assign(gw.size(), 0.0);
      for (int64_t i = 0; i < p.batch * p.output_points(); ++i) {
        const int64_t n = i / p.output_points();
        int64_t y[kAxes];
        unravel(i % p.output_points(), p.output, y);
        plan.fold_patch<T>(input, n, group, column, y, x.data());
        const std::vector<double> gu = plan.slots<T>(grad_output, n, group, y);
        for (int64_t r = 0; r < plan.rows; ++r) {
          for (int64_t k = 0; k < plan.size(); ++k) {
            gw[r * plan.size() + k] += gu[r * kMaxOrbit + plan.slot(r, plan.coefficients[k].parity)] * x[k];
          }
        }
      }
      for (int64_t r = 0; r < plan.rows; ++r) {
        taps.assign(taps.size(), 0.0);
        for (int64_t k = 0; k < plan.size(); ++k) {
          plan.fold.unfold_weight(plan.coefficients[k], gw[r * plan.size() + k], taps.data());
        }
        for (int64_t t = 0; t < plan.size(); ++t) {
          int64_t tap[kAxes];
          unravel(t, p.kernel, tap);
          static_cast<T*>(grad_weight.data)[offset(grad_weight, group * plan.rows + r, column, tap)] =
              narrow<T>(taps[t]);
        }
      }
    }
  });
}

}  // namespace

void fprop(const Problem& problem, const Tensor& input, const Tensor& weight, const Tensor& bias,
           const Tensor& output, const Threads& threads) {
  const Plan plan(problem);
  dispatch(input.dtype,
           [&](auto t) { fprop_typed<decltype(t)>(plan, input, weight, bias, output, threads); });
}

void dgrad(const Problem& problem, const Tensor& grad_output, const Tensor& weight, const Tensor& bias,
           const Tensor& grad_input, const Threads& threads) {
  const Plan plan(problem);
  dispatch(grad_output.dtype,
           [&](auto t) { dgrad_typed<decltype(t)>(plan, grad_output, weight, bias, grad_input, threads); });
}

void wgrad(const Problem& problem, const Tensor& grad_output, const Tensor& input, const Tensor& grad_weight,
           const Threads& threads) {
  const Plan plan(problem);
  dispatch(input.dtype,
           [&](auto t) { wgrad_typed<decltype(t)>(plan, grad_output, input, grad_weight, threads); });
}

}  // namespace symconv::cpu::reference
